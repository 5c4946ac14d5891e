/**
 * The browser client of throng: rooms, presence and ordered delivery over one WebSocket that may break at any time.
 *
 * It decides when to connect, what to send again, and what an application sees of a broken connection: as little as can be. All it
 * asks of the world is in `env` (time, chance, timers, socket, page), so tests drive it without waiting. It knows nothing of the DOM.
 *
 * Invariants: a command keeps its `seq` in its session, unless a resume puts a join before it: the server has not had it then. A
 * room's position moves before its listeners run. Frames of a socket that was given up are never seen. Each timer has a name, and none
 * outlives its connection or wait. Listeners run when the machine has come to rest, so they may call whatever they like. A frame of
 * type `x` is handled by `_on_x`, or ignored.
 */
const BASE_MS = 500; // Delays are uniform in 0 … min(CAP_MS, BASE_MS · 2ⁿ).
const CAP_MS = 30_000;
const CAPPED = 6; // The first n whose delay is capped.
const STABLE_MS = 10_000; // A connection this old ends the row of attempts: n is 0 again.
const OPEN_MS = 20_000; // One attempt, from the token to `welcome`.
const LATE_MS = 2_000; // A timer this late slept or was throttled: its silence proves nothing.
const LATE_MAX = 2; // A page throttled for good gives a silent socket up at the third late timer.
const TIMER_MAX = 2 ** 31 - 1; // Longer timers fire at once.
const ROOMS_MAX = 1024; // Unless the server allows more.
const MEMBERS_MAX = 10_000; // Connections listed in one room.
const PAST_MAX = 8; // Lost sessions whose publications are known as one's own.
const SEQ_BYTES = 24; // What a seq adds to a frame.
const CAST_BYTES = 65_536; // Volatile messages are dropped while this much waits for the socket.
const PAGE_EVENTS = ["online", "offline", "pagehide", "pageshow", "visibilitychange"];

const utf8 = new TextEncoder();
const nothing = () => {};

/** Why a command failed: `code` is the server's, or `unknown`, `closed`, `left`, `queue_full`, `message_too_large`. */
export class ThrongError extends Error {
  constructor(code, message = code) {
    super(message);
    this.name = "ThrongError";
    this.code = code;
  }
}

/** Calls `f` when the signal is aborted; returns what ends the wait. */
function whenAborted(signal, f) {
  if (!signal) return nothing;
  signal.throwIfAborted();
  signal.addEventListener("abort", f);
  return () => signal.removeEventListener("abort", f);
}

class Emitter {
  _listeners = new Map();

  on(name, listener, { signal } = {}) {
    if (typeof listener !== "function") throw new TypeError("a listener is a function");
    const all = this._listeners.get(name) ?? new Set();
    const entry = { listener, live: true };
    entry.off = () => {
      entry.live = false;
      forget();
      all.delete(entry);
    };
    const forget = whenAborted(signal, entry.off);
    this._listeners.set(name, all.add(entry));
    return entry.off;
  }

  _emit(name, event, last) {
    const { _outbox, _env } = this._throng;
    const entries = [...(this._listeners.get(name) ?? [])];
    if (entries.length && _outbox.push({ entries, event, last }) === 1) _env.defer(() => this._throng._deliver());
  }

  /** The last event is one of `state`; then nobody listens any more. */
  _finish(event) {
    this._emit("state", event, true);
    for (const all of this._listeners.values()) for (const entry of all) entry.off();
    this._listeners.clear();
  }
}

/** A room that was joined; it stays joined over reconnects, until it is left. Made by {@link Throng#join}. */
export class Room extends Emitter {
  /** `joining`, `joined` or `left`. */
  state = "joining";
  /** Connection id → `{id, user, info, state}`, in a room with presence that is not too large for it. */
  members = new Map();
  /** `{users, connections}` in a room that is too large for a list. */
  counts;

  constructor(throng, id, options) {
    super();
    this._throng = throng;
    this.id = id;
    this._options = { ...options };
    this._rejoin();
    this._forget = whenAborted(options.signal, () => this.leave());
  }

