// Puts the test page together.

import { byId, el, fill } from "../common/dom.js";
import { Texts } from "../common/i18n.js";
import { recall, remember } from "../common/storage.js";
import { themeButton } from "../common/theme.js";
import { asCode, LANGUAGES } from "./code.js";
import { addressOf, Connection } from "./connection.js";
import { loadContract } from "./contract.js";
import { compact, parse, pretty } from "./json.js";
import { Log, offerKinds } from "./log.js";
import { formatSize } from "./row.js";
import { TEXTS } from "./texts.js";

const COPIED_MS = 1500;
const MAX_KINDS = 100;
const PATHS = { screener: "v1/ws", realtime: "ws/realtime/" };

const texts = new Texts(TEXTS);
const t = (key, values) => texts.t(key, values);
const form = byId("connecting");
const editor = byId("editor");
const templates = byId("template");

// What is sent and received.

const totals = { received: 0, sent: 0, bytes: 0, rate: 0, byteRate: 0 };
let measured = { count: 0, bytes: 0, at: performance.now() };
const kinds = new Set();
let contract = null;
let contractError = null;
let closed = null;

const log = new Log(texts, byId("log"), { onEdit: edit, copy });
const connection = new Connection({ onstate: showState, onmessage: onMessage });

function onMessage(told) {
  totals.bytes += log.add(told);
  totals[told.direction] += 1;
  noteKind(told.message);
  if (told.message?.type === "batch" && Array.isArray(told.message.messages)) told.message.messages.forEach(noteKind);
  if (told.message?.type === "connection" || told.message?.type === "reconnected") showFacts();
}

/** Offer the type of a message to be filtered by. Whoever types at random makes no endless list of them. */
function noteKind(message) {
  const kind = message?.type;
  if (typeof kind !== "string" || kinds.has(kind) || kinds.size >= MAX_KINDS) return;
  kinds.add(kind);
  offerKinds(byId("kind"), kinds);
}

// The connection.

function dialect() {
  return form.elements.dialect.value;
}

function settings() {
  const elements = form.elements;
  const session = contract?.[dialect()].hasSessions === false ? "" : elements.session.value.trim();
  const { sequence, epoch, id } = connection.session ?? {};
  return {
    path: PATHS[dialect()],
    token: elements.token.value.trim(),
    carrier: elements.carrier.value,
    session,
    cursor: elements.cursor.checked && id === session ? { sequence, epoch } : null,
    compression: elements.compression.checked,
  };
}

function connect() {
  closed = null;
  const address = addressOf(settings());
  try {
    connection.open(address, contract?.[dialect()].replies ?? new Map());
  } catch (error) {
    note(t("bad_settings", { error: withoutToken(error.message) }));
  }
}

function showState(state, event) {
  if (state === "closed") {
    closed = { code: event.code, reason: event.reason, hasOpened: connection.hasOpened };
  }
  const text = stateText(state);
  byId("state").textContent = text;
  byId("state").dataset.state = state;
  if (state === "open" || state === "closed") log.add({ direction: "note", text });
  const isOn = state === "connecting" || state === "open" || state === "closing";
  byId("endpoint").disabled = isOn;
  byId("connect").disabled = isOn;
  byId("disconnect").disabled = state !== "open" && state !== "connecting";
  byId("send").disabled = state !== "open";
  byId("last-session").disabled = connection.session === null;
  showFacts();
}

function stateText(state) {
  if (state !== "closed") return t(`state_${state}`);
  if (!closed.hasOpened) return t("state_refused");
  const meaning = contract?.[dialect()].closeCodes.get(closed.code);
  const said = { code: closed.code, reason: closed.reason };
  return meaning === undefined || meaning === closed.reason
    ? t("state_closed", said)
    : t("state_closed_meaning", { ...said, meaning });
}

function showFacts() {
  const facts = [["fact_url", connection.hasOpened ? connection.address : addressOf(settings()).bare]];
  if (connection.hasOpened) {
    facts.push(["fact_protocol", connection.protocol || t("none")]);
    facts.push(["fact_extensions", connection.extensions || t("none")]);
    facts.push(["fact_opened", `${connection.openedInMs.toFixed(1)} ms`]);
  }
  if (connection.greeting !== null) {
    const { connection_id: id, user_id: user } = connection.greeting;
    facts.push(["fact_id", String(id)], ["fact_user", String(user ?? t("none"))]);
    if (connection.session !== null && connection.greeting.epoch !== undefined) {
      facts.push(["fact_epoch", connection.session.epoch], ["fact_sequence", String(connection.session.sequence)]);
    }
  }
  fill(byId("facts"), ...facts.flatMap(([key, value]) => [el("dt", {}, t(key)), el("dd", { class: "mono" }, value)]));
  byId("session-field").hidden = contract?.[dialect()].hasSessions === false;
  showCode();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!byId("connect").disabled) connect();
});
form.addEventListener("input", showFacts);
for (const radio of form.elements.dialect) {
  radio.addEventListener("change", () => {
    remember("test.dialect", dialect());
    offerTemplates();
  });
}
byId("disconnect").addEventListener("click", () => connection.close());
byId("show-token").addEventListener("click", ({ currentTarget: button }) => {
  const isShown = form.elements.token.type === "password";
  form.elements.token.type = isShown ? "text" : "password";
  button.setAttribute("aria-pressed", String(isShown));
});
byId("last-session").addEventListener("click", () => {
  form.elements.session.value = connection.session.id;
  showFacts();
});

// The message.

function offerTemplates() {
  const offered = contract?.[dialect()].templates ?? [];
  fill(templates, ...offered.map(({ message }, i) => el("option", { value: String(i) }, JSON.stringify(message))));
  useTemplate();
}

