/** Verify that `close()`, `leave()` and un-subscribers free every listener, timer and buffer, and that memory has bounds. */
import assert from "node:assert/strict";
import test from "node:test";
import { Throng } from "../../src/web/throng.js";
import { Script, fate, settle } from "./support.mjs";
import { World } from "./world.mjs";

/** All that a client holds, by size. */
function holds(t, world) {
  const sizes = { timers: world.timers.size, page: world.page.count, deferred: world.deferred.length };
  for (const name of Object.keys(t)) {
    const size = t[name]?.size ?? (Array.isArray(t[name]) ? t[name].length : undefined);
    if (size !== undefined) sizes[name] = size;
  }
  sizes.budget = t._count + t._bytes;
  return sizes;
}

/** A client in whatever phase, with a room that has listeners, members and publications. */
function busy(phase) {
  const script = new Script({ queue: { count: 100 } });
  const fates = [];
  const room = script.do(() => script.t.join("r", { state: 1 }));
  for (const name of ["message", "presence", "recovered", "gap", "state"]) room.on(name, () => {});
  fates.push(fate(script.do(() => room.publish("early"))));
  if (phase === "connecting") return { script, room, fates };
  script.welcome({ tokenTtlMs: 1000, limits: { window: 3 } });
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 0, recovered: false, version: 1, members: [], cursor: "p" });
  for (let n = 0; n < 5; n++) fates.push(fate(script.do(() => room.publish(n))));
  script.says({ type: "error", code: "rate_limited", message: "", retryable: true, retryAfterMs: 5000, seq: 2 });
  script.says({ type: "reconnect", afterMs: 9000 });
  if (phase === "connected") return { script, room, fates };
  script.socket.closes(4100, { ra: 1000 });
  if (phase === "waiting") return { script, room, fates };
  script.world.run(10_000);
  if (phase === "opening") return { script, room, fates };
  script.welcome({ sessionId: "s2" });
  return { script, room, fates }; // recovering, with orphans
}

for (const phase of ["connecting", "connected", "waiting", "opening", "recovering"]) {
  test(`close() while ${phase} frees all and settles all`, async () => {
    const { script, room, fates } = busy(phase);
    const { t, world, socket } = script;
    script.do(() => t.close());
    await settle();
    for (const [name, size] of Object.entries(holds(t, world))) {
      if (name !== "_past") assert.equal(size, 0, name);
    }
    for (const { now } of fates) assert.ok(["closed", "unknown"].includes(now), now);
    assert.deepEqual([socket.held, room.members.size, room._listeners.size], [0, 0, 0]);
    if (phase !== "waiting") assert.equal(socket.closedWith, 1000);
    assert.deepEqual([t.state, room.state, script.states.at(-1).state], ["closed", "left", "closed"]);
    script.do(() => t.close());
    assert.throws(() => t.join("x"), { code: "closed" });
    const late = fate(room.publish(1));
    await settle();
    assert.equal(late.now, "closed");
  });

  test(`leave() while ${phase} frees the room and settles what was not sent`, async () => {
    const { script, room, fates } = busy(phase);
    const { t } = script;
    script.do(() => room.leave());
    await settle();
    assert.deepEqual([t._rooms.size, room.members.size, room._listeners.size, t._orphans.size], [0, 0, 0, 0]);
    assert.ok(t._queue.every(({ type }) => type === "leave_room"));
    const sent = [...t._sent.values()].filter(({ counted }) => counted).length;
    assert.equal(fates.filter(({ now }) => now === "pending").length, sent, "only what was sent waits for its ack");
    script.do(() => room.leave());
  });
}

test("what was sent before leave() is still acknowledged, and then nothing is left", async () => {
  const script = new Script();
  script.welcome();
  const room = script.joined();
  const sent = fate(script.do(() => room.publish(1)));
  script.do(() => room.leave());
  assert.deepEqual(script.last("leave_room"), { type: "leave_room", roomId: "r", seq: 3 });
  script.says({ type: "ack", seq: 3 });
  await settle();
  assert.equal(sent.now, "resolved");
  assert.deepEqual([script.t._sent.size, script.t._count, script.t._bytes], [0, 0, 0]);
});

test("nothing is heard after leave(), close() or an un-subscriber, even in the middle of a turn", () => {
  const script = new Script();
  script.welcome();
  const room = script.joined();
  const heard = [];
  const off = room.on("message", () => heard.push("second"));
  room.on("message", () => {
    heard.push("first");
    off();
  });
  script.world.act(() => {
    for (const offset of [1, 2]) script.socket.onmessage({ data: JSON.stringify({ type: "broadcast", roomId: "r", offset, data: 0, from: {} }) });
  });
  assert.deepEqual(heard, ["second", "first", "first"]);
  room.on("message", () => room.leave());
  script.world.act(() => {
    for (const offset of [3, 4]) script.socket.onmessage({ data: JSON.stringify({ type: "broadcast", roomId: "r", offset, data: 0, from: {} }) });
  });
  assert.deepEqual(heard.length, 4, "the fourth message was on its way and is dropped");
});

