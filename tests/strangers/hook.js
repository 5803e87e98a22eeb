// Renders a component with the hook of a stranger; prints what is shown, a line for every change of it.
// Arguments: URL, token. In, a line each: {"symbols": […], "portfolio": id | null}. The end unmounts it.
"use strict";

const React = require("react");
const { act, create } = require("react-test-renderer");
const RealtimeSocket = require("./realtime.js");
const useRealtime = require("./useRealtime.js");

// The tests do not wait for seconds.
RealtimeSocket.RECONNECT_INTERVAL = 50;

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
// It says that it is deprecated; the renderers that are not need a document.
const complain = console.error;
console.error = (...args) => String(args[0]).includes("deprecated") || complain(...args);

const [, , url, token] = process.argv;

function Holdings({ symbols, portfolio }) {
  const shown = useRealtime(url, token, symbols, portfolio === null ? undefined : portfolio);
  const prices = Object.fromEntries(Object.entries(shown.prices).map(([symbol, data]) => [symbol, data.price]));
  return JSON.stringify({ connected: shown.connected, prices, portfolio: shown.portfolio, error: shown.error });
}

let tree = null;
let last = null;
let isEnded = false;

async function look() {
  while (!isEnded) {
    await act(() => new Promise((resolve) => setTimeout(resolve, 10)));
    const text = tree && tree.toJSON();
    if (text && text !== last) {
      last = text;
      process.stdout.write(text + "\n");
    }
  }
  // It closes its socket then, and nothing is left that keeps the process.
  await act(() => tree.unmount());
}

const lines = require("readline").createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const element = React.createElement(Holdings, JSON.parse(line));
  if (tree) {
    tree.update(element);
  } else {
    tree = create(element);
  }
});
lines.on("close", () => (isEnded = true));
look();
