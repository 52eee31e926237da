/** What the client does, against a daemon that answers as it is told: `node --test`. */

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { after, describe, it } from "node:test";

import grpc from "@grpc/grpc-js";

import { Daemon, Fail, SILENCE, any } from "./fake.js";
import { Blocked, Busy, OutcomeUnknown, Refused, SaveFailed, Unavailable, connect } from "./forebay.js";

const { status } = grpc;
const STOPPING = new Fail(status.UNAVAILABLE, "STOPPING", { pushback: "20" });
const FULL = new Fail(status.RESOURCE_EXHAUSTED, "LIMIT_REACHED");
/** As a connection looks that broke. */
const BROKEN = new Fail(status.UNAVAILABLE);
const ACCEPTED = { ticket: "t", state: "TICKET_STATE_PENDING" };
const PENDING = { status: { state: "TICKET_STATE_PENDING" } };
const PERSISTED = { status: { state: "TICKET_STATE_PERSISTED" } };

const open = [];
after(() => open.forEach((one) => one()));

/** A daemon with a script, and a client of it. */
async function pair(script, options) {
  const daemon = await Daemon.start(script);
  const client = connect(daemon.address, options);
  open.push(() => client.close(), () => daemon.stop());
  return { daemon, client };
}

/** Saves once; the error, and how often the daemon was called. */
async function saves(answers, options) {
  const { daemon, client } = await pair({ Save: answers });
  const error = await client.save("players", 1, { level: 2 }, options).then(() => undefined, (error) => error);
  return { error, calls: daemon.calls.length };
}

/** All of an async iterable. */
async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

/** The body that a save of these values has. */
async function body(values) {
  const { daemon, client } = await pair({ Save: [ACCEPTED] });
  await client.save("players", 1, values);
  return daemon.calls[0].request.save.json.toString();
}

/** What a row with this JSON is read as. */
async function read(json) {
  const { client } = await pair({ Get: [{ found: true, json: Buffer.from(json) }] });
  return (await client.get("players", 1)).row;
}

