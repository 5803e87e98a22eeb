// Korean and English. Each page brings its dictionaries; this remembers which one is read.

import { el } from "./dom.js";
import { remember } from "./storage.js";

const NAMES = { en: "English", ko: "한국어" };

/**
 * The texts of a page: `new Texts({ en: { hello: "Hello {name}" }, ko: {…} })`.
 *
 * In HTML, `data-i18n="key"` names the text of an element, and `data-i18n-label`, `-title` and `-placeholder` those of
 * its aria-label, title and placeholder; `apply` sets them. The page repeats what its scripts have written themselves
 * when it is told by `onchange`.
 */
export class Texts {
  #dictionaries;
  #listeners = new Set();

  constructor(dictionaries) {
    this.#dictionaries = dictionaries;
  }

  /** `en` or `ko`; early.js has chosen it. */
  get lang() {
    return document.documentElement.lang === "ko" ? "ko" : "en";
  }

  /** The text of `key`, with `{name}` replaced by `values.name`. A key without a text is a mistake and an error. */
  t(key, values = {}) {
    const text = this.#dictionaries[this.lang][key] ?? this.#dictionaries.en[key];
    if (text === undefined) throw new Error(`there is no text ${key}`);
    return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
  }

  /** Set the texts that the HTML below `root` names. */
  apply(root = document) {
    for (const element of root.querySelectorAll("[data-i18n]")) {
      element.textContent = this.t(element.dataset.i18n);
    }
    for (const [member, attribute] of [
      ["i18nLabel", "aria-label"],
      ["i18nTitle", "title"],
      ["i18nPlaceholder", "placeholder"],
    ]) {
      const selector = `[data-${member.replace(/[A-Z]/g, (letter) => "-" + letter.toLowerCase())}]`;
      for (const element of root.querySelectorAll(selector)) {
        element.setAttribute(attribute, this.t(element.dataset[member]));
      }
    }
  }

  /** Read on in `lang`, and remember it. */
  choose(lang) {
    document.documentElement.lang = lang;
    remember("lang", lang);
    this.apply();
    for (const listener of this.#listeners) listener(lang);
  }

  /** Call `listener(lang)` after every change; returns what takes it away again. */
  onchange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** A button that changes to the other language, in that language. */
  button() {
    const button = el("button", { type: "button", class: "quiet", on: { click: () => this.choose(other(this.lang)) } });
    const show = () => {
      button.lang = other(this.lang);
      button.textContent = NAMES[button.lang];
    };
    show();
    this.onchange(show);
    return button;
  }
}

function other(lang) {
  return lang === "ko" ? "en" : "ko";
}
