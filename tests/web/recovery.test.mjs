/** Verify what a room's listeners see of reconnects: positions, recoveries, gaps, and no duplicate. */
import assert from "node:assert/strict";
import test from "node:test";
import { Script } from "./support.mjs";

function room(options) {
  const script = new Script();
  script.welcome();
  const room = script.joined("r", options, { offset: 10 });
  const heard = Object.fromEntries(["message", "recovered", "gap", "state"].map((name) => [name, script.hear(room, name)]));
  return { script, room, heard, seen: () => heard.message.map(({ data }) => data) };
}
const position = (script) => script.last("connect").resume?.rooms.r;

test("the position is the head at first, and then the last message that was handled", () => {
  const { script } = room();
  script.message(12);
  script.message(undefined, "volatile");
  script.reconnect();
  script.socket.opens();
  assert.deepEqual(position(script), { epoch: "e", offset: 12 });
});

test("a message is never delivered twice, whatever the server repeats", () => {
  const { script, seen } = room();
  for (const offset of [10, 11, 11, 9, 12, 11, 12, 14]) script.message(offset);
  assert.deepEqual(seen(), [11, 12, 14]);
});

test("after a resume: recovered comes behind what was missed, counted by the welcome", () => {
  const { script, heard, seen } = room();
  script.reconnect();
  script.welcome({ resumed: true, rooms: { r: { complete: true, count: 2 } } });
  script.message(11);
  assert.deepEqual(heard.recovered, []);
  script.message(13);
  script.message(14);
  assert.deepEqual([seen(), heard.recovered], [[11, 13, 14], [{ count: 2 }]]);
});

test("a recovery of nothing is a recovery too", () => {
  const { script, heard } = room();
  script.reconnect();
  script.welcome({ resumed: true, rooms: { r: { complete: true, count: 0 } } });
  assert.deepEqual(heard.recovered, [{ count: 0 }]);
});

test("a resume with a gap takes the new position and tells what is missing", () => {
  const { script, heard } = room();
  script.reconnect();
  script.welcome({ resumed: true, rooms: { r: { gap: { reason: "window_exceeded" }, epoch: "e", offset: 400 } } });
  assert.deepEqual(heard.gap, [{ reason: "window_exceeded", from: 11, to: 400 }]);
  script.reconnect();
  script.welcome({ resumed: true, rooms: { r: { gap: { reason: "epoch_changed" }, epoch: "f", offset: 3 } } });
  assert.deepEqual(heard.gap.at(-1), { reason: "epoch_changed", from: undefined, to: undefined });
  script.message(4);
  script.reconnect();
  script.socket.opens();
  assert.deepEqual(position(script), { epoch: "f", offset: 4 });
});

test("a slow consumer's gap moves the position behind what was lost", () => {
  const { script, heard } = room();
  script.says({ type: "gap", roomId: "r", from: 11, to: 20, reason: "slow_consumer" });
  assert.deepEqual(heard.gap, [{ reason: "slow_consumer", from: 11, to: 20 }]);
  script.reconnect();
  script.socket.opens();
  assert.deepEqual(position(script), { epoch: "e", offset: 20 });
});

test("after a failed resume the room is joined where it was, and then recovered to the head", () => {
  const { script, heard, seen } = room();
  script.reconnect();
  script.welcome({ sessionId: "s2" });
  assert.equal(heard.state.at(-1).state, "joining");
  const join = script.last("join_room");
  assert.deepEqual([join.since, join.seq], [{ epoch: "e", offset: 10 }, 1]);
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 12, recovered: true });
  assert.equal(heard.state.at(-1).state, "joined");
  script.message(11);
  script.message(12);
  assert.deepEqual([seen(), heard.recovered], [[11, 12], [{ count: 2 }]]);
});

