/** Verify that commands are numbered, bounded, sent again and settled as PROTOCOL §3 has it. */
import assert from "node:assert/strict";
import test from "node:test";
import { Script, fate, settle } from "./support.mjs";

/** A joined room and promises of `count` publications in it; their seqs are 2, 3, … */
function publishing(script, count) {
  script.welcome();
  const room = script.joined();
  const fates = Array.from({ length: count }, (_, n) => fate(script.do(() => room.publish({ n }))));
  return { room, fates, now: async () => (await settle(), fates.map((each) => each.now)) };
}
const seqs = (script, type = "broadcast") => script.sent.filter((frame) => frame.type === type).map(({ seq }) => seq);

test("publish resolves on the cumulative ack, and an error with its seq rejects it", async () => {
  const script = new Script();
  const { now } = publishing(script, 4);
  assert.deepEqual(seqs(script), [2, 3, 4, 5]);
  script.says({ type: "error", code: "too_rude", message: "no", retryable: false, seq: 3 });
  script.says({ type: "ack", seq: 4 });
  assert.deepEqual(await now(), ["resolved", "too_rude", "resolved", "pending"]);
});

test("what is not acknowledged is sent again with the same seq after a resume, from nextSeq on", async () => {
  const script = new Script();
  const { now } = publishing(script, 4);
  script.says({ type: "ack", seq: 2 });
  script.reconnect();
  script.socket.opens();
  assert.deepEqual(script.last("connect").resume, { token: "t1", acked: 2, rooms: { r: { epoch: "e", offset: 0 } } });
  const rooms = { r: { complete: true, count: 0 } };
  script.welcome({ resumed: true, nextSeq: 4, rooms, failed: [{ seq: 3, code: "too_rude" }] });
  assert.deepEqual(seqs(script), [4, 5], "and no join: the room is still joined");
  assert.deepEqual(seqs(script, "join_room"), []);
  script.says({ type: "ack", seq: 5 });
  assert.deepEqual(await now(), ["resolved", "too_rude", "resolved", "resolved"]);
});

test("after a failed resume nothing is sent blindly: unknown, unless it comes back in the recovery", async () => {
  const script = new Script();
  const { room, now } = publishing(script, 3);
  const messages = script.hear(room, "message");
  const recovered = script.hear(room, "recovered");
  script.reconnect();
  script.welcome({ sessionId: "s2", resumed: false });
  assert.deepEqual(seqs(script), []);
  assert.deepEqual(script.last("join_room").since, { epoch: "e", offset: 0 });
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 3, recovered: true });
  assert.deepEqual(await now(), ["pending", "pending", "pending"]);
  script.message(1, { n: 0 }, { seq: 2, from: { user: "u", connection: "s1" } });
  script.message(2, "of another");
  script.message(3, { n: 2 }, { seq: 4, from: { user: "u", connection: "s1" } });
  assert.deepEqual(await now(), ["resolved", "unknown", "resolved"]);
  assert.deepEqual([messages.map(({ data }) => data), recovered], [["of another"], [{ count: 3 }]]);
});

test("an_orphans_seq_is_not_that_of_a_new_command: it is settled without touching its successor", async () => {
  const script = new Script();
  const { room, now } = publishing(script, 1); // seq 2 of s1
  script.reconnect();
  script.welcome({ sessionId: "s2" });
  const later = fate(script.do(() => room.publish("later"))); // seq 2 of s2
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 1, recovered: true });
  script.message(1, { n: 0 }, { seq: 2, from: { user: "u", connection: "s1" } });
  assert.deepEqual(await now(), ["resolved"]);
  script.says({ type: "ack", seq: 2 });
  await settle();
  assert.equal(later.now, "resolved");
});

test("after a gap what was sent is unknown at once", async () => {
  const script = new Script();
  const { room, now } = publishing(script, 1);
  const gaps = script.hear(room, "gap");
  script.reconnect();
  script.welcome({ sessionId: "s2" });
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 9, recovered: false, gap: { reason: "expired" } });
  assert.deepEqual(await now(), ["unknown"]);
  assert.deepEqual(gaps, [{ reason: "expired", from: 1, to: 9 }]);
});

