// The user's price alerts: made and deleted over HTTP, fired over the socket.

import { byId, el, fill } from "../common/dom.js";
import { fixed, plain, timeText } from "./format.js";
import { ask } from "./http.js";
import { setText } from "./painter.js";
import { t, texts } from "./texts.js";

const PATH = "v1/alerts";

/** The form is about the quote that `show` was given last. */
export class Alerts {
  #account;
  #link;
  #quotes;
  #notices;
  #quote = null;
  #rules = [];
  #turn = 0;
  #isTyped = false;
  #panel = byId("alerts");
  #invitation = byId("alerts-invitation");
  #body = byId("alerts-body");
  #form = byId("alert-form");
  #code = byId("alert-code");
  #type = byId("alert-type");
  #threshold = byId("alert-threshold");
  #problem = byId("alert-problem");
  #list = byId("alert-list");
  #none = byId("alerts-none");

  constructor({ account, link, quotes, notices }) {
    this.#account = account;
    this.#link = link;
    this.#quotes = quotes;
    this.#notices = notices;
    link.on("connection", () => this.refresh());
    link.on("alert", (alert) => this.#onFired(alert));
    quotes.on("facts", (quote) => {
      if (quote === this.#quote) this.#showCode();
      if (this.#rules.some(({ code }) => code === quote.code)) this.#showList();
    });
    texts.onchange(() => this.#showList());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create();
    });
    this.#type.addEventListener("change", () => this.#suggest());
    this.#threshold.addEventListener("input", () => (this.#isTyped = true));
    // The one that was chosen may have had no price yet.
    quotes.on("price", (quote) => {
      if (quote === this.#quote && this.#threshold.value === "" && !this.#isTyped) this.#suggest();
    });
  }

  show(quote) {
    this.#quote = quote;
    this.#problem.textContent = "";
    this.#showCode();
    this.#suggest();
  }

  /** Read the list anew. */
  async refresh() {
    const turn = (this.#turn += 1);
    this.#panel.dataset.signedIn = String(this.#account.isSignedIn);
    this.#invitation.hidden = this.#account.isSignedIn;
    this.#body.hidden = !this.#account.isSignedIn;
    if (!this.#account.isSignedIn) {
      this.#rules = [];
      this.#showList();
      return;
    }
    try {
      const rules = await ask(PATH, { token: this.#account.token });
      if (turn !== this.#turn) return;
      this.#rules = rules;
      this.#problem.textContent = "";
    } catch (error) {
      if (turn !== this.#turn) return;
      this.#problem.textContent = t("alert_failed", { reason: error.message });
    }
    this.#showList();
  }

  #showCode() {
    setText(this.#code, this.#quote === null ? "–" : this.#quote.name);
    this.#form.querySelector("button").disabled = this.#quote === null;
  }

  /** Begin with the price of now, which is then moved up or down. */
  #suggest() {
    const isPrice = this.#type.value.startsWith("price_");
    const price = this.#quote?.price?.price;
    this.#isTyped = false;
    this.#threshold.value = isPrice && price !== undefined ? price : "";
  }

  async #create() {
    const threshold = Number(this.#threshold.value.replaceAll(",", ""));
    const { code, name } = this.#quote;
    const alert_type = this.#type.value;
    if (!Number.isFinite(threshold)) {
      this.#problem.textContent = t("threshold_expected");
      return;
    }
    try {
      await ask(PATH, { method: "POST", body: { code, alert_type, threshold }, token: this.#account.token });
      this.#problem.textContent = "";
      this.#notices.say(t("alert_created", { name }));
      await this.refresh();
    } catch (error) {
      this.#problem.textContent = error.message;
    }
  }

  async #delete(rule) {
    const place = this.#rules.indexOf(rule);
    try {
      await ask(`${PATH}/${rule.id}`, { method: "DELETE", token: this.#account.token });
    } catch (error) {
      if (error.status !== 404) {
        this.#problem.textContent = error.message;
        return;
      }
    }
    this.#notices.say(t("alert_deleted", { name: this.#nameOf(rule.code) }));
    await this.refresh();
    // The button that had the focus is gone.
    const buttons = this.#list.querySelectorAll("button");
    (buttons[Math.min(place, buttons.length - 1)] ?? this.#threshold).focus();
  }

  #onFired({ code, alert_type, threshold, current_price, message }) {
    const rule = this.#ruleText({ alert_type, threshold });
    // In Korean what the rule says; the server's own sentence is English, or a backend's, which is shown as it is.
    const isKnown = this.#isKnown(alert_type);
    const title = `${t("alert_fired")}: ${this.#nameOf(code)}`;
    const text = texts.lang === "ko" && isKnown ? `${rule} (${this.#priceText(code, current_price)})` : message;
    this.#notices.alert(title, text);
    this.refresh();
  }

  #nameOf(code) {
    return this.#quotes.get(code)?.name ?? code;
  }

  #priceText(code, price) {
    const quote = this.#quotes.get(code);
    return quote === null ? plain(price) : fixed(price, quote.decimals);
  }

  /** Whether it is one of the form's; backends may have others. */
  #isKnown(alert_type) {
    return this.#type.querySelector(`option[value="${CSS.escape(alert_type)}"]`) !== null;
  }

  #ruleText({ alert_type, threshold }) {
    const value = plain(threshold);
    return this.#isKnown(alert_type) ? t(`rule_${alert_type}`, { value }) : `${alert_type} ${value}`;
  }

  #showList() {
    this.#none.hidden = this.#rules.length > 0;
    fill(this.#list, ...[...this.#rules].reverse().map((rule) => this.#item(rule)));
  }

  #item(rule) {
    const { code, fired_at, fired_price } = rule;
    const name = this.#nameOf(code);
    const text = this.#ruleText(rule);
    const state =
      fired_at === null
        ? t("alert_waiting")
        : t("alert_fired_at", { time: timeText(fired_at), price: this.#priceText(code, fired_price) });
    const remove = el(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-label": t("alert_delete_label", { name, rule: text }),
        on: { click: () => this.#delete(rule) },
      },
      t("alert_delete"),
    );
    return el(
      "li",
      { class: "rule", data: { id: rule.id, fired: String(fired_at !== null) } },
      el("span", { class: "rule-name" }, name),
      el("span", {}, text, " · ", el("span", { class: "rule-state" }, state)),
      remove,
    );
  }
}
