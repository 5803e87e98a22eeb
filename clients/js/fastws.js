/**
 * Clients of a fastws server, for browsers and Node.
 *
 * `Fastws` speaks the screener dialect (`/v1/ws`), `FastwsRealtime` the realtime one (`/ws/realtime/`). Both
 * connect as soon as they are made, come back by themselves after every outage, and are ended by `close()`. The
 * types, and what each event brings, are in fastws.d.ts.
 */

const DEFAULTS = {
  pauseHidden: true,
  handshakeMs: 15_000,
  heartbeatMs: 15_000,
  backoff: { min: 500, max: 30_000 },
};
// Of a refused client the server wants to hear less often.
const REFUSED_MIN_MS = 5_000;
const MAX_ANNOUNCED_MS = 300_000;
// A token is replaced so long before it ends, or in the last quarter of a short life.
const REFRESH_MARGIN_MS = 30_000;
// Targets of at most 64 characters: far below the 64 KiB that a message may have.
const TARGETS_PER_MESSAGE = 500;
// The server says at most once a second that it drops requests.
const RESEND_MS = 1_100;
// Of the time for a sign of life so much is given to a connection that may have been cut off, e.g. by a laptop's sleep.
const PROBE_SHARE = 1 / 3;
// Two clocks that run apart by so much were stepped, or have slept.
const CLOCK_STEP_MS = 2_000;
// Of one symbol and channel, those that do not touch each other and nothing has come behind.
const MOST_LOSSES = 1_000;

const JWT = /^[\w.-]+$/;

/** Close codes after which connecting again would only repeat what was wrong. */
const FINAL_CODES = new Set([1002, 1003, 1007, 1009, 4410]);
const TOKEN_CODES = new Set([4401, 4403]);
const SLOW_CONSUMER = 4408;
const REFUSED = 4429;
/** As browsers have it: the connection ended without a close frame. */
const ABNORMAL = 1006;

/**
 * A connection that is kept up, and the events of what comes over it.
 *
 * 1. At most one socket is listened to; one that is given up is not heard from then on, however long it takes to
 *    close.
 * 2. What is awaited (the token) belongs to a turn, and does nothing when another one has begun, or after `close`.
 * 3. Nothing here rejects or throws because of the network or of a handler.
 */
