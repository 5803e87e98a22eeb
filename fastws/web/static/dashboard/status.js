// What the connection is doing, and how old what is shown is.

import { byId } from "../common/dom.js";
import { ageText } from "./format.js";
import { painter, setData, setText } from "./painter.js";
import { statusText, t, texts } from "./texts.js";

/** Marks the whole page as well: `data-link` on the root is the state. */
export class Status {
  #link;
  #quotes;
  #state = byId("link-state");
  #detail = byId("link-detail");
  #latency = byId("latency");
  #newest = byId("newest");
  #again = byId("link-again");

  constructor({ link, quotes }) {
    this.#link = link;
    this.#quotes = quotes;
    link.onChange(() => painter.schedule(this));
    texts.onchange(() => painter.schedule(this));
    this.#again.addEventListener("click", () => link.connect());
    painter.schedule(this);
  }

  paint() {
    const { status } = this.#link;
    setData(document.documentElement, "link", status.state);
    // It is announced when the state is another one, and not with every second of the countdown.
    setText(this.#state, t(`link_${status.state}`));
    setText(this.#detail, detailOf(status));
    this.#again.hidden = status.state !== "closed";
    const { latencyMs } = this.#link;
    setText(this.#latency, latencyMs === null ? "–" : t("ms", { value: latencyMs < 10 ? latencyMs.toFixed(1) : Math.round(latencyMs) }));
    const { newestMs } = this.#quotes;
    setText(this.#newest, newestMs === null ? "–" : ageText(Math.max(0, this.#link.now() - newestMs)));
  }
}

function detailOf({ state, isSilent, isPaused, feed, status, nextInMs, code, reason }) {
  if (isSilent) return t("link_silent");
  if (isPaused) return t("link_paused");
  if (feed) return t("link_feed", { feed, status: statusText(status) });
  if (state === "closed") return code === undefined ? "" : reason ? t("link_refused", { code, reason }) : t("link_ended", { code });
  if (state === "reconnecting" && nextInMs !== undefined) {
    return t("link_next", { seconds: Math.ceil(nextInMs / 1000) });
  }
  return "";
}
