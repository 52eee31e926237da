/** A daemon that answers as it is told, for the tests. */

import grpc from "@grpc/grpc-js";

import { contract } from "./forebay.js";

const UNARY = ["Save", "SaveBatch", "GetTicket", "AwaitTicket", "Get", "Flush"];
const STREAMS = ["WatchOutcomes", "Load"];

/** An answer that is an error; without a reason it is not of the daemon's making. */
export class Fail {
  constructor(code, reason = "", { pushback, violations = [], metadata = {} } = {}) {
    this.code = code;
    this.details = "no?";
    this.metadata = new grpc.Metadata();
    if (pushback !== undefined) this.metadata.set("grpc-retry-pushback-ms", pushback);
    if (!reason) return;
    this.metadata.set("forebay-error-reason", reason);
    const details = [any("ErrorInfo", { reason, domain: "forebay.dev", metadata }), any("BadRequest", { fieldViolations: violations })];
    this.metadata.set("grpc-status-details-bin", encode("google.rpc.Status", { code, message: "no?", details }));
  }
}

/** Takes the call and never answers. */
export const SILENCE = Symbol("silence");

/** Answers each call with the next of its method's script; with the last one again when there are none left. */
export class Daemon {
  #server = new grpc.Server();
  /** What was called: method and request. */
  calls = [];

  /** `script`: method to answers, each a message, a Fail or SILENCE; of a stream, an array of these; of SaveStream, see below. */
  static async start(script) {
    const daemon = new Daemon();
    for (const method of UNARY) daemon.#register(method, "unary", script[method] ?? [], reply);
    for (const method of STREAMS) daemon.#register(method, "serverStream", script[method] ?? [], replies);
    daemon.#register("SaveStream", "bidi", script.SaveStream ?? [], converse);
    const credentials = grpc.ServerCredentials.createInsecure();
    const bind = (resolve, reject) =>
      daemon.#server.bindAsync("127.0.0.1:0", credentials, (error, port) => (error ? reject(error) : resolve(port)));
    daemon.address = `127.0.0.1:${await new Promise(bind)}`;
    return daemon;
  }

  #register(method, kind, script, answer) {
    const answers = [...script];
    const request = contract.lookupType(`forebay.v1.${method}Request`);
    const handler = (call, callback) => {
      const entry = { method, request: call.request, requests: [] };
      this.calls.push(entry);
      answer(answers.length > 1 ? answers.shift() : answers[0], call, callback, entry.requests);
    };
    const serialize = (message) => encode(`forebay.v1.${method}Response`, message);
    const deserialize = (bytes) => request.toObject(request.decode(bytes), { enums: String, defaults: true, oneofs: true });
    this.#server.register(`/forebay.v1.SaveService/${method}`, handler, serialize, deserialize, kind);
  }

  stop() {
    this.#server.forceShutdown();
  }
}

function reply(answer, _call, callback) {
  if (answer instanceof Fail) callback(answer);
  else if (answer !== SILENCE) callback(null, answer);
}

function replies(script, call) {
  for (const answer of script) {
    if (answer === SILENCE) return;
    if (answer instanceof Fail) return void call.emit("error", answer);
    call.write(answer);
  }
  call.end();
}

/** A script that is a function answers each message of a stream with what it returns. */
function converse(script, call, _callback, requests) {
  call.on("data", (request) => {
    requests.push(request);
    replies([...(script(request) ?? []), SILENCE], call);
  });
  call.on("end", () => call.end());
  call.on("error", () => {});
}

/** A google.rpc detail. */
export function any(name, message) {
  return { typeUrl: `type.googleapis.com/google.rpc.${name}`, value: encode(`google.rpc.${name}`, message) };
}

function encode(name, message) {
  const type = contract.lookupType(name);
  return Buffer.from(type.encode(type.fromObject(message)).finish());
}
