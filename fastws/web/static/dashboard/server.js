// The figures of the server, from /v1/ws/stats.

import { byId } from "../common/dom.js";
import { fixed } from "./format.js";
import { ask } from "./http.js";
import { setData, setText } from "./painter.js";
import { t } from "./texts.js";

const EVERY_MS = 2_000;

/** Asks every two seconds while the page is seen and the panel is open, and says so when there is no answer. */
export class ServerPanel {
  #panel = byId("server");
  #note = byId("server-note");
  #before = null;
  #timer = 0;
  #isAsking = false;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#next(0));
    this.#next(0);
  }

  #next(delayMs) {
    clearTimeout(this.#timer);
    // A rate over the time in which nobody asked would be none of now.
    if (document.hidden) this.#before = null;
    else this.#timer = setTimeout(() => this.#ask(), delayMs);
  }

  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    try {
      this.#show(await ask("v1/ws/stats"), performance.now());
      this.#note.hidden = true;
      setData(this.#panel, "fresh", "true");
    } catch (error) {
      this.#before = null;
      this.#note.hidden = false;
      setText(this.#note, t("server_failed", { reason: error.message }));
      setData(this.#panel, "fresh", "false");
    }
    this.#isAsking = false;
    this.#next(EVERY_MS);
  }

  #show(stats, at) {
    const before = this.#before;
    this.#before = { at, sent: stats.messages_sent, epoch: stats.epoch };
    // After a restart the counter begins anew.
    const isSame = before !== null && before.epoch === stats.epoch && stats.messages_sent >= before.sent;
    const rate = isSame ? (1000 * (stats.messages_sent - before.sent)) / (at - before.at) : null;
    const figures = {
      connections: fixed(stats.active_connections, 0),
      rate: rate === null ? "–" : fixed(rate, 0),
      interval: t("ms", { value: stats.effective_interval_ms }),
      dropped: fixed(stats.updates.lost, 0),
      lag: t("ms", { value: stats.loop_lag_ms }),
      queued: fixed(stats.queued_messages, 0),
    };
    for (const [name, text] of Object.entries(figures)) setText(byId(`server-${name}`), text);
  }
}
