// Numbers and times as they are read. Grouped and pointed alike in both languages, so that columns look the same.

import { t, texts } from "./texts.js";

const MAX_DECIMALS = 8;
// Currencies without a smaller unit (ISO 4217); prices in others have two decimals at least.
const WHOLE = new Set(["KRW", "JPY", "VND", "CLP"]);

const formats = new Map();

function format(options, locale = "en-US") {
  const key = locale + JSON.stringify(options);
  let found = formats.get(key);
  if (!found) {
    found = new Intl.NumberFormat(locale, options);
    formats.set(key, found);
  }
  return found;
}

const byDecimals = [];

/** `value` with so many decimals, e.g. 73,000. */
export function fixed(value, decimals) {
  byDecimals[decimals] ??= format({
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
    signDisplay: "negative", // no sign before what is rounded to 0
  });
  return byDecimals[decimals].format(value);
}

const signedByDecimals = [];

/** The same with its sign, e.g. +1,000; nothing before 0. */
export function signed(value, decimals) {
  signedByDecimals[decimals] ??= format({
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
    signDisplay: "exceptZero",
  });
  return signedByDecimals[decimals].format(value);
}

/** A day's volume, short enough for a column: 12.3M, or 1234.5만. */
export function compact(value) {
  const locale = texts.lang === "ko" ? "ko-KR" : "en-US";
  return format({ notation: "compact", maximumFractionDigits: 1 }, locale).format(value);
}

/** A number with the digits that it came with. */
export function plain(value) {
  return fixed(value, decimalsOf(value));
}

/** How many decimals a number is written with. */
export function decimalsOf(value) {
  const text = String(value);
  if (text.includes("e")) {
    return MAX_DECIMALS;
  }
  const point = text.indexOf(".");
  return point < 0 ? 0 : Math.min(text.length - point - 1, MAX_DECIMALS);
}

/** How many decimals prices in a currency have at least; null: it is not known which one it is. */
export function decimalsFor(currency) {
  return currency === null || WHOLE.has(currency) ? 0 : 2;
}

/** How long ago something was, short enough for a column. */
export function ageText(ms) {
  if (ms < 1_000) return t("now");
  if (ms < 60_000) return t("seconds", { n: Math.floor(ms / 1_000) });
  if (ms < 3_600_000) return t("minutes", { n: Math.floor(ms / 60_000) });
  if (ms < 86_400_000) return t("hours", { n: Math.floor(ms / 3_600_000) });
  return t("days", { n: Math.floor(ms / 86_400_000) });
}

/** The time of day of a timestamp, here; with its date before it where that is not today's. */
export function timeText(timestamp) {
  const at = new Date(timestamp);
  const time = at.toLocaleTimeString("en-GB");
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? time : `${at.toLocaleDateString("sv-SE")} ${time}`; // dates as 2025-11-11
}

/** "up", "down" or "same", which is how things are coloured. */
export function direction(change) {
  return change > 0 ? "up" : change < 0 ? "down" : "same";
}