test("a listener that throws is reported and stops nothing", (t) => {
  const reported = [];
  t.mock.method(console, "error", (error) => reported.push(error.message));
  if (globalThis.reportError) t.mock.method(globalThis, "reportError", (error) => reported.push(error.message));
  const script = new Script();
  script.welcome();
  const room = script.joined();
  room.on("message", () => {
    throw new Error("mine");
  });
  const messages = script.hear(room, "message");
  script.message(1);
  script.message(2);
  assert.deepEqual([messages.length, reported], [2, ["mine", "mine"]]);
});

test("close() from any listener leaves nothing behind", () => {
  for (const when of ["connecting", "connected", "resuming"]) {
    const script = new Script();
    script.t.on("state", ({ state }) => state === when && script.t.close());
    script.do(() => script.t.join("r"));
    script.welcome();
    if (when !== "connected") script.socket.closes();
    script.do(() => script.t.close());
    assert.deepEqual([script.world.timers.size, script.world.page.count, script.t.state], [0, 0, "closed"]);
  }
});

test("signals hold nothing that is gone", async () => {
  const abort = new AbortController();
  const { signal } = abort;
  let count = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args) => (count++, addEventListener.apply(signal, args));
  signal.removeEventListener = (...args) => (count--, removeEventListener.apply(signal, args));
  const script = new Script({ signal });
  script.welcome();
  const room = script.joined("r", { signal });
  room.on("message", () => {}, { signal });
  const off = script.t.on("state", () => {}, { signal });
  const sent = fate(script.do(() => room.publish(1, { signal })));
  assert.equal(count, 5);
  script.says({ type: "ack", seq: 2 });
  off();
  await settle();
  assert.deepEqual([count, sent.now], [3, "resolved"]);
  script.do(() => room.leave());
  assert.equal(count, 1);
  script.do(() => abort.abort());
  assert.deepEqual([count, script.t.state], [0, "closed"]);
  assert.throws(() => new Script({ signal }), { name: "AbortError" });
});

test("an aborted signal leaves its room, and joins none", () => {
  const script = new Script();
  script.welcome();
  const abort = new AbortController();
  const room = script.joined("r", { signal: abort.signal });
  script.do(() => abort.abort());
  assert.deepEqual([room.state, script.t._rooms.size, script.last("leave_room").roomId], ["left", 0, "r"]);
  assert.throws(() => script.t.join("q", { signal: abort.signal }), { name: "AbortError" });
  assert.deepEqual([script.t._rooms.size, script.t._queue.length], [0, 0]);
});

test("100,000 messages, 10,000 rooms, 100,000 listeners and 1,000 reconnects leave sizes as they were", () => {
  const script = new Script();
  script.welcome();
  const room = script.joined();
  let heard = 0;
  room.on("message", () => heard++);
  const before = holds(script.t, script.world);
  let seq = 1;
  for (let n = 1; n <= 100_000; n++) script.message(n);
  for (let n = 0; n < 100_000; n++) room.on("message", () => {})();
  for (let n = 0; n < 10_000; n++) {
    const other = script.do(() => script.t.join(`room-${n}`));
    other.on("message", () => {});
    script.says({ type: "room_joined", roomId: `room-${n}`, seq: ++seq, epoch: "e", offset: 0, recovered: false });
    script.do(() => other.leave());
    script.says({ type: "ack", seq: ++seq });
    script.sent.length = 0;
  }
  for (let n = 0; n < 1_000; n++) {
    script.reconnect();
    script.welcome(n % 2 ? { resumed: true, rooms: { r: { complete: true, count: 0 } } } : { sessionId: `s${n}` });
    script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 100_000, recovered: true });
    script.says({ type: "ack", seq: 1 });
    script.world.sockets.splice(0, script.world.sockets.length - 1);
  }
  assert.equal(heard, 100_000);
  assert.equal(room._listeners.get("message").size, 1);
  const after = holds(script.t, script.world);
  assert.ok(after._past <= 8);
  assert.deepEqual({ ...after, _past: 0 }, { ...before, _past: 0 });
});

test("more rooms than the bound are refused", () => {
  const script = new Script();
  for (let n = 0; n < 1024; n++) script.t.join(`${n}`);
  assert.throws(() => script.t.join("one more"), { code: "too_many_rooms" });
  assert.equal(script.t.join("5"), script.t.join("5"), "but one that is joined is had again");
});

test("without a WebSocket it says what to do", () => {
  assert.throws(() => new Throng("ws://x/", { env: new World().env({ WebSocket: undefined }) }), /pass one/);
  assert.throws(() => new Script().t.on("state"), TypeError);
});
