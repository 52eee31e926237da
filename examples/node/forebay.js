/**
 * Saves to Forebay, the write-behind persistence daemon for Postgres. One file to copy: `npm install @grpc/grpc-js protobufjs`
 * (protobufjs 8 or later, Node 18 or later). An ES module: in a project of CommonJS name it `forebay.mjs` and `await import` it.
 *
 *     import { connect } from "./forebay.js";
 *
 *     const client = connect("127.0.0.1:7420");
 *     const { ticket } = await client.save("players", 42, { name: "Ann", gold: "7.50" }); // durable from here on
 *     await client.save("players", 42, { gold: 5 }, { add: ["gold"], requestId: randomUUID() }); // exactly once
 *     await client.saveBatch([{ collection: "items", key: [42, 1], values: { kind: "sword" } }], { atomic: true });
 *     await client.delete("players", 41); // and append, and saveStream for many
 *     const { state, failure } = await client.awaitTicket(ticket, { timeoutMs: 30_000 }); // "PERSISTED": it is in Postgres
 *     const { row } = await client.get("players", 42); // with what is not in Postgres yet
 *     for await (const { key, row } of client.load("players")) players.set(key[0], row);
 *     client.close();
 *
 * A key is a scalar, or an array of the primary key's parts in their order; leave it out if the values hold it. Values name the
 * columns to set: null is NULL, undefined leaves the column alone. BigInts keep every digit; Dates are sent as ISO text in UTC,
 * Buffers as bytea. Decimals that a double can't hold are best sent as strings.
 *
 * Rows come as Postgres prints them in JSON: dates, uuids and bytea (`\x` hex) as strings. A number that JavaScript can't hold is
 * not rounded: an integer comes as BigInt (so a column of bigints gives both), any other as a string of its digits. A row that is
 * to go elsewhere unchanged has its bytes in `raw`.
 *
 * What a call throws says what to do. `Refused` is yours to fix (`Blocked`: an operator's); `Unavailable` was certainly not accepted (the client has tried
 * again), and `Busy` is the kind that meets a limit; `OutcomeUnknown` may have been: save again, unless saving twice is worse. With
 * a request id (new for every call) it never is: the daemon recognises the call, and the client repeats it by itself. `SaveFailed`
 * was accepted, and Postgres would not take it. Calls that save nothing are never in doubt: they are repeated, or `Unavailable`.
 */

