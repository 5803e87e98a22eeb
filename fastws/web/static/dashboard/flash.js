// Marks a number that has just changed, for a moment.

import { setData } from "./painter.js";

const SHOWN_MS = 350;
const LOOK_MS = 100;

const ends = new Map();
let timer = 0;

/**
 * Mark `element` as moved `up` or `down`; again, the moment begins anew.
 *
 * On and off, and nothing in between: a fading colour is drawn in each frame, which with fifty prices costs more than
 * all else on the page.
 */
export function flash(element, move) {
  setData(element, "flash", move);
  ends.set(element, performance.now() + SHOWN_MS);
  timer ||= setInterval(clear, LOOK_MS);
}

function clear() {
  const now = performance.now();
  for (const [element, end] of ends) {
    if (end <= now) {
      setData(element, "flash", null);
      ends.delete(element);
    }
  }
  if (ends.size === 0) {
    clearInterval(timer);
    timer = 0;
  }
}