class Link {
  #url;
  #options;
  #handlers = new Map();
  #state = "connecting";
  #socket = null;
  #turn = 0;
  #attempt = 0;
  #openedAt = 0;
  #announcedMs = null;
  #token = null;
  #mayHaveToken;
  #clockSkewMs = 0;
  #clocksApartMs = 0;
  #heardAt = 0;
  #isGreeted = false;
  #pingedAt = 0;
  #pingedDate = 0;
  #timers = new Map();
  #onVisibility = () => {
    if (this.#options.pauseHidden) {
      this._onHidden(this.isHidden);
    }
    if (globalThis.document?.visibilityState !== "hidden") {
      this.#hurry();
    }
  };
  #onOnline = () => this.#hurry();

  constructor(url, options = {}) {
    const base = globalThis.location?.href;
    this.#url = new URL(url, base?.startsWith("http") ? base : undefined);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#options = { ...DEFAULTS, ...options, backoff: { ...DEFAULTS.backoff, ...options.backoff } };
    this.#options.WebSocket ??= globalThis.WebSocket;
    if (!this.#options.WebSocket) {
      throw new TypeError("there is no WebSocket here: pass one, e.g. { WebSocket } of the package ws");
    }
    this.#mayHaveToken = options.token != null;
    // Handlers that are added right after the construction miss nothing, and `close` may come first.
    queueMicrotask(() => this.#turn === 0 && this.connect());
  }

  /** "connecting", "open", "waiting" (to connect again) or "closed" (for good). */
  get state() {
    return this.#state;
  }

  get isHidden() {
    return this.#options.pauseHidden && globalThis.document?.visibilityState === "hidden";
  }

  /** Milliseconds since 1970 by the clock of the server. */
  now() {
    return Date.now() + this.#clockSkewMs;
  }

  /** Call `handler` with every event of this type; returns what takes it away again. */
  on(type, handler) {
    if (!this.#handlers.has(type)) {
      this.#handlers.set(type, new Set());
    }
    this.#handlers.get(type).add(handler);
    return () => this.off(type, handler);
  }

  off(type, handler) {
    this.#handlers.get(type)?.delete(handler);
  }

  /** Begin; needed only after the end, e.g. of a client whose token was not accepted. */
  connect() {
    if (this.#turn > 0 && this.#state !== "closed") {
      return;
    }
    globalThis.document?.addEventListener("visibilitychange", this.#onVisibility);
    globalThis.addEventListener?.("online", this.#onOnline);
    this.#attempt = 0;
    this.#open();
  }

  /** End everything: the connection, the timers, and what waits for an answer. */
  close() {
    this.#end({ code: 1000, reason: "closed by the client" });
  }

  /** Send a message as it is; false where there is no open connection to send it on. */
  send(message) {
    if (this.#state !== "open" || this.#socket?.readyState !== 1) {
      return false;
    }
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  // What the dialects use.

  _emit(type, event, envelope) {
    for (const handler of [...(this.#handlers.get(type) ?? [])]) {
      if (this.#state === "closed" && type !== "state") {
        return; // A handler has called `close`, maybe in the middle of a batch.
      }
      try {
        handler(event, envelope)?.catch?.(report);
      } catch (error) {
        report(error);
      }
    }
  }

  /** Call `action` after `ms`, in the place of what was set by this name. */
  _after(name, ms, action) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(action, ms));
  }

  /** The connection can be used: first by `sendFirst`, then by handlers of `state`. */
  _opened(recovered, sendFirst) {
    clearTimeout(this.#timers.get("handshake"));
    this.#openedAt = performance.now();
    this.#state = "open";
    sendFirst();
    this.#become("open", { recovered });
  }

  _greeted(timestamp) {
    this.#setClock(timestamp);
    this.#scheduleRefresh();
  }

  #setClock(timestamp) {
    this.#clockSkewMs = (Date.parse(timestamp) || this.now()) - Date.now();
    this.#clocksApartMs = clocksApartMs();
  }

  _announced(delayMs) {
    if (delayMs > 0 && delayMs <= MAX_ANNOUNCED_MS) {
      this.#announcedMs = delayMs;
    }
  }

  /** The token in use is refused or of no use any more: the hook is asked for another. */
  _forgetToken() {
    this.#token = null;
  }

  // The life of a socket.

  async #open() {
    const turn = ++this.#turn;
    this.#announcedMs = null;
    this.#clearTimers();
    this.#become("connecting");
    try {
      if (this.#mayHaveToken && (this.#token === null || this.#isDue())) {
        // Of somebody who is not logged in it may be empty.
        this.#token = (await this.#askToken()) || null;
      }
      if (turn !== this.#turn) {
        return;
      }
      this.#listen();
    } catch (error) {
      if (turn === this.#turn) {
        this.#fail("CONNECT_FAILED", error);
        this.#retry({ code: ABNORMAL, reason: String(error?.message ?? error) });
      }
    }
  }

  #listen() {
    const url = new URL(this.#url);
    for (const [name, value] of Object.entries(this._query())) {
      url.searchParams.set(name, value);
    }
    if (this.#token !== null && !JWT.test(this.#token)) {
      // What the browser would say of it shows it.
      throw new TypeError("the token has characters that a JWT does not have");
    }
    // Not in the address, which proxies log.
    const protocols = this.#token === null ? [] : ["fastws", `bearer.${this.#token}`];
    const socket = new this.#options.WebSocket(url.href, protocols);
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(data);
    socket.onclose = ({ code, reason }) => this.#onClose(code, reason);
    socket.onerror = () => {}; // `close` follows, and says more.
    this.#heardAt = this.#pingedAt = performance.now();
    this.#isGreeted = false;
    this._after("handshake", this.#options.handshakeMs, () => this.#drop("no answer to the handshake"));
  }

  #take(data) {
    this.#heardAt = performance.now();
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      this.#drop("what came is no JSON");
      return;
    }
    if (message?.type === "connection") {
      if (this.#isGreeted) {
        this.#drop("a second greeting came");
        return;
      }
      this.#isGreeted = true;
      this.#beat();
    } else if (message?.type === "pong" && Math.abs(Date.now() - this.#pingedDate) < CLOCK_STEP_MS) {
      // It comes ahead of all that waits, so that it is as new as a greeting, if nobody has slept meanwhile.
      this.#setClock(message.timestamp);
    }
    try {
      this._receive(message);
    } catch {
      // Handlers cannot fail here: it lacks what its type has, and what it stood for may be lost.
      this.#drop("what came is no message of this protocol");
    }
  }

  /** Browsers do not show the server's pings: a quiet connection is asked, and given up if it does not answer. */
  #beat() {
    const { heartbeatMs } = this.#options;
    this._after("heartbeat", heartbeatMs, () => {
      // In hidden tabs timers come late, so it is not enough that nothing was heard for long.
      if (this.#pingedAt > this.#heardAt) {
        this.#drop("no sign of life");
      } else if (Math.abs(clocksApartMs() - this.#clocksApartMs) > CLOCK_STEP_MS) {
        this.#probe();
      } else if (performance.now() - this.#heardAt >= 0.9 * heartbeatMs) {
        this.#askForLife();
      } else {
        this.#beat();
      }
    });
  }

  #askForLife() {
    this.#pingedAt = performance.now();
    this.#pingedDate = Date.now();
    this.send(this._ping);
    this.#beat();
  }

  /** The user looks, or there is a network again: what would come sooner or later is done now. */
  #hurry() {
    if (this.#state === "waiting" && this.#announcedMs === null) {
      this.#open();
    } else if (this.#state === "open") {
      this.#probe();
    }
  }

  /** The connection may be gone, and values older than they look: see, without waiting for the silence to be long. */
  #probe() {
    this.#askForLife();
    this._after("probe", PROBE_SHARE * this.#options.heartbeatMs, () => {
      if (this.#pingedAt > this.#heardAt) {
        this.#drop("no sign of life");
      }
    });
  }

  /** Give a connection up without waiting for the other side, which may be gone. */
  #drop(reason) {
    const socket = this.#release();
    // Those of `ws` would wait for the other side for half a minute, and keep a program from ending.
    socket?.terminate?.();
    this.#onClose(ABNORMAL, reason);
  }

  #release() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      // Not null: the sockets of `ws` throw errors that nobody listens to.
      socket.onmessage = socket.onclose = socket.onerror = () => {};
      socket.close(1000);
    }
    return socket;
  }

  #onClose(code, reason) {
    this.#socket = null;
    if (TOKEN_CODES.has(code)) {
      this.#token = null;
    }
    if (FINAL_CODES.has(code) || (TOKEN_CODES.has(code) && typeof this.#options.token !== "function")) {
      this.#end({ code, reason });
      return;
    }
    if (code === SLOW_CONSUMER) {
      this._slowDown();
    }
    this.#retry({ code, reason });
  }

  /** Full jitter, from a range that doubles until a connection has lived for longer than it. */
  #retry({ code, reason }) {
    const { min, max } = this.#options.backoff;
    const range = () => Math.min(max, min * 2 ** this.#attempt);
    if (this.#openedAt && performance.now() - this.#openedAt > range()) {
      this.#attempt = 0;
    }
    this.#openedAt = 0;
    let delayMs = Math.random() * range() + (code === REFUSED ? REFUSED_MIN_MS : 0);
    if (this.#announcedMs !== null) {
      // A server that announces the same again and again is not believed.
      delayMs = this.#attempt === 0 ? this.#announcedMs : Math.max(delayMs, this.#announcedMs);
    }
    this.#attempt += 1;
    this.#clearTimers();
    this._after("retry", delayMs, () => this.#open());
    this.#become("waiting", { code, reason, delayMs });
  }

  #end(event) {
    this.#turn += 1;
    this.#clearTimers();
    this.#release();
    this.#openedAt = 0;
    globalThis.document?.removeEventListener("visibilitychange", this.#onVisibility);
    globalThis.removeEventListener?.("online", this.#onOnline);
    this._ended();
    if (this.#state !== "closed") {
      this.#become("closed", event);
    }
  }

  #become(state, event = {}) {
    this.#state = state;
    this._emit("state", { state, ...event });
  }

  #clearTimers() {
    this.#timers.forEach(clearTimeout);
    this.#timers.clear();
  }

  // Tokens.

  async #askToken() {
    const { token } = this.#options;
    return typeof token === "function" ? token() : token;
  }

  /** Milliseconds that the token is good for; Infinity where that cannot be read from it. */
  #tokenLifeMs() {
    return expiryOf(this.#token) - this.now();
  }

  #isDue() {
    return typeof this.#options.token === "function" && this.#tokenLifeMs() < 1_000;
  }

  #scheduleRefresh() {
    const lifeMs = this.#tokenLifeMs();
    if (typeof this.#options.token !== "function" || !(lifeMs > 0 && lifeMs < Infinity)) {
      return;
    }
    const delayMs = Math.max(lifeMs - REFRESH_MARGIN_MS, 0.75 * lifeMs, 250);
    // Timers count in 32 bits.
    this._after("refresh", Math.min(delayMs, 2 ** 31 - 1), () => this.#refresh(delayMs < 2 ** 31));
  }

  /** Where this fails the old token stays, it is tried again, and at last the server closes with 4401. */
  async #refresh(isDue) {
    const turn = this.#turn;
    try {
      const token = isDue ? await this.#askToken() : null;
      const isNew = turn === this.#turn && token && token !== this.#token;
      if (isNew && this.send(this._tokenMessage(token))) {
        this.#token = token;
      }
    } catch (error) {
      this.#fail("TOKEN_HOOK_FAILED", error);
    }
    if (turn === this.#turn) {
      this.#scheduleRefresh();
    }
  }

  #fail(code, error) {
    const message = String(error?.message ?? error);
    this._emit("error", { type: "error", code, error_code: code, message, details: {} });
  }
}