describe("errors", () => {
  it("tries again what was not accepted", async () => {
    assert.deepEqual(await saves([STOPPING, FULL, STOPPING, ACCEPTED]), { error: undefined, calls: 4 });
  });

  it("bounds its attempts", async () => {
    const { error, calls } = await saves([STOPPING]);
    assert.ok(error instanceof Unavailable && !(error instanceof Busy), error);
    assert.deepEqual([error.code, error.reason, calls], [status.UNAVAILABLE, "STOPPING", 5]);
  });

  it("says that a limit is met", async () => {
    const { error } = await saves([new Fail(status.RESOURCE_EXHAUSTED, "LIMIT_REACHED", { pushback: "9000", metadata: { limit: "x" } })]);
    assert.ok(error instanceof Busy && error instanceof Unavailable, error);
    assert.deepEqual([error.retryAfterMs, error.metadata], [9_000, { limit: "x" }]);
  });

  it("waits as long as the daemon wants", async () => {
    const start = performance.now();
    await saves([new Fail(status.RESOURCE_EXHAUSTED, "DISK_FULL", { pushback: "400" }), ACCEPTED]);
    assert.ok(performance.now() - start >= 390);
  });

  it("doesn't wait beyond the deadline", async () => {
    const { error, calls } = await saves([new Fail(status.RESOURCE_EXHAUSTED, "DISK_FULL", { pushback: "9000" })], { timeoutMs: 5_000 });
    assert.ok(error instanceof Busy, error);
    assert.equal(calls, 1);
  });

  it("ends its attempts on a negative or unreadable pushback", async () => {
    for (const pushback of ["-1", "soon"]) {
      const { error, calls } = await saves([new Fail(status.UNAVAILABLE, "STOPPING", { pushback })]);
      assert.ok(error instanceof Unavailable, error);
      assert.deepEqual([error.retryAfterMs, calls], [Infinity, 1]);
    }
  });

  const doubts = [
    BROKEN,
    new Fail(status.RESOURCE_EXHAUSTED),
    new Fail(status.UNKNOWN),
    new Fail(status.INTERNAL, "OUTCOME_UNKNOWN"),
    new Fail(status.DEADLINE_EXCEEDED, "DEADLINE"),
  ];

  it("doesn't try again what may have been accepted", async () => {
    for (const answer of doubts) {
      const { error, calls } = await saves([answer, ACCEPTED]);
      assert.ok(error instanceof OutcomeUnknown, error);
      assert.deepEqual([error.code, calls], [answer.code, 1]);
    }
  });

  it("tries it again with a request id", async () => {
    for (const answer of doubts) {
      assert.deepEqual(await saves([answer, ACCEPTED], { requestId: "once" }), { error: undefined, calls: 2 });
    }
  });

  it("leaves the outcome unknown when the connection breaks or nothing is answered", async () => {
    const listener = createServer((connection) => connection.on("data", (data) => data.includes("players") && connection.destroy()));
    await new Promise((resolve) => listener.listen(0, "127.0.0.1", resolve));
    listener.on("connection", (connection) => connection.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]))); // empty SETTINGS
    const client = connect(`127.0.0.1:${listener.address().port}`);
    await assert.rejects(client.save("players", 1, { level: 2 }), OutcomeUnknown);
    client.close();
    listener.close();
    assert.ok((await saves([SILENCE], { timeoutMs: 200 })).error instanceof OutcomeUnknown);
  });

  it("doesn't try a refusal again, and tells every violation", async () => {
    const violations = [
      { field: "save.json.nam", description: "is no column" },
      { field: "save.key", description: "is missing" },
    ];
    const { error, calls } = await saves([new Fail(status.INVALID_ARGUMENT, "INVALID_SAVE", { violations })]);
    assert.ok(error instanceof Refused, error);
    assert.deepEqual([calls, error.violations, error.name], [1, violations, "Refused"]);
    assert.equal(error.message, "INVALID_SAVE: no?\n  save.json.nam is no column\n  save.key is missing");
  });

  it("tells what only an operator can mend", async () => {
    const { client } = await pair({ Flush: [new Fail(status.FAILED_PRECONDITION, "LANE_PAUSED")] });
    await assert.rejects(client.flush(), (error) => error instanceof Blocked && error instanceof Refused);
  });

  it("tells why Postgres would not take a save", async () => {
    const metadata = { ticket: "t", sqlstate: "23503", constraint: "players_guild" };
    const { error, calls } = await saves([new Fail(status.FAILED_PRECONDITION, "SAVE_FAILED", { metadata })], { durability: "PERSISTED" });
    assert.ok(error instanceof SaveFailed, error);
    assert.deepEqual([calls, error.ticket, error.sqlstate, error.constraint], [1, "t", "23503", "players_guild"]);
  });

  it("knows when nobody listens", async () => {
    const { daemon, client } = await pair({});
    daemon.stop();
    await assert.rejects(client.save("players", 1, { level: 2 }), Unavailable);
    client.close();
    await assert.rejects(client.save("players", 1, { level: 2 }), /the client is closed/);
  });

  it("is never in doubt of what saves nothing", async () => {
    for (const answer of doubts) {
      const { daemon, client } = await pair({ Get: [answer, { found: false }] });
      assert.equal((await client.get("players", 1)).found, false);
      assert.equal(daemon.calls.length, 2);
    }
  });
});

