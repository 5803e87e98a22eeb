// The chosen instrument: its price, large, and what else is known of the day.

import { byId } from "../common/dom.js";
import { flash } from "./flash.js";
import { ageText, compact, direction, fixed, signed } from "./format.js";
import { painter, setData, setText } from "./painter.js";
import { changeOf } from "./quotes.js";
import { t, texts } from "./texts.js";

export class Detail {
  #quotes;
  #link;
  #quote = null;
  #nMoves = 0;
  #panel = byId("detail");
  #parts = Object.fromEntries(
    ["name", "code", "price", "change", "age", "badge", "high", "low", "volume", "previous"].map((name) => [
      name,
      byId(`detail-${name}`),
    ]),
  );

  constructor({ quotes, link }) {
    this.#quotes = quotes;
    this.#link = link;
    const schedule = (quote) => quote === this.#quote && painter.schedule(this);
    quotes.on("price", schedule);
    quotes.on("facts", schedule);
    link.onChange(() => painter.schedule(this));
    texts.onchange(() => painter.schedule(this));
  }

  show(quote) {
    this.#quote = quote;
    this.#nMoves = quote?.nMoves ?? 0;
    painter.schedule(this);
  }

  paint() {
    const quote = this.#quote;
    this.#panel.hidden = quote === null;
    if (quote === null) return;
    const parts = this.#parts;
    const { price, decimals } = quote;
    const text = (value) => (value == null ? "–" : fixed(value, decimals));
    setText(parts.name, quote.name);
    setText(parts.code, [quote.code, quote.market, price?.venue].filter(Boolean).join(" · "));
    setText(parts.price, text(price?.price));
    const found = changeOf(quote);
    const percent = found?.percent == null ? "" : ` (${signed(found.percent, 2)}%)`;
    setText(parts.change, found === null ? "" : `${signed(found.change, decimals)}${percent}`);
    setText(parts.high, text(price?.high));
    setText(parts.low, text(price?.low));
    setText(parts.volume, price?.volume === undefined ? "–" : compact(price.volume));
    setText(parts.previous, text(quote.previousClose));
    setData(this.#panel, "direction", found === null ? "same" : direction(found.change));
    const isCurrent = this.#quotes.isPriceCurrent(quote);
    setData(this.#panel, "fresh", String(isCurrent));
    const ms = price === null ? undefined : this.#link.age(quote.code);
    setText(parts.age, ms === undefined ? "" : ageText(ms));
    const badge = badgeOf(price, isCurrent, this.#link.isStale(quote.code));
    setText(parts.badge, badge);
    parts.badge.hidden = badge === "";
    if (quote.nMoves !== this.#nMoves) {
      this.#nMoves = quote.nMoves;
      flash(parts.price, quote.move);
    }
  }
}

function badgeOf(price, isCurrent, isStale) {
  if (price === null) return t("no_price");
  if (price.stale) return t("value_old");
  if (isStale) return t("value_stale");
  if (!isCurrent) return t("value_not_current");
  const known = { simulated: "simulated", polled: "polled" };
  return known[price.quality] ? t(known[price.quality]) : "";
}
