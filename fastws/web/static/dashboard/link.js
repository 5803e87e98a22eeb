// The connection of the page, and whether what is shown can be taken for current.

import { websocketUrl } from "../common/paths.js";
import { Fastws } from "../fastws.js";

const PING_MS = 2_500;
const SILENCE_MS = 3_000;
// A pong that the server has left out, because it was asked too often, is not waited for.
const PONG_MS = 10_000;
const TICK_MS = 500;
const HEARTBEAT_MS = 5_000;

/** Subscriptions of the connection that are not for the watch-list. */
export const RESERVED = { markets: 6, portfolios: 6 };

/**
 * 1. What is shown is of a *turn*. A turn ends when the connection does, when the server stops answering, when the tab
 *    is hidden (nothing is sent then), and when a feed of the server is no longer live. A value is current when it came
 *    in this turn and the link is current; so nothing old becomes current by itself.
 * 2. After each of these but the last, `resync` handlers ask for what is held anew, which brings snapshots, unless the
 *    client has asked already.
 * 3. Every few seconds the server is asked for an answer; without one for 3 s, nothing is current.
 *
 * `change` handlers are called whenever `status` may be another one.
 */
export class Link {
  #token;
  #client = null;
  #handlers = [];
  #changed = new Set();
  #resync = new Set();
  #nextPing = 1;
  #pending = null;
  #heardAt = 0;
  #isSilent = false;
  #isPaused = false;
  #isRefused = null;
  #nextAttemptAt = 0;

  turn = 1;
  /** Round trip of the last ping in ms; null before the first and without a connection. */
  latencyMs = null;
  feeds = {};
  limits = { subscriptions: 50 };
  user = null;

  /** `token` is a function that returns the user's token, or null. */
  constructor(token) {
    this.#token = token;
    this.on("state", (event) => this.#onState(event));
    this.on("connection", (greeting) => this.#onGreeting(greeting));
    this.on("feed_status", ({ feed, status }) => this.#onFeed(feed, status));
    this.on("pong", ({ id }) => this.#onPong(id));
    this.on("paused", () => this.#onPaused(true));
    this.on("resumed", () => this.#onPaused(false));
    this.on("message", () => this.#onHeard());
    setInterval(() => this.#tick(), TICK_MS);
    setInterval(() => this.#ping(), PING_MS);
  }

  /** Connect; when there is a connection already, in its place, e.g. as another user. */
  start() {
    this.#client?.close();
    this.user = null;
    this.#client = new Fastws(websocketUrl("v1/ws"), { token: this.#token, heartbeatMs: HEARTBEAT_MS });
    for (const [type, handler] of this.#handlers) this.#client.on(type, handler);
    this.#tell();
  }

  /** Begin again after the end of a connection for good. */
  connect() {
    this.#client.connect();
  }

  /** Call `handler` with the client's events of this type, over all connections. */
  on(type, handler) {
    this.#handlers.push([type, handler]);
    this.#client?.on(type, handler);
  }

  onChange(handler) {
    this.#changed.add(handler);
  }

  onResync(handler) {
    this.#resync.add(handler);
  }

  subscribe(type, targets, options) {
    return this.#client.subscribe(type, targets, options);
  }

  unsubscribe(type, targets) {
    return this.#client.unsubscribe(type, targets);
  }

  /** Milliseconds since what is known of a symbol was published; undefined: nothing is. */
  age(code) {
    return this.#client.age(code);
  }

  /** Whether the server says that a symbol is silent for longer than can be. */
  isStale(code) {
    return this.#client?.isStale(code) ?? false;
  }

  /** Now, by the clock of the server. */
  now() {
    return this.#client?.now() ?? Date.now();
  }

  get isOpen() {
    return this.#client?.state === "open";
  }

  /** Whether what came in this turn is current. */
  get isCurrent() {
    return this.isOpen && !this.#isSilent && !this.#isPaused && this.#staleFeed() === null;
  }

  /**
   * `state` is connecting, live, stale, reconnecting or closed; beside it why it is stale (`isSilent`, `isPaused`,
   * `feed`), when it is tried again (`nextInMs`), and what ended the last connection (`code`, `reason`).
   */
  get status() {
    const state = this.#client?.state ?? "connecting";
    const end = this.#isRefused ?? {};
    if (state === "closed") return { state, ...end };
    if (state === "waiting") {
      return { state: "reconnecting", nextInMs: Math.max(0, this.#nextAttemptAt - performance.now()), ...end };
    }
    if (state === "connecting") return { state: this.#isRefused ? "reconnecting" : "connecting", ...end };
    const feed = this.#staleFeed();
    if (this.#isSilent) return { state: "stale", isSilent: true };
    if (this.#isPaused) return { state: "stale", isPaused: true };
    if (feed !== null) return { state: "stale", feed, status: this.feeds[feed] };
    return { state: "live" };
  }

  #staleFeed() {
    return Object.keys(this.feeds).find((feed) => this.feeds[feed] !== "live") ?? null;
  }

  #endTurn() {
    this.turn += 1;
  }

  #tell() {
    for (const handler of this.#changed) handler();
  }

  #onState({ state, recovered, code, reason, delayMs }) {
    this.#pending = null;
    this.#isSilent = false;
    if (state === "open") {
      this.#isRefused = null;
      this.#isPaused = false;
      if (recovered) this.#ask();
      this.#ping();
    } else {
      this.#endTurn();
      this.latencyMs = null;
      if (code !== undefined) this.#isRefused = { code, reason };
      if (state === "waiting") this.#nextAttemptAt = performance.now() + delayMs;
    }
    this.#tell();
  }

  /** A restored session says what was missed, which need not be anything of what is shown. */
  #ask() {
    for (const handler of this.#resync) handler();
  }

  #onGreeting({ feeds, limits, user_id }) {
    this.feeds = { ...feeds };
    this.limits = limits;
    this.user = user_id;
    this.#tell();
  }

  #onFeed(feed, status) {
    if (status !== "live" && this.feeds[feed] === "live") this.#endTurn();
    this.feeds[feed] = status;
    this.#tell();
  }

  #onPaused(isPaused) {
    this.#isPaused = isPaused;
    if (isPaused) this.#endTurn();
    this.#tell();
  }

  #onHeard() {
    this.#heardAt = performance.now();
    if (this.#isSilent) {
      this.#isSilent = false;
      this.#ask();
      this.#tell();
    }
  }

  #ping() {
    if (document.hidden || !this.isOpen) return;
    if (this.#pending !== null && performance.now() - this.#pending.at < PONG_MS) return;
    const id = `page ${this.#nextPing++}`;
    this.#pending = { id, at: performance.now() };
    this.#client.send({ type: "ping", id });
  }

  #onPong(id) {
    if (this.#pending?.id === id) {
      this.latencyMs = performance.now() - this.#pending.at;
      this.#pending = null;
    }
  }

  #tick() {
    const at = this.#pending?.at;
    if (at !== undefined && !this.#isSilent && performance.now() - at > SILENCE_MS && this.#heardAt < at) {
      this.#isSilent = true;
      this.#endTurn();
    }
    this.#tell();
  }
}