test("what was never sent survives a failed resume, behind its join", async () => {
  const script = new Script();
  const { room, now, fates } = publishing(script, 0);
  script.socket.closes();
  fates.push(fate(script.do(() => room.publish("offline"))));
  script.world.run(1000);
  script.welcome({ sessionId: "s2" });
  assert.deepEqual(script.sent.map(({ type, seq }) => [type, seq]), [["connect", undefined], ["join_room", 1], ["broadcast", 2]]);
  script.says({ type: "ack", seq: 2 });
  assert.deepEqual(await now(), ["resolved"]);
});

test("a state that was sent is set again after a failed resume, and the join carries the newest", async () => {
  const script = new Script();
  script.welcome();
  const room = script.joined("r", { state: { cursor: 1 } });
  assert.equal(script.last("join_room").presence, true);
  const set = fate(script.do(() => room.setState({ cursor: 2 })));
  assert.deepEqual(script.last("set_state"), { type: "set_state", roomId: "r", state: { cursor: 2 }, seq: 2 });
  script.reconnect();
  script.welcome({ sessionId: "s2" });
  assert.deepEqual(script.last("join_room").state, { cursor: 2 });
  assert.equal(script.last("set_state").seq, 2);
  script.says({ type: "ack", seq: 2 });
  await settle();
  assert.equal(set.now, "resolved");
});

test("at most window commands are in flight", async () => {
  const script = new Script();
  script.welcome({ limits: { window: 4 } });
  const room = script.joined();
  script.do(() => Array.from({ length: 10 }, () => room.publish(1)));
  assert.deepEqual(seqs(script), [2, 3, 4, 5]);
  script.says({ type: "ack", seq: 3 });
  assert.deepEqual(seqs(script), [2, 3, 4, 5, 6, 7]);
});

test("the queue is bounded in count and bytes: publish fails at once, and works again when there is room", async () => {
  const script = new Script({ queue: { count: 3, bytes: 1000 } });
  const { room, fates, now } = publishing(script, 4);
  assert.deepEqual(await now(), ["pending", "pending", "pending", "queue_full"]);
  script.says({ type: "ack", seq: 4 });
  fates.length = 0;
  fates.push(fate(script.do(() => room.publish("€".repeat(300)))), fate(script.do(() => room.publish("€".repeat(20)))));
  assert.deepEqual(await now(), ["pending", "queue_full"], "bytes are those of UTF-8");
  script.says({ type: "ack", seq: 5 });
  await settle();
  assert.deepEqual([script.t._count, script.t._bytes], [0, 0]);
});

test("a message above maxMessageBytes is refused before it is sent; one of exactly that is not", async () => {
  const script = new Script();
  script.welcome({ limits: { maxMessageBytes: 200 } });
  const room = script.joined();
  const sizes = [];
  for (let length = 60; length < 200; length++) {
    const result = fate(script.do(() => room.publish("x".repeat(length))));
    await settle();
    if (result.now === "message_too_large") break;
    const frame = script.last("broadcast");
    sizes.push(JSON.stringify(frame).length);
    script.says({ type: "ack", seq: frame.seq });
  }
  assert.ok(Math.max(...sizes) <= 200 && Math.max(...sizes) >= 176);
  assert.throws(() => room.cast("x".repeat(300)), { code: "message_too_large" });
});

test("what JSON can't say is rejected: undefined, a cycle", async () => {
  const script = new Script();
  const { room } = publishing(script, 0);
  const cycle = {};
  cycle.cycle = cycle;
  const fates = [undefined, cycle].map((data) => fate(script.do(() => room.publish(data))));
  await settle();
  assert.deepEqual(fates.map(({ now }) => now), ["TypeError", "TypeError"]);
  assert.deepEqual(seqs(script), []);
});

test("a retryable error holds the line: that seq again after retryAfterMs, and nothing new before it", async () => {
  const script = new Script();
  const { room, fates, now } = publishing(script, 2);
  script.says({ type: "error", code: "rate_limited", message: "", retryable: true, retryAfterMs: 700, seq: 2 });
  script.says({ type: "nack", expectedSeq: 2, received: 3 });
  fates.push(fate(script.do(() => room.publish("later"))));
  script.world.run(699);
  assert.deepEqual(seqs(script), [2, 3]);
  script.world.run(1);
  assert.deepEqual(seqs(script), [2, 3, 2, 4]);
  script.says({ type: "ack", seq: 4 });
  assert.deepEqual(await now(), ["resolved", "resolved", "resolved"]);
});

