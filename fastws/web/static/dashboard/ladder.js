// The order book of the chosen instrument: ten levels a side, with bars as long as their quantities.

import { byId, el } from "../common/dom.js";
import { fixed, plain, signed } from "./format.js";
import { painter, setData, setText } from "./painter.js";
import { changeOf } from "./quotes.js";
import { t, texts } from "./texts.js";

const N_LEVELS = 10;

/** One price of one side. The cells of the other side are empty. */
class Level {
  #price = el("td", { class: "level-price" });
  #percent = el("td", { class: "level-percent" });
  #quantity = el("span", { class: "quantity" });
  #bar = el("span", { class: "bar", "aria-hidden": "true" });
  #length = -1;

  constructor(side) {
    const depth = el("td", { class: "depth" }, this.#bar, this.#quantity);
    const empty = el("td", { class: "depth" });
    const [left, right] = side === "ask" ? [depth, empty] : [empty, depth];
    this.element = el("tr", { class: "level", data: { side } }, left, this.#price, this.#percent, right);
  }

  /** Show a level, or that there is none; `base` is the previous close, `longest` the greatest quantity of the book. */
  show(level, { decimals, base, last, longest }) {
    setText(this.#price, level ? fixed(level.price, decimals) : "");
    setText(this.#quantity, level ? plain(level.quantity) : "");
    // Of a close of 0, which a table may have, nothing is so many percent.
    const change = level && base ? level.price - base : null;
    setText(this.#percent, change === null ? "" : `${signed((100 * change) / base, 2)}%`);
    setData(this.element, "direction", change === null ? "same" : change > 0 ? "up" : change < 0 ? "down" : "same");
    setData(this.element, "last", level && level.price === last ? "" : null);
    // To a hundredth: a bar that is longer by less looks the same.
    const length = level && longest > 0 ? Math.round((100 * level.quantity) / longest) / 100 : 0;
    if (length !== this.#length) {
      this.#length = length;
      this.#bar.style.transform = `scaleX(${length})`;
    }
  }
}

/** Shows the book of the quote that `show` was given last. */
export class Ladder {
  #quotes;
  #quote = null;
  #panel = byId("ladder");
  #note = byId("ladder-note");
  #asks = [];
  #bids = [];
  #totals = { ask: byId("ladder-asks-total"), bid: byId("ladder-bids-total") };
  #balance = byId("ladder-balance");

  constructor({ quotes, link }) {
    this.#quotes = quotes;
    const asks = byId("ladder-asks");
    const bids = byId("ladder-bids");
    for (let i = 0; i < N_LEVELS; i += 1) {
      this.#asks.push(new Level("ask"));
      this.#bids.push(new Level("bid"));
    }
    // The best ones meet in the middle.
    asks.append(...this.#asks.map((level) => level.element).reverse());
    bids.append(...this.#bids.map((level) => level.element));
    const schedule = (quote) => quote === this.#quote && painter.schedule(this);
    quotes.on("price", schedule);
    quotes.on("book", schedule);
    quotes.on("facts", schedule);
    link.onChange(() => this.#checkCurrent());
    texts.onchange(() => painter.schedule(this));
    painter.schedule(this);
  }

  show(quote) {
    this.#quote = quote;
    painter.schedule(this);
  }

  #checkCurrent() {
    const isCurrent = this.#quote !== null && this.#quotes.isBookCurrent(this.#quote);
    if ((this.#panel.dataset.fresh === "true") !== isCurrent) painter.schedule(this);
  }

  paint() {
    const quote = this.#quote;
    const book = quote?.book ?? null;
    setText(this.#note, noteOf(quote));
    setData(this.#panel, "fresh", book === null ? null : String(this.#quotes.isBookCurrent(quote)));
    const asks = book?.asks ?? [];
    const bids = book?.bids ?? [];
    const quantities = [...asks.slice(0, N_LEVELS), ...bids.slice(0, N_LEVELS)].map(({ quantity }) => quantity);
    const context = {
      decimals: quote?.decimals ?? 0,
      base: quote === null ? null : baseOf(quote),
      last: quote?.price?.price ?? null,
      longest: Math.max(0, ...quantities),
    };
    this.#asks.forEach((level, i) => level.show(asks[i], context));
    this.#bids.forEach((level, i) => level.show(bids[i], context));
    this.#showTotals(book !== null, sumOf(asks), sumOf(bids));
  }

  #showTotals(hasBook, ask, bid) {
    setText(this.#totals.ask, hasBook ? plain(ask) : "");
    setText(this.#totals.bid, hasBook ? plain(bid) : "");
    const all = ask + bid;
    // Halves would say that both sides are as strong, where there is nothing to be weighed.
    setData(this.#balance.parentElement, "empty", all > 0 ? null : "");
    if (!(all > 0)) return;
    const transform = `scaleX(${Math.round((100 * ask) / all) / 100})`;
    if (this.#balance.style.transform !== transform) this.#balance.style.transform = transform;
  }
}

/** What stands in the heading: the spread, or why there is no book. */
function noteOf(quote) {
  if (quote === null) return t("ladder_none");
  if (quote.book === null) return t("ladder_empty");
  const { asks, bids } = quote.book;
  if (asks.length === 0 || bids.length === 0) return "";
  return `${t("spread")} ${fixed(asks[0].price - bids[0].price, quote.decimals)}`;
}

function sumOf(levels) {
  return levels.slice(0, N_LEVELS).reduce((sum, { quantity }) => sum + quantity, 0);
}

/** What prices are held against: the previous close, or what the feed's own change makes of it. */
function baseOf(quote) {
  if (quote.previousClose !== null) return quote.previousClose;
  const found = changeOf(quote);
  return found === null ? null : quote.price.price - found.change;
}
