// The watch-list: which instruments, in which order, which one is chosen.

import { byId } from "../common/dom.js";
import { recall, remember } from "../common/storage.js";
import { ask } from "./http.js";
import { RESERVED } from "./link.js";
import { painter, setText } from "./painter.js";
import { Row } from "./row.js";
import { t, texts } from "./texts.js";

const STORED = "watchlist";
const N_FIRST = 10;
const MAX_ROWS = 200;
const DESCRIBED_AT_ONCE = 100;
const CHOOSE_MS = 120;

const PRICES = { mode: "latest", channels: ["price"] };
const WITH_BOOK = { mode: "latest", channels: ["price", "orderbook"] };

/**
 * 1. A row is subscribed to while it is in the list: its price, and for the chosen one the order book too.
 * 2. One row can be reached by Tab, the chosen one; the arrow keys choose another.
 * 3. What the server does not accept stays in the list and says why: it may know it tomorrow.
 */
export class WatchList {
  #quotes;
  #link;
  #notices;
  #account;
  #rows = new Map();
  #chosen = null;
  #onChoose = [];
  #booked = null;
  #timer = 0;
  #lengths = { price: 7, change: 6 };
  #body = byId("watch-rows");
  #empty = byId("watch-empty");
  #count = byId("watch-count");

  constructor({ quotes, link, notices, account }) {
    this.#quotes = quotes;
    this.#link = link;
    this.#notices = notices;
    this.#account = account;
    const schedule = ({ code }) => {
      const row = this.#rows.get(code);
      if (row) painter.schedule(row);
    };
    quotes.on("price", schedule);
    quotes.on("facts", schedule);
    link.onChange(() => this.#paintAll());
    link.onResync(() => this.#resubscribe());
    texts.onchange(() => this.redraw());
    this.#body.addEventListener("click", (event) => this.#onClick(event));
    this.#body.addEventListener("focusin", (event) => this.#onFocus(event));
    this.#body.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Fill the list as it was left; the first time, with the first instruments that the server has. */
  async begin() {
    const codes = stored() ?? (await this.#first());
    for (const code of codes.slice(0, MAX_ROWS)) this.#append(code);
    this.#showCount();
    if (this.#rows.size > 0) {
      this.#subscribe(this.codes);
      this.choose(this.codes[0]);
    }
    await this.#describe();
  }

  async #first() {
    try {
      const { instruments } = await ask(`v1/instruments?limit=${N_FIRST}`, { token: this.#account.token });
      return instruments.map(({ code }) => code);
    } catch (problem) {
      this.#account.noticeProblem(problem);
      return []; // what else is wrong is said where the connection is shown
    }
  }

  /** Ask for the names and markets of what is in the list. */
  async #describe() {
    const { codes } = this;
    for (let i = 0; i < codes.length; i += DESCRIBED_AT_ONCE) {
      const query = new URLSearchParams(codes.slice(i, i + DESCRIBED_AT_ONCE).map((code) => ["code", code]));
      try {
        const { instruments } = await ask(`v1/instruments?${query}`, { token: this.#account.token });
        for (const instrument of instruments) this.#quotes.describe(instrument);
      } catch {
        return; // prices bring the names as well; after the next connection this is tried again
      }
    }
  }

  /** Subscribe to everything on a new connection, e.g. as another user. */
  async restart() {
    if (this.#rows.size === 0) {
      await this.begin(); // before, it was not allowed to see anything
      return;
    }
    this.#booked = null;
    for (const row of this.#rows.values()) row.problem = null;
    this.#subscribe(this.codes);
    this.#subscribeBook();
    await this.#describe();
  }

  get codes() {
    return [...this.#rows.keys()];
  }

  get chosen() {
    return this.#chosen;
  }

  /** Call `handler(quote)` when another one is chosen; null: none. */
  onChoose(handler) {
    this.#onChoose.push(handler);
  }

  has(code) {
    return this.#rows.has(code);
  }

  /** How many there may be: the connection also holds markets and portfolios. */
  get limit() {
    const { subscriptions } = this.#link.limits;
    return Math.max(1, Math.min(MAX_ROWS, subscriptions - RESERVED.markets - RESERVED.portfolios));
  }

  async add(instrument) {
    const { code, name } = instrument;
    if (this.#rows.has(code)) {
      this.choose(code, { isFocused: true });
      return;
    }
    if (this.#rows.size >= this.limit) {
      this.#notices.show(t("full", { limit: this.limit }));
      return;
    }
    this.#append(code);
    this.#quotes.describe(instrument);
    this.#save();
    this.choose(code);
    this.#notices.say(t("added", { name }));
    await this.#subscribe([code], (row) => {
      this.#notices.show(t("rejected", { code, reason: row.problem }));
      this.remove(code);
    });
  }

  remove(code) {
    const row = this.#rows.get(code);
    if (!row) return;
    const codes = this.codes;
    const next = codes[codes.indexOf(code) + 1] ?? codes[codes.indexOf(code) - 1] ?? null;
    const hadFocus = row.element.contains(document.activeElement);
    row.element.remove();
    this.#rows.delete(code);
    this.#quotes.forget(code);
    this.#link.unsubscribe("stock", [code]);
    if (this.#booked === code) this.#booked = null;
    this.#save();
    this.#notices.say(t("removed", { name: row.quote.name }));
    if (this.#chosen === code) this.choose(next, { isFocused: hadFocus });
    if (hadFocus && next === null) byId("search").focus();
  }

  /** Choose the row of `code`; null: none. */
  choose(code, { isFocused = false } = {}) {
    if (code !== this.#chosen) {
      const before = this.#rows.get(this.#chosen)?.element;
      before?.setAttribute("aria-selected", "false");
      before?.setAttribute("tabindex", "-1");
      this.#chosen = code;
      const quote = code === null ? null : this.#rows.get(code).quote;
      for (const handler of this.#onChoose) handler(quote);
      // Whoever runs through the list wants the last book only.
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#subscribeBook(), CHOOSE_MS);
    }
    const element = this.#rows.get(code)?.element;
    element?.setAttribute("aria-selected", "true");
    element?.setAttribute("tabindex", "0");
    if (isFocused) element?.focus();
    element?.scrollIntoView({ block: "nearest" });
  }

  redraw() {
    this.#showCount();
    for (const row of this.#rows.values()) row.redraw();
  }

  #append(code) {
    if (this.#rows.has(code)) return;
    const row = new Row(this.#quotes.keep(code), {
      quotes: this.#quotes,
      link: this.#link,
      onPainted: (painted) => this.#fit(painted),
    });
    this.#rows.set(code, row);
    this.#body.append(row.element);
    row.redraw();
  }

  /** Columns get wider for longer numbers, and no narrower, or all would move all the time. */
  #fit({ lengths }) {
    for (const [name, length] of Object.entries(lengths)) {
      if (length > this.#lengths[name]) {
        this.#lengths[name] = length;
        this.#body.parentElement.style.setProperty(`--${name}-length`, length);
      }
    }
  }

  #save() {
    remember(STORED, JSON.stringify(this.codes));
    this.#showCount();
  }

  #showCount() {
    this.#empty.hidden = this.#rows.size > 0;
    setText(this.#count, t("watchlist_count", { n: this.#rows.size, limit: this.limit }));
  }

  async #subscribe(codes, onRejected = () => {}) {
    if (codes.length === 0) return;
    const { rejected } = await this.#link.subscribe("stock", codes, PRICES);
    for (const { target, reason } of rejected) {
      const row = this.#rows.get(target);
      if (row && reason !== "closed") {
        row.problem = this.#reasonText(reason);
        row.redraw();
        onRejected(row);
      }
    }
  }

  #reasonText(reason) {
    const known = { limit: "reason_limit", forbidden: "reason_forbidden", "unknown symbol": "reason_unknown" };
    return known[reason] ? t(known[reason], { limit: this.#link.limits.subscriptions }) : reason;
  }

  #subscribeBook() {
    const code = this.#chosen;
    if (this.#booked === code) return;
    if (this.#booked !== null) this.#link.subscribe("stock", [this.#booked], PRICES);
    this.#booked = code;
    if (code !== null && this.#rows.get(code).problem === null) this.#link.subscribe("stock", [code], WITH_BOOK);
  }

  /** What is held already, for the sake of the snapshot; the options stay as they are. */
  #resubscribe() {
    const held = this.codes.filter((code) => this.#rows.get(code).problem === null);
    if (held.length > 0) this.#link.subscribe("stock", held, {});
  }

  #paintAll() {
    for (const row of this.#rows.values()) {
      row.tick();
      if ((row.element.dataset.fresh === "true") !== this.#quotes.isPriceCurrent(row.quote)) {
        painter.schedule(row);
      }
    }
  }

  #rowOf(target) {
    return this.#rows.get(target.closest("tr")?.dataset.code) ?? null;
  }

  #onClick({ target }) {
    const row = this.#rowOf(target);
    if (row?.hasRemoved(target)) this.remove(row.code);
    else if (row) this.choose(row.code, { isFocused: true });
  }

  #onFocus({ target }) {
    const row = this.#rowOf(target);
    if (row && target === row.element) this.choose(row.code);
  }

  #onKey(event) {
    const row = this.#rowOf(event.target);
    if (row === null || event.ctrlKey || event.metaKey) return;
    const codes = this.codes;
    const place = codes.indexOf(row.code);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -codes.length, End: codes.length }[
      event.key
    ];
    if (event.key === "Delete") {
      this.remove(row.code);
    } else if (step === undefined) {
      return;
    } else {
      const wanted = Math.min(codes.length - 1, Math.max(0, place + step));
      if (event.altKey) this.#move(row, wanted);
      else this.choose(codes[wanted], { isFocused: true });
    }
    event.preventDefault();
  }

  #move(row, place) {
    const others = [...this.#rows.values()].filter((other) => other !== row);
    others.splice(place, 0, row);
    this.#rows = new Map(others.map((one) => [one.code, one]));
    const next = others[place + 1]?.element ?? null;
    this.#body.insertBefore(row.element, next);
    row.element.focus();
    this.#save();
  }
}

function stored() {
  try {
    const codes = JSON.parse(recall(STORED));
    const isList = Array.isArray(codes) && codes.every((code) => typeof code === "string" && code !== "");
    return isList ? [...new Set(codes)] : null;
  } catch {
    return null;
  }
}
