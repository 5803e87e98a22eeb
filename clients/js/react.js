/** React hooks of fastws; react is the one dependency of this file. */

import { useEffect, useMemo, useRef, useState } from "react";

import { Fastws } from "./fastws.js";

const NOTHING = Object.freeze({});
const BLANK = Object.freeze({ state: "connecting", prices: NOTHING, orderbooks: NOTHING });
/** How many components hold a target of a client, by "stock:005930": the last one to go unsubscribes. */
const holders = new WeakMap();

/**
 * What the targets of a component are worth, for as long as it is shown.
 *
 * `source` is the URL of a server, or a `Fastws` that several components share and that somebody else closes.
 * `subscriptions` are targets by type, as `{ stock: ["005930"] }`. `options.client` goes to the client that is made of
 * a URL, `options.subscription` to every subscription; those of the first rendering hold.
 *
 * Updates are gathered: a component is rendered once a frame at most, with the newest values.
 */
export function useFastws(source, subscriptions = NOTHING, options = NOTHING) {
  const firstOptions = useRef(options).current;
  const [client, setClient] = useState(null);
  const [view, setView] = useState(BLANK);
  const wanted = JSON.stringify(
    Object.entries(subscriptions).flatMap(([type, targets]) => targets.map((target) => [type, String(target)])),
  );

  useEffect(() => {
    const isOwn = !(source instanceof Fastws);
    const made = isOwn ? new Fastws(source, firstOptions.client) : source;
    setClient(made);
    const stop = gather(made, setView);
    return () => {
      stop();
      setView(BLANK);
      if (isOwn) {
        made.close();
      }
    };
  }, [source, firstOptions]);

  useEffect(() => {
    if (!client) {
      return undefined;
    }
    const pairs = JSON.parse(wanted);
    hold(client, pairs, firstOptions.subscription);
    // After the next rendering has taken hold, so that what both want stays.
    return () => queueMicrotask(() => letGo(client, pairs));
  }, [client, wanted, firstOptions]);

  // Of what is not wanted any more no value is shown.
  const shown = useMemo(() => {
    const pairs = JSON.parse(wanted);
    const hasGroups = pairs.some(([type]) => type === "market" || type === "sector");
    const stocks = new Set(pairs.filter(([type]) => type === "stock").map(([, target]) => target));
    const only = (values) =>
      hasGroups ? values : Object.fromEntries(Object.entries(values).filter(([code]) => stocks.has(code)));
    return { prices: only(view.prices), orderbooks: only(view.orderbooks) };
  }, [view, wanted]);

  return { client, state: view.state, ...shown };
}

/** Give the newest state and values to `show`, once a frame at most; returns what ends that. */
function gather(client, show) {
  let changed = { state: client.state, price_update: {}, orderbook_update: {} };
  let frame = null;
  const schedule = globalThis.requestAnimationFrame ?? ((action) => setTimeout(action, 16));
  const cancel = globalThis.cancelAnimationFrame ?? clearTimeout;
  const flush = () => {
    frame = null;
    const { state, price_update, orderbook_update } = changed;
    changed = { state, price_update: {}, orderbook_update: {} };
    show((view) => ({
      state,
      prices: { ...view.prices, ...price_update },
      orderbooks: { ...view.orderbooks, ...orderbook_update },
    }));
  };
  const later = () => {
    frame ??= schedule(flush);
  };
  const note = (message) => {
    changed[message.type][message.code] = message;
    later();
  };
  const stops = [
    client.on("price_update", note),
    client.on("orderbook_update", note),
    client.on("state", ({ state }) => {
      changed.state = state;
      later();
    }),
  ];
  later();
  return () => {
    stops.forEach((stop) => stop());
    cancel(frame);
  };
}

/** Subscribe; also to what another component has, because that brings its value. */
function hold(client, pairs, options) {
  const counts = holders.get(client) ?? new Map();
  holders.set(client, counts);
  const isNew = ([type, target]) => !counts.has(`${type}:${target}`);
  byType(pairs.filter(isNew)).forEach((targets, type) => client.subscribe(type, targets, options));
  byType(pairs.filter((pair) => !isNew(pair))).forEach((targets, type) => client.subscribe(type, targets));
  for (const [type, target] of pairs) {
    const key = `${type}:${target}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
}

function letGo(client, pairs) {
  const counts = holders.get(client);
  const isLast = ([type, target]) => {
    const key = `${type}:${target}`;
    const left = counts.get(key) - 1;
    if (left > 0) {
      counts.set(key, left);
    } else {
      counts.delete(key);
    }
    return left === 0;
  };
  const left = byType(pairs.filter(isLast));
  if (client.state !== "closed") {
    left.forEach((targets, type) => client.unsubscribe(type, targets));
  }
}

function byType(pairs) {
  const found = new Map();
  for (const [type, target] of pairs) {
    found.set(type, [...(found.get(type) ?? []), target]);
  }
  return found;
}
