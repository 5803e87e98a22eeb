// Clients of fastws.js that tell all they are told: the side of benchmarks/scenarios/clients.py that is killed.
//
// In, a line each:  {"make": name, "url": …, "token": …, "all": [symbols], "latest": [symbols]}
//                   {"again": name, "symbols": […]}            subscribe to symbols of mode all once more
// Out, a line each: {"client": name, "items": […]}, at the end {"client": name, "repeated": n}
// Items, in order:  ["value", type, code, n, price, is_snapshot]  ["lost" | "gap", channel, code, from_seq, to_seq]
//                   ["open", is_recovered]  ["waiting", code]  ["closed", code]  ["error", text]  ["fault", text]
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

import { Fastws } from "../../clients/js/fastws.js";

const { WebSocket } = createRequire(new URL("../../tests/package.json", import.meta.url))("ws");

const TELL_MS = 20;
const LATEST = { mode: "latest", max_rate: 10 };
const OPTIONS = { handshakeMs: 5000, heartbeatMs: 300, backoff: { min: 5, max: 80 } };

const clients = new Map();

function make({ make: name, url, token, all, latest }) {
  const entry = { items: [], seen: new Set(), repeated: 0 };
  const note = (...item) => entry.items.push(item);
  const latestOnes = new Set(latest);
  /** What comes over the wire, before the client has seen it: it must not have come before. */
  class Watched extends WebSocket {
    constructor(...args) {
      super(...args);
      this.on("message", (text) => watch(JSON.parse(text)));
    }
  }
  const watch = (message) => {
    if (message.type === "batch") {
      message.snapshot || message.messages.forEach(watch);
    } else if (message.n !== undefined && !latestOnes.has(message.code)) {
      entry.repeated += entry.seen.has(message.n);
      entry.seen.add(message.n);
    }
  };
  const client = new Fastws(url, { ...OPTIONS, WebSocket: Watched, token: () => token });
  const value = (message, price) =>
    note("value", message.type, message.code, message.n, price, message.snapshot === true);
  client.on("price_update", (message) => value(message, message.price));
  client.on("orderbook_update", (message) => value(message, message.bids[0].price));
  for (const type of ["lost", "gap"]) {
    client.on(type, ({ channel, code, from_seq, to_seq }) => note(type, channel, code, from_seq, to_seq));
  }
  client.on("state", ({ state, recovered, code }) => {
    if (state === "open") {
      note("open", recovered);
    } else if (state !== "connecting") {
      note(state, code);
    }
  });
  client.on("withdrawn", (told) => note("fault", JSON.stringify(told)));
  client.on("error", ({ code, message }) => note("error", `${code}: ${message}`));
  client.subscribe("stock", all);
  client.subscribe("stock", latest, LATEST);
  clients.set(name, Object.assign(entry, { client }));
}

function tell() {
  for (const [name, entry] of clients) {
    if (entry.items.length > 0) {
      process.stdout.write(`${JSON.stringify({ client: name, items: entry.items })}\n`);
      entry.items = [];
    }
  }
}

const telling = setInterval(tell, TELL_MS);
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.make) {
    make(order);
  } else {
    clients.get(order.again).client.subscribe("stock", order.symbols);
  }
}
clearInterval(telling);
tell();
for (const [name, { client, repeated }] of clients) {
  client.close();
  process.stdout.write(`${JSON.stringify({ client: name, repeated })}\n`);
}
// Sockets whose other side does not answer would hold the process for half a minute.
process.stdout.write("", () => process.exit(0));
