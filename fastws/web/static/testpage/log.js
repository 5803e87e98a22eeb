// The newest messages, and the rows that show them. However fast messages come, they are bounded in number and size, and
// rows are made a few times a second.

import { append, el, fill } from "../common/dom.js";
import { elements, parse } from "./json.js";
import { makeRow, round } from "./row.js";

const MAX_ENTRIES = 1000;
const MAX_ROWS = 1000;
// Of text; a message may have 64 KiB and more.
const MAX_SIZE = 16 << 20;
const NEAR_END = 40;
// Between two times that rows are made: nobody reads faster, and each costs the browser a layout of them all.
const DRAW_MS = 150;

const encoder = new TextEncoder();

/**
 * 1. Entries are numbered from 1 to `#n`, without a gap; the newest of them are kept. Rows have been made up to `#shown`.
 * 2. Rows are of entries that are kept, in order. While it is paused there come none, and those that there are stay.
 */
export class Log {
  #box;
  #makeRow;
  #entries = [];
  #size = 0;
  #n = 0;
  #shown = 0;
  #isAsked = false;
  #drawnAt = -Infinity;
  #filter = { direction: "", kind: "", search: "", unfold: false };
  #isPaused = false;

  /** Rows go into `box`; `onEdit(text)` is called to send one again, `copy(text, button)` to copy one. */
  constructor(texts, box, { onEdit, copy }) {
    this.#box = box;
    this.#makeRow = (item) => makeRow(item, texts, { onEdit, copy });
  }

  /** How many wait for the end of the pause. */
  get waiting() {
    return this.#isPaused ? this.#n - Math.max(this.#shown, this.#n - this.#entries.length) : 0;
  }

  /** Add a message as `Connection` tells it, or a note: `{ direction: "note", text }`. Returns its size in bytes. */
  add({ direction, text, message, size, replyMs = null }) {
    const entry = {
      n: ++this.#n,
      at: new Date(),
      direction,
      text,
      message,
      replyMs,
      size: text === null ? size : encoder.encode(text).length,
    };
    this.#entries.push(entry);
    this.#size += entry.size;
    while (this.#entries.length > MAX_ENTRIES || (this.#size > MAX_SIZE && this.#entries.length > 1)) {
      this.#size -= this.#entries.shift().size;
    }
    this.#ask();
    return entry.size;
  }

  /** Change some of `{ direction, kind, search, unfold }`. */
  filter(changes) {
    Object.assign(this.#filter, changes);
    this.redraw();
  }

  pause(isPaused) {
    this.#isPaused = isPaused;
    this.#ask();
  }

  clear() {
    this.#entries = [];
    this.#size = 0;
    this.#shown = this.#n;
    this.#box.replaceChildren();
  }

  /** Make all rows anew, in the language that is read now. */
  redraw() {
    if (!this.#isPaused) this.#shown = this.#n;
    this.#box.replaceChildren(...this.#rows(0, this.#shown));
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  /** What is shown, as lines of JSON; tokens are not part of it. */
  export() {
    const lines = [];
    for (const entry of this.#entries) {
      if (entry.n > this.#shown) break;
      for (const item of this.#items(entry)) {
        const { at, direction, replyMs, size } = entry;
        const line = { at: at.toISOString(), direction, size, text: withoutTokens(item) };
        lines.push(JSON.stringify(replyMs === null ? line : { ...line, reply_ms: round(replyMs) }));
      }
    }
    return lines.join("\n");
  }

  // Items: what gets a row of its own, an entry or a message within it.

  *#items(entry) {
    const parts = this.#filter.unfold && entry.message?.type === "batch" ? elements(entry.text, "messages") : [];
    const whole = { entry, text: entry.text, message: entry.message, part: 0, of: parts.length };
    if (this.#fits(whole)) yield whole;
    for (const [i, text] of parts.entries()) {
      const item = { entry, text, message: parse(text), part: i + 1, of: parts.length };
      if (this.#fits(item)) yield item;
    }
  }

  #fits({ entry, text, message }) {
    const { direction, kind, search } = this.#filter;
    return (
      (direction === "" || entry.direction === direction) &&
      (kind === "" || message?.type === kind) &&
      (search === "" || (text ?? "").toLowerCase().includes(search.toLowerCase()))
    );
  }

  #ask() {
    if (this.#isAsked) return;
    this.#isAsked = true;
    const wait = this.#drawnAt + DRAW_MS - performance.now();
    setTimeout(() => {
      requestAnimationFrame(() => {
        this.#isAsked = false;
        this.#drawnAt = performance.now();
        this.#draw();
      });
    }, Math.max(0, wait));
  }

  #draw() {
    const box = this.#box;
    if (!this.#isPaused) {
      const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END;
      append(box, ...this.#rows(this.#shown, this.#n));
      this.#shown = this.#n;
      const first = this.#n - this.#entries.length + 1;
      while (box.childElementCount > MAX_ROWS || Number(box.firstElementChild?.dataset.n) < first) {
        box.firstElementChild.remove();
      }
      if (isAtEnd) box.scrollTop = box.scrollHeight;
    }
  }

  /** The newest rows of the entries after number `after` up to number `last`. */
  #rows(after, last) {
    const rows = [];
    for (let i = this.#entries.length - 1; i >= 0 && rows.length < MAX_ROWS; i -= 1) {
      const entry = this.#entries[i];
      if (entry.n > last) continue;
      if (entry.n <= after) break;
      rows.push(...[...this.#items(entry)].map(this.#makeRow).reverse());
    }
    return rows.reverse().slice(-MAX_ROWS);
  }
}

/** Fill `select` with the types that have been seen, behind its first option, which is for all. */
export function offerKinds(select, kinds) {
  const chosen = select.value;
  fill(select, select.options[0], ...[...kinds].sort().map((kind) => el("option", { value: kind }, kind)));
  select.value = chosen;
}

/** The text of an item as it may be handed on: logs end up in tickets. */
function withoutTokens({ text, message }) {
  const token = message?.token ?? message?.data?.token;
  if (typeof token !== "string" || token === "") return text;
  const hidden = text.replaceAll(JSON.stringify(token), '"***"');
  // It may have been written with other escapes.
  return hidden === text ? JSON.stringify(message, (key, value) => (key === "token" ? "***" : value)) : hidden;
}