  /** Resolves once the server has decided it; with `key` it supersedes the last one of that key. */
  publish(data, { key, signal } = {}) {
    return this._throng._ask(this, "broadcast", { data, key, echo: this._options.echo }, signal);
  }

  /** Sends at most once, without order or answer; false if it was dropped. */
  cast(data) {
    const { _socket, _ready } = this._throng;
    const frame = this._throng._fitting("broadcast", this, { data });
    if (!_ready || this.state !== "joined" || _socket.bufferedAmount > CAST_BYTES) return false;
    _socket.send(frame.text);
    return true;
  }

  /** Tells the others of the room what this connection is up to. */
  setState(state, { signal } = {}) {
    this._options.state = state;
    return this._throng._ask(this, "set_state", { state }, signal);
  }

  /** A page of what the room remembers, the oldest first. */
  history({ since, limit, signal } = {}) {
    return this._throng._ask(this, "history", { since, limit }, signal);
  }

  leave() {
    this._throng._remove(this, "left", true);
  }

  _rejoin() {
    const { state, mode, presence = state !== undefined } = this._options;
    const since = this._epoch && { epoch: this._epoch, offset: this._offset };
    this._join = this._throng._frame("join_room", this, { since, presence, state, mode });
    this._join.since = since;
    this._throng._queue.push(this._join);
    if (this.state === "joined") this._become("joining");
  }

  _become(state, reason) {
    this.state = state;
    this._emit("state", { state, reason });
  }

  _on_room_joined(frame) {
    if (!this._join || frame.seq !== this._join.seq) return;
    const { since } = this._join;
    this._join = undefined;
    this._become("joined");
    this._recover(frame, since ? frame.offset : undefined);
    if (frame.version !== undefined) this._on_presence_state(frame);
  }

  /** Begins what follows a reconnect: all that was missed up to `head` or by `count`, or a gap. */
  _recover({ epoch = this._epoch, offset, gap, recovered = !gap, count }, head) {
    const from = this._offset + 1;
    const known = this._epoch;
    if (!known || !recovered) this._offset = offset;
    if (epoch !== known) this._version = undefined;
    this._epoch = epoch;
    if (!known) return;
    this._recovery = { head, count, seen: 0 };
    if (!recovered) this._on_gap({ reason: gap?.reason, ...(epoch === known && { from, to: offset }) });
    else if (count === 0 || head <= this._offset) this._recovered();
  }

  _recovered() {
    const count = this._recovery.seen;
    this._recovery = undefined;
    this._throng._disown(this);
    this._emit("recovered", { count });
  }

  _on_gap({ reason, from, to }) {
    if (to > this._offset) this._offset = to;
    this._recovery = undefined;
    this._throng._disown(this);
    this._emit("gap", { reason, from, to });
  }

  _on_broadcast(frame) {
    const { offset, seq, from } = frame;
    if (offset <= this._offset) return;
    this._offset = offset ?? this._offset;
    // A recovery after a lost session brings back what that session published, with a `seq` that only the author is told.
    const own = seq !== undefined || this._throng._past.includes(from?.connection);
    if (own) this._throng._recognise(from?.connection, seq);
    if (offset !== undefined && this._recovery) this._recovery.seen++;
    if (!own || this._options.echo) this._emit("message", frame);
    const recovery = this._recovery;
    if (recovery && (recovery.seen === recovery.count || offset >= recovery.head)) this._recovered();
  }

  _on_presence_state(frame) {
    if (frame.id !== undefined && frame.id !== this._question) return;
    if (frame.id === undefined || !this._paging) {
      this.members.clear();
      this._version = frame.version;
    }
    this._question = this.counts = undefined;
    if (frame.counts) return this._count(frame);
    for (const { connections, ...user } of frame.members ?? []) for (const member of connections) this._put({ ...user, ...member });
    if (frame.cursor !== undefined) this._inquire(frame.cursor);
    else this._emit("presence", { members: this.members });
  }

