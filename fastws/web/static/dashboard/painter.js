// Draws once per animation frame what has changed since the last one.

// Of the frames that screens have, every other one or fewer: a server sends every 30 ms, and nobody reads faster.
const FRAME_MS = 28;

/**
 * 1. What changes says so by `schedule`, however often; each view is painted once, in the next frame or the one after.
 * 2. In a hidden tab there are no frames: what has changed waits, as one entry per view.
 * 3. A view that fails is reported, and the others are painted.
 */
class Painter {
  #waiting = new Set();
  #isRequested = false;
  #paintedAt = -Infinity;

  /** Call `view.paint(time)` in the next frame; `time` is that of the frame, in ms. */
  schedule(view) {
    this.#waiting.add(view);
    if (!this.#isRequested) this.#request();
  }

  #request() {
    this.#isRequested = true;
    requestAnimationFrame((time) => this.#paint(time));
  }

  #paint(time) {
    if (time - this.#paintedAt < FRAME_MS) {
      this.#request();
      return;
    }
    this.#isRequested = false;
    this.#paintedAt = time;
    const views = this.#waiting;
    this.#waiting = new Set();
    for (const view of views) {
      try {
        view.paint(time);
      } catch (error) {
        reportError(error);
      }
    }
  }
}

export const painter = new Painter();

/** Set the text of an element, if it is another one: only what has changed is to be laid out anew. */
export function setText(element, text) {
  const node = element.firstChild;
  if (node === null) {
    if (text !== "") element.append(text);
  } else if (node.data !== text) {
    node.data = text;
  }
}

/** Set a member of an element's `dataset`, if it is another one; null takes it away. */
export function setData(element, name, value) {
  if (value === null) {
    if (name in element.dataset) delete element.dataset[name];
  } else if (element.dataset[name] !== value) {
    element.dataset[name] = value;
  }
}
