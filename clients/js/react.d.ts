import type { Fastws, Options, OrderbookUpdate, PriceUpdate } from "./fastws.js";
import type { State, SubscribeOptions, SubscriptionType } from "./fastws.js";

export interface View {
  /** Null in the first rendering. */
  client: Fastws | null;
  state: State;
  /** By symbol. */
  prices: Readonly<Record<string, PriceUpdate>>;
  orderbooks: Readonly<Record<string, OrderbookUpdate>>;
}

/** See react.js. */
export function useFastws(
  source: string | Fastws,
  subscriptions?: Partial<Record<SubscriptionType, Array<string | number>>>,
  options?: { client?: Options; subscription?: SubscribeOptions },
): View;
