/** The whole life of a server's state, with the sample tables of `forebay serve --dev`: `node example.js [HOST:PORT]`. */

import { randomUUID } from "node:crypto";

import { Refused, connect } from "./forebay.js";

const client = connect(process.argv[2] ?? "127.0.0.1:7420");

// At start: all of a collection into memory.
const players = new Map();
const onPage = (/** @type {{ rowsLoaded: number, rowsEstimated: number }} */ { rowsLoaded, rowsEstimated }) =>
  console.log(`loaded ${rowsLoaded} of about ${rowsEstimated}`);
for await (const { key, row } of client.load("players", { onPage })) {
  if (row) players.set(key[0], row);
  else players.delete(key[0]);
}
console.log("players:", players.size);

// While it runs: save what has changed. Each call is durable when it returns.
await client.save("guilds", 4, { name: "The Fourth" });
const { ticket } = await client.save("players", 44, { name: "Cleo", guild_id: 4, gold: "7.50", seen: new Date(), extra: { pets: 2 } });
console.log("accepted:", ticket);

// Adding is safe to repeat under a request id: the daemon recognises the call.
await client.save("players", 44, { level: 2 }, { add: ["level"], requestId: randomUUID() });

// One sync for all of them, and one transaction.
const kinds = ["sword", "shield", "lamp"];
const items = kinds.map((kind, slot) => ({ collection: "items", key: [44, slot], values: { kind } }));
await client.saveBatch(items, { atomic: true });
await client.delete("items", [44, 2]);

try {
  await client.save("players", 45, { nam: "Dan" });
} catch (error) {
  if (!(error instanceof Refused)) throw error;
  console.log("refused:", error.message);
}

// Read your writes, in Postgres or not.
const { row, pending } = await client.get("players", 44);
console.log("read:", row.name, row.gold, pending ? "(not in Postgres yet)" : "(in Postgres)");

// What became of a save: ask, or wait.
console.log("ticket:", (await client.ticket(ticket)).state);
const { state, failure } = await client.awaitTicket(ticket, { timeoutMs: 60_000 });
console.log("outcome:", state, failure?.message ?? "");

await client.flush();
client.close();
