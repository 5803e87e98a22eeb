// One WebSocket at a time, and what is known of it.

import { websocketUrl } from "../common/paths.js";
import { parse } from "./json.js";
import { Replies } from "./replies.js";

/**
 * The address and the subprotocols of a connection with these settings, which are `{ path, token, carrier, session,
 * cursor, compression }`; `cursor` is `{ sequence, epoch }` or null. `bare` is the address without the token.
 */
export function addressOf({ path, token, carrier, session, cursor, compression }) {
  const url = new URL(websocketUrl(path));
  if (session) {
    url.searchParams.set("session_id", session);
    if (cursor) {
      url.searchParams.set("last_sequence", cursor.sequence);
      url.searchParams.set("epoch", cursor.epoch);
    }
  }
  if (!compression) url.searchParams.set("compression", "off");
  const bare = url.href;
  if (token && carrier === "query") url.searchParams.set("token", token);
  const protocols = token && carrier === "subprotocol" ? ["fastws", `bearer.${token}`] : [];
  return { url: url.href, bare, protocols };
}

/**
 * 1. `onstate(state, event)` tells of every change: `connecting`, `open`, `closing`, and `closed` with the CloseEvent.
 * 2. `onmessage({ direction, text, message, replyMs })` tells of every message, in order; `message` is undefined where
 *    `text` is no JSON, and `text` is null where it was binary data, whose `size` it has then.
 * 3. A socket that was given up for another one tells nothing more.
 */
export class Connection {
  #socket = null;
  #replies = new Replies(new Map());
  #began = 0;
  state = "idle";
  hasOpened = false;
  openedInMs = null;
  /** Where it is connected to, without the token. */
  address = "";
  /** `{ id, sequence, epoch }` of the newest connection that was greeted with an epoch: what can be restored. */
  session = null;
  /** The newest greeting of this connection, null before it. */
  greeting = null;

  constructor({ onstate, onmessage }) {
    this.onstate = onstate;
    this.onmessage = onmessage;
  }

  /** Connect; `types` are those of `Replies`. Throws what the browser says where it takes no such address or token. */
  open({ url, bare, protocols }, types) {
    const socket = new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.address = bare;
    this.#replies = new Replies(types);
    this.#began = performance.now();
    this.hasOpened = false;
    this.openedInMs = null;
    this.greeting = null;
    const isCurrent = () => this.#socket === socket;
    socket.onopen = () => {
      if (!isCurrent()) return;
      this.hasOpened = true;
      this.openedInMs = performance.now() - this.#began;
      this.#become("open");
    };
    socket.onmessage = ({ data }) => isCurrent() && this.#received(data);
    socket.onclose = (event) => isCurrent() && this.#become("closed", event);
    this.#become("connecting");
  }

  close() {
    this.#socket.close(1000, "closed by the test page");
    this.#become("closing");
  }

  send(text) {
    this.#socket.send(text);
    const message = parse(text);
    this.#replies.sent(message, performance.now());
    this.onmessage({ direction: "sent", text, message, replyMs: null });
  }

  get extensions() {
    return this.#socket?.extensions ?? "";
  }

  get protocol() {
    return this.#socket?.protocol ?? "";
  }

  #become(state, event) {
    this.state = state;
    this.onstate(state, event);
  }

  #received(data) {
    if (typeof data !== "string") {
      this.onmessage({ direction: "received", text: null, size: data.byteLength, replyMs: null });
      return;
    }
    const message = parse(data);
    const replyMs = this.#replies.received(message, performance.now());
    this.#note(message);
    this.onmessage({ direction: "received", text: data, message, replyMs });
  }

  #note(message) {
    if (message?.type === "connection") {
      // In the realtime dialect it is in `data`.
      this.greeting = message.data ?? message;
      if (message.epoch !== undefined) {
        this.session = { id: message.connection_id, sequence: message.sequence, epoch: message.epoch };
      }
    } else if (message?.type === "reconnected" && this.session !== null) {
      this.session.id = message.session_id;
    }
    if (this.session !== null && message?.sequence > this.session.sequence) {
      this.session.sequence = message.sequence;
    }
  }
}