describe("saves", () => {
  it("sends what the call says", async () => {
    const { daemon, client } = await pair({ Save: [{ ...ACCEPTED, deduplicated: true }] });
    const options = { add: ["gold"], requestId: "r", callback: "c", durability: "PERSISTED" };
    assert.deepEqual(await client.save("players", [1, "a"], { gold: 5 }, options), {
      ticket: "t",
      state: "PENDING",
      failure: null,
      superseded: false,
      deduplicated: true,
    });
    await client.delete("players", 2n);
    await client.append("events", { kind: "x" });
    const [set, gone, row] = daemon.calls.map(({ request }) => request);
    const save = { collection: "players", key: ["1", "a"], add: ["gold"], json: Buffer.from('{"gold":5}'), change: "json" };
    assert.deepEqual(set, { save, durability: "DURABILITY_PERSISTED", requestId: "r", callback: "c" });
    assert.deepEqual(gone.save, { collection: "players", key: ["2"], add: [], delete: {}, change: "delete" });
    assert.deepEqual([gone.durability, gone.requestId], ["DURABILITY_SYNCED", ""]);
    assert.deepEqual([row.save.key, row.save.json.toString()], [[], '{"kind":"x"}']);
  });

  it("tells the outcome of each save of a batch", async () => {
    const failure = { sqlstate: "23505", constraint: "c", message: "m" };
    const results = [{ ticket: "a", state: "TICKET_STATE_PERSISTED", superseded: true }, { ticket: "b", state: "TICKET_STATE_FAILED", failure }];
    const { daemon, client } = await pair({ SaveBatch: [{ results }] });
    const batch = [
      { collection: "players", key: 1, values: { n: 1 } },
      { collection: "players", key: 2, delete: true },
    ];
    assert.deepEqual(await client.saveBatch(batch, { atomic: true, requestId: "r", durability: "PERSISTED" }), [
      { ticket: "a", state: "PERSISTED", failure: null, superseded: true, deduplicated: false },
      { ticket: "b", state: "FAILED", failure, superseded: false, deduplicated: false },
    ]);
    const { saves, atomic, requestId, durability } = daemon.calls[0].request;
    assert.deepEqual([saves.length, atomic, requestId, durability], [2, true, "r", "DURABILITY_PERSISTED"]);
  });

  it("refuses a save that is none, before it is sent", async () => {
    const client = connect("127.0.0.1:1");
    const wrong = [
      () => client.save("players", 1, undefined),
      () => client.saveBatch([{ collection: "players", key: 1, values: {}, delete: true }]),
      () => client.save("players", null, {}),
      () => client.save("players", 2 ** 53, {}),
      () => client.save("players", 1, { a: new Map() }),
      () => client.save("players", 1, { a: () => 1 }),
      () => client.save("players", 1, { a: [undefined] }),
      () => client.save("players", 1, {}, { durability: "persisted" }),
    ];
    for (const call of wrong) await assert.rejects(call, TypeError);
    client.close();
  });
});

describe("values", () => {
  it("writes values as Postgres reads them", async () => {
    const id = "0a0b0c0d-0000-4000-8000-000000000001";
    const values = {
      big: 12345678901234567890n,
      float: 0.1,
      not: [NaN, -Infinity],
      at: new Date(Date.UTC(2026, 0, 31, 10, 0, 0, 500)),
      raw: Buffer.from([0xde, 0xad]),
      part: new Uint8Array([1, 255, 2]).subarray(1),
      id,
      doc: { it: ['é"', null, true], left: undefined, ["__proto__"]: { n: 1n } },
      own: { toJSON: () => "7.50" },
      no: null,
      left: undefined,
    };
    assert.equal(
      await body(values),
      '{"big":12345678901234567890,"float":0.1,"not":["NaN","-Infinity"],"at":"2026-01-31T10:00:00.500Z","raw":"\\\\xdead",' +
        `"part":"\\\\xff02","id":"${id}","doc":{"it":["é\\"",null,true],"__proto__":{"n":1}},"own":"7.50","no":null}`,
    );
  });

  it("writes key parts as text", async () => {
    const { daemon, client } = await pair({ Save: [ACCEPTED] });
    await client.save("samples", [true, 1n << 60n, -1.5, Buffer.from([0, 255]), new Date(0)], {});
    assert.deepEqual(daemon.calls[0].request.save.key, ["true", "1152921504606846976", "-1.5", "\\x00ff", "1970-01-01T00:00:00.000Z"]);
  });

  it("rounds no number of a row", async () => {
    const json =
      '{"a": 1, "b": 9007199254740993, "c": -12345678901234567890, "d": 7.50, "e": 0.30000000000000004, "f": 1.12345678901234567890, ' +
      '"g": 1e400, "h": 1.5e-7, "i": [[], {}, [1e999, "1e999", "12345678901234567890, \\"}"]], "j": {"__proto__": 10000000000000000000}, ' +
      '"k": 0.1000000000000000000000, "l": null, "m": false, "n": 100e-2}';
    const row = await read(json);
    assert.deepEqual(row.j, JSON.parse('{"__proto__": 0}', (name, value) => (name === "__proto__" ? 10000000000000000000n : value)));
    delete row.j;
    assert.deepEqual(row, {
      a: 1,
      b: 9007199254740993n,
      c: -12345678901234567890n,
      d: 7.5,
      e: 0.30000000000000004,
      f: "1.12345678901234567890",
      g: "1e400",
      h: 1.5e-7,
      i: [[], {}, ["1e999", "1e999", '12345678901234567890, "}']],
      k: 0.1,
      l: null,
      m: false,
      n: 1,
    });
  });

  it("reads as JSON.parse does what JavaScript can hold", async () => {
    const { client } = await pair({ Get: [{ found: true, json: Buffer.from('{"é\\n": [1, -0.5, "12345678901234567890"]}'), pending: true }] });
    const got = await client.get("players", 1);
    assert.deepEqual(got.row, { "é\n": [1, -0.5, "12345678901234567890"] });
    assert.deepEqual([got.raw.toString(), got.pending, got.unknownColumns], ['{"é\\n": [1, -0.5, "12345678901234567890"]}', true, []]);
  });

  it("tells a missing object from an empty one", async () => {
    const { client } = await pair({ Get: [{ found: false }] });
    assert.deepEqual(await client.get("players", 1), { found: false, row: null, raw: null, pending: false, unknownColumns: [] });
  });
});

