// One row of the log. Everything in it that came from elsewhere is text.

import { append, el } from "../common/dom.js";
import { pretty } from "./json.js";

const PREVIEW_LENGTH = 300;
const ARROWS = { sent: "↑", received: "↓", note: "•" };

/** The row of an item of `Log`, which opens to the whole of it; `texts`, `onEdit` and `copy` are those of the log. */
export function makeRow(item, texts, actions) {
  const { entry, part } = item;
  const row = el(
    "details",
    { class: `row ${entry.direction}${part > 0 ? " part" : ""}`, data: { n: entry.n } },
    part > 0 ? summaryOfPart(item, texts) : summaryOf(item, texts),
  );
  // Made when it is looked at: most rows never are.
  row.addEventListener("toggle", () => {
    if (row.open && row.childElementCount === 1) append(row, inside(item, texts, actions));
  });
  return row;
}

function summaryOf({ entry, text, message }, texts) {
  const isReply = entry.replyMs !== null;
  const ms = isReply ? round(entry.replyMs) : 0;
  const replyTitle = isReply ? texts.t("reply_after", { ms }) : null;
  const size = formatSize(entry.size);
  return el(
    "summary",
    {},
    el("time", { class: "time", datetime: entry.at.toISOString() }, formatTime(entry.at)),
    el("span", { class: "arrow", "aria-hidden": "true" }, ARROWS[entry.direction]),
    el("span", { class: "spoken" }, texts.t(entry.direction)),
    el("span", { class: "kind" }, kindOf(message)),
    el("span", { class: "reply", title: replyTitle }, isReply ? `${ms} ms` : ""),
    el("span", { class: "size" }, entry.direction === "note" ? "" : size),
    el("span", { class: "preview" }, batchNote(message, texts), previewOf(text ?? texts.t("binary", { size }))),
  );
}

/** A message within a batch came when the batch came, and has no size of its own. */
function summaryOfPart({ text, message }, texts) {
  return el(
    "summary",
    {},
    el("span", { class: "time" }),
    el("span", { class: "arrow", "aria-hidden": "true" }, "·"),
    el("span", { class: "spoken" }, texts.t("within")),
    el("span", { class: "kind" }, kindOf(message)),
    el("span", { class: "reply" }),
    el("span", { class: "size" }),
    el("span", { class: "preview" }, previewOf(text)),
  );
}

function kindOf(message) {
  return message?.type === undefined ? "" : String(message.type);
}

function previewOf(text) {
  return text.slice(0, PREVIEW_LENGTH);
}

function batchNote(message, texts) {
  if (message?.type !== "batch") return null;
  const count = message.messages?.length ?? 0;
  const note = texts.t(count === 1 ? "message_in" : "messages_in", { count });
  return el("b", {}, message.snapshot ? `${note}, ${texts.t("snapshot")} ` : `${note} `);
}

function inside({ entry, text, message }, texts, { onEdit, copy }) {
  const box = el("div", { class: "inside" });
  if (text === null) return box;
  if (message !== undefined) {
    append(box, el("h3", {}, texts.t("decoded")), el("pre", { class: "mono" }, pretty(text)));
  }
  append(box, el("h3", {}, texts.t("raw")), el("pre", { class: "mono" }, text));
  const copying = el("button", { type: "button", on: { click: () => copy(text, copying) } }, texts.t("copy"));
  const editing = el("button", { type: "button", on: { click: () => onEdit(text) } }, texts.t("edit_again"));
  append(box, el("div", { class: "buttons" }, copying, entry.direction === "sent" ? editing : null));
  return box;
}

export function formatSize(size) {
  if (size < 1000) return `${size} B`;
  return size < 1_000_000 ? `${(size / 1000).toFixed(1)} kB` : `${(size / 1_000_000).toFixed(1)} MB`;
}

function formatTime(at) {
  const two = (number) => String(number).padStart(2, "0");
  const ms = String(at.getMilliseconds()).padStart(3, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${ms}`;
}

export function round(ms) {
  return Math.round(ms * 10) / 10;
}
