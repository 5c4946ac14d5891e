/**
 * A world without waiting: virtual time, seeded chance, timers, a page, and sockets whose other end is in the test's hands.
 *
 * It knows nothing of the protocol. Invariant: nothing happens but in `run` and what a test calls; listeners of the client run when
 * the event that caused them is over, as microtasks do.
 */

/** Numbers in [0, 1) that a seed repeats (splitmix32). */
export function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** A page: an event target that counts its listeners. */
export class Page {
  listeners = new Map();
  document = { hidden: false };

  addEventListener(type, listener) {
    if (!this.listeners.has(type)) this.listeners.set(type, new Set());
    this.listeners.get(type).add(listener);
  }
  removeEventListener(type, listener) {
    this.listeners.get(type)?.delete(listener);
  }
  get count() {
    return [...this.listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }
}

export class World {
  time = 1_700_000_000_000;
  timers = new Map();
  deferred = [];
  sockets = [];
  page = new Page();
  steps = 0;
  #id = 0;

  constructor(seed = 1) {
    this.random = chance(seed);
  }

  /** What a client is given. `WebSocket` reports each new socket to `onSocket`, or leaves it in `sockets`. */
  env(more = {}) {
    const world = this;
    return {
      now: () => world.time,
      random: () => world.random(),
      setTimeout: (f, ms) => world.timer(f, ms),
      clearTimeout: (id) => world.timers.delete(id),
      defer: (f) => world.deferred.push(f),
      page: world.page,
      WebSocket: class extends Socket {
        constructor(url, protocol) {
          super(world, url, protocol);
          world.sockets.push(this);
          world.onSocket?.(this);
        }
      },
      ...more,
    };
  }

  timer(f, ms) {
    if (!(ms >= 0 && ms < 2 ** 31)) throw new Error(`a timer of ${ms} ms`);
    const id = ++this.#id;
    this.timers.set(id, { at: this.time + ms, f, id });
    return id;
  }

  /** Runs an event and what it deferred. */
  act(f) {
    const result = f();
    while (this.deferred.length) this.deferred.shift()();
    return result;
  }

  next() {
    let first;
    for (const timer of this.timers.values()) if (!first || timer.at < first.at || (timer.at === first.at && timer.id < first.id)) first = timer;
    return first;
  }

  /** Lets `ms` pass, with every timer on time. */
  run(ms) {
    const until = this.time + ms;
    for (let timer = this.next(); timer && timer.at <= until; timer = this.next()) {
      this.timers.delete(timer.id);
      this.time = Math.max(this.time, timer.at);
      this.steps++;
      this.act(timer.f);
    }
    this.time = until;
  }

  /** Lets `ms` pass while no timer runs; those that are due run late, all at the end. */
  sleep(ms) {
    this.time += ms;
    const due = [...this.timers.values()].filter(({ at }) => at <= this.time);
    for (const { id, f } of due) if (this.timers.delete(id)) this.act(f);
  }

  /** A page event, to all listeners of the page. */
  event(type, more = {}) {
    const listeners = [...(this.page.listeners.get(type) ?? [])];
    this.act(() => listeners.forEach((listener) => listener({ type, ...more })));
  }

  get socket() {
    return this.sockets.at(-1);
  }
}

/** One end of a connection, as script sees it. The other end is `sent` (parsed frames) and the methods below. */
export class Socket {
  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;

  constructor(world, url, protocol) {
    Object.assign(this, { world, url, protocol });
  }

  send(text) {
    if (this.readyState === 0) throw new Error("InvalidStateError: still connecting");
    if (this.readyState !== 1) return;
    const frame = JSON.parse(text);
    this.sent.push(frame);
    this.onsend?.(frame);
  }

  close(code, reason) {
    // As browsers have it.
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) throw new Error(`InvalidAccessError: ${code}`);
    if (this.readyState >= 2) return;
    this.readyState = 2;
    this.closedWith = code;
    this.ongone?.(code, reason);
  }

  /** What the other end does. */
  opens() {
    this.readyState = 1;
    this.world.act(() => this.onopen?.({}));
  }
  says(frame) {
    this.world.act(() => this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) }));
  }
  closes(code = 1006, reason = "") {
    this.readyState = 3;
    this.world.act(() => this.onclose?.({ code, reason: typeof reason === "string" ? reason : JSON.stringify(reason) }));
  }

  /** Handlers that still hold the client. */
  get held() {
    return [this.onopen, this.onmessage, this.onclose].filter(Boolean).length;
  }
}