describe("tickets", () => {
  it("tells all that is known", async () => {
    const failure = { sqlstate: "23503", constraint: "", message: "m" };
    const acceptTime = { seconds: 1_700_000_000, nanos: 250_000_000 };
    const pending = { state: "TICKET_STATE_PENDING", acceptTime, savesAhead: 7, estimatedWait: { seconds: 2, nanos: 5e8 } };
    const failed = { state: "TICKET_STATE_FAILED", failure, acceptTime, outcomeTime: { seconds: 1_700_000_001 }, retryTicket: "n" };
    const { client } = await pair({ GetTicket: [{ status: pending }, { status: failed }] });
    assert.deepEqual(await client.ticket("t"), {
      state: "PENDING",
      failure: null,
      acceptTime: new Date(1_700_000_000_250),
      outcomeTime: null,
      retryTicket: "",
      superseded: false,
      savesAhead: 7,
      estimatedWaitMs: 2_500,
    });
    const status = await client.ticket("t");
    assert.deepEqual([status.failure, status.outcomeTime, status.retryTicket], [failure, new Date(1_700_000_001_000), "n"]);
  });

  it("awaits again until there is an outcome", async () => {
    const restarts = Array(7).fill(new Fail(status.UNAVAILABLE, "STARTING", { pushback: "1" }));
    const { daemon, client } = await pair({ AwaitTicket: [PENDING, BROKEN, ...restarts, PENDING, PERSISTED] });
    assert.equal((await client.awaitTicket("t")).state, "PERSISTED");
    assert.equal(daemon.calls.length, 11);
  });

  it("answers PENDING when the time is up", async () => {
    const { client } = await pair({ AwaitTicket: [PENDING] });
    assert.equal((await client.awaitTicket("t", { timeoutMs: 200 })).state, "PENDING");
    const silent = await pair({ AwaitTicket: [SILENCE], GetTicket: [PERSISTED] });
    assert.equal((await silent.client.awaitTicket("t", { timeoutMs: 200 })).state, "PERSISTED", "the last word");
  });

  it("doesn't say PENDING when nobody could be asked", async () => {
    const { client } = await pair({ AwaitTicket: [STOPPING], GetTicket: [STOPPING] });
    await assert.rejects(client.awaitTicket("t", { timeoutMs: 300 }), { name: "Unavailable", reason: "STOPPING" });
  });
});

describe("flush", () => {
  it("answers a sequence with all its digits", async () => {
    const { daemon, client } = await pair({ Flush: [STOPPING, { through: "18446744073709551615" }] });
    assert.equal(await client.flush(["players"]), 18446744073709551615n);
    assert.deepEqual(daemon.calls[1].request.collections, ["players"]);
  });
});

/** A page of a load. */
function page(resumeToken, keys, rowsLoaded) {
  const rows = keys.map((key) => ({ key: [key], json: Buffer.from(`{"id": ${key}}`) }));
  return { rows, resumeToken, rowsLoaded, rowsEstimated: 100 };
}