function useTemplate() {
  const template = contract?.[dialect()].templates[Number(templates.value)];
  byId("about").textContent =
    contractError === null ? (template?.about ?? "") : t("no_contract", { error: contractError });
  if (template !== undefined) {
    editor.value = JSON.stringify(withWhatIsKnown(template.message), null, 2);
    showValidity();
  }
}

/** A template with the session and the token of this page in the place of the examples'. */
function withWhatIsKnown(message) {
  const found = structuredClone(message);
  const token = form.elements.token.value.trim();
  for (const place of [found, found.data ?? {}]) {
    if ("token" in place && token) place.token = token;
  }
  if (found.type === "reconnect" && connection.session !== null) {
    const { id, sequence, epoch } = connection.session;
    Object.assign(found, { session_id: id }, "last_sequence" in found ? { last_sequence: sequence, epoch } : {});
  }
  return found;
}

function showValidity() {
  let error = "";
  try {
    JSON.parse(editor.value);
  } catch (problem) {
    error = problem.message;
  }
  byId("validity").textContent = error && t("no_json", { error });
  byId("format").disabled = error !== "";
  showCode();
}

function edit(text) {
  editor.value = parse(text) === undefined ? text : pretty(text);
  showValidity();
  editor.focus();
}

function send() {
  if (connection.state !== "open") return;
  const text = editor.value;
  // As a program would send it; what is no JSON goes as it is.
  connection.send(parse(text) === undefined ? text : compact(text));
}

byId("sending").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
editor.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    send();
  }
});
editor.addEventListener("input", showValidity);
templates.addEventListener("change", useTemplate);
byId("format").addEventListener("click", () => edit(editor.value));

// The same as code.

const languages = byId("language");
fill(languages, ...Object.entries(LANGUAGES).map(([name, label]) => el("option", { value: name }, label)));
languages.value = recall("test.language") in LANGUAGES ? recall("test.language") : "javascript";

function showCode() {
  const chosen = settings();
  const { bare } = addressOf(chosen);
  byId("code").textContent = asCode(languages.value, {
    url: bare,
    hasToken: chosen.token !== "",
    text: hideToken(editor.value, chosen.token),
  });
}

languages.addEventListener("change", () => {
  remember("test.language", languages.value);
  showCode();
});
byId("copy-code").addEventListener("click", ({ currentTarget }) => copy(byId("code").textContent, currentTarget));

// The traffic.

for (const id of ["direction", "kind"]) {
  byId(id).addEventListener("change", ({ currentTarget }) => log.filter({ [id]: currentTarget.value }));
}
byId("search").addEventListener("input", ({ currentTarget }) => log.filter({ search: currentTarget.value }));
byId("unfold").addEventListener("change", ({ currentTarget }) => log.filter({ unfold: currentTarget.checked }));
byId("clear").addEventListener("click", () => log.clear());
byId("copy-log").addEventListener("click", ({ currentTarget }) => copy(log.export(), currentTarget));
byId("pause").addEventListener("click", ({ currentTarget: button }) => {
  const isPaused = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(isPaused));
  log.pause(isPaused);
  showTotals();
});

function measure() {
  const now = { count: totals.received + totals.sent, bytes: totals.bytes, at: performance.now() };
  const seconds = (now.at - measured.at) / 1000;
  totals.rate = Math.round((now.count - measured.count) / seconds);
  totals.byteRate = Math.round((now.bytes - measured.bytes) / seconds);
  measured = now;
  showTotals();
  if (connection.state === "open") showSequence();
}

function showTotals() {
  const { received, sent, rate, byteRate } = totals;
  byId("totals").textContent = t("totals", { received, sent, rate, bytes: formatSize(byteRate) });
  const isPaused = byId("pause").getAttribute("aria-pressed") === "true";
  const count = log.waiting;
  byId("pause").textContent = isPaused ? (count > 0 ? t("resume_count", { count }) : t("resume")) : t("pause");
}

/** The fact that changes all the time; the others are left alone, somebody may be copying one. */
function showSequence() {
  const shown = byId("facts").querySelector("dd:last-of-type");
  if (shown !== null && connection.greeting?.epoch !== undefined) shown.textContent = connection.session.sequence;
}

// Copying.

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = t("copied");
    setTimeout(() => (button.textContent = t(button.dataset.i18n ?? "copy")), COPIED_MS);
  } catch {
    // Only pages that came over TLS, or from this machine, may do that; and not all of those.
    byId("by-hand-text").value = text;
    byId("by-hand").showModal();
    byId("by-hand-text").select();
  }
}

byId("by-hand-close").addEventListener("click", () => byId("by-hand").close());

function note(text) {
  log.add({ direction: "note", text });
  byId("state").textContent = text;
}

/** What browsers say of a bad subprotocol shows it. */
function withoutToken(text) {
  return hideToken(text, form.elements.token.value.trim());
}

function hideToken(text, token) {
  return token === "" ? text : text.replaceAll(token, "…");
}

// The page.

function showAll() {
  document.title = t("title");
  byId("state").textContent = stateText(connection.state);
  showFacts();
  showTotals();
  showValidity();
  log.redraw();
}

byId("choices").append(texts.button(), themeButton(texts));
if (recall("test.dialect") === "realtime") form.elements.dialect.value = "realtime";
texts.apply();
texts.onchange(showAll);
showAll();
setInterval(measure, 1000);
try {
  contract = await loadContract();
} catch (error) {
  contractError = error.message;
}
offerTemplates();
showFacts();
document.documentElement.dataset.ready = "true";
