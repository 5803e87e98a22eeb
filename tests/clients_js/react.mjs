// Renders a component that uses the hook, against the server of the first argument; prints what was rendered.
// In, a line each: {"show": {"stock": […]}}. Out: {"state", "prices": {code: price}, "renders"}.
import { createInterface } from "node:readline";

import { createElement } from "react";
import { act, create } from "react-test-renderer";
import WebSocket from "ws";

import { useFastws } from "fastws/react";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
// It says that it is deprecated; the renderers that are not need a document.
const complain = console.error;
console.error = (...args) => String(args[0]).includes("deprecated") || complain(...args);

const url = process.argv[2];
const options = { client: { WebSocket, backoff: { min: 5, max: 40 } } };
let renders = 0;

function Prices({ subscriptions }) {
  const { state, prices } = useFastws(url, subscriptions, options);
  renders += 1;
  const shown = Object.fromEntries(Object.entries(prices).map(([code, update]) => [code, update.price]));
  return JSON.stringify({ state, prices: shown });
}

let root = null;
let last = null;
const tell = () => {
  const text = root?.toJSON();
  if (text && text !== last) {
    last = text;
    process.stdout.write(`${JSON.stringify({ ...JSON.parse(text), renders })}\n`);
  }
};
let isEnded = false;
const looking = (async () => {
  while (!isEnded) {
    await act(() => new Promise((resolve) => setTimeout(resolve, 10)));
    tell();
  }
})();
for await (const line of createInterface({ input: process.stdin })) {
  const element = createElement(Prices, { subscriptions: JSON.parse(line).show });
  if (root) {
    root.update(element);
  } else {
    root = create(element);
  }
}
isEnded = true;
await looking;
await act(() => root.unmount());
// What was shown is unsubscribed and closed: the process ends by itself.
