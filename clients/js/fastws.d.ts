/** Types of the messages, and the clients. Fields that are not named here may come too. */

export type SubscriptionType = "stock" | "market" | "sector" | "portfolio";
export type Channel = "price" | "orderbook";
/** UTC, ISO 8601. */
export type Timestamp = string;
export type FeedState = "live" | "stale" | "reconnecting" | "stopped";
export type ErrorCode =
  | "INVALID_MESSAGE"
  | "INVALID_TOKEN"
  | "SUBSCRIPTION_FAILED"
  | "RATE_LIMIT_EXCEEDED"
  | "SESSION_RESTORATION_FAILED"
  | "TOKEN_REFRESH_ERROR"
  | "AUTH_REQUIRED"
  | "FORBIDDEN"
  | "LIMIT_EXCEEDED"
  | "INTERNAL_ERROR"
  /** The client's own: no connection could be tried, e.g. because the token hook has failed. */
  | "CONNECT_FAILED"
  /** The client's own: the token hook has failed, and is called again before the token ends. */
  | "TOKEN_HOOK_FAILED";

export interface Rejected {
  target: string;
  reason: string;
}

// What is published.

interface Published {
  /** When the server published it. */
  timestamp: Timestamp;
  /** One counter per server. */
  sequence: number;
}

interface SymbolUpdate extends Published {
  code: string;
  /** +1 per symbol and message type, from 1 in every epoch. */
  seq: number;
  venue?: "KRX" | "NXT" | "UN" | (string & {});
  quality?: "realtime" | "polled" | "simulated" | (string & {});
  /** The exchange's time. */
  event_time?: Timestamp;
  /** A value from before the last start of the server. */
  stale?: true;
  /** Set by the client: the last known value, and not a new one. */
  snapshot?: true;
}

export interface PriceUpdate extends SymbolUpdate {
  type: "price_update";
  name: string;
  price: number;
  /** Against the previous close. */
  change?: number;
  change_percent?: number;
  /** The day's total. */
  volume?: number;
  trade_volume?: number;
  high?: number;
  low?: number;
}

export interface Level {
  price: number;
  quantity: number;
}

export interface OrderbookUpdate extends SymbolUpdate {
  type: "orderbook_update";
  /** The best, that is the highest, first. */
  bids: Level[];
  /** The best, that is the lowest, first. */
  asks: Level[];
}

export interface MarketStatus extends Published {
  type: "market_status";
  market: string;
  status: string;
  snapshot?: true;
}

export interface FeedStatus extends Published {
  type: "feed_status";
  feed: string;
  status: FeedState;
}

/** A symbol is silent for longer than can be while its market trades, or is no longer. */
export interface SymbolStatus extends Published {
  type: "symbol_status";
  code: string;
  status: "stale" | "live";
  /** When its last price or order book was published. */
  last_update: Timestamp;
  /** How long it usually is from one to the next. */
  usual_interval_ms?: number;
  stale_after_ms?: number;
  snapshot?: true;
}

export interface Alert extends Published {
  type: "alert";
  code: string;
  alert_type: string;
  threshold: number;
  current_price: number;
  message: string;
}

export interface Portfolio {
  portfolio_id: number;
  name: string;
  total_value: number;
  daily_change: number;
  daily_change_percent: number;
  unpriced?: string[];
}

export interface PortfolioUpdate extends Published, Portfolio {
  type: "portfolio_update";
  snapshot?: true;
}

export type Update =
  | PriceUpdate
  | OrderbookUpdate
  | MarketStatus
  | FeedStatus
  | SymbolStatus
  | Alert
  | PortfolioUpdate;

/** What came together. Its messages have been told one by one when this is. */
export interface Batch extends Published {
  type: "batch";
  batch_size: number;
  snapshot?: true;
  /** An error is in the place of an update that could not be told. */
  messages: Array<Update | ServerError>;
}

// What is answered and announced.

interface Told {
  timestamp: Timestamp;
}

interface Answer extends Told {
  id?: string | number;
}

export interface Greeting extends Told {
  type: "connection";
  status: "connected";
  connection_id: string;
  authenticated: boolean;
  user_id: string | number | null;
  epoch: string;
  sequence: number;
  batch_interval_ms: number;
  limits: { subscriptions: number; rate_limit: number; message_bytes: number };
  feeds: Record<string, FeedState>;
}

export interface Subscribed extends Answer {
  type: "subscribed";
  subscription_type: SubscriptionType;
  targets: string[];
  rejected?: Rejected[];
}

export interface Unsubscribed extends Answer {
  type: "unsubscribed";
  subscription_type: SubscriptionType;
  targets: string[];
}

export interface Subscriptions extends Answer {
  type: "subscriptions";
  subscriptions: Partial<Record<SubscriptionType, string[]>>;
  rejected: Rejected[];
}