  _count({ counts }) {
    // A list that follows has to be whole: no diff applies to a number.
    this._version = undefined;
    this.members.clear();
    this.counts = counts;
    this._emit("presence", { members: this.members, counts });
  }

  _on_presence_diff(frame) {
    if (frame.counts) return this._count(frame);
    const current = frame.epoch === this._epoch;
    if (current && frame.version <= this._version) return;
    if (!current || frame.version !== this._version + 1) {
      if (this._question === undefined) this._inquire();
      return;
    }
    const { joins = [], leaves = [], updates = [] } = frame;
    this._version++;
    for (const member of joins) this._put(member);
    for (const { id } of leaves) this.members.delete(id);
    for (const member of updates) this._put({ ...this.members.get(member.id), ...member });
    if (this._question === undefined) this._emit("presence", { members: this.members, joins, leaves, updates });
  }

  _on_room_left({ reason }) {
    // Who left by itself knows it, and may be back.
    if (reason !== "left") this._throng._remove(this, reason);
  }

  _put(member) {
    if (this.members.size < MEMBERS_MAX || this.members.has(member.id)) this.members.set(member.id, member);
  }

  _inquire(cursor) {
    this._paging = cursor !== undefined;
    this._question = `${++this._throng._questions}`;
    this._throng._send({ type: "presence", roomId: this.id, id: this._question, cursor });
  }

  /** A page whose cursor is gone is asked for from the start; whatever else was refused waits for the next diff. */
  _refused() {
    this._question = this._version = undefined;
    if (this._paging) this._inquire();
  }

  _free(reason) {
    this._forget();
    this.state = "left";
    this.members.clear();
    this._recovery = this._join = undefined;
    this._finish({ state: "left", reason });
  }
}

/** A session with a server, over as many connections as it takes. */
export class Throng extends Emitter {
  /** `connecting`, `connected`, `resuming` or `closed`. */
  state = "connecting";
  /** What `state` listeners last heard: `{state, attempt, nextAttemptAt, code, reason, error}`. */
  status;
  /** The session's id, which presence lists as this connection's. */
  id;

  _throng = this;
  _outbox = []; // Listeners to be called, with their event.
  _timers = new Map();
  _rooms = new Map();
  _queue = []; // Never sent: in the order in which they will be.
  _sent = new Map(); // seq → command that is not acknowledged.
  _orphans = new Set(); // Publications of a lost session, looked for in the recovery.
  _past = []; // Ids of sessions that were lost, the last first.
  _limits = {};
  _count = 0;
  _bytes = 0;
  _questions = 0;
  _attempt = 1; // Attempts since the last stable connection.
  _notBefore = 0;
  _spreadMs = 0;
  _expiry = Infinity;

  constructor(url, options = {}) {
    super();
    this._url = `${url}`;
    this._options = { count: 1000, bytes: 1 << 20, ...options.queue, token: options.token, user: options.user };
    this._env = {
      now: Date.now,
      random: Math.random,
      setTimeout: setTimeout.bind(),
      clearTimeout: clearTimeout.bind(),
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
      defer: queueMicrotask.bind(),
      page: globalThis.addEventListener && globalThis,
      ...options.env,
    };
    if (!this._env.WebSocket) throw new TypeError("no WebSocket: pass one");
    this._forget = whenAborted(options.signal, () => this.close());
    for (const type of PAGE_EVENTS) this._env.page?.addEventListener(type, this._onPage);
    this._open();
  }

  /** Joins a room, for good; the same room again while it is joined. */
  join(id, options = {}) {
    if (this.state === "closed") throw new ThrongError("closed");
    const joined = this._rooms.get(id);
    if (joined) return joined;
    if (this._rooms.size >= Math.max(ROOMS_MAX, this._limits.maxRooms ?? 0)) throw new ThrongError("too_many_rooms");
    options.signal?.throwIfAborted();
    const room = new Room(this, id, options);
    this._rooms.set(id, room);
    this._flush();
    return room;
  }

  /** Leaves every room, ends the session, and frees all it holds. What is not acknowledged is rejected. */
  close() {
    this._end({ code: 1000 });
  }