describe("load", () => {
  it("goes on where it was after a break", async () => {
    const first = [page("a", ["1", "2"], 2), page("b", ["3"], 3), BROKEN];
    const { daemon, client } = await pair({ Load: [first, [STOPPING], [page("c", ["4"], 1)]] });
    const progress = [];
    const rows = await all(client.load("players", { from: 1, to: [9], pageSize: 2, onPage: (told) => progress.push(told) }));
    assert.deepEqual(rows.map(({ key, row }) => [key, row.id]), [[["1"], 1], [["2"], 2], [["3"], 3], [["4"], 4]]);
    assert.deepEqual(daemon.calls.map(({ request }) => request.resumeToken), ["", "b", "b"]);
    assert.deepEqual(progress.map(({ rowsLoaded }) => rowsLoaded), [2, 3, 4]);
    const { fromKey, toKey, pageSize } = daemon.calls[2].request;
    assert.deepEqual([fromKey, toKey, pageSize, progress[0].rowsEstimated], [["1"], ["9"], 2, 100]);
  });

  it("tells rows that are gone", async () => {
    const rows = [{ key: ["1"], pending: true, unknownColumns: ["x"] }];
    const { client } = await pair({ Load: [[{ rows }]] });
    assert.deepEqual(await all(client.load("players")), [{ key: ["1"], row: null, raw: null, pending: true, unknownColumns: ["x"] }]);
  });

  it("ends with the loop, a signal, a refusal or the client", { timeout: 20_000 }, async () => {
    const { client } = await pair({ Load: [[page("a", ["1"], 1), SILENCE]] });
    for await (const { key } of client.load("players")) {
      assert.deepEqual(key, ["1"]);
      break;
    }
    const abort = new AbortController();
    const rows = client.load("players", { signal: abort.signal });
    await rows.next();
    const waits = rows.next();
    abort.abort(new Error("enough"));
    await assert.rejects(waits, /enough/);
    const closed = client.load("players");
    await closed.next();
    const next = closed.next();
    client.close();
    await assert.rejects(next, /the client is closed/);
    const refused = await pair({ Load: [[new Fail(status.INVALID_ARGUMENT, "INVALID_REQUEST")]] });
    await assert.rejects(all(refused.client.load("players")), Refused);
    assert.equal(refused.daemon.calls.length, 1);
  });

  it("gives up when no page comes", async () => {
    const { client } = await pair({ Load: [[SILENCE]] });
    await assert.rejects(all(client.load("players", { timeoutMs: 200 })), /nothing came for 200 ms/);
  });

  it("has time while the loop is busy with a row", async () => {
    const { client } = await pair({ Load: [[page("a", ["1", "2"], 2), page("b", ["3"], 3)]] });
    const rows = client.load("players", { timeoutMs: 100 });
    assert.deepEqual((await rows.next()).value.key, ["1"]);
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal((await all(rows)).length, 2);
  });
});

/** The first outcomes of a watch. */
async function watched(client, count, options) {
  const outcomes = [];
  for await (const outcome of client.watch(options)) if (outcomes.push(outcome) === count) return outcomes;
  return outcomes;
}

