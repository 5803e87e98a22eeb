// What the user's portfolios are worth.

import { byId, el, fill } from "../common/dom.js";
import { decimalsFor, decimalsOf, direction, fixed, signed } from "./format.js";
import { ask } from "./http.js";
import { RESERVED } from "./link.js";
import { painter, setData, setText } from "./painter.js";
import { t, texts } from "./texts.js";

const PATH = "v1/portfolios";

class Line {
  value = null;
  turn = 0;
  #name = el("span", { class: "name" });
  #note = el("span", { class: "muted note" });
  #total = el("td", { class: "value" });
  #change = el("span", { class: "change" });
  #percent = el("span", { class: "percent" });

  constructor({ id, name, currency }, link) {
    this.id = id;
    this.name = name;
    this.currency = currency;
    this.link = link;
    this.element = el(
      "tr",
      { data: { portfolio: id } },
      el("th", { scope: "row" }, this.#name, this.#note),
      this.#total,
      el("td", { class: "moves" }, this.#change, this.#percent),
    );
  }

  get isCurrent() {
    return this.link.isCurrent && this.value !== null && this.turn === this.link.turn;
  }

  paint() {
    const { value } = this;
    setText(this.#name, value?.name ?? this.name);
    const unpriced = value?.unpriced?.length ? t("portfolio_unpriced", { symbols: value.unpriced.join(", ") }) : "";
    setText(this.#note, [this.currency, unpriced].filter(Boolean).join(" · "));
    setData(this.element, "fresh", String(this.isCurrent));
    if (value === null) {
      setText(this.#total, "–");
      return;
    }
    const decimals = Math.max(decimalsFor(this.currency), decimalsOf(value.total_value));
    setText(this.#total, fixed(value.total_value, decimals));
    setText(this.#change, signed(value.daily_change, decimals));
    setText(this.#percent, `${signed(value.daily_change_percent, 2)}%`);
    setData(this.element, "direction", direction(value.daily_change));
  }
}

/** Asks which portfolios are the user's on every new connection, and follows their values. */
export class Portfolios {
  #account;
  #link;
  #lines = new Map();
  #turn = 0;
  #total = 0;
  #invitation = byId("portfolios-invitation");
  #table = byId("portfolio-table");
  #body = byId("portfolio-rows");
  #note = byId("portfolios-note");

  constructor({ account, link }) {
    this.#account = account;
    this.#link = link;
    link.on("connection", () => this.#read());
    link.on("portfolio_update", (update) => this.#take(update));
    link.onResync(() => this.#subscribe());
    link.onChange(() => this.#checkCurrent());
    texts.onchange(() => this.#showAll());
  }

  async #read() {
    const turn = (this.#turn += 1);
    const { isSignedIn, token } = this.#account;
    this.#invitation.hidden = isSignedIn;
    this.#table.hidden = !isSignedIn;
    if (!isSignedIn) {
      this.#show([], 0);
      this.#note.textContent = "";
      return;
    }
    try {
      const { portfolios, total } = await ask(PATH, { token });
      if (turn === this.#turn) {
        this.#show(portfolios.slice(0, RESERVED.portfolios), total);
        this.#subscribe();
      }
    } catch (error) {
      if (turn === this.#turn) this.#note.textContent = t("portfolio_failed", { reason: error.message });
    }
  }

  #show(portfolios, total) {
    const before = this.#lines;
    this.#lines = new Map(
      portfolios.map((portfolio) => {
        const key = String(portfolio.id);
        return [key, before.get(key) ?? new Line(portfolio, this.#link)];
      }),
    );
    this.#total = total;
    fill(this.#body, ...[...this.#lines.values()].map((line) => line.element));
    this.#showAll();
  }

  #showAll() {
    for (const line of this.#lines.values()) painter.schedule(line);
    const n = this.#lines.size;
    const note = n === 0 ? t("portfolio_none") : n < this.#total ? t("portfolio_more", { n, total: this.#total }) : "";
    this.#note.textContent = this.#account.isSignedIn ? note : "";
    this.#table.hidden = n === 0;
  }

  #subscribe() {
    if (this.#lines.size > 0) this.#link.subscribe("portfolio", [...this.#lines.keys()]);
  }

  #take(update) {
    const line = this.#lines.get(String(update.portfolio_id));
    if (line) {
      line.value = update;
      line.turn = this.#link.turn;
      painter.schedule(line);
    }
  }

  #checkCurrent() {
    for (const line of this.#lines.values()) {
      if ((line.element.dataset.fresh === "true") !== line.isCurrent) painter.schedule(line);
    }
  }
}