/**
 * A client of the screener dialect.
 *
 * 1. `#held` is what the server has accepted, with its options; `#requests` what it has not answered, in order.
 *    After an outage the session is restored, or all of `#held` asked for anew; then `#requests` are sent again:
 *    all of them can be done twice.
 * 2. A request that brings a snapshot is kept until that has come: it would be missing if the connection ended
 *    between the two.
 * 3. The cursor is raised by published messages only, so what is lost with a connection comes again.
 */
export class Fastws extends Link {
  #held = new Map();
  #requests = [];
  #nextId = 1;
  #isPaused = false;
  #session = null;
  #greeting = null;
  #isRestoring = false;
  #epoch = null;
  #cursor = 0;
  /**
   * What is known of each numbered stream, by "price_update:005930". It is unsettled while only a snapshot can tell
   * from where on it is complete: answers overtake data, so what comes first may be from before a pause, or of another
   * mode.
   */
  #streams = new Map();
  /** Symbols that are stale, as the server says. */
  #stale = new Set();
  #isUnsettled = false;

  _ping = { type: "ping" };

  /**
   * Hold targets of "stock", "market", "sector" or "portfolio", from now on and over all outages.
   *
   * Resolves with `{ targets, rejected }` when the server has answered, and never rejects.
   */
  subscribe(type, targets, options = {}) {
    return this.#ask("subscribe", type, targets, options);
  }

