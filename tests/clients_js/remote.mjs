// Clients of fastws.js that do what lines on standard input say, and tell what they get in lines on standard output.
//
// In:  {"make": name, "url": …, "dialect": "screener" | "realtime", "options": {…}, "asks_for_tokens": bool,
//       "records": bool}
//      {"client": name, "call": method, "arguments": […], "n": number}   answered by {"n": number, "value": …}
//      {"client": name, "token": text | null | {"throw": text}}          what the token hook is to give
//      {"client": name, "report": true, "n": number}                     what a recording client has got until now
//      {"client": name, "throws": type}                                  a handler of this type fails from now on
//      {"page": "hidden" | "visible" | "online"}                         what a browser would say to all clients
//      {"clock": milliseconds}                                           the clock of the day is set forward
// Out: {"client": name, "type": …, "event": …} for every event but, where it records, updates and batches.
import { createInterface } from "node:readline";

import WebSocket from "ws";

import { Fastws, FastwsRealtime } from "../../clients/js/fastws.js";

const RECORDED = new Set(["price_update", "orderbook_update", "batch", "message"]);
const TYPES = [
  "price_update", "orderbook_update", "market_status", "feed_status", "symbol_status", "alert", "portfolio_update", "batch",
  "connection", "subscribed", "unsubscribed", "subscriptions", "pong", "authenticated", "token_refreshed",
  "reconnected", "paused", "resumed", "server_shutdown", "overflow", "error", "state", "gap", "lost", "withdrawn",
  "asset_update",
];

// What of a browser the client heeds; whether a hidden tab is one is for Chromium to say (test_a_hidden_tab_pauses).
const page = new EventTarget();
globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.removeEventListener = page.removeEventListener.bind(page);
globalThis.reportError = ({ message }) => tell({ client: message, type: "reported" });

function change(what) {
  if (what === "online") {
    page.dispatchEvent(new Event(what));
  } else {
    document.visibilityState = what;
    document.dispatchEvent(new Event("visibilitychange"));
  }
}

const realNow = Date.now;
const clients = new Map();
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function make({ make: name, url, dialect = "screener", options = {}, asks_for_tokens, records }) {
  const entry = { tokens: [], wake: () => {}, snapshots: [], live: [], wire: [] };
  /** What comes over the wire, before the client has seen it. */
  class Watched extends WebSocket {
    constructor(...args) {
      super(...args);
      if (records) {
        this.on("message", (text) => note(entry.wire, JSON.parse(text)));
      }
    }
  }
  const token = async () => {
    tell({ client: name, type: "token_wanted" });
    while (entry.tokens.length === 0) {
      await new Promise((resolve) => (entry.wake = resolve));
    }
    const found = entry.tokens.shift();
    if (found?.throw) {
      throw new Error(found.throw);
    }
    return found;
  };
  const Dialect = dialect === "screener" ? Fastws : FastwsRealtime;
  entry.client = new Dialect(url, { WebSocket: Watched, ...options, ...(asks_for_tokens ? { token } : {}) });
  for (const type of TYPES) {
    if (!records || !RECORDED.has(type)) {
      entry.client.on(type, (event) => tell({ client: name, type, event }));
    } else if (type.endsWith("_update")) {
      entry.client.on(type, (event) => note(event.snapshot ? entry.snapshots : entry.live, event));
    }
  }
  clients.set(name, entry);
}

/** Keep of the live updates of a message what they are known by. */
function note(list, message) {
  if (message.type === "batch") {
    message.snapshot || message.messages.forEach((one) => note(list, one));
  } else if (message.seq !== undefined) {
    list.push([message.type, message.code, message.seq, message.n]);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.make) {
    make(order);
    continue;
  }
  if (order.page) {
    change(order.page);
    continue;
  }
  if (order.clock) {
    Date.now = () => realNow() + order.clock;
    continue;
  }
  const entry = clients.get(order.client);
  if (order.throws) {
    entry.client.on(order.throws, () => {
      throw new Error(order.client);
    });
  } else if ("token" in order) {
    entry.tokens.push(order.token);
    entry.wake();
  } else if (order.report) {
    tell({ n: order.n, value: { live: entry.live, snapshots: entry.snapshots, wire: entry.wire } });
  } else {
    const found = entry.client[order.call];
    const value = typeof found === "function" ? found.apply(entry.client, order.arguments) : found;
    Promise.resolve(value).then((result) => tell({ n: order.n, value: result ?? null }));
  }
}
for (const { client } of clients.values()) {
  client.close();
}
// With nothing left to do the process ends by itself.
