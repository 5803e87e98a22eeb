// One line of the watch-list.

import { el } from "../common/dom.js";
import { flash } from "./flash.js";
import { ageText, direction, fixed, signed } from "./format.js";
import { painter, setData, setText } from "./painter.js";
import { changeOf } from "./quotes.js";
import { drawSparkline, fitCanvas } from "./sparkline.js";
import { t } from "./texts.js";

// What moves all the time is looked at no better when it is drawn more often.
const SPARKLINE_MS = 1_000;

/** Shows a quote in a table row, `element`; touches the cells that have changed only. */
export class Row {
  #quotes;
  #link;
  #onPainted;
  #name = el("span", { class: "name" });
  #sub = el("span", { class: "code mono" });
  #canvas = el("canvas", { class: "spark", "aria-hidden": "true" });
  #price = el("span", { class: "price" });
  #change = el("span", { class: "change" });
  #percent = el("span", { class: "percent" });
  #age = el("span", { class: "age" });
  #remove = el("button", { type: "button", class: "quiet remove", tabindex: "-1" }, "×");
  #nMoves = 0;
  #drawnAt = -Infinity;
  #drawnDirection = "";
  /** Whether the sparkline lacks something that came too soon after it was drawn. */
  #isDue = false;

  /** How many characters its price and its change have. */
  lengths = { price: 0, change: 0 };

  /** Why the server does not send it; null: it does, as far as is known. */
  problem = null;

  /** `onPainted` is called with the row whenever its numbers may be longer. */
  constructor(quote, { quotes, link, onPainted }) {
    this.quote = quote;
    this.#onPainted = onPainted;
    this.#quotes = quotes;
    this.#link = link;
    this.#nMoves = quote.nMoves;
    this.element = el(
      "tr",
      { tabindex: "-1", "aria-selected": "false", "aria-keyshortcuts": "Delete", data: { code: quote.code } },
      el("th", { scope: "row" }, this.#name, el("span", { class: "sub" }, this.#sub, " ", this.#age)),
      el("td", { class: "trend" }, this.#canvas),
      el("td", { class: "value" }, this.#price),
      el("td", { class: "moves" }, this.#change, this.#percent),
      el("td", { class: "tools" }, this.#remove),
    );
  }

  get code() {
    return this.quote.code;
  }

  /** Whether an event came from its button. */
  hasRemoved(target) {
    return this.#remove.contains(target);
  }

  paint(time) {
    const { quote } = this;
    const { price } = quote;
    setText(this.#name, quote.name);
    setText(this.#sub, this.problem ?? quote.code);
    setData(this.element, "problem", this.problem === null ? null : "");
    const label = t("remove_label", { name: quote.name });
    if (this.#remove.getAttribute("aria-label") !== label) {
      this.#remove.setAttribute("aria-label", label);
      this.#remove.title = label;
    }
    setData(this.element, "fresh", String(this.#quotes.isPriceCurrent(quote)));
    setText(this.#price, price === null ? "–" : fixed(price.price, quote.decimals));
    const found = changeOf(quote);
    setText(this.#change, found === null ? "" : signed(found.change, quote.decimals));
    setText(this.#percent, found?.percent == null ? "" : `${signed(found.percent, 2)}%`);
    this.lengths.price = this.#price.textContent.length;
    this.lengths.change = Math.max(this.#change.textContent.length, this.#percent.textContent.length);
    this.#onPainted(this);
    setData(this.element, "direction", found === null ? "same" : direction(found.change));
    this.#flash();
    // Its colour is never another one than that of the numbers beside it.
    const shown = this.element.dataset.direction;
    this.#isDue = time - this.#drawnAt < SPARKLINE_MS && shown === this.#drawnDirection;
    if (!this.#isDue) {
      this.#drawnAt = time;
      this.#drawnDirection = shown;
      drawSparkline(this.#canvas, quote.course, shown, quote.previousClose);
    }
    this.#showAge();
  }

  /** To be called every now and then, for what changes by itself. */
  tick() {
    if (this.#isDue) painter.schedule(this);
    this.#showAge();
  }

  #showAge() {
    const ms = this.quote.price === null ? undefined : this.#link.age(this.code);
    setText(this.#age, ms === undefined ? "" : ageText(ms));
  }

  /** Be drawn anew, whatever has changed: the colours, or the width. */
  redraw() {
    fitCanvas(this.#canvas);
    this.#drawnAt = -Infinity;
    painter.schedule(this);
  }

  #flash() {
    const { nMoves, move } = this.quote;
    if (nMoves !== this.#nMoves) {
      this.#nMoves = nMoves;
      flash(this.#price, move);
    }
  }
}