describe("watch", () => {
  const mark = (resumeToken) => ({ watermark: { resumeToken } });
  const failure = { sqlstate: "23514", constraint: "c", message: "m" };
  const failed = { ticket: "f", collection: "players", key: ["1"], failure };
  const superseded = { ticket: "s", collection: "players" };

  it("goes on from the last watermark after a break", async () => {
    const slow = new Fail(status.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW", { pushback: "1", metadata: { resume_token: "b" } });
    const scripts = [[mark("a"), { failed }, BROKEN], [STOPPING], [{ superseded }, slow], [mark("c"), SILENCE]];
    const { daemon, client } = await pair({ WatchOutcomes: scripts });
    assert.deepEqual(await watched(client, 4, { collections: ["players"], resumeToken: "0" }), [
      { type: "watermark", resumeToken: "a", rewound: false },
      { type: "failed", ...failed },
      { type: "superseded", ...superseded },
      { type: "watermark", resumeToken: "c", rewound: false },
    ]);
    assert.deepEqual(daemon.calls.map(({ request }) => request.resumeToken), ["0", "a", "a", "b"]);
  });

  it("tells when Postgres went back in time", async () => {
    const rewound = new Fail(status.ABORTED, "POSTGRES_REWOUND", { metadata: { resume_token: "a" } });
    const { daemon, client } = await pair({ WatchOutcomes: [[mark("c"), rewound], [BROKEN], [mark("b"), mark("c"), SILENCE]] });
    assert.deepEqual(await watched(client, 3), [
      { type: "watermark", resumeToken: "c", rewound: false },
      { type: "watermark", resumeToken: "b", rewound: true },
      { type: "watermark", resumeToken: "c", rewound: false },
    ]);
    assert.deepEqual(daemon.calls.map(({ request }) => request.resumeToken), ["", "a", "a"]);
  });

  it("ends with a signal or a refusal", async () => {
    const { client } = await pair({ WatchOutcomes: [[mark("a"), SILENCE]] });
    const abort = new AbortController();
    const outcomes = client.watch({ signal: abort.signal });
    await outcomes.next();
    const waits = outcomes.next();
    abort.abort(new Error("enough"));
    await assert.rejects(waits, /enough/);
    const refused = await pair({ WatchOutcomes: [[new Fail(status.INVALID_ARGUMENT, "INVALID_REQUEST")]] });
    await assert.rejects(watched(refused.client, 1), Refused);
  });
});

describe("save stream", () => {
  const player = (id) => ({ collection: "players", key: id, values: { id } });
  const acknowledge = ({ offset, saves }) => (saves.length ? [{ acknowledged: { through: offset } }] : [{ opened: {} }]);
  const offsets = ({ requests }) => requests.flatMap(({ offset, saves }) => (saves.length ? [Number(offset)] : []));

  it("sends in order, and ends when all is answered", async () => {
    const { daemon, client } = await pair({ SaveStream: [acknowledge] });
    const stream = client.saveStream({ durability: "PERSISTED", callback: "c" });
    await Promise.all(Array.from({ length: 3_000 }, (_, id) => stream.send(player(id))));
    await stream.finish();
    const [{ streamId, durability, callback }, ...saves] = daemon.calls[0].requests;
    assert.match(streamId, /^[0-9a-f-]{36}$/);
    assert.deepEqual([durability, callback], ["DURABILITY_PERSISTED", "c"]);
    assert.deepEqual(saves.map(({ saves: [save] }) => save.key[0]), Array.from({ length: 3_000 }, (_, id) => String(id)));
    await assert.rejects(stream.send(player(1)), /the stream is finished/);
  });

  it("sends what has no answer again after a break", async () => {
    const breaks = ({ offset, saves }) => (!saves.length ? [{ opened: {} }] : offset < 3 ? [{ acknowledged: { through: 1 } }] : [BROKEN]);
    const { daemon, client } = await pair({ SaveStream: [breaks, () => [STOPPING], acknowledge] });
    const stream = client.saveStream();
    for (let id = 1; id <= 3; id++) await stream.send(player(id));
    await stream.finish();
    assert.deepEqual(daemon.calls.map(offsets).filter((sent) => sent.length > 1), [[1, 2, 3], [2, 3]]);
    assert.equal(new Set(daemon.calls.map(({ requests }) => requests[0].streamId)).size, 1);
  });

  const refusal = (offset) => {
    const violation = { field: "key", description: "is missing" };
    const details = [any("ErrorInfo", { reason: "INVALID_SAVE" }), any("BadRequest", { fieldViolations: [violation] })];
    return { refused: { offset, code: status.INVALID_ARGUMENT, message: "no", details } };
  };
  const failure = { sqlstate: "23505", constraint: "c", message: "m" };
  const unwell = ({ offset, saves }) => {
    if (!saves.length) return [{ opened: {} }];
    const told = { 2: [refusal(2)], 3: [{ failed: { offset, ticket: "t", failure } }] }[offset] ?? [];
    return [...told, { acknowledged: { through: offset } }];
  };

  it("tells which saves were refused or failed, and goes on", async () => {
    const { client } = await pair({ SaveStream: [unwell] });
    const errors = [];
    const stream = client.saveStream({ onError: (error, save) => errors.push([error.name, error.reason, save.key]) });
    for (let id = 1; id <= 4; id++) await stream.send(player(id));
    await stream.finish();
    assert.deepEqual(errors, [
      ["Refused", "INVALID_SAVE", 2],
      ["SaveFailed", "SAVE_FAILED", 3],
    ]);
  });

  it("ends with the first of them if nobody listens", async () => {
    const { client } = await pair({ SaveStream: [unwell] });
    const stream = client.saveStream();
    for (let id = 1; id <= 2; id++) await stream.send(player(id));
    await assert.rejects(stream.finish(), { name: "Refused", violations: [{ field: "key", description: "is missing" }] });
    await assert.rejects(stream.send(player(5)), Refused);
  });

  it("doesn't wait for ever", async () => {
    const { client } = await pair({ SaveStream: [() => []] });
    const stream = client.saveStream({ timeoutMs: 200 });
    await stream.send(player(1));
    await assert.rejects(stream.finish(), { name: "OutcomeUnknown", message: /1 saves had no answer for 200 ms/ });
    const refused = await pair({ SaveStream: [() => [new Fail(status.ABORTED, "STREAM_TAKEN_OVER")]] });
    const taken = refused.client.saveStream();
    await taken.send(player(1));
    await assert.rejects(taken.finish(), Refused);
    assert.equal(refused.daemon.calls.length, 1);
  });
});
