// Acts transcripts out with the `ws` package: node client.mjs < [{"url": …, "steps": [{"send": text} | {"receive": true}]}]
// Prints {"received": [[text, …], …]}, or {"failure": reason} with what was received until then.
import { text as readAll } from "node:stream/consumers";

import WebSocket from "ws";

import { play } from "./play.mjs";

const scripts = JSON.parse(await readAll(process.stdin));
const received = [];
let failure = null;
try {
  for (const { url, steps } of scripts) {
    const texts = [];
    received.push(texts);
    await play(new WebSocket(url), steps, texts);
  }
} catch (error) {
  failure = String(error.stack ?? error);
}
process.stdout.write(JSON.stringify({ received, failure }), () => process.exit());
