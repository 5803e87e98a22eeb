// The figures of the server, from /v1/ws/stats.

import { byId } from "../common/dom.js";
import { ageText, fixed } from "./format.js";
import { ask } from "./http.js";
import { setData, setText } from "./painter.js";
import { t, texts } from "./texts.js";

const EVERY_MS = 2_000;
// A figure of this age is one that should have been replaced: the next question is 1 s overdue.
const OLD_MS = 3_000;
const LATE_MS = 1_000;
const CHECK_MS = 250;

/**
 * 1. Asks every two seconds while the page is seen; one question at a time.
 * 2. Figures are current until the next ones are a second late. Then they are marked as old, with their age, whatever
 *    the reason is: no answer yet, a refusal, or a page that nobody has looked at.
 * 3. That the server does not answer is said once, when a question waits; only its age goes on.
 * 4. That it hears nothing of the servers that it is joined with is said for as long as it is so.
 */
export class ServerPanel {
  #panel = byId("server");
  #note = byId("server-note");
  #age = byId("server-age");
  #before = null;
  #timer = 0;
  #isAsking = false;
  #askedAt = 0;
  #answeredAt = -Infinity;
  #failure = null;
  #isCutOff = false;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#next(0));
    texts.onchange(() => this.#check());
    setInterval(() => this.#check(), CHECK_MS);
    this.#next(0);
  }

  #next(delayMs) {
    clearTimeout(this.#timer);
    // A rate over the time in which nobody asked would be none of now.
    if (document.hidden) this.#before = null;
    else this.#timer = setTimeout(() => this.#ask(), delayMs);
    this.#check();
  }

  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    this.#askedAt = performance.now();
    try {
      const stats = await ask("v1/ws/stats");
      this.#answeredAt = performance.now();
      this.#failure = null;
      this.#show(stats);
    } catch (error) {
      this.#before = null;
      this.#failure = error;
    }
    this.#isAsking = false;
    this.#next(EVERY_MS);
  }

  /** Say how far the figures are to be believed. */
  #check() {
    const now = performance.now();
    const ageMs = now - this.#answeredAt;
    const isCurrent = this.#failure === null && ageMs < OLD_MS;
    setData(this.#panel, "fresh", ageMs === Infinity ? null : String(isCurrent));
    setText(this.#age, isCurrent || ageMs === Infinity ? "" : t("server_age", { age: ageText(ageMs) }));
    const isLate = !isCurrent && this.#isAsking && now - this.#askedAt > LATE_MS;
    let problem = "";
    if (this.#failure !== null) problem = t("server_failed", { reason: this.#failure.message });
    else if (isLate) problem = t("server_silent");
    else if (isCurrent && this.#isCutOff) problem = t("server_cut_off");
    setText(this.#note, problem);
  }

  #show(stats) {
    // Of servers that a relay joins; one that is alone has no such member.
    this.#isCutOff = stats.relay?.is_up === false;
    const at = this.#answeredAt;
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