  // ---- Commands ----

  _frame(type, room, fields) {
    const text = JSON.stringify({ type, roomId: room.id, ...fields });
    const bytes = utf8.encode(text).length + SEQ_BYTES;
    return { type, room, text, bytes };
  }

  _fitting(type, room, fields) {
    if (type !== "history" && fields.data === undefined && fields.state === undefined) throw new TypeError("not JSON");
    const frame = this._frame(type, room, fields);
    if (frame.bytes > (this._limits.maxMessageBytes ?? 65_536)) throw new ThrongError("message_too_large");
    return frame;
  }

  /** Queues a command that somebody waits for. */
  async _ask(room, type, fields, signal) {
    if (room.state === "left") throw new ThrongError(this.state === "closed" ? "closed" : "left");
    const command = this._fitting(type, room, fields);
    const { count, bytes } = this._options;
    if (this._count >= count || this._bytes + command.bytes > bytes) throw new ThrongError("queue_full");
    command.forget = whenAborted(signal, () => {
      command.reject(signal.reason);
      // What was sent may take effect, and its number must not be missing: it goes on, unwaited for.
      if (!this._queue.includes(command)) return;
      this._queue.splice(this._queue.indexOf(command), 1);
      this._settle(command);
    });
    command.counted = true;
    this._count++;
    this._bytes += command.bytes;
    return new Promise((resolve, reject) => {
      Object.assign(command, { resolve, reject });
      this._queue.push(command);
      this._flush();
    });
  }

  /** The one end of a command, whatever its fate. */
  _settle(command, code, message) {
    // The number of an orphan may be another command's by now.
    if (this._sent.get(command.seq) === command) this._sent.delete(command.seq);
    // A question is asked again until its answer has come.
    if (command.type === "history" && !command.answered && !code) return this._queue.push(command);
    this._orphans.delete(command);
    command.forget?.();
    if (command.counted) {
      this._count--;
      this._bytes -= command.bytes;
    }
    if (!code) command.resolve?.();
    else if (command.type === "join_room" && command.room._join === command) this._remove(command.room, code);
    else command.reject?.(new ThrongError(code, message));
  }

  _flush() {
    const window = this._limits.window ?? 64;
    while (this._ready && this._queue.length && this._sent.size < window && !this._timers.has("retry")) {
      const command = this._queue.shift();
      command.seq = ++this._seq;
      this._sent.set(command.seq, command);
      this._transmit(command);
    }
  }

  _transmit(command) {
    command.held = false;
    // A question names itself by `id`, in its answer and in a refusal.
    const id = command.type === "history" ? `,"id":${command.seq}` : "";
    this._socket.send(`${command.text.slice(0, -1)},"seq":${command.seq}${id}}`);
  }

  _send(frame) {
    if (this._ready) this._socket.send(JSON.stringify(frame));
  }

  /** Settles what is decided: all up to `seq`. */
  _decide(seq, failed) {
    this._acked = seq;
    for (const command of this._sent.values()) {
      if (command.seq > seq) break;
      command.decided = true;
      this._settle(command, failed?.get(command.seq)?.code);
    }
  }

  _remove(room, reason, tell) {
    if (this._rooms.get(room.id) !== room) return;
    this._rooms.delete(room.id);
    const waiting = this._queue.filter((command) => command.room === room);
    this._queue = this._queue.filter((command) => command.room !== room);
    // A room whose join was never sent is left in silence.
    if (tell && !waiting.includes(room._join)) this._queue.push(this._frame("leave_room", room));
    for (const command of waiting) this._settle(command, "left");
    this._disown(room);
    room._free(reason);
    this._flush();
  }

  /** The recovery is over: what did not come back in it may or may not have been published. */
  _disown(room) {
    for (const command of this._orphans) if (command.room === room) this._settle(command, "unknown");
  }

  _recognise(session, seq) {
    for (const command of this._orphans) if (command.session === session && command.seq === seq) this._settle(command);
  }

  // ---- Frames ----

