// Whether the markets of what is watched are open.

import { byId, el, fill } from "../common/dom.js";
import { RESERVED } from "./link.js";
import { painter } from "./painter.js";
import { statusText, texts } from "./texts.js";

// The status comes whatever the channels are; of prices each row has its own subscription.
const STATUS_ONLY = { channels: ["orderbook"] };

export class Markets {
  #link;
  #held = new Map();
  #list = byId("markets");

  constructor({ quotes, link }) {
    this.#link = link;
    quotes.on("facts", ({ market }) => market !== null && this.#hold(market));
    link.on("market_status", ({ market, status }) => this.#take(market, status));
    link.onResync(() => this.#subscribe([...this.#held.keys()], {}));
    link.onChange(() => painter.schedule(this));
    texts.onchange(() => painter.schedule(this));
  }

  /** Subscribe to all on a new connection. */
  restart() {
    this.#subscribe([...this.#held.keys()], STATUS_ONLY);
  }

  #hold(market) {
    if (!this.#held.has(market) && this.#held.size < RESERVED.markets) {
      this.#held.set(market, { status: null, turn: 0 });
      this.#subscribe([market], STATUS_ONLY);
    }
  }

  #subscribe(markets, options) {
    if (markets.length > 0) this.#link.subscribe("market", markets, options);
  }

  #take(market, status) {
    if (this.#held.has(market)) this.#held.set(market, { status, turn: this.#link.turn });
    painter.schedule(this);
  }

  paint() {
    const shown = [...this.#held].filter(([, { status }]) => status !== null);
    const isCurrent = (turn) => this.#link.isCurrent && turn === this.#link.turn;
    const key = JSON.stringify([texts.lang, shown.map(([name, { status, turn }]) => [name, status, isCurrent(turn)])]);
    if (key === this.#list.dataset.shown) return;
    this.#list.dataset.shown = key;
    fill(
      this.#list,
      ...shown.map(([name, { status, turn }]) =>
        el(
          "li",
          { class: "market", data: { market: name, status, fresh: String(isCurrent(turn)) } },
          el("span", {}, name),
          " ",
          el("span", { class: "market-status" }, statusText(status)),
        ),
      ),
    );
  }
}
