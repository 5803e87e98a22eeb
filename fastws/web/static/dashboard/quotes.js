// What is known of each instrument on the page.

import { decimalsFor, decimalsOf } from "./format.js";
import { BarRing, Course, TickRing } from "./rings.js";

// A quarter of an hour of a price that never rests, and a day of candles: 130 KB an instrument.
const TICK_MS = 200;
const N_TICKS = 4_500;
const BAR_MS = 60_000;
const N_BARS = 1_440;
const N_COURSE = 120;
const COURSE_MS = 500;

class Quote {
  constructor(code) {
    this.code = code;
    this.name = code;
    this.market = null;
    this.currency = null;
    this.previousClose = null;
    /** Of its prices: as many as the one had that had the most. */
    this.decimals = 0;
    this.price = null;
    this.priceTurn = 0;
    this.book = null;
    this.bookTurn = 0;
    /** How often its price has changed, and which way the last time: for the flash. */
    this.nMoves = 0;
    this.move = "same";
    this.ticks = new TickRing(N_TICKS, TICK_MS);
    this.bars = new BarRing(N_BARS, BAR_MS);
    this.course = new Course(N_COURSE, COURSE_MS);
  }
}

/**
 * Quotes by code, of what is watched. Handlers of `price`, `book` and `facts` (name, market, …) get the quote that has
 * changed.
 */
export class Quotes {
  #link;
  #quotes = new Map();
  #handlers = { price: [], book: [], facts: [] };
  /** Time of the newest price or book of any, as the server has it. */
  newestMs = null;

  constructor(link) {
    this.#link = link;
    link.on("price_update", (update) => this.#takePrice(update));
    link.on("orderbook_update", (update) => this.#takeBook(update));
    link.on("symbol_status", ({ code }) => this.#onStatus(code));
    link.on("state", ({ state }) => state !== "open" && this.#cut());
    link.on("paused", () => this.#cut());
  }

  on(type, handler) {
    this.#handlers[type].push(handler);
  }

  get(code) {
    return this.#quotes.get(code) ?? null;
  }

  /** The quote of `code`, which is kept from now on until `forget`. */
  keep(code) {
    let quote = this.#quotes.get(code);
    if (!quote) {
      quote = new Quote(code);
      this.#quotes.set(code, quote);
    }
    return quote;
  }

  forget(code) {
    this.#quotes.delete(code);
  }

  /** Take over what /v1/instruments says. */
  describe({ code, name, market, currency, previous_close }) {
    const quote = this.#quotes.get(code);
    if (quote) {
      Object.assign(quote, { name, market, currency, previousClose: previous_close });
      quote.decimals = Math.max(quote.decimals, decimalsFor(currency));
      this.#tell("facts", quote);
    }
  }

  isPriceCurrent(quote) {
    const { price, priceTurn } = quote;
    return this.#isCurrent(quote) && price !== null && priceTurn === this.#link.turn && !price.stale;
  }

  isBookCurrent(quote) {
    const { book, bookTurn } = quote;
    return this.#isCurrent(quote) && book !== null && bookTurn === this.#link.turn && !book.stale;
  }

  /** Whether anything that is known of a quote can be current: it is updated as usual. */
  #isCurrent({ code }) {
    return this.#link.isCurrent && !this.#link.isStale(code);
  }

  #onStatus(code) {
    const quote = this.#quotes.get(code);
    if (!quote) return;
    this.#tell("price", quote);
    this.#tell("book", quote);
  }

  #tell(type, quote) {
    for (const handler of this.#handlers[type]) handler(quote);
  }

  #takePrice(update) {
    const quote = this.#quotes.get(update.code);
    if (!quote) return; // removed a moment ago
    const before = quote.price;
    if (before !== null && !update.snapshot && update.price !== before.price) {
      quote.nMoves += 1;
      quote.move = update.price > before.price ? "up" : "down";
    }
    if (update.name !== quote.name && quote.name === quote.code) {
      quote.name = update.name;
      this.#tell("facts", quote);
    }
    quote.price = update;
    quote.priceTurn = this.#link.turn;
    quote.decimals = Math.max(quote.decimals, decimalsOf(update.price));
    const ms = Date.parse(update.timestamp);
    this.#note(ms);
    if (!update.stale) {
      quote.ticks.push(ms, update.price);
      quote.bars.push(ms, update.price);
      quote.course.push(ms, update.price);
    }
    this.#tell("price", quote);
  }

  #takeBook(update) {
    const quote = this.#quotes.get(update.code);
    if (!quote) return;
    quote.book = update;
    quote.bookTurn = this.#link.turn;
    this.#note(Date.parse(update.timestamp));
    this.#tell("book", quote);
  }

  #note(ms) {
    if (this.newestMs === null || ms > this.newestMs) this.newestMs = ms;
  }

  /** Nothing is known from here on, until something comes again. */
  #cut() {
    for (const quote of this.#quotes.values()) quote.ticks.cut();
  }
}

/** The day's change of a quote: from the feed, else against the previous close; null where neither is known. */
export function changeOf(quote) {
  const { price, previousClose } = quote;
  if (price === null) return null;
  if (price.change !== undefined) return { change: price.change, percent: price.change_percent ?? null };
  if (previousClose === null) return null;
  const change = price.price - previousClose;
  return { change, percent: previousClose === 0 ? null : (100 * change) / previousClose };
}