  _receive(text) {
    let frame;
    try {
      frame = Object(JSON.parse(text));
    } catch {
      return this._lose({ code: 4900, reason: "not JSON" });
    }
    this._heardAt = this._env.now();
    this._pinged = false;
    const room = this._rooms.get(frame.roomId);
    if (room?.state === "joined" || frame.type === "room_joined") room?.[`_on_${frame.type}`]?.(frame);
    this[`_on_${frame.type}`]?.(frame);
  }

  _on_ack({ seq }) {
    this._decide(seq);
    this._flush();
  }

  _on_nack({ expectedSeq }) {
    if (this._sent.get(expectedSeq)?.held) return;
    for (const command of this._sent.values()) if (command.seq >= expectedSeq) this._transmit(command);
  }

  _on_reconnect({ afterMs = 0, url, reason }) {
    this._notBefore = this._env.now() + afterMs;
    this._redirect = url;
    this._timer("move", afterMs, () => this._lose({ code: 4900, reason }));
  }

  _on_error({ seq, id, code, message, retryable, retryAfterMs = BASE_MS }) {
    const command = this._sent.get(seq ?? id);
    if (command && retryable) {
      command.held = true;
      this._timer("retry", retryAfterMs, () => {
        for (const command of this._sent.values()) if (command.held) this._transmit(command);
        this._flush();
      });
    } else if (command) this._settle(command, code, message);
    else if (id !== undefined) {
      for (const room of this._rooms.values()) if (room._question === id) room._refused();
    } else if (seq === undefined) this._emit("error", new ThrongError(code, message));
  }

  _on_history(frame) {
    const command = this._sent.get(frame.id);
    if (!command) return;
    command.answered = true;
    command.resolve(frame);
  }

  _on_welcome(frame) {
    this._cancel("open");
    this._ready = this._had = true;
    this._connectedAt = this._heardAt;
    this._renewed = false;
    this._spreadMs = frame.spreadMs ?? 0;
    this._limits = frame.limits ?? {};
    this._heartbeatMs = frame.heartbeatMs ?? 25_000;
    this._timeoutMs = frame.timeoutMs ?? 6_000;
    if (frame.resumed) this._resume(frame);
    else this._startOver();
    this._token = frame.resumeToken;
    this.id = frame.sessionId;
    this._watch(this._heartbeatMs);
    this._on_refreshed(frame);
    this._flush();
    this._announce();
  }

  _resume({ nextSeq, rooms = {}, failed = [] }) {
    this._decide(nextSeq - 1, new Map(failed.map((refusal) => [refusal.seq, refusal])));
    // What the server has not had is numbered anew, behind the joins of rooms that it is not in any more: there it needs a member.
    const waiting = [...this._sent.values(), ...this._queue];
    this._sent.clear();
    this._queue = [];
    this._seq = nextSeq - 1;
    const resumed = new Map(Object.entries(rooms));
    for (const room of [...this._rooms.values()]) {
      const found = resumed.get(room.id);
      if (room._join && !room._join.decided) continue; // It waits, too.
      if (!found || (!room._epoch && !found.gap)) room._rejoin();
      else {
        room._join = undefined;
        if (room.state !== "joined") room._become("joined");
        room._recover(found);
      }
    }
    this._queue.push(...waiting);
  }

  /** A new session: rooms are joined again where they were, and what was sent is not sent blindly. */
  _startOver() {
    const sent = [...this._sent.values()];
    this._past = [this.id ?? "", ...this._past].slice(0, PAST_MAX);
    const waiting = this._queue.filter(({ counted }) => counted);
    this._sent.clear();
    this._queue = [];
    this._seq = this._acked = 0;
    for (const room of this._rooms.values()) room._rejoin();
    for (const command of sent) {
      // A state may be set twice, a question asked twice.
      if (/^[hs]/.test(command.type) && command.room.state !== "left") this._queue.push(command);
      else if (command.type === "broadcast" && command.room._join?.since) {
        command.session = this.id;
        this._orphans.add(command);
      } else this._settle(command, command.counted && "unknown");
    }
    this._queue.push(...waiting);
  }

