// What has happened and is worth a word: alerts that have fired, and what did not work.

import { byId, el } from "../common/dom.js";
import { t } from "./texts.js";

const MAX_SHOWN = 5;
const SHOWN_MS = 8_000;

/** Shows notices in a corner; the oldest goes when there are too many. They are announced, and take no focus. */
export class Notices {
  #list = byId("notices");
  #spoken = byId("spoken");

  /** Show a text for a while. */
  show(text) {
    const notice = this.#add(el("p", {}, text), "");
    setTimeout(() => notice.remove(), SHOWN_MS);
  }

  /** Show an alert until it is dismissed. */
  alert(title, text) {
    this.#add(el("p", {}, el("strong", {}, title), " ", text), "alert");
  }

  /** Tell it to screen readers only: others see it happen. */
  say(text) {
    this.#spoken.textContent = text;
  }

  #add(content, kind) {
    const close = el("button", { type: "button", class: "quiet", "aria-label": t("dismiss") }, "×");
    const notice = el("li", { class: "notice", data: { kind } }, content, close);
    close.addEventListener("click", () => notice.remove());
    this.#list.append(notice);
    while (this.#list.children.length > MAX_SHOWN) this.#list.firstElementChild.remove();
    return notice;
  }
}