export interface Pong extends Answer {
  type: "pong";
}

export interface Authenticated extends Answer {
  type: "authenticated";
  user_id: string | number;
  expires_at: Timestamp | null;
}

export interface TokenRefreshed extends Answer {
  type: "token_refreshed";
  expires_at: Timestamp | null;
}

export interface Reconnected extends Answer {
  type: "reconnected";
  session_id: string;
  restored_subscriptions: Partial<Record<SubscriptionType, string[]>>;
  missed_messages_count: number;
  recovered: boolean;
}

export interface Paused extends Answer {
  type: "paused";
}

export interface Resumed extends Answer {
  type: "resumed";
}

export interface ServerShutdown extends Told {
  type: "server_shutdown";
  reconnect_after_ms: number;
}

/** `timestamp` is missing in the client's own errors. */
export interface ServerError {
  type: "error";
  code: ErrorCode;
  error_code: ErrorCode;
  message: string;
  details: Record<string, unknown>;
  timestamp?: Timestamp;
  id?: string | number;
}

export interface OverflowItem {
  /** The symbol; of a market_status the market. */
  code: string;
  channel: Channel | "market_status" | "feed_status" | "symbol_status" | "alert";
  dropped: number;
  from_seq: number;
  to_seq: number;
}

export interface Overflow {
  type: "overflow";
  items: OverflowItem[];
  timestamp: Timestamp;
}

// What the client tells of itself.

export type State = "connecting" | "open" | "waiting" | "closed";

export interface StateEvent {
  state: State;
  /** Of "open": whether the session went on with everything that was missed. False on a first connection. */
  recovered?: boolean;
  /**
   * Of "waiting" and "closed": the close code, 1006 without a close frame. After 4408 (this client was too slow) all
   * subscriptions are of mode latest.
   */
  code?: number;
  reason?: string;
  /** Of "waiting": when it is tried again. */
  delayMs?: number;
}

/** Updates that did not come and that nobody declared lost: a fault on the way. */
export interface Gap {
  code: string;
  channel: Channel;
  from_seq: number;
  to_seq: number;
  dropped: number;
}

/**
 * Updates that will not come, as the server has said: this client was too slow ("overflow"), or was away for longer
 * than the server remembers ("outage").
 */
export interface Lost extends Omit<OverflowItem, "channel"> {
  channel: OverflowItem["channel"];
  cause: "overflow" | "outage";
}

/** Targets that were held before an outage and were not accepted again: nothing comes of them any more. */
export interface Withdrawn {
  subscription_type: SubscriptionType;
  rejected: Rejected[];
}

/** Of messages: those of the server, also of a snapshot, one by one. */
export interface Events {
  price_update: PriceUpdate;
  orderbook_update: OrderbookUpdate;
  market_status: MarketStatus;
  feed_status: FeedStatus;
  symbol_status: SymbolStatus;
  alert: Alert;
  portfolio_update: PortfolioUpdate;
  batch: Batch;
  connection: Greeting;
  subscribed: Subscribed;
  unsubscribed: Unsubscribed;
  subscriptions: Subscriptions;
  pong: Pong;
  authenticated: Authenticated;
  token_refreshed: TokenRefreshed;
  reconnected: Reconnected;
  paused: Paused;
  resumed: Resumed;
  server_shutdown: ServerShutdown;
  overflow: Overflow;
  error: ServerError;
  /** Every message but `batch`, whatever its type. */
  message: Exclude<ServerMessage, Batch>;
  state: StateEvent;
  gap: Gap;
  lost: Lost;
  withdrawn: Withdrawn;
}

export type ServerMessage =
  | Update
  | Batch
  | Greeting
  | Subscribed
  | Unsubscribed
  | Subscriptions
  | Pong
  | Authenticated
  | TokenRefreshed
  | Reconnected
  | Paused
  | Resumed
  | ServerShutdown
  | Overflow
  | ServerError;

export type ClientMessage = { id?: string | number } & (
  | { type: "ping" }
  | { type: "list_subscriptions" }
  | { type: "auth"; token: string }
  | { type: "refresh_token"; token: string }
);

// The clients.

export interface Options {
  /**
   * A JWT; or what is called for one before the first connection, before the last one ends, and after the server has
   * refused it. It may return null, or nothing, to go on without. Where it throws or rejects, an `error` event tells, and it is
   * called again later.
   */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /** A class with the interface of the browsers' WebSocket, where there is none: of the package ws, for Node 20. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
  /** Whether to pause in hidden tabs; default true. */
  pauseHidden?: boolean;
  /** Milliseconds for an attempt, up to the restored session; default 15,000. */
  handshakeMs?: number;
  /**
   * Milliseconds of silence after which the server is asked for a sign of life, and after as many again given up; after
   * a third of them where the tab has just been shown, the network is back, or the machine has slept. Default 15,000.
   */
  heartbeatMs?: number;
  /** Milliseconds: reconnecting waits for a random part of a range that doubles from `min` (500) to `max` (30,000). */
  backoff?: { min?: number; max?: number };
}