  // ---- Connections ----

  _open() {
    const { token } = this._options;
    this._announce();
    this._timer("open", OPEN_MS, () => this._lose({ reason: "timeout" }));
    if (typeof token !== "function") return this._dial(token);
    if (this._auth !== undefined && this._env.now() < this._expiry) return this._dial(this._auth);
    const attempt = (this._opening = {});
    const current = () => this._opening === attempt;
    this._newToken().then(
      () => current() && this._dial(this._auth),
      (error) => current() && this._lose({ error }),
    );
  }

  async _newToken() {
    this._expiry = Infinity;
    this._auth = await this._options.token();
  }

  _dial(token) {
    const { WebSocket } = this._env;
    const url = this._redirect ?? this._url;
    this._redirect = undefined;
    let socket;
    try {
      socket = this._socket = new WebSocket(url, "throng.v1");
    } catch (error) {
      return url === this._url ? this._end({ error }) : this._lose({ error });
    }
    socket.onopen = () => socket.send(JSON.stringify(this._hello(token)));
    socket.onmessage = ({ data }) => this._receive(data);
    socket.onclose = ({ code, reason }) => this._lose({ code, reason });
    socket.onerror = nothing; // A close follows.
  }

  _hello(token) {
    const rooms = { __proto__: null };
    for (const { id, _epoch: epoch, _offset: offset, _version: version } of this._rooms.values())
      if (epoch) rooms[id] = { epoch, offset, version };
    return {
      type: "connect",
      token,
      user: this._options.user,
      client: "throng.js/0.1",
      attempt: this._attempt,
      lastCode: this._lastCode,
      resume: this._token && { token: this._token, acked: this._acked, rooms },
    };
  }

