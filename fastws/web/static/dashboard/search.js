// The field in which instruments are looked for: a combobox with a list below it (WAI-ARIA 1.2).

import { byId, el, fill } from "../common/dom.js";
import { ask } from "./http.js";
import { t, texts } from "./texts.js";

const WAIT_MS = 120;
const N_SHOWN = 12;

/** Asks the server while somebody types, and has `watchList` add what is picked. */
export class Search {
  #watchList;
  #account;
  #input = byId("search");
  #list = byId("search-results");
  #note = byId("search-note");
  #found = [];
  #active = -1;
  #timer = 0;
  #asking = null;

  constructor({ watchList, account }) {
    this.#watchList = watchList;
    this.#account = account;
    const input = this.#input;
    input.addEventListener("input", () => this.#wait());
    input.addEventListener("keydown", (event) => this.#onKey(event));
    input.addEventListener("focus", () => input.value && this.#wait());
    input.addEventListener("blur", () => this.#close());
    // Before the field loses the focus, which closes the list.
    this.#list.addEventListener("mousedown", (event) => event.preventDefault());
    this.#list.addEventListener("click", ({ target }) => {
      const place = [...this.#list.children].indexOf(target.closest("[role=option]"));
      if (place >= 0) this.#pick(place);
    });
    texts.onchange(() => this.#close());
  }

  focus() {
    this.#input.focus();
    this.#input.select();
  }

  #wait() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    const query = this.#input.value.trim();
    if (query === "") this.#close();
    else this.#timer = setTimeout(() => this.#search(query), WAIT_MS);
  }

  async #search(query) {
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    const { signal } = asking;
    try {
      const path = `v1/instruments?${new URLSearchParams({ q: query, limit: N_SHOWN })}`;
      const { instruments, total } = await ask(path, { token: this.#account.token, signal });
      if (!signal.aborted) this.#show(query, instruments, total);
    } catch (error) {
      if (!signal.aborted) {
        this.#show(query, [], 0);
        this.#say(t("search_failed", { reason: error.message }));
      }
    }
  }

  #show(query, instruments, total) {
    this.#found = instruments;
    fill(this.#list, ...instruments.map((instrument, place) => this.#option(instrument, place)));
    const more = total - instruments.length;
    this.#say(total === 0 ? t("search_none", { query }) : more > 0 ? t("search_more", { n: more }) : "");
    this.#list.hidden = instruments.length === 0;
    this.#input.setAttribute("aria-expanded", String(instruments.length > 0));
    this.#activate(instruments.length > 0 ? 0 : -1);
  }

  #option({ code, name, market, sector }, place) {
    const isHeld = this.#watchList.has(code);
    return el(
      "li",
      { role: "option", id: `found-${place}`, "aria-selected": "false", data: { code } },
      el("span", { class: "name" }, name),
      el("span", { class: "code mono" }, code),
      el("span", { class: "muted" }, [market, sector].filter(Boolean).join(" · ")),
      isHeld ? el("span", { class: "muted" }, `✓ ${t("search_held")}`) : null,
    );
  }

  #say(text) {
    this.#note.textContent = text;
    this.#note.hidden = text === "";
  }

  #activate(place) {
    this.#list.children[this.#active]?.setAttribute("aria-selected", "false");
    this.#active = place;
    const option = this.#list.children[place];
    if (option) {
      option.setAttribute("aria-selected", "true");
      option.scrollIntoView({ block: "nearest" });
      this.#input.setAttribute("aria-activedescendant", option.id);
    } else {
      this.#input.removeAttribute("aria-activedescendant");
    }
  }

  #onKey(event) {
    const n = this.#found.length;
    if (event.isComposing) return; // Enter ends a syllable of Korean
    if (event.key === "ArrowDown" && n > 0) this.#activate((this.#active + 1) % n);
    else if (event.key === "ArrowUp" && n > 0) this.#activate((this.#active + n - 1) % n);
    else if (event.key === "Enter" && this.#active >= 0) this.#pick(this.#active);
    else if (event.key === "Escape") this.#clear();
    else return;
    event.preventDefault();
  }

  #pick(place) {
    const instrument = this.#found[place];
    this.#clear();
    this.#watchList.add(instrument);
  }

  #clear() {
    this.#input.value = "";
    this.#close();
  }

  #close() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#found = [];
    this.#active = -1;
    fill(this.#list);
    this.#list.hidden = true;
    this.#say("");
    this.#input.setAttribute("aria-expanded", "false");
    this.#input.removeAttribute("aria-activedescendant");
  }
}
