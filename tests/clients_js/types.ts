// What a TypeScript program writes, checked by the compiler: nothing of this is run.
import { Fastws, FastwsRealtime, type ClientMessage, type Gap, type Outcome, type ServerMessage } from "fastws";
import { useFastws } from "fastws/react";

const client = new Fastws("wss://example.com/v1/ws", {
  token: async () => (await fetch("/token")).text(),
  backoff: { min: 100 },
  handshakeMs: 5_000,
});
const stop: () => void = client.on("price_update", (update) => {
  const price: number = update.price;
  const isKnown: boolean = update.snapshot === true || update.stale === true;
  console.log(update.code.toUpperCase(), price.toFixed(2), isKnown);
});
client.on("orderbook_update", ({ bids, asks }) => bids[0].price < asks[0].price);
client.on("gap", (gap: Gap) => console.log(gap.to_seq - gap.from_seq));
client.on("lost", ({ cause }) => {
  const causes: "overflow" | "outage" = cause;
  return causes;
});
client.on("withdrawn", ({ subscription_type, rejected }) => rejected.map(({ target }) => [subscription_type, target]));
client.on("state", ({ state, delayMs = 0 }) => (state === "waiting" ? delayMs : 0));
client.on("message", (message) => {
  if (message.type === "alert") {
    return message.threshold;
  }
  if (message.type === "error") {
    return message.details.field;
  }
  // @ts-expect-error a batch comes by itself
  return message.type === "batch";
});
// @ts-expect-error there is no such event
client.on("price", () => {});
const outcome: Promise<Outcome> = client.subscribe("stock", ["005930"], { mode: "latest", channels: ["price"] });
// @ts-expect-error there is no such mode
client.subscribe("stock", "005930", { mode: "some" });
const age: number | undefined = client.age("005930");
const ping: ClientMessage = { type: "ping", id: 1 };
client.send(ping);

const realtime = new FastwsRealtime(new URL("wss://example.com/ws/realtime/"));
realtime.subscribe("asset", "AAPL");
realtime.subscribe("portfolio", 123);
// @ts-expect-error ids are numbers
realtime.subscribe("portfolio", "123");
realtime.on("asset_update", (update, { timestamp }) => `${update.symbol} ${update.high} ${timestamp}`);

function Price(): string {
  const { state, prices } = useFastws("wss://example.com/v1/ws", { stock: ["005930"] });
  return state === "open" ? String(prices["005930"]?.price) : "…";
}

export type Told = ServerMessage["type"];
export { age, outcome, Price, stop };
