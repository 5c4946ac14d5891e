/** Any value that JSON can carry. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Why a command failed. */
export class ThrongError extends Error {
  /**
   * The server's code, or one of the client's own:
   * - `unknown`: it was sent, the session was lost, and the recovery doesn't show whether it took effect;
   * - `closed`, `left`: the client was closed, or the room left, before it was sent;
   * - `queue_full`: more is waiting than `queue` allows;
   * - `message_too_large`: above what the server takes (65,536 bytes by default), or refused by something on the way (1009);
   * - `too_many_rooms`: 1,024 rooms, or as many as the server allows if that is more.
   */
  readonly code: string;
  constructor(code: string, message?: string);
}

export type State = "connecting" | "connected" | "resuming" | "closed";

export interface Status {
  /** `connecting` until the first connection stands, then `connected` and `resuming` in turn; `closed` is for good. */
  state: State;
  /** Attempts since the last connection that lasted 10 s. */
  attempt: number;
  /** When the next attempt begins, in ms like `Date.now()`. Absent while connected, and while an attempt is under way. */
  nextAttemptAt?: number;
  /** The close code of the connection that ended, if there was one. 1006: it broke without a word. */
  code?: number;
  reason?: string;
  /** What a token callback or the WebSocket constructor threw. */
  error?: unknown;
}

export interface ThrongOptions {
  /**
   * Proves who you are, where the server asks for it. A callback is called before the first connection, when its token's time is nearly
   * over, and when the server refuses the token; what it throws counts as a failed attempt. It has 20 s.
   */
  token?: string | (() => string | Promise<string>);
  /** A name, where the server asks for no token. */
  user?: string;
  /** What may wait for its acknowledgement, over all rooms: 1,000 commands and 1 MiB by default. Beyond it commands fail at once. */
  queue?: { count?: number; bytes?: number };
  /** Closes the client when aborted. */
  signal?: AbortSignal;
  /** Where none is built in (Node 20): that of the package `ws`. */
  WebSocket?: new (url: string, protocol: string) => any;
  /** For tests: time, chance and page in place of the real ones. */
  env?: Record<string, unknown>;
}

export interface JoinOptions<S = Json> {
  /** What the others see beside your name; implies `presence`. */
  state?: S;
  /** Whether to be told who is in the room. */
  presence?: boolean;
  /** `latest`: publications with a key may be skipped for newer ones of that key. */
  mode?: "all" | "latest";
  /** Whether your own publications come back to you. Default: no. */
  echo?: boolean;
  /** Leaves the room when aborted. */
  signal?: AbortSignal;
}

export interface Message<T = Json> {
  data: T;
  /** Its number in the room; absent if it was cast. Numbers may skip: only `gap` means that something is missing. */
  offset?: number;
  from: { user: string; connection: string };
  key?: string;
  /** The server's clock, in ms. */
  ts: number;
}

export interface Member<S = Json> {
  /** The connection's id; constant over reconnects. */
  id: string;
  user: string;
  info?: Json;
  state?: S;
}

export interface Presence<S = Json> {
  /** All of them, by connection id; empty if there is `counts`. */
  members: Map<string, Member<S>>;
  /** What changed, unless the whole list is new. */
  joins?: Member<S>[];
  leaves?: { user: string; id: string }[];
  updates?: { user: string; id: string; state: S }[];
  /** How many there are, in a room that is too large for a list. */
  counts?: { users: number; connections: number };
}

export interface Gap {
  reason: "expired" | "epoch_changed" | "window_exceeded" | "slow_consumer" | (string & {});
  /** The first and last offset that are missing; absent if numbering has begun anew. */
  from?: number;
  to?: number;
}

/** A page of what a room remembers. */
export interface History<T = Json> {
  /** The room's numbering, and the offset of its newest publication. */
  epoch: string;
  offset: number;
  /** Oldest first; your own are among them. */
  publications: Message<T>[];
  /** There are others after these: ask again with `since` at the last one's offset. */
  more?: true;
  /** Why they don't begin at `since`. */
  gap?: { reason: Gap["reason"] };
}

export interface RoomEvents<T, S> {
  /** A publication of somebody else; in order, each once. */
  message: Message<T>;
  /** The list has changed; `room.members` is it. */
  presence: Presence<S>;
  /** After a reconnect: all that was missed has been delivered; so many publications. */
  recovered: { count: number };
  /** Something is lost: load what you show anew. */
  gap: Gap;
  state: { state: "joining" | "joined" | "left"; reason?: string };
}

export interface ThrongEvents {
  state: Status;
  /** What no promise tells: the server's complaint, or a failed call for a new token. */
  error: ThrongError | unknown;
}

/** Ends a subscription. */
export type Off = () => void;

declare class Emitter<E> {
  /** Calls `listener` with each event of that name; returns its own un-subscriber. */
  on<K extends keyof E>(name: K, listener: (event: E[K]) => void, options?: { signal?: AbortSignal }): Off;
}

/** A room that was joined; it stays joined over reconnects, until it is left. */
export class Room<T = Json, S = Json> extends Emitter<RoomEvents<T, S>> {
  private constructor();
  readonly id: string;
  readonly state: "joining" | "joined" | "left";
  /** Who is there, by connection id. At most 10,000. */
  readonly members: Map<string, Member<S>>;
  readonly counts?: { users: number; connections: number };
  /**
   * Publishes to the room. Resolves when the server has acknowledged it; rejects with a {@link ThrongError} if it was refused, could not be
   * queued, or is `unknown`. `key`: it supersedes the last one of that key. `signal`: takes it back if it is not sent yet.
   */
  publish(data: T, options?: { key?: string; signal?: AbortSignal }): Promise<void>;
  /** Sends to those who are there now: unordered, unanswered, at most once. False if it was dropped. */
  cast(data: T): boolean;
  /** Changes what the others see beside your name. */
  setState(state: S, options?: { signal?: AbortSignal }): Promise<void>;
  /**
   * What the room remembers: from its oldest publication on, or after `since`. At most `limit` publications, and at most about 32 KiB.
   * Asked again over reconnects until the answer is there; rejects as `publish` does.
   */
  history(options?: { since?: { epoch: string; offset: number }; limit?: number; signal?: AbortSignal }): Promise<History<T>>;
  /** Leaves, and frees all that belongs to the room. What is not sent is rejected as `left`. */
  leave(): void;
}

/** A session with a server, over as many connections as it takes. */
export class Throng extends Emitter<ThrongEvents> {
  constructor(url: string | URL, options?: ThrongOptions);
  readonly state: State;
  /** What the last `state` event said. */
  readonly status: Status;
  /** This session's id: the `id` of its member in presence lists. */
  readonly id?: string;
  /** Joins a room. Joining one that is joined gives the same room. */
  join<T = Json, S = Json>(id: string, options?: JoinOptions<S>): Room<T, S>;
  /** Leaves all rooms, ends the session and frees all. What was not sent is rejected as `closed`, what was not acknowledged as `unknown`. */
  close(): void;
}