test("a nack is answered with all from expectedSeq on", () => {
  const script = new Script();
  publishing(script, 3);
  script.says({ type: "nack", expectedSeq: 3, received: 4 });
  assert.deepEqual(seqs(script), [2, 3, 4, 3, 4]);
});

test("an AbortSignal takes back what was not sent, and stops waiting for what was", async () => {
  const script = new Script();
  script.welcome({ limits: { window: 2 } });
  const room = script.joined();
  const abort = new AbortController();
  const { signal } = abort;
  const fates = [1, 2, 3].map((n) => fate(script.do(() => room.publish(n, { signal }))));
  script.do(() => abort.abort());
  script.says({ type: "ack", seq: 3 });
  await settle();
  assert.deepEqual(fates.map(({ now }) => now), [20, 20, 20], "the code of a DOMException AbortError");
  assert.deepEqual(seqs(script), [2, 3]);
  assert.deepEqual([script.t._count, script.t._bytes], [0, 0]);
  const late = fate(script.do(() => room.publish(4, { signal })));
  await settle();
  assert.equal(late.now, 20);
});

test("cast is sent at once or not at all, without a seq", () => {
  const script = new Script();
  const early = script.do(() => script.t.join("r"));
  assert.equal(early.cast(1), false);
  script.welcome();
  assert.equal(early.cast(1), false, "not before the room is joined");
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 0, recovered: false });
  assert.equal(early.cast({ x: 1 }), true);
  assert.deepEqual(script.last("broadcast"), { type: "broadcast", roomId: "r", data: { x: 1 } });
  script.socket.bufferedAmount = 65_537;
  assert.equal(early.cast(1), false, "not behind a full socket");
  script.socket.closes();
  assert.equal(early.cast(1), false);
});

test("a refused join frees the room and says why; what was to be published there is refused too", async () => {
  const script = new Script();
  const room = script.do(() => script.t.join("r"));
  const states = script.hear(room, "state");
  const result = fate(script.do(() => room.publish(1)));
  script.welcome();
  script.says({ type: "error", code: "room_full", message: "", retryable: false, seq: 1 });
  script.says({ type: "error", code: "not_joined", message: "", retryable: false, seq: 2 });
  script.says({ type: "ack", seq: 2 });
  await settle();
  assert.deepEqual([states.at(-1), result.now], [{ state: "left", reason: "room_full" }, "not_joined"]);
  assert.equal(script.t._rooms.size, 0);
  assert.notEqual(script.do(() => script.t.join("r")), room, "it may be tried again");
});

test("leaving and joining again at once: the old room's frames do not reach the new one", () => {
  const script = new Script();
  script.welcome();
  const first = script.do(() => script.t.join("r"));
  script.do(() => first.leave());
  const second = script.do(() => script.t.join("r"));
  const messages = script.hear(second, "message");
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 4, recovered: false });
  assert.equal(second.state, "joining");
  script.message(5, "for the old one");
  script.says({ type: "room_left", roomId: "r", reason: "left", seq: 2 });
  script.says({ type: "room_joined", roomId: "r", seq: 3, epoch: "e", offset: 6, recovered: false });
  script.message(7, "for the new one");
  assert.deepEqual(messages.map(({ data }) => data), ["for the new one"]);
});

test("a room that is kicked out of is left, with the reason", async () => {
  const script = new Script();
  const { room } = publishing(script, 0);
  const states = script.hear(room, "state");
  script.says({ type: "room_left", roomId: "r", reason: "kicked" });
  assert.deepEqual(states, [{ state: "left", reason: "kicked" }]);
  const result = fate(script.do(() => room.publish(1)));
  await settle();
  assert.equal(result.now, "left");
});

test("errors without a seq are told to the application", () => {
  const script = new Script();
  const errors = script.hear(script.t, "error");
  script.welcome();
  script.says({ type: "error", code: "bad_message", message: "what?", retryable: false });
  assert.deepEqual(errors.map(({ code, message }) => [code, message]), [["bad_message", "what?"]]);
});