  unsubscribe(type, targets) {
    return this.#ask("unsubscribe", type, targets, {});
  }

  /** What is held: targets by type. */
  get subscriptions() {
    return Object.fromEntries([...this.#held].map(([type, targets]) => [type, [...targets.keys()]]));
  }

  /** Milliseconds since the last update of a symbol was published; undefined before the first. */
  age(code) {
    const times = this.#streamsOf(code).map((stream) => stream.at);
    return times.length ? Math.max(0, this.now() - Math.max(...times)) : undefined;
  }

  /**
   * Whether the server has said that a symbol is silent for longer than can be while its market trades, or has given
   * nothing of it but values from before its last start, which have `stale` themselves.
   */
  isStale(code) {
    return this.#stale.has(code) || this.#isRestored(code);
  }

  /** Both what came of its prices and of its order books in this session: one of them may be newer. */
  #isRestored(code) {
    const known = this.#streamsOf(code).filter((stream) => stream.isRestored !== undefined);
    return known.length > 0 && known.every((stream) => stream.isRestored);
  }

  // Requests.

  async #ask(type, subscription_type, targets, options) {
    const wanted = [...new Set([targets].flat().map(String))];
    const answers = chunks(wanted, TARGETS_PER_MESSAGE).map((some) => {
      const message = { type, subscription_type, targets: some, ...options };
      return this.state === "closed"
        ? refused(message, "closed")
        : new Promise((resolve) => this.#request(message, resolve));
    });
    const found = await Promise.all(answers);
    return { targets: found.flatMap((one) => one.targets), rejected: found.flatMap((one) => one.rejected) };
  }

  #request(message, resolve = () => {}) {
    // No id that a page would choose for what it sends itself.
    const id = `fastws.js ${this.#nextId++}`;
    const request = { message: { ...message, id }, resolve, isAnswered: false };
    this.#requests.push(request);
    this.send(request.message);
    return request;
  }

  #answer(message) {
    const request = this.#requests.find((one) => one.message.id === message.id && !one.isAnswered);
    if (!request) {
      return;
    }
    const { type, snapshot } = request.message;
    const isError = message.type === "error";
    if (type === "pause" || type === "resume") {
      this.#isPaused = type === "pause";
      this.#isUnsettled = true;
      this.#streams.forEach((stream) => (stream.isUnsettled = true));
    } else if (!isError) {
      this.#hold(request.message, message.targets);
    }
    request.isAnswered = true;
    const hasSnapshot = type === "resume" || (type === "subscribe" && snapshot !== false && !this.#isPaused);
    if (isError || !hasSnapshot) {
      this.#requests.splice(this.#requests.indexOf(request), 1);
    }
    const { targets = [], rejected = [], details } = message;
    let outcome = { targets, rejected };
    if (isError) {
      outcome = details?.rejected ? { targets, rejected: details.rejected } : refused(request.message, message.message);
    }
    request.resolve(outcome);
    if (request.isOwn && outcome.rejected.length > 0) {
      this.#withdraw(request.message.subscription_type, outcome.rejected);
    }
  }

