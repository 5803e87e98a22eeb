// Which message answers which request, and how long that took.

// Requests that nobody has answered: those before are given up.
const MAX_WAITING = 100;

/**
 * 1. A request with an `id` is answered by the first message with the same `id`.
 * 2. Of requests without one, which the server answers in their order, the first that awaits the type of a message is
 *    answered by it; an `error` without an `id` answers the first of all.
 */
export class Replies {
  #types;
  #waiting = [];

  /** `types` has for each type of request the type of its answer. */
  constructor(types) {
    this.#types = types;
  }

  /** Note that `message` was sent at the time `at`. */
  sent(message, at) {
    if (!this.#types.has(message?.type)) return;
    this.#waiting.push({ id: message.id, type: this.#types.get(message.type), at });
    if (this.#waiting.length > MAX_WAITING) this.#waiting.shift();
  }

  /** How long before `at` what `message` answers was sent; null where it answers nothing. */
  received(message, at) {
    const isAnswer =
      message?.id !== undefined
        ? ({ id }) => id === message.id
        : ({ id, type }) => id === undefined && (type === message?.type || message?.type === "error");
    const i = this.#waiting.findIndex(isAnswer);
    return i < 0 ? null : at - this.#waiting.splice(i, 1)[0].at;
  }
}