export interface SubscribeOptions {
  /** Every update (the default of stock), or the newest value within a flush. */
  mode?: "all" | "latest";
  /** Values per second and symbol, at most; implies mode latest. */
  max_rate?: number;
  /** False: not to begin with the last known values. */
  snapshot?: boolean;
  channels?: Channel[];
}

export type Targets = string | number | Array<string | number>;

export interface Outcome {
  targets: string[];
  rejected: Rejected[];
}

declare class Link {
  constructor(url: string | URL, options?: Options);
  readonly state: State;
  /** Whether the tab is hidden, and that matters. */
  readonly isHidden: boolean;
  /** Milliseconds since 1970 by the clock of the server. */
  now(): number;
  connect(): void;
  close(): void;
  /** Milliseconds since the last update of a symbol was published; undefined before the first. */
  age(code: string): number | undefined;
  /**
   * Whether the server has said that a symbol is silent for longer than can be while its market trades, or has given
   * nothing of it but values from before its last start, which have `stale` themselves.
   *
   * Of a symbol that the server does not judge, or not yet, it is false as long as any other value came: look at `age`
   * as well.
   */
  isStale(code: string): boolean;
}

/** A client of the screener dialect, `/v1/ws`. */
export class Fastws extends Link {
  readonly subscriptions: Partial<Record<SubscriptionType, string[]>>;
  /** Resolves when the server has answered, which may be after an outage; never rejects. */
  subscribe(type: SubscriptionType, targets: Targets, options?: SubscribeOptions): Promise<Outcome>;
  unsubscribe(type: SubscriptionType, targets: Targets): Promise<Outcome>;
  /** False where there is no open connection. Subscriptions are for `subscribe`, which knows them after an outage. */
  send(message: ClientMessage): boolean;
  /** Returns what takes the handler away again. */
  on<Type extends keyof Events>(type: Type, handler: (event: Events[Type]) => unknown): () => void;
  off<Type extends keyof Events>(type: Type, handler: (event: Events[Type]) => unknown): void;
}

// The realtime dialect.

export interface Envelope<Type extends string, Data> {
  type: Type;
  data: Data;
  timestamp: Timestamp;
}

export interface AssetUpdate {
  symbol: string;
  price: number;
  change?: number;
  change_percent?: number;
  volume?: number;
  high?: number;
  low?: number;
  quality?: "realtime" | "polled" | "simulated" | (string & {});
  /** From before the last start of the server. */
  stale?: true;
}

export interface RealtimeData {
  connection: Pick<Greeting, "status" | "connection_id" | "authenticated" | "user_id">;
  pong: Record<string, never>;
  subscribed: { symbol: string } | { portfolio_id: number };
  unsubscribed: { symbol: string } | { portfolio_id: number };
  authenticated: { user_id: string | number; expires_at: Timestamp | null };
  overflow: { items: OverflowItem[] };
  server_shutdown: { reconnect_after_ms: number };
  alert: Omit<Alert, "type" | "timestamp" | "sequence">;
  asset_update: AssetUpdate;
  portfolio_update: Portfolio;
  feed_status: Omit<FeedStatus, "type" | "timestamp" | "sequence">;
  symbol_status: Omit<SymbolStatus, "type" | "timestamp" | "sequence" | "code" | "snapshot"> & { symbol: string };
  error: Pick<ServerError, "code" | "error_code" | "message" | "details">;
}

export type RealtimeMessage = {
  [Type in keyof RealtimeData]: Envelope<Type, RealtimeData[Type]>;
}[keyof RealtimeData];

/** Of messages: their `data`, and besides the whole. */
export interface RealtimeEvents extends RealtimeData {
  message: RealtimeData[keyof RealtimeData];
  state: StateEvent;
}

/** A client of the realtime dialect, `/ws/realtime/`. */
export class FastwsRealtime extends Link {
  readonly subscriptions: { asset: string[]; portfolio: number[] };
  subscribe(type: "asset", targets: string | string[]): void;
  subscribe(type: "portfolio", targets: number | number[]): void;
  unsubscribe(type: "asset", targets: string | string[]): void;
  unsubscribe(type: "portfolio", targets: number | number[]): void;
  send(message: { type: string; data: object; timestamp?: Timestamp }): boolean;
  on<Type extends keyof RealtimeEvents>(
    type: Type,
    handler: (event: RealtimeEvents[Type], envelope: RealtimeMessage) => unknown,
  ): () => void;
  off<Type extends keyof RealtimeEvents>(
    type: Type,
    handler: (event: RealtimeEvents[Type], envelope: RealtimeMessage) => unknown,
  ): void;
}