  /** What was held before an outage is not accepted again. */
  #withdraw(subscription_type, rejected) {
    const held = this.#held.get(subscription_type);
    rejected.forEach(({ target }) => held.delete(target));
    this.#forgetStreams();
    this._emit("withdrawn", { subscription_type, rejected });
  }

  #hold({ type, subscription_type, mode, max_rate, channels, snapshot }, targets) {
    const held = this.#held.get(subscription_type) ?? new Map();
    this.#held.set(subscription_type, held);
    if (type === "unsubscribe") {
      targets.forEach((target) => held.delete(target));
      this.#forgetStreams();
      return;
    }
    const options = { mode, max_rate, channels };
    const text = JSON.stringify(options);
    for (const target of targets) {
      // Subscribed to again without options, it keeps those that it has.
      if (!held.has(target) || (text !== "{}" && text !== JSON.stringify(held.get(target)))) {
        held.set(target, { ...options });
        // Numbers of the mode before say nothing about holes in this one.
        const begin = { seq: undefined, isUnsettled: snapshot !== false };
        this.#streamsOf(target).forEach((stream) => Object.assign(stream, begin));
      }
    }
  }

  /** Ask for all that is held, ahead of what was not answered. */
  #askAgain() {
    this.#forgetPauses();
    const wanted = this.#wanted();
    const waiting = this.#requests.filter((one) => !one.isOwn);
    this.#requests = [];
    this.#isPaused = false;
    if (this.isHidden) {
      this.#request({ type: "pause" });
    }
    this.#askFor(wanted);
    this.#requests.push(...waiting);
    waiting.forEach(({ message }) => this.send(message));
  }

  /** What is held and wanted still: not what a request that waits gives up. Pairs as `#held` has them. */
  #wanted(isWanted = () => true) {
    const givenUp = new Set(
      this.#requests
        .filter(({ message }) => message.type === "unsubscribe")
        .flatMap(({ message }) => message.targets.map((target) => `${message.subscription_type}:${target}`)),
    );
    const isLeft = (type, target) => !givenUp.has(`${type}:${target}`) && isWanted(type, target);
    return [...this.#held].map(([type, held]) => [type, new Map([...held].filter(([target]) => isLeft(type, target)))]);
  }

  #askFor(pairs) {
    for (const [subscription_type, wanted] of pairs) {
      for (const [options, alike] of byOptions(wanted)) {
        for (const targets of chunks(alike, TARGETS_PER_MESSAGE)) {
          const message = { type: "subscribe", subscription_type, targets, ...JSON.parse(options) };
          this.#request(message).isOwn = true;
        }
      }
    }
  }

  #sendAgain() {
    this.#requests.filter((one) => !one.isAnswered).forEach(({ message }) => this.send(message));
  }

  #forgetPauses() {
    this.#requests = this.#requests.filter(({ message }) => !["pause", "resume"].includes(message.type));
  }

  _onHidden(isHidden) {
    this.#forgetPauses();
    this.#request({ type: isHidden ? "pause" : "resume" });
  }

  // What comes.

  _receive(message) {
    const { type } = message;
    if (type === "batch") {
      message.messages.forEach((one) => this.#publish(one, message.snapshot ? message.sequence : undefined));
      this.#raise(message.sequence);
      if (message.snapshot) {
        this.#settleSnapshot();
      }
      this._emit("batch", message);
    } else if (message.sequence !== undefined && type !== "connection") {
      this.#publish(message);
    } else {
      this.#control(message);
      this._emit(type, message);
      this._emit("message", message);
    }
  }

  #control(message) {
    switch (message.type) {
      case "connection":
        this.#greet(message);
        break;
      case "reconnected":
        this.#restored(message);
        break;
      case "overflow":
        message.items.forEach((item) => this.#declare(item));
        break;
      case "server_shutdown":
        this._announced(message.reconnect_after_ms);
        break;
      case "error":
        this.#fail(message);
        break;
    }
    if (message.id !== undefined) {
      this.#answer(message);
    }
  }

  /** Of a snapshot with the number up to which all has come: it may be ahead of what a restored session still gets. */
  #publish(message, completeUpTo) {
    if (completeUpTo === undefined) {
      this.#raise(message.sequence);
    } else {
      message.snapshot = true;
    }
    if (message.type === "symbol_status") {
      this.#stale[message.status === "stale" ? "add" : "delete"](message.code);
    }
    if (message.seq === undefined || this.#count(message, completeUpTo)) {
      // A live update says that it is not any more.
      if (message.seq !== undefined && !message.snapshot) {
        this.#stale.delete(message.code);
      }
      this._emit(message.type, message);
      this._emit("message", message);
    }
  }

  #raise(sequence) {
    // A failure that is told in the place of an update has no number.
    this.#cursor = Math.max(this.#cursor, Number.isSafeInteger(sequence) ? sequence : 0);
  }

  /** The first request that waits for a snapshot has it. One after a restoration belongs to no request. */
  #settleSnapshot() {
    const index = this.#requests.findIndex((one) => one.isAnswered);
    if (index < 0) {
      return;
    }
    const [{ message }] = this.#requests.splice(index, 1);
    const settle = (stream) => (stream.isUnsettled = false);
    if (message.type === "subscribe") {
      message.targets.forEach((target) => this.#streamsOf(target).forEach(settle));
    } else {
      this.#isUnsettled = false;
      this.#streams.forEach(settle);
    }
  }

  #fail({ code }) {
    if (code === "RATE_LIMIT_EXCEEDED") {
      this._after("resend", RESEND_MS, () => this.#sendAgain());
    } else if (code === "TOKEN_REFRESH_ERROR") {
      // At the end of the old one the server closes with 4401, and the session goes on with another.
      this._forgetToken();
    } else if (code === "SESSION_RESTORATION_FAILED" && this.#isRestoring) {
      this.#begin();
    }
  }

  // Sessions.

  _query() {
    this.#isRestoring = this.#session !== null;
    this.#requests = this.#requests.filter(({ message }) => message.id);
    this.#requests.forEach((one) => (one.isAnswered = false));
    return this.#isRestoring
      ? { session_id: this.#session, last_sequence: this.#cursor, epoch: this.#epoch }
      : {};
  }

  _tokenMessage(token) {
    return { type: "refresh_token", token };
  }

  /** Where a session is to be restored, what the greeting says holds when the server's word about that has come. */
  #greet(greeting) {
    this._greeted(greeting.timestamp);
    this.#greeting = greeting;
    if (!this.#isRestoring) {
      this.#begin();
    }
  }

  /** It is a connection of its own: nothing is held on it. */
  #begin() {
    this.#isRestoring = false;
    this.#enter(false);
    this.#session = this.#greeting.connection_id;
    this.#cursor = 0;
    this.#raise(this.#greeting.sequence);
    this._opened(false, () => this.#askAgain());
  }

  #restored({ recovered, restored_subscriptions }) {
    if (!this.#isRestoring) {
      return;
    }
    this.#isRestoring = false;
    const restored = new Map(Object.entries(restored_subscriptions).map(([type, targets]) => [type, new Set(targets)]));
    const missing = this.#wanted((type, target) => !restored.get(type)?.has(target));
    const isWhole = missing.every(([, targets]) => targets.size === 0);
    this.#enter(recovered && isWhole);
    const waiting = this.#requests;
    this.#requests = [];
    if (!recovered && !this.#isPaused) {
      this.#requests.push({ message: { type: "snapshot" }, resolve: () => {}, isAnswered: true });
    }
    this._opened(recovered && isWhole, () => {
      this.#askFor(missing);
      this.#requests.push(...waiting);
      waiting.forEach(({ message }) => this.send(message));
    });
  }

  #enter(isRecovered) {
    const { epoch } = this.#greeting;
    if (!isRecovered) {
      this.#stale.clear();
    }
    if (!isRecovered || epoch !== this.#epoch) {
      // What the server has from before its start it says anew.
      this.#streams.forEach((stream) => (stream.isRestored = undefined));
    }
    if (epoch !== this.#epoch) {
      // The numbers begin anew. A restored session has everything still to come.
      const unknown = () => ({ seq: undefined, declared: [], isCut: false, isUnsettled: false });
      this.#streams.forEach((stream) => Object.assign(stream, unknown()));
      this.#cursor = 0;
    } else if (!isRecovered) {
      this.#cut();
    }
    this.#epoch = epoch;
  }

  _slowDown() {
    this.#session = null;
    for (const held of this.#held.values()) {
      held.forEach((options) => (options.mode = "latest"));
    }
  }

  _ended() {
    const waiting = this.#requests;
    this.#requests = [];
    this.#session = null;
    waiting.forEach(({ message, resolve }) => resolve(refused(message, "closed")));
  }

  // Numbers.

  #streamsOf(code) {
    const keys = [`price_update:${code}`, `orderbook_update:${code}`];
    return keys.map((key) => this.#streams.get(key)).filter(Boolean);
  }

  /** Only streams of what is held are kept; whose a symbol is that came by its market cannot be told. */
  #forgetStreams() {
    const stocks = this.#held.get("stock") ?? new Map();
    const hasGroups = ["market", "sector"].some((group) => this.#held.get(group)?.size);
    if (!hasGroups) {
      for (const key of this.#streams.keys()) {
        if (!stocks.has(key.slice(key.indexOf(":") + 1))) {
          this.#streams.delete(key);
        }
      }
      this.#stale.forEach((code) => stocks.has(code) || this.#stale.delete(code));
    }
  }

  /** What comes next may be further on than what was seen, and that was said. */
  #cut() {
    this.#streams.forEach((stream) => (stream.isCut = true));
  }

  /** What is declared beyond the bound is told as a gap as well. */
  #declare(item) {
    const { code, channel, from_seq, to_seq } = item;
    const stream = this.#streams.get(`${channel}_update:${code}`);
    if (stream && !(to_seq <= stream.seq)) {
      const last = stream.declared.at(-1);
      if (last && last[0] <= from_seq && from_seq <= last[1] + 1) {
        // A client that reads slowly is told of the same symbols again and again.
        last[1] = Math.max(last[1], to_seq);
      } else if (stream.declared.length < MOST_LOSSES) {
        stream.declared.push([from_seq, to_seq]);
      }
    }
    this._emit("lost", { ...item, cause: "overflow" });
  }

  /** Note the number of an update; false for one that has been seen. */
  #count(message, completeUpTo) {
    const { type, code, seq, sequence, timestamp } = message;
    const isSnapshot = completeUpTo !== undefined;
    const key = `${type}:${code}`;
    let stream = this.#streams.get(key);
    if (!stream) {
      stream = { seq: undefined, at: 0, isCut: false, isUnsettled: this.#isUnsettled, declared: [] };
      this.#streams.set(key, stream);
    }
    const last = stream.seq;
    if (seq < last || (seq === last && !isSnapshot)) {
      return false;
    }
    stream.at = Math.max(stream.at, Date.parse(timestamp) || 0);
    stream.isRestored = message.stale === true;
    const isComplete = this.#isComplete(type, code);
    if (!stream.isUnsettled && isComplete) {
      if (isSnapshot && last !== undefined && !stream.isCut) {
        return true; // Which numbers have come is known better.
      }
      if (seq > last + 1) {
        this.#tellHoles(stream, type, code, last + 1, seq - 1);
      }
    }
    stream.seq = isComplete && sequence > completeUpTo ? undefined : seq;
    stream.isCut = false;
    stream.declared = stream.declared.filter(([, to]) => to > seq);
    return true;
  }

  #tellHoles(stream, type, code, from, to) {
    const channel = type.replace("_update", "");
    for (const [from_seq, to_seq] of without(from, to, stream.declared)) {
      const hole = { code, channel, from_seq, to_seq, dropped: to_seq - from_seq + 1 };
      this._emit(...(stream.isCut ? ["lost", { ...hole, cause: "outage" }] : ["gap", hole]));
    }
  }

  /** Whether every update of a stream is to come. Of a market it is not known which symbols it has. */
  #isComplete(type, code) {
    const stock = this.#held.get("stock")?.get(code);
    if (stock) {
      return isAll(stock, "all", type);
    }
    const groups = ["market", "sector"].flatMap((group) => [...(this.#held.get(group)?.values() ?? [])]);
    return groups.length > 0 && groups.every((options) => isAll(options, "latest", type));
  }
}

/**
 * A client of the realtime dialect, whose messages are `{ type, data, timestamp }`: handlers get `data`, and the whole.
 *
 * This dialect has no sessions and no pauses: after an outage everything is subscribed to again, and a hidden tab
 * unsubscribes. Both bring the last known values when it goes on.
 */
export class FastwsRealtime extends Link {
  #held = { asset: new Set(), portfolio: new Set() };
  #times = new Map();
  #stale = new Set();
  /** Symbols whose value is from before the start of the server. */
  #restored = new Set();

  _ping = { type: "ping", data: {} };

  /** Hold `type` "asset" (symbols) or "portfolio" (ids), from now on and over all outages. */
  subscribe(type, targets) {
    this.#change(type, targets, true);
  }

  unsubscribe(type, targets) {
    this.#change(type, targets, false);
  }

  get subscriptions() {
    return { asset: [...this.#held.asset], portfolio: [...this.#held.portfolio] };
  }

  /** Milliseconds since the last update of a symbol was sent; undefined before the first. */
  age(symbol) {
    return this.#times.has(symbol) ? Math.max(0, this.now() - this.#times.get(symbol)) : undefined;
  }

  /**
   * Whether the server has said that a symbol is silent for longer than can be while its market trades, or has given
   * nothing of it but values from before its last start, which have `stale` themselves.
   */
  isStale(symbol) {
    return this.#stale.has(symbol) || this.#restored.has(symbol);
  }

  #change(type, targets, isWanted) {
    const held = this.#held[type];
    if (!held) {
      throw new TypeError(`subscriptions are to "asset" or "portfolio", not ${JSON.stringify(type)}`);
    }
    const changed = [...new Set([targets].flat())].filter((target) => held.has(target) !== isWanted);
    for (const target of changed) {
      held[isWanted ? "add" : "delete"](target);
      this.#times.delete(target);
      this.#stale.delete(target);
      this.#restored.delete(target);
    }
    this.#tell(type, changed, isWanted);
  }

  #tell(type, targets, isWanted) {
    if (isWanted && this.isHidden) {
      return;
    }
    const verb = isWanted ? "subscribe" : "unsubscribe";
    if (type === "asset") {
      for (const symbols of chunks(targets, TARGETS_PER_MESSAGE)) {
        this.send({ type: `${verb}_asset`, data: { symbols } });
      }
    } else {
      targets.forEach((portfolio_id) => this.send({ type: `${verb}_portfolio`, data: { portfolio_id } }));
    }
  }

  #tellAll(isWanted) {
    this.#tell("asset", [...this.#held.asset], isWanted);
    this.#tell("portfolio", [...this.#held.portfolio], isWanted);
  }

  _onHidden(isHidden) {
    this.#tellAll(!isHidden);
  }

  _receive(message) {
    const { type, timestamp } = message;
    const data = message.data ?? {};
    if (type === "connection") {
      this._greeted(timestamp);
      this.#stale.clear();
      this.#restored.clear();
      this._opened(false, () => this.#tellAll(true));
    } else if (type === "server_shutdown") {
      this._announced(data.reconnect_after_ms);
    } else if (type === "error" && data.code === "RATE_LIMIT_EXCEEDED") {
      // Which request was dropped is not said. What was to be unsubscribed from is of no harm.
      this._after("resend", RESEND_MS, () => this.#tellAll(!this.isHidden));
    } else if (type === "error" && data.code === "INVALID_TOKEN") {
      this._forgetToken();
    } else if (type === "asset_update" && this.#held.asset.has(data.symbol)) {
      this.#times.set(data.symbol, Date.parse(timestamp) || this.now());
      if (data.stale) {
        this.#restored.add(data.symbol);
      } else {
        this.#restored.delete(data.symbol);
        this.#stale.delete(data.symbol);
      }
    } else if (type === "symbol_status" && this.#held.asset.has(data.symbol)) {
      this.#stale[data.status === "stale" ? "add" : "delete"](data.symbol);
    }
    this._emit(type, data, message);
    this._emit("message", data, message);
  }

  _query() {
    return {};
  }

  _tokenMessage(token) {
    return { type: "auth", data: { token } };
  }

  // It is conflated always.
  _slowDown() {}

  _ended() {}
}

/** What a handler throws is the page's to see, and nothing to us. */
function report(error) {
  (globalThis.reportError ?? console.error)(error);
}

/** What `subscribe` resolves with when nothing was accepted. */
function refused({ targets = [] }, reason) {
  return { targets: [], rejected: targets.map((target) => ({ target, reason })) };
}

/** How far the clock of the day is ahead of the one that is never set: it changes when one of them stands still. */
function clocksApartMs() {
  return Date.now() - performance.now();
}

/** When a JWT ends, in milliseconds since 1970; Infinity for one that does not, or cannot be read. */
function expiryOf(token) {
  try {
    const claims = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    return 1000 * (JSON.parse(claims).exp ?? Infinity);
  } catch {
    return Infinity;
  }
}

/** What of the numbers `from` to `to` is in none of the ranges, as ranges. */
function without(from, to, ranges) {
  let left = [[from, to]];
  for (const [first, last] of ranges) {
    left = left.flatMap(([a, b]) =>
      last < a || first > b
        ? [[a, b]]
        : [[a, first - 1], [last + 1, b]].filter(([begin, end]) => begin <= end),
    );
  }
  return left;
}

function isAll({ mode, max_rate, channels }, defaultMode, type) {
  const channel = type.replace("_update", "");
  return (mode ?? defaultMode) === "all" && max_rate === undefined && (channels?.includes(channel) ?? true);
}

/** Targets by the text of their options. */
function byOptions(held) {
  const groups = new Map();
  for (const [target, options] of held) {
    const text = JSON.stringify(options);
    if (!groups.has(text)) {
      groups.set(text, []);
    }
    groups.get(text).push(target);
  }
  return groups;
}

function chunks(items, size) {
  const n = Math.ceil(items.length / size);
  return Array.from({ length: n }, (_, i) => items.slice(i * size, (i + 1) * size));
}