test("a connection that breaks within a recovery continues it where it was", () => {
  const { script, heard, seen } = room();
  script.reconnect();
  script.welcome({ sessionId: "s2", resumeToken: "t2" });
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 13, recovered: true });
  script.message(11);
  script.reconnect();
  script.socket.opens();
  assert.deepEqual(position(script), { epoch: "e", offset: 11 });
  script.says({ type: "welcome", sessionId: "s2", resumeToken: "t3", resumed: true, nextSeq: 2, rooms: { r: { complete: true, count: 2 } } });
  script.message(12);
  script.message(13);
  assert.deepEqual([seen(), heard.recovered], [[11, 12, 13], [{ count: 2 }]]);
});

test("publications of a lost session are not taken for those of others, with or without their seq", () => {
  const { script, seen } = room();
  script.reconnect();
  script.welcome({ sessionId: "s2" });
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 13, recovered: true });
  script.message(11, "mine", { seq: 2, from: { user: "u", connection: "s1" } });
  script.message(12, "mine too", { from: { user: "u", connection: "s1" } });
  script.message(13, "theirs");
  assert.deepEqual(seen(), ["theirs"]);
});

test("with echo they come, because they may not have come yet", () => {
  const { script, seen } = room({ echo: true });
  script.reconnect();
  script.welcome({ sessionId: "s2" });
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 11, recovered: true });
  script.message(11, "mine", { seq: 2, from: { user: "u", connection: "s1" } });
  assert.deepEqual(seen(), ["mine"]);
});

test("a join whose answer was lost is asked for again, unless it is not yet decided", () => {
  for (const [nextSeq, expected] of [[1, [1]], [2, [2]]]) {
    const script = new Script();
    script.welcome();
    script.do(() => script.t.join("r"));
    script.reconnect();
    script.welcome({ resumed: true, nextSeq, rooms: nextSeq === 2 ? { r: { complete: true, count: 0 } } : {} });
    const joins = script.sent.filter(({ type }) => type === "join_room");
    assert.deepEqual(joins.map(({ seq }) => seq), expected);
    script.says({ type: "room_joined", roomId: "r", seq: expected[0], epoch: "e", offset: 5, recovered: false });
    assert.equal(script.t.join("r").state, "joined");
  }
});

test("a room that the session lost is joined again where it was", () => {
  const { script } = room();
  script.reconnect();
  script.welcome({ resumed: true, nextSeq: 2, rooms: {} });
  assert.deepEqual(script.last("join_room"), { type: "join_room", roomId: "r", seq: 2, since: { epoch: "e", offset: 10 }, presence: false });
});

test("rooms_named_like_properties_of_objects are rooms like others", () => {
  for (const id of ["__proto__", "constructor", "toString"]) {
    const script = new Script();
    script.welcome();
    const room = script.joined(id);
    const recovered = script.hear(room, "recovered");
    script.reconnect();
    script.socket.opens();
    assert.deepEqual(Object.entries(script.last("connect").resume.rooms), [[id, { epoch: "e", offset: 0 }]]);
    script.socket.says(`{"type":"welcome","sessionId":"s1","resumed":true,"nextSeq":2,"rooms":{"${id}":{"complete":true,"count":0}}}`);
    assert.equal(recovered.length, 1);
    script.reconnect();
    script.welcome({ resumed: true, nextSeq: 2, rooms: {} });
    assert.equal(script.last("join_room").roomId, id, "what is not in rooms is not found in its prototype");
  }
});

test("unknown types, fields, codes and reasons are ignored; what is not JSON costs the connection", () => {
  const { script, seen } = room();
  for (const frame of [{ type: "constructor" }, { type: "novelty", roomId: "r" }, null, 7, []]) script.says(frame);
  script.message(11, "still here", { novelty: 1 });
  script.says({ type: "ack", seq: 99 });
  assert.deepEqual(seen(), ["still here"]);
  script.says("{");
  assert.equal(script.t.state, "resuming");
  assert.equal(script.socket.closedWith, 4900);
});