  /** Lets go of the socket; nothing of it is heard any more. */
  _drop(code) {
    const socket = this._socket;
    this._opening = this._socket = undefined;
    for (const name of this._timers.keys()) this._cancel(name);
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code === 1000 || code === 4901 ? code : 4900);
  }

  /** A connection or an attempt is over: close codes as in section 7 of the protocol. */
  _lose({ code, reason, error }) {
    const now = this._env.now();
    this._drop(code);
    if (this._ready && now - this._connectedAt >= STABLE_MS) this._attempt = 0;
    this._ready = false;
    this._lastCode = code;
    for (const room of this._rooms.values()) if (room._question !== undefined) room._question = room._version = undefined;
    const retryAfterMs = adviceIn(reason);
    this._notBefore = Math.max(this._notBefore, now + (retryAfterMs ?? 0));
    const status = { code, reason, error };
    const is = (...codes) => codes.includes(code);

    if (is(1000, 1001, 1005)) return this._end(status);
    if (is(4001) && typeof this._options.token === "function" && !this._renewed) this._renewed = true;
    // A slow handshake is closed with a 4004 that says when to come again.
    else if (code >= 4000 && code < 4100 && retryAfterMs === undefined) return this._end(status);
    if (is(4001, 4204)) this._auth = undefined;
    if (is(1002, 1003, 1007)) this._attempt = Math.max(this._attempt, CAPPED);
    if (is(1009, 4202, 4203)) this._token = undefined;
    if (is(1009)) {
      const [largest] = [...this._sent.values()].sort((a, b) => b.bytes - a.bytes);
      if (largest) this._settle(largest, "message_too_large");
    }
    this._schedule(status);
  }

  _schedule(status) {
    if (this._hidden) return this._announce(status);
    const n = this._attempt++;
    const window = Math.max(Math.min(CAP_MS, BASE_MS * 2 ** n), n && this._spreadMs);
    this._attemptAt(this._env.now() + this._env.random() * window, status);
  }

  _attemptAt(at, status) {
    this._nextAt = Math.max(at, this._notBefore);
    this._timer("attempt", this._nextAt - this._env.now(), () => this._open());
    this._announce({ ...status, nextAttemptAt: this._nextAt });
  }

  _announce(status) {
    this._become(this._ready ? "connected" : this._had ? "resuming" : "connecting", status);
    this._emit("state", this.status);
  }

  _become(state, status) {
    this.state = state;
    this.status = { state, attempt: this._attempt, ...status };
  }

  _end(status) {
    if (this.state === "closed") return;
    this._ready = false;
    this._become("closed", status);
    this._drop(1000);
    this._forget();
    for (const type of PAGE_EVENTS) this._env.page?.removeEventListener(type, this._onPage);
    for (const room of this._rooms.values()) room._free("closed");
    this._rooms.clear();
    for (const command of this._queue.splice(0)) this._settle(command, "closed");
    for (const command of [...this._sent.values(), ...this._orphans]) this._settle(command, "unknown");
    this._token = this._auth = undefined;
    this._finish(this.status);
  }

  // ---- Time ----

  _deliver() {
    for (const { entries, event, last } of this._outbox) {
      for (const entry of entries) {
        try {
          if (entry.live || last) entry.listener(event);
        } catch (error) {
          // An application's mistake must not stop the machine.
          (globalThis.reportError ?? console.error)(error);
        }
      }
    }
    this._outbox = [];
  }

  // ---- Time ----

  _timer(name, ms, f) {
    this._cancel(name);
    const run = () => {
      this._timers.delete(name);
      f();
    };
    this._timers.set(name, this._env.setTimeout(run, Math.min(ms, TIMER_MAX)));
  }

  _cancel(name) {
    this._env.clearTimeout(this._timers.get(name));
    this._timers.delete(name);
  }

  /** Script sees no pings: whoever is silent for a heartbeat is asked, and given up after a timeout in which timers ran. */
  _watch(ms) {
    const due = this._env.now() + ms;
    this._timer("live", ms, () => {
      const now = this._env.now();
      const silent = now - this._heardAt;
      if (this._pinged && (now - due <= LATE_MS || ++this._late > LATE_MAX)) return this._lose({ code: 4900, reason: "silent" });
      // A clock that was set back says nothing either.
      if (!this._pinged && silent >= 0 && silent < this._heartbeatMs) this._watch(this._heartbeatMs - silent);
      else this._ping();
    });
  }

  _ping() {
    if (!this._pinged) this._late = 0;
    this._pinged = true;
    this._send({ type: "ping" });
    this._watch(this._timeoutMs);
  }

  /** The application's token is renewed when four fifths of its time are over; a failed call is repeated. */
  _on_refreshed({ tokenTtlMs: ttlMs }) {
    const { token } = this._options;
    if (ttlMs === undefined || typeof token !== "function") return;
    this._expiry = this._env.now() + ttlMs;
    const renew = async () => {
      try {
        await this._newToken();
        this._send({ type: "refresh", token: this._auth });
      } catch (error) {
        this._emit("error", error);
        if (this._ready) this._timer("renew", Math.max(1000, ttlMs / 20), renew);
      }
    };
    this._timer("renew", ttlMs * 0.8, renew);
  }

  _onPage = ({ type, persisted }) => {
    if (type === "pagehide") {
      if (!persisted) return;
      // A page that is kept must hold no socket; its session waits for it.
      this._hidden = true;
      this._lose({ code: 4901, reason: "hidden" });
    } else if (type === "pageshow") {
      if (!this._hidden) return;
      this._hidden = false;
      this._schedule();
      this._wake();
    } else if (!this._hidden && !this._env.page.document?.hidden) this._wake();
  };

  /** Something changed for the better or worse: ask the socket, or try soon. Never before the server's advice is over. */
  _wake() {
    if (this._ready && !this._pinged) this._ping();
    const at = this._env.now() + this._env.random() * BASE_MS;
    if (this._timers.has("attempt") && at < this._nextAt) this._attemptAt(at, this.status);
  }
}

/** The `retryAfterMs` in a close reason, if it has one. */
function adviceIn(reason) {
  try {
    const { ra } = JSON.parse(reason);
    if (ra >= 0) return ra;
  } catch {}
}