import { randomUUID } from "node:crypto";
import { EventEmitter, once, setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { inflateSync } from "node:zlib";

import grpc from "@grpc/grpc-js";
import protobuf from "protobufjs";
import "protobufjs/ext/descriptor.js";

const TIMEOUT_MS = 10_000;
const AWAIT_MS = 60_000;
const PAGE_MS = 60_000;
/** For the question that ends a wait. */
const LAST_WORD_MS = 1_000;
const ATTEMPTS_MAX = 5;
const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 1_000;
/** Of one stream; the daemon's own limit is above it. */
const UNANSWERED_MAX = 1_024;

const CHANNEL_OPTIONS = {
  // The daemon has limits for messages; one here could only lose the answer to saves that were accepted.
  "grpc.max_send_message_length": -1,
  "grpc.max_receive_message_length": -1,
  // The library's own default would wait up to two minutes for a daemon that has long been back.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  // The daemon is near: a proxy that the environment names is for the web.
  "grpc.enable_http_proxy": 0,
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
};

/**
 * @typedef {string | number | bigint | boolean | Date | Uint8Array} Scalar
 * @typedef {Scalar | Scalar[]} Key a scalar, or the primary key's parts in their order
 * @typedef {object} Save one save of a batch or stream; it has either values or delete
 * @property {string} collection
 * @property {Key} [key]
 * @property {object} [values] the columns to set
 * @property {boolean} [delete] delete the object
 * @property {string[]} [add] members of values that are added to what is there
 *
 * @typedef {{ field: string, description: string }} Violation
 * @typedef {object} Told what is known of a failed call
 * @property {number} code
 * @property {string} message
 * @property {string} [reason]
 * @property {Violation[]} [violations]
 * @property {Record<string, string>} [metadata]
 * @property {number} [retryAfterMs]
 *
 * @typedef {object} CallOptions
 * @property {number} [timeoutMs] for the call with all its attempts; that of the client if not given
 *
 * @typedef {object} AnswerOptions
 * @property {string} [requestId] recognises a repeated call; a new one for every call
 * @property {string} [callback] an endpoint of the daemon's settings that is told the outcome
 * @property {"SYNCED" | "PERSISTED"} [durability] when to answer: once it is durable (the default), or in Postgres
 *
 * @typedef {"PENDING" | "PERSISTED" | "FAILED" | "DISCARDED" | "UNKNOWN"} State
 * @typedef {{ sqlstate: string, constraint: string, message: string }} Failure why Postgres would not take a save
 *
 * @typedef {object} Saved
 * @property {string} ticket names the save
 * @property {State} state
 * @property {Failure | null} failure of a batch's save that FAILED
 * @property {boolean} superseded PERSISTED without effect: the row had a version as high
 * @property {boolean} deduplicated it had been accepted before under the same request id
 *
 * @typedef {object} TicketStatus
 * @property {State} state
 * @property {Failure | null} failure if FAILED or DISCARDED
 * @property {Date | null} acceptTime of a save that failed
 * @property {Date | null} outcomeTime of a persisted save for some minutes
 * @property {string} retryTicket of the save that retried it, if one did
 * @property {boolean} superseded
 * @property {number} savesAhead if PENDING: written before it or with it, itself included
 * @property {number | null} estimatedWaitMs if PENDING and its lane writes
 *
 * @typedef {object} Got
 * @property {boolean} found
 * @property {any} row null if not found
 * @property {Buffer | null} raw the row's JSON
 * @property {boolean} pending part of it is not in Postgres yet
 * @property {string[]} unknownColumns left out of the row: only Postgres could tell
 *
 * @typedef {object} Loaded
 * @property {string[]} key
 * @property {any} row null if there is none any more
 * @property {Buffer | null} raw
 * @property {boolean} pending
 * @property {string[]} unknownColumns
 *
 * @typedef {object} LoadOptions
 * @property {Key} [from] the first key of the range
 * @property {Key} [to] the last key of the range
 * @property {number} [pageSize] rows a page
 * @property {number} [timeoutMs] for one page; a minute if not given
 * @property {AbortSignal} [signal]
 * @property {(progress: { rowsLoaded: number, rowsEstimated: number }) => void} [onPage] called after each page
 *
 * @typedef {object} StreamOptions
 * @property {number} [timeoutMs] for waiting without any answer; that of the client if not given
 * @property {"SYNCED" | "PERSISTED"} [durability]
 * @property {string} [callback]
 * @property {(error: ForebayError, save: Save) => void} [onError] told of each save that was refused or failed. Without it the
 *   stream ends with the first: `send` and `finish` throw it
 *
 * @typedef {{ type: "watermark", resumeToken: string, rewound: boolean }
 *   | { type: "failed", ticket: string, collection: string, key: string[], failure: Failure }
 *   | { type: "superseded", ticket: string, collection: string }} Outcome
 */

/** A call failed. Which subclass it is tells what to do; `reason` is one of error_reason.proto, or empty. */
export class ForebayError extends Error {
  /** @param {Told} told */
  constructor(told) {
    const { code, reason = "", message, violations = [], metadata = {}, retryAfterMs } = told;
    // The message tells the first violation itself.
    const more = violations.length > 1 ? violations.map(({ field, description }) => `\n  ${field} ${description}`) : [];
    super(`${reason || grpc.status[code]}: ${message}${more.join("")}`);
    this.name = new.target.name;
    /** The gRPC status code. */
    this.code = code;
    this.reason = reason;
    /** What is wrong with the request; at most the first 16. */
    this.violations = violations;
    /** What the daemon adds to its reason. @type {Record<string, string>} */
    this.metadata = metadata;
    /** When the daemon wants to be called again, if it says so; Infinity: never. */
    this.retryAfterMs = retryAfterMs;
  }
}

/** Not accepted, and never will be as it is: change the call. */
export class Refused extends ForebayError {}

/** Not before an operator acts: a lane is paused, halted or fenced. */
export class Blocked extends Refused {}

/** Certainly not accepted: the daemon starts or stops, nobody listens, or a limit is met. Try again later. */
export class Unavailable extends ForebayError {}

/** Certainly not accepted: a limit is met. */
export class Busy extends Unavailable {}

/** May have been accepted: the connection or the time ran out before the answer, or the journal failed. */
export class OutcomeUnknown extends ForebayError {}

/** Accepted, and Postgres would not take it. Only with durability PERSISTED. */
export class SaveFailed extends ForebayError {
  /** @param {Told} told */
  constructor(told) {
    super(told);
    this.ticket = this.metadata.ticket ?? "";
    this.sqlstate = this.metadata.sqlstate ?? "";
    this.constraint = this.metadata.constraint ?? "";
  }
}

/**
 * A connection to a daemon; keep it. `options.timeoutMs` bounds a call with all its attempts, unless the call names its own.
 *
 * @param {string} address `HOST:PORT`, or `unix:PATH`
 * @param {CallOptions} [options]
 */
export function connect(address, options = {}) {
  return new Client(address, options);
}

/** See {@link connect}. */
export class Client {
  #channel;
  #timeoutMs;
  #closed = new AbortController();

  /** @param {string} address @param {CallOptions} [options] */
  constructor(address, { timeoutMs = TIMEOUT_MS } = {}) {
    this.#channel = new grpc.Client(address, grpc.credentials.createInsecure(), CHANNEL_OPTIONS);
    this.#timeoutMs = timeoutMs;
    // Every stream listens, and there may be many.
    setMaxListeners(0, this.#closed.signal);
  }

  /**
   * Saves one object; durable when this returns.
   *
   * @param {string} collection @param {Key | undefined} key @param {object} values
   * @param {CallOptions & AnswerOptions & { add?: string[] }} [options]
   * @returns {Promise<Saved>}
   */
  async save(collection, key, values, { add, ...options } = {}) {
    return this.#save({ collection, key, values, add }, options);
  }

  /**
   * Deletes one object.
   *
   * @param {string} collection @param {Key} key @param {CallOptions & AnswerOptions} [options]
   * @returns {Promise<Saved>}
   */
  async delete(collection, key, options = {}) {
    return this.#save({ collection, key, delete: true }, options);
  }

  /**
   * Adds a row to a collection that only takes new ones.
   *
   * @param {string} collection @param {object} values @param {CallOptions & AnswerOptions} [options]
   * @returns {Promise<Saved>}
   */
  async append(collection, values, options = {}) {
    return this.#save({ collection, values }, options);
  }

  /** @param {Save} save @param {CallOptions & AnswerOptions} options @returns {Promise<Saved>} */
  async #save(save, options) {
    return saved(await this.#call("Save", { save: saveMessage(save), ...answerFields(options) }, options.timeoutMs));
  }

  /**
   * Saves many objects in order, accepted all or none; `atomic`: committed all or none too. With durability PERSISTED it does not
   * throw for what Postgres would not take: that save's state is FAILED.
   *
   * @param {Iterable<Save>} saves @param {CallOptions & AnswerOptions & { atomic?: boolean }} [options]
   * @returns {Promise<Saved[]>} one for each save, in order
   */
  async saveBatch(saves, { atomic = false, ...options } = {}) {
    const request = { saves: Array.from(saves, saveMessage), atomic, ...answerFields(options) };
    const { results, deduplicated } = await this.#call("SaveBatch", request, options.timeoutMs);
    return results.map((/** @type {any} */ result) => saved({ ...result, deduplicated }));
  }

  /**
   * What became of a save, at once.
   *
   * @param {string} ticket @param {CallOptions} [options]
   * @returns {Promise<TicketStatus>}
   */
  async ticket(ticket, { timeoutMs } = {}) {
    return ticketStatus((await this.#call("GetTicket", { ticket }, timeoutMs)).status);
  }

  /**
   * Waits for the outcome of a save, also while the daemon restarts. PENDING if `timeoutMs` (a minute if not given) came first.
   *
   * @param {string} ticket @param {CallOptions} [options]
   * @returns {Promise<TicketStatus>}
   */
  async awaitTicket(ticket, { timeoutMs = AWAIT_MS } = {}) {
    const deadline = Date.now() + timeoutMs;
    try {
      for (;;) {
        const { status } = await this.#call("AwaitTicket", { ticket }, deadline - Date.now(), Infinity);
        if (status.state !== "TICKET_STATE_PENDING" || Date.now() + LAST_WORD_MS >= deadline) return ticketStatus(status);
      }
    } catch (error) {
      if (!(error instanceof ForebayError) || error.code !== grpc.status.DEADLINE_EXCEEDED) throw error;
      return this.ticket(ticket, { timeoutMs: LAST_WORD_MS });
    }
  }

  /**
   * Reads one object as it will be: what is not in Postgres yet is laid over the stored row.
   *
   * @param {string} collection @param {Key} key @param {CallOptions} [options]
   * @returns {Promise<Got>}
   */
  async get(collection, key, { timeoutMs } = {}) {
    const { found, json, pending, unknownColumns } = await this.#call("Get", { collection, key: keyParts(key) }, timeoutMs);
    return { found, ...rowOf(found ? json : undefined), pending, unknownColumns };
  }

  /**
   * Waits until everything accepted before is in Postgres or has failed; of all collections if none is named.
   *
   * @param {Iterable<string>} [collections] @param {CallOptions} [options]
   * @returns {Promise<bigint>} the sequence up to which Postgres holds everything
   */
  async flush(collections = [], { timeoutMs = AWAIT_MS } = {}) {
    return (await this.#call("Flush", { collections: [...collections] }, timeoutMs, Infinity)).through;
  }

  /**
   * Reads the objects of a collection or a key range, never older than what was acknowledged before. An object may come twice:
   * the later one counts, also if it says that there is none any more. After a break it goes on where it was.
   *
   * @param {string} collection @param {LoadOptions} [options]
   * @returns {AsyncGenerator<Loaded, void, void>}
   */
  async *load(collection, { from, to, pageSize = 0, timeoutMs = PAGE_MS, signal, onPage } = {}) {
    const request = { collection, fromKey: keyParts(from), toKey: keyParts(to), pageSize, resumeToken: "" };
    let loadedBefore = 0;
    for (const attempts = new Attempts({ timeoutMs }); ; await attempts.wait()) {
      let rowsLoaded = 0;
      try {
        for await (const page of this.#stream("Load", request, signal, timeoutMs)) {
          for (const { key, json, pending, unknownColumns } of page.rows) yield { key, ...rowOf(json), pending, unknownColumns };
          request.resumeToken = page.resumeToken;
          rowsLoaded = Number(page.rowsLoaded);
          onPage?.({ rowsLoaded: loadedBefore + rowsLoaded, rowsEstimated: Number(page.rowsEstimated) });
          attempts.begin();
        }
        return;
      } catch (error) {
        attempts.failed(error);
        loadedBefore += rowsLoaded;
      }
    }
  }

  /**
   * Outcomes as they come, until the loop is left, `signal` is aborted or the client is closed. Every save of these collections
   * (of all if none is named) whose ticket sorts below a watermark is final: PERSISTED, unless it was told to have failed. After a
   * break it goes on from the last watermark, so that a failure may be told twice. A watermark that is `rewound`: Postgres went back in
   * time, what was told above it no longer holds, and what was lost is written again.
   *
   * @param {{ collections?: Iterable<string>, resumeToken?: string, signal?: AbortSignal }} [options] from now on without a token
   * @returns {AsyncGenerator<Outcome, void, void>}
   */
  async *watch({ collections = [], resumeToken = "", signal } = {}) {
    const request = { collections: [...collections], resumeToken };
    let rewound = false;
    for (const attempts = new Attempts(); ; await attempts.wait()) {
      try {
        for await (const { watermark, failed, superseded } of this.#stream("WatchOutcomes", request, signal)) {
          if (failed) yield { type: "failed", ...failed };
          if (superseded) yield { type: "superseded", ...superseded };
          if (watermark) {
            yield { type: "watermark", ...watermark, rewound };
            request.resumeToken = watermark.resumeToken;
            rewound = false;
          }
          attempts.begin();
        }
      } catch (error) {
        if (!(error instanceof ForebayError)) throw error;
        if (error.reason === "POSTGRES_REWOUND") rewound = true;
        else attempts.failed(error);
        request.resumeToken = error.metadata.resume_token ?? request.resumeToken;
      }
    }
  }

  /**
   * Saves many objects in order without waiting for each; see {@link SaveStream}.
   *
   * @param {StreamOptions} [options]
   */
  saveStream(options = {}) {
    return new SaveStream(this.#channel, this.#closed.signal, { timeoutMs: this.#timeoutMs, ...options });
  }

  /** Closes the connection. Loops over rows and outcomes throw; what is being saved is still answered. */
  close() {
    this.#closed.abort(new Unavailable({ code: grpc.status.CANCELLED, message: "the client is closed", retryAfterMs: Infinity }));
    this.#channel.close();
  }

  /**
   * Calls, and calls again what was certainly not accepted; with a request id, also what may have been.
   *
   * Not left to the retry policy of gRPC: that goes by the status code alone, and UNAVAILABLE is also the code of a connection
   * that broke after the daemon took the save.
   *
   * @param {string} method @param {any} request @param {number} [timeoutMs] @param {number} [attemptsMax]
   * @returns {Promise<any>}
   */
  async #call(method, request, timeoutMs = this.#timeoutMs, attemptsMax = ATTEMPTS_MAX) {
    const attempts = new Attempts({ timeoutMs, attemptsMax, alsoInDoubt: Boolean(request.requestId) });
    for (; ; await attempts.wait()) {
      this.#closed.signal.throwIfAborted();
      try {
        return await this.#unary(method, request, attempts.deadline);
      } catch (error) {
        attempts.failed(error);
      }
    }
  }

  /** @param {string} method @param {any} request @param {number} deadline @returns {Promise<any>} */
  #unary(method, request, deadline) {
    const { path, serialize, deserialize } = rpc(method);
    return new Promise((resolve, reject) => {
      this.#channel.makeUnaryRequest(path, serialize, deserialize, request, { deadline }, (failure, answer) =>
        failure ? reject(errorOf(failure, SAVING.has(method))) : resolve(answer),
      );
    });
  }

  /**
   * The messages of one call. It is cancelled when nobody reads them any more, one is waited for longer than `timeoutMs`, or
   * `signal` is aborted.
   *
   * @param {string} method @param {any} request @param {AbortSignal} [signal] @param {number} [timeoutMs]
   * @returns {AsyncGenerator<any, void, void>}
   */
  async *#stream(method, request, signal, timeoutMs) {
    const signals = [this.#closed.signal, ...(signal ? [signal] : [])];
    for (const one of signals) one.throwIfAborted();
    const { path, serialize, deserialize } = rpc(method);
    const call = this.#channel.makeServerStreamRequest(path, serialize, deserialize, request);
    // What fails after the loop was left is nobody's business.
    call.on("error", () => {});
    const abort = () => void call.destroy(signals.find((one) => one.aborted)?.reason);
    const late = new Unavailable({ code: grpc.status.DEADLINE_EXCEEDED, message: `nothing came for ${timeoutMs} ms` });
    const impatient = () => (timeoutMs === undefined ? undefined : setTimeout(() => call.destroy(late), timeoutMs));
    for (const one of signals) one.addEventListener("abort", abort);
    let patience = impatient();
    try {
      for await (const message of call) {
        clearTimeout(patience);
        yield message;
        patience = impatient();
      }
    } catch (failure) {
      throw errorOf(failure, false);
    } finally {
      clearTimeout(patience);
      for (const one of signals) one.removeEventListener("abort", abort);
      call.cancel();
    }
  }
}

/**
 * Saves in flight, in order. After a break it goes on by itself, and saves nothing twice.
 *
 *     const stream = client.saveStream();
 *     for (const player of players) await stream.send({ collection: "players", key: player.id, values: player });
 *     await stream.finish(); // now all of them are durable
 */
export class SaveStream {
  #channel;
  #closed;
  #options;
  #opening;
  #attempts;
  #offset = 0;
  /** What has no answer yet, by offset. @type {Map<number, { save: Save, message: any }>} */
  #unanswered = new Map();
  /** What ended it. @type {unknown} */
  #failure;
  #answers = new EventEmitter().setMaxListeners(0);
  /** The last `send`: the next one waits for it, so that saves keep their order. */
  #sending = Promise.resolve();
  /** None between a break and the next attempt. @type {grpc.ClientDuplexStream<any, any> | undefined} */
  #call;
  /** The daemon has answered since the last break. */
  #answering = false;

  /** @param {grpc.Client} channel @param {AbortSignal} closed @param {StreamOptions} options */
  constructor(channel, closed, options) {
    this.#channel = channel;
    this.#closed = closed;
    this.#options = options;
    const { durability, callback } = answerFields(options);
    this.#opening = { streamId: randomUUID(), durability, callback };
    this.#attempts = new Attempts({ timeoutMs: options.timeoutMs, alsoInDoubt: true });
    this.#open();
  }

  /** Sends a save once there is room for it. It is durable after `finish`. @param {Save} save @returns {Promise<void>} */
  send(save) {
    const message = saveMessage(save);
    const sent = this.#sending.then(async () => {
      await this.#until(() => this.#unanswered.size < UNANSWERED_MAX);
      this.#unanswered.set(++this.#offset, { save, message });
      this.#call?.write({ offset: this.#offset, saves: [message] });
    });
    this.#sending = sent.catch(() => {});
    return sent;
  }

  /** Waits until every save is answered, and ends the stream. @returns {Promise<void>} */
  async finish() {
    await this.#sending;
    try {
      await this.#until(() => this.#unanswered.size === 0);
      this.#call?.end();
    } finally {
      this.#failure ??= new Error("the stream is finished");
    }
  }

  #open() {
    this.#closed.throwIfAborted();
    const { path, serialize, deserialize } = rpc("SaveStream");
    const call = (this.#call = this.#channel.makeBidiStreamRequest(path, serialize, deserialize));
    call.on("data", (answer) => this.#answered(answer));
    call.on("error", (failure) => call === this.#call && this.#broken(errorOf(failure, true)));
    call.write(this.#opening);
    // The daemon knows those that it had accepted already.
    for (const [offset, { message }] of this.#unanswered) call.write({ offset, saves: [message] });
  }

  /** @param {any} answer a SaveStreamResponse */
  #answered({ acknowledged, refused, failed }) {
    this.#answering = true;
    if (refused) this.#lost(Number(refused.offset), toldOf(refused.code, refused.message, refused.details));
    if (failed) {
      const { ticket, failure } = failed;
      const metadata = { ticket, sqlstate: failure.sqlstate, constraint: failure.constraint };
      const told = { code: grpc.status.FAILED_PRECONDITION, reason: "SAVE_FAILED", message: failure.message, metadata };
      this.#lost(Number(failed.offset), told);
    }
    if (acknowledged) {
      const through = Number(acknowledged.through);
      for (const offset of this.#unanswered.keys()) if (offset <= through) this.#unanswered.delete(offset);
    }
    this.#answers.emit("answer");
  }

  /** @param {number} offset @param {Told} told */
  #lost(offset, told) {
    const entry = this.#unanswered.get(offset);
    if (entry === undefined) return; // told before the break
    this.#unanswered.delete(offset);
    const error = new (kindOf(told, true))(told);
    if (this.#options.onError) this.#options.onError(error, entry.save);
    else this.#end(error);
  }

  /** @param {ForebayError} error */
  async #broken(error) {
    this.#call = undefined;
    if (this.#answering) this.#attempts.begin();
    this.#answering = false;
    try {
      this.#attempts.failed(error);
      await this.#attempts.wait();
      if (this.#failure === undefined) this.#open();
    } catch (last) {
      this.#end(last);
    }
  }

  /** @param {unknown} failure */
  #end(failure) {
    this.#failure ??= failure;
    this.#call?.cancel();
    this.#answers.emit("answer");
  }

  /** @param {() => boolean} reached */
  async #until(reached) {
    while (this.#failure === undefined && !reached()) await this.#answer();
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Waits for the next answer. */
  async #answer() {
    const { timeoutMs = TIMEOUT_MS } = this.#options;
    const late = AbortSignal.timeout(timeoutMs);
    await once(this.#answers, "answer", { signal: late }).catch((error) => {
      if (!late.aborted) throw error;
      const message = `${this.#unanswered.size} saves had no answer for ${timeoutMs} ms`;
      this.#end(new OutcomeUnknown({ code: grpc.status.DEADLINE_EXCEEDED, message }));
    });
  }
}

/** How often a call is tried, and until when. */
class Attempts {
  #made = 0;
  #waitMs = BACKOFF_MS_MIN;
  #timeoutMs;
  #attemptsMax;
  #alsoInDoubt;

  /** @param {{ timeoutMs?: number, attemptsMax?: number, alsoInDoubt?: boolean }} [limits] */
  constructor({ timeoutMs = Infinity, attemptsMax = Infinity, alsoInDoubt = false } = {}) {
    this.#timeoutMs = timeoutMs;
    this.#attemptsMax = attemptsMax;
    this.#alsoInDoubt = alsoInDoubt;
    this.deadline = Date.now() + timeoutMs;
  }

  /** There was progress: all attempts and the whole time are there again. */
  begin() {
    this.#made = 0;
    this.deadline = Date.now() + this.#timeoutMs;
  }

  /** Throws the error unless there is to be another attempt. @param {any} error */
  failed(error) {
    const again = error instanceof Unavailable || (this.#alsoInDoubt && error instanceof OutcomeUnknown);
    if (!again || ++this.#made >= this.#attemptsMax) throw error;
    const backoffMs = Math.min(BACKOFF_MS_MIN * 2 ** (this.#made - 1), BACKOFF_MS_MAX);
    this.#waitMs = error.retryAfterMs ?? backoffMs * (0.5 + Math.random() / 2);
    if (Date.now() + this.#waitMs >= this.deadline) throw error;
  }

  /** Waits before the next attempt. */
  async wait() {
    await sleep(this.#waitMs);
  }
}

/** Calls that may have saved something when they fail. */
const SAVING = new Set(["Save", "SaveBatch", "SaveStream"]);

const REFUSALS = new Set([
  grpc.status.INVALID_ARGUMENT,
  grpc.status.NOT_FOUND,
  grpc.status.ALREADY_EXISTS,
  grpc.status.PERMISSION_DENIED,
  grpc.status.UNAUTHENTICATED,
  grpc.status.FAILED_PRECONDITION,
  grpc.status.ABORTED,
  grpc.status.OUT_OF_RANGE,
  grpc.status.UNIMPLEMENTED,
]);

/** What the library says when there was no connection. A text that is not known is taken for a lost answer. */
const UNSENT = /^(No connection established|Name resolution failed)/;

/**
 * What a failed call asks of the caller.
 *
 * @param {any} failure the library's @param {boolean} saving @returns {ForebayError}
 */
function errorOf(failure, saving) {
  if (!(failure?.metadata instanceof grpc.Metadata)) return failure; // none of the library's
  const { code, metadata: trailers } = failure;
  const [bytes] = trailers.get("grpc-status-details-bin");
  const [reason = ""] = trailers.get("forebay-error-reason").map(String);
  // The library leaves some of the message's characters percent-encoded: the daemon's own has none.
  const { message, details } = bytes ? decode("google.rpc.Status", bytes) : { message: failure.details, details: [] };
  const told = { ...toldOf(code, message, details), reason, retryAfterMs: retryAfterMs(trailers) };
  return new (kindOf(told, saving))(told);
}

/** @param {Told} told @param {boolean} saving @returns {new (told: Told) => ForebayError} */
function kindOf({ code, reason = "", message }, saving) {
  if (reason === "SAVE_FAILED") return SaveFailed;
  if (REFUSALS.has(code)) return reason.startsWith("LANE_") ? Blocked : Refused;
  // Without the daemon's reason it is of the library's or a proxy's making.
  if (reason && code === grpc.status.RESOURCE_EXHAUSTED) return Busy;
  if (reason && code === grpc.status.UNAVAILABLE) return Unavailable;
  if (!saving || (code === grpc.status.UNAVAILABLE && UNSENT.test(message))) return Unavailable;
  // A code that is not known to refuse may hide an accepted save.
  return OutcomeUnknown;
}

/**
 * What google.rpc's details tell of an error.
 *
 * @param {number} code @param {string} message @param {{ typeUrl: string, value: Buffer }[]} details @returns {Told}
 */
function toldOf(code, message, details) {
  /** @param {string} name */
  const find = (name) => {
    const found = details.find(({ typeUrl }) => typeUrl.endsWith(`/google.rpc.${name}`));
    return found && decode(`google.rpc.${name}`, found.value);
  };
  const { reason = "", metadata = {} } = find("ErrorInfo") ?? {};
  return { code, message, reason, metadata, violations: find("BadRequest")?.fieldViolations ?? [] };
}

/**
 * When the daemon wants to be called again; Infinity: never (gRFC A6: a negative or unreadable value).
 *
 * @param {grpc.Metadata} trailers
 */
function retryAfterMs(trailers) {
  const [value] = trailers.get("grpc-retry-pushback-ms").map(String);
  if (value === undefined) return undefined;
  return /^\d+$/.test(value) ? Number(value) : Infinity;
}

/** @param {AnswerOptions} options */
function answerFields({ requestId = "", callback = "", durability = "SYNCED" }) {
  const value = contract.lookupEnum("forebay.v1.Durability").values[`DURABILITY_${durability}`];
  if (value === undefined) throw new TypeError(`durability is "SYNCED" or "PERSISTED", not ${durability}`);
  return { requestId, callback, durability: value };
}

/** @param {Save} save */
function saveMessage({ collection, key, values, delete: deletes = false, add = [] }) {
  if (deletes === (values !== undefined)) throw new TypeError("a save takes either values or delete: true");
  const change = deletes ? { delete: {} } : { json: Buffer.from(jsonText(values)) };
  return { collection, key: keyParts(key), add, ...change };
}

/** @param {any} answer a SaveResponse or SaveResult @returns {Saved} */
function saved({ ticket, state, failure = null, superseded, deduplicated }) {
  return { ticket, state: stateName(state), failure, superseded, deduplicated };
}

/** @param {any} status @returns {TicketStatus} */
function ticketStatus({ state, acceptTime, outcomeTime, savesAhead, estimatedWait, ...status }) {
  return {
    ...status,
    state: stateName(state),
    acceptTime: acceptTime && new Date(milliseconds(acceptTime)),
    outcomeTime: outcomeTime && new Date(milliseconds(outcomeTime)),
    savesAhead: Number(savesAhead),
    estimatedWaitMs: estimatedWait && milliseconds(estimatedWait),
  };
}

/** @param {string} state @returns {any} */
function stateName(state) {
  return String(state).replace("TICKET_STATE_", ""); // a later daemon's has only a number
}

/** @param {{ seconds: bigint, nanos: number }} time a Timestamp or Duration */
function milliseconds({ seconds, nanos }) {
  return Number(seconds) * 1_000 + Math.floor(nanos / 1e6);
}

/** @param {Buffer | undefined} raw */
function rowOf(raw) {
  return raw === undefined ? { row: null, raw: null } : { row: parsed(raw.toString()), raw };
}

/** @param {Key | undefined} key @returns {string[]} */
function keyParts(key) {
  if (key === undefined) return [];
  return (Array.isArray(key) ? key : [key]).map((part) => {
    // Rounded already, it would name another object.
    if (Number.isInteger(part) && !Number.isSafeInteger(part)) throw new TypeError(`${part} is not exact: use a BigInt`);
    return scalarText(part) ?? unfit(part);
  });
}

/** A scalar as Postgres reads it; undefined for what is none. @param {any} value @returns {string | undefined} */
function scalarText(value) {
  if (typeof value === "string") return value;
  if (typeof value === "boolean" || typeof value === "number" || typeof value === "bigint") return String(value);
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex")}`;
  return undefined;
}

/** JSON with every digit of a BigInt, which JSON.stringify can't write; NaN and infinities are strings. @param {any} value @returns {string} */
function jsonText(value) {
  if (value === null) return "null";
  const text = scalarText(value);
  if (text !== undefined) {
    const isBare = typeof value === "boolean" || typeof value === "bigint" || Number.isFinite(value);
    return isBare ? text : JSON.stringify(text);
  }
  if (typeof value?.toJSON === "function") return jsonText(value.toJSON());
  if (Array.isArray(value)) return `[${value.map(jsonText).join(",")}]`;
  // A Map, a Set or a Promise has no members to save, and would pass for {}.
  if (Object.prototype.toString.call(value) !== "[object Object]") unfit(value);
  const members = Object.entries(value).filter(([, member]) => member !== undefined);
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${jsonText(member)}`).join(",")}}`;
}

/** @param {any} value @returns {never} */
function unfit(value) {
  throw new TypeError(`Postgres has no text for ${Object.prototype.toString.call(value)}`);
}

/** What JSON.parse makes of a row, but for numbers that JavaScript can't hold. @param {string} text @returns {any} */
function parsed(text) {
  const value = JSON.parse(text);
  // 15 digits always fit.
  return /[\d.]{16}|\d[eE][+-]?\d{3}/.test(text) ? parsedExactly(text) : value;
}

/** @param {string} text JSON without errors @returns {any} */
function parsedExactly(text) {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[^\s,:[\]{}"]+|[[\]{}]/g) ?? [];
  let at = 0;
  const value = () => {
    const token = tokens[at++];
    if (token === "[") return [...until("]", value)];
    if (token === "{") return Object.fromEntries(until("}", () => [value(), value()]));
    return /[-\d]/.test(token[0]) ? exactNumber(token) : JSON.parse(token);
  };
  /** @param {string} end @param {() => any} item */
  function* until(end, item) {
    for (; tokens[at] !== end; ) yield item();
    at++;
  }
  return value();
}

/** @param {string} literal of a JSON number @returns {number | bigint | string} */
function exactNumber(literal) {
  const number = Number(literal);
  if (/^-?\d+$/.test(literal)) return Number.isSafeInteger(number) ? number : BigInt(literal);
  return Number.isFinite(number) && magnitude(String(number)) === magnitude(literal) ? number : literal;
}

/** A number's digits in one form, whatever way it is written. @param {string} literal */
function magnitude(literal) {
  const [, whole, fraction = "", exponent = "0"] = /^-?(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/i.exec(literal) ?? [];
  const digits = (whole + fraction).replace(/^0+/, "");
  const significant = digits.replace(/0+$/, "");
  return significant && `${significant}e${Number(exponent) - fraction.length + digits.length - significant.length}`;
}

/** @param {string} method of SaveService */
function rpc(method) {
  const request = contract.lookupType(`forebay.v1.${method}Request`);
  return {
    path: `/forebay.v1.SaveService/${method}`,
    serialize: (/** @type {any} */ message) => Buffer.from(request.encode(request.fromObject(message)).finish()),
    deserialize: (/** @type {Buffer} */ bytes) => decode(`forebay.v1.${method}Response`, bytes),
  };
}

/** @param {string} name @param {Buffer} bytes @returns {any} */
function decode(name, bytes) {
  const type = contract.lookupType(name);
  return type.toObject(type.decode(bytes), { enums: String, longs: BigInt, defaults: true });
}

// Written by ../python/embed.py from proto/forebay/v1 and google_rpc.proto: a FileDescriptorSet, compressed.
const DESCRIPTORS = `
eNq1O01vG1ly2/yQyCIl0e0vmf6YmZ61d0aZyGNNZnZ3nOyEkiiZMU0yTcrGTBA0WmRL5pjs5nQ35dUmh8UGCRZ7WOQQ5OOyARZJEOwpOQU55ZI95hAgp5xy
WCB/IUiAJFXvo78pyY5z46uq9169+n7Vj/BfCtw5dpzjiXV/5jq+czg/uj+au6Y/duxNBlHXOH5T4rVPobQrSNR1WPasoWOPvHXlbeW9vC6H6hUo2qbteOs5
hBd1Ptj+PQUuD53pZmLN7RW5Yo8gPeWLB4Li2JmY9vGm4x6HDPqnM8u7/8J2XtoBs7PD/1CUn+by+73tn+Xu7PPJPTFj85k1mTwm+gFNPVxiS30E/6PAW8nT
++Op5fnmdLbo+A+hPJA0r3z+319w/tVgSSmArQsKIOD3tSTwryW4euS41qF5ev/kwX3PPBFMqSDAmycP6ueYSP08IWp/qkChj2urdwCGzmRiDWk2E1lZj0DU
GuRfWKcoszwi6CfKsfClh7R5pK0++prORuoHsDSyJpZvrRcQXtlSN0N2N3cZBmkFDa1qjkbrRb4q/twuwdLwOcrV0vAXp9cMWN4zx5O5a6l1KHlfTfAEuAFn
MhjzI9ie75pj22faZUeQEDIJPLxnHluM57Iuh9qP81AdjIcvLL+PK8099ZehGO6xunU9eoiQ0NI5FZIvH3EG2baVrcvRCYJ3XdKoD6FiDofWzDdIHYyZylY9
aXqbgeXpwMkJoP4aVJ25j6Zq8dmFc2dXBD2b/g5UXct3T3EyHQNFT5KoMBg/GcnRm88s17NG1mh9CQlKegSivgUVMkfPMJ9b5mh9GQkKSECgBkHUX4dV3Ho8
RdGMjJfm2F8vMSZvpJiUwUVfCSY8Q/qNzwEIdTiejP1TVPq13QO9sd1qtwafGwedfq+509prNXdrX1OvwqUIrv95ZwfBCur6SgTca+r9Vn+AmNzG3yhQiahQ
vQXrg9bO4+bA6A8ag2ZieVwnhu01O7utzj7ugEwlMMEe6nW4HMPtNVptRORTk3Zb/Z2Gvou4Qmqrg87jTvdZp1bc3ofVkXUSMSmMQvfkCDHcve+H4eKh+Hny
4Gc52BOETx8EweUXCtxIRgbTPl0UWD+BfMM+VW9AieKbMXcnwveWaXzgTiimnpiTOTf/qs4H2yfZIbWEi8lg+sEFgylyNzt81Rj6k2/A7UQMNTzLPRkPs2Jp
dritLxaU9ldoShQ8deurOdqv+nUo0EQmnMpWLRoDGBnDqp8AjALbZgJb3boWi5IBVo9QqrcBXL6RMR6JCFYWkNaIIuPQnEwOzeELFhMwMsqx9mcKVDmj3gzj
oaVegyXh/1yRYhTGvdyF4p4GVQwI89lkPCTXZUyV9BgsEU0KyWii/VyBGvG2bfrD51KS95APiifIXj5TlBxN5zB9ZzoeMoZLuhglZJx/TRkXzpJxMSHjMVyK
HEPI+UNYdi1vPvHlSa6lTsLQuiRLiTSXFqn2UwUgnPumlBlJYvkLJLHz9PrvChdI33ctcyoVexPKHgOQfGUCZwAULx7EOTryLJ68C7oYhdaQP9saMLe9NG1f
pDZPMFUhGD+vlzCM4oUNI6r5pYTmf5ADNXpSofstPM3Msq2RiAfrMbYZbZfhqR7ilOouVHFFjGQTa3QstF/ZupOe2YhQ4fzYLPVjsrqjuSc8khJvagGdE+Bc
SUsMk3KFNjMZ3mN4YphTbi9D0TqxbF/7EYWYyKEoJbDQzU5f0vlAfQBXoqwa/nPXmR8/Fwq/HMUNOAqnLE/Hnje2j4X+Y4bcZSaiU8WoSzrtm1CJwImVo7Hr
cf8o6HygqlCYmJ60NfZbe46aTMmXCkfJJ19BDhlGGBuvjOUw4R7EeCHmHlMpLi7SiO0rMdsPnTuXcO5X8VYNrzcrMcUv3BDFMnRGlrgdsd+LK2d1E5ZHlo+b
kLeRcq6kajzM9rok0jagtm8Jb5QxYUH80ppwKUIbRNQlj9XoWV4VreF1Qad9AGqDitCLbboPl2PUr73tb8GVZ5QLurz49uTGb0MlvFbxtID1dwTES3RvTgW+
88KyheIrHDYgkPZPClxNrC4Y/RjKLzGau1PTfSF4vRrl9ZlEohOHlOpHge/n0hGDm6jYKnR+9bOEjdPE27GgEWDDyZEpYfTYhHLAWOr8Svr8P0RzjnG1MAnG
77W5RffafHivjXhW4QKe9RjTXPKYr8uN9h2A/dBGX/lOrn0PKvsRq6XA58ztkYzBbEAezi7uvFbn13b0cAzbIx5kiVYO1W/A2txmwdvAredTm3t6WV8V4B0O
1f4cq+G2Y44uyj1eJ45cZ2qER1im8WNUwVUUn2OEein6DoGxeJhh0DG88fe4bop6iQB9HKesppi2mr/AHMU5FPJ5Hwqu81LWZjE/ITprpDsvdUZyAaekezGR
GhM2lckRYz6B+GLqXVhlBMFdlx2ioK8QtCmB2g8UKAfbSyUroYFej+pPNl5+qChvQInkkQYtp30I1b3J3Ht+4bClvY8uyWcI6S5Mm9o6XGuPPX8nnC220f5I
gesplFjvW2kWEgV1OCseUT9DwfO0Z/jm4cTi2ToRxUViHBABqiQy8rT/xoo7XJw8yDansgPFfpOvsbWFZfBBRnj5AJajKkh0yLgedEmC+bUwpWzMK9V69mGf
IIXO6HhRY1uiRmW/yexOMD4hoVA+a9mU9RUB5XuSdyGFyAIlXuM6No+y2hyWBFnW2RFGl3VxdPab3Nt2fMOeTybSGnHcwaH6HtSwEhkZjj05NfAXGTO/a60S
vItgnUG1T6EaVUvm5hhrxRqiQuKjjTGsxkWEDnpzp9tuN3cGrW7HeNLdTXZ76nAtRdDrN/UB7/ckcY0etYNqua1fFHkjoM+bC+q3RVP1evq2x8y8vp5xDeRG
/gjKwTVSvZUki16S67cXYMVKXX5J5FWfmiKO3cvqdxah+WLvKR8qxFpQj8VZS5Z0cdbSRVwHKpEiS41tnq7V6m8txIv1nsJKrBpS306UPKkyrP7OGRR8VTzx
J5Dfpxo8cRq5xvUUXPDzEAoUwOP6j+TGuP6jKQk3/VUosjiqxoiiwbh+IwMjtv4C1hLxU9Vim2XG3fq7Z9Lwtd98H/JfPoQ7ka6bOZqO7Vfv0P2fP4Ko7FIi
6neRiD5jlw8JE8LdSNwC1PgNOVb//2cBlsTXBEyEItTKvqkYYqAAJHfFh4Dcua38MqNmjfzbAF86c9c2J5F2oIC0RpR43LktCgz6icVOjX9GiFy7iwy9JuHy
yo2VzMzx/GOsboz5TH4CkKCDGSaxIqUWDzNJKgm3ESFkwYnU78QTd4nNuZWdy8TMWPr+CJbFwdbL6dvJb3CUmCgp1fuwNBlPx3gzh3TXoE0YqTBORhUeT34G
bzZVmGwqHNZnDaY9uGxbL6k7GKOspoWwF8zSL/Epe5F17qbqkRVRCEarDix4yli/zZyxjadYZZvEKoCmQIqDhMTaX+ZgNY7NTJ11KI3GHm0mG43BOFlMFsJi
8haUR9ZkjDYcVLAhgEpNIRzT963pDFnnVrbKwQ0BpQLhGOfY0sJwBzZG80LbpnaMYbmu44pqpUyQJgEwEanOZERqiH5GK53rPTU+qxF8TNP+oAAQ2mumjH4p
3kW9mmXqQQ81rEXy0VqEw6fW6FTUOWJECkCvGrMbEpdSMCZBUntx4hwbzuGX6AueENOqAHc5VH0XViTh4anPnJLIqgK4TbAoETfaUoyI22W2YMuvLlj6BDgz
0ZQNtBm+Cpy7SpXNQLMNPlTSZemlO0aLsaU7EuwZB1Gv3HdN2zNFYKnyI0Vh5GpMNVPL9g122ROuFkDxkuVpPtSSMSjTGjKUkruYUvJppWh/osBKLHzRLYKT
i1YlG5A/HLmWJVbiG5YJwnVLH8WtYzqL3CYYqx9DyaXemx20dc/4ChuQai7e5cMYmSkKzDBT87uCG/pJVEHTuaCz33TFfjG2+d5J76ENHiNSZyTa36EzhlFy
YQ+FnRaTtD20xObBONFzyC/qmBQyuz3FV/90v/RKn+6/CWVah09dPndqiYjZxPeEEEtMiFeStXooQ/WBjFZlRnozOyfFYhbWIMOJ41kXddMyo5Y+KqcyRVV4
U0QQMG2h/2FKGZruSN70qvzyKaD8ohf0pFYiPalr9JSE2saY+5gB8JF8NLIWPBrRfpyDWni6vfHEt9xob15J9ebP7AlGH5nkz3xkUkg9MsHAF+jYoH6WMKsz
A59U9B7Sq9s8gfIV5raP5z/fzFbkEgc0QbsCKrvTxGvaBlyOQV+jqv0Kqj2K0rItJPsNSqTfsOBCTqFIVubBd6nFoUiSanuwIrYMWtylIKso50pm2eIJRcNL
os66dWfxjjCSpKiG2G+KvsLnj82Z6GWUOWTfnGn3YFWuG7ZdeXXM7Y4PtCbU+pbPgl7wMeABLPPXTrKdla5Sd57zb1uCTvtIRGYOv1hk1nbhUmRvwWZYISsX
qpC1f1N43y5SysqD/AosHTG3Exq5lR14uGvqgpa+OjCv4v24c8KVII13gfOJLjDqiiF5k1Z8wCdI0KJ9OfafG4fOaGzxwhQvNgTaZhDtd3n7MXZCIa5vJ+4H
yplVf+zecA/WbOu7vhFhjbvGCoF7kj3tHxS4rtNLrDcmYYqVE2nO9JN/E3CHljBkPqC6hqTgzP1kg1iARYM4IeBiQsDaHNbTBxACfJB8DHE93n7FacnXEBcV
3B8rUIkssLB2SL5+y6Vfv22Jj+fmRLwbWc/gkuF1SRj9PlqIvyz8HbixyxPd/6NKF9w6tAOoZ20eRqmhg/lFlppsQBISadKYWEe++DJTEbA2grRVqO5SspNp
5X1YEePzGv8b389BObg0UUu13eg0Mx/e3YCrEdxOt9Ohzit7eXcZ1iKo1m67WcvR67kIcL8xeNTUiTxPj/EimEav1/6cEIUEQm8OdIYo0pvCCKLXOOgjS0sJ
8KNGmx77LSfAe032ArGESlEj4P6g2+shvLzxffq6IytfJoLWk9bAeNzq7KafNkZwjSfdg85AHD8E91tf0PFptxCoN/tN/WkTDx8n1pGVWmFjBCVZNpKc+42n
zaz9L8FKiOo3ae8rmMMC0G6z3RzQ5jGoaIrnN/5WgbVEDEfrus3fQhpsQpbiUSJpki6uidvfhhtpHCmuxZ5dvgU30+jwiWU+m6D7tKkPGo9xg8LGTxT64BC6
OO3IDAN32TvoN9oJZm9ivI6hO92BsYeKEm9Q48iddrfPGE2tSuyQLtF2kE3USRzd6jxttFu7tcLWPxeh2qA2qfzUwJvy4pqWbMrHyr9UUz5RBvagEqkO4035
dDEZb8pnlJW8k80qt3gnO1o/xjvZ8TLvM1jidZV6Ix6BIzVcvZ6FinxKkUVP4lNKog5LfEpJVUqiqR5t4aWa6un4nm6qZ4Xh34ZaMmOq76ZSTsbqXz+bSCw/
BDWdA9S7sSdvixJU/d55ZGITVDTLAHFFR5NEXNGxdPHmPyv841Ls3S/rIorbZ/qrwsbPi1BhfUVxFb0F601d7+rofY1+t5PweHTdGFa4JvNg9Pm34VYmWm/+
5kGzP0DfT1JQxGg96bWbT5qdAYtSd6Aeo+ABHAc7j9hDcYyQMTxGuMfG3kG7jakLQ0cMhyFOZ2lzKQOFKYlQyymeugeDne6T8Al6KSUUltpEZixnY0WChGys
yJMVVYM7CbbwxxODRWQWm2vVFOu7zcZuu9Vp1lZS+hAss01qqylZhcF+LbWz0JHB1MVOVlPvwjsxml63P9jH9Ir7NJ5iKmlsY/VxKXVEll7Eq3+Vsl4M+6wx
QFXqxqDbNfrt7rPa5RRJsI/efMbSyZWUWQgl9Y39Lh716pt3oz8sQI3fqw13NpSeI27aCDnrafxR8PFLvidUst8T5ha+J8xf5D3h32M1xZy3ZR85kUJYSbbf
R84UY47sSPARppjSFBcamb4ptnt3MzzfZrDw5hNB1bSpNggm1R/CSgwVvtZRwr9JRf4aURZ/jfg09y1F+2sFYDt8L9WD2tHYmoyMk7EzMaNvXO5GmQpnbO4R
+VNJra8dxcZe/RGsxkn4S1iECAb5gN72jCxv6I5nkYZYFCRN4n8BnHo58Q==
`;

/** The types of the contract. */
export const contract = protobuf.Root.fromDescriptor(inflateSync(Buffer.from(DESCRIPTORS, "base64")));
// Under other names, fields would be left out without a word.
if (!("requestId" in contract.lookupType("forebay.v1.SaveRequest").fields)) throw new Error("forebay.js needs protobufjs 8 or later");
