/** Verify that a presence list is what the server's snapshots, pages, diffs and counts say, and is asked for again when it can't be. */
import assert from "node:assert/strict";
import test from "node:test";
import { Script } from "./support.mjs";

const member = (id, user = id, state) => ({ user, connections: [{ id, ...(state === undefined ? {} : { state }) }] });

function room(more = { version: 1, members: [member("a"), { user: "b", info: { name: "B" }, connections: [{ id: "b1" }, { id: "b2", state: 1 }] }] }) {
  const script = new Script();
  script.welcome();
  const room = script.do(() => script.t.join("r", { presence: true }));
  const heard = script.hear(room, "presence");
  script.says({ type: "room_joined", roomId: "r", seq: 1, epoch: "e", offset: 0, recovered: false, ...more });
  const diff = (version, changes) => script.says({ type: "presence_diff", roomId: "r", epoch: "e", version, ...changes });
  const state = (id, more) => script.says({ type: "presence_state", roomId: "r", epoch: "e", ...(id === undefined ? {} : { id }), ...more });
  const questions = () => script.sent.filter(({ type }) => type === "presence");
  return { script, room, heard, diff, state, questions, ids: () => [...room.members.keys()] };
}

test("presence is asked for with a state or by name only", () => {
  for (const [options, expected] of [[{}, false], [{ state: 1 }, true], [{ state: 1, presence: false }, false], [{ presence: true }, true]]) {
    const script = new Script();
    script.welcome();
    script.do(() => script.t.join("r", options));
    assert.equal(script.last("join_room").presence, expected);
  }
});

test("a snapshot lists each connection with its user", () => {
  const { room, heard } = room_();
  assert.deepEqual(room.members.get("b2"), { user: "b", info: { name: "B" }, id: "b2", state: 1 });
  assert.deepEqual([...room.members.values()].map(({ user, id }) => `${user}:${id}`), ["a:a", "b:b1", "b:b2"]);
  assert.equal(heard.length, 1);
});
const room_ = room;

test("diffs apply in order; joins are upserts, updates keep what they don't name, unknown leaves are nothing", () => {
  const { room, heard, diff, questions, ids } = room_();
  diff(2, { joins: [{ user: "c", id: "c" }, { user: "a", id: "a", state: 5 }], leaves: [], updates: [] });
  diff(3, { leaves: [{ user: "b", id: "b1" }, { user: "x", id: "x" }], updates: [{ user: "b", id: "b2", state: 2 }] });
  assert.deepEqual(ids(), ["a", "b2", "c"]);
  assert.deepEqual(room.members.get("b2"), { user: "b", info: { name: "B" }, id: "b2", state: 2 });
  assert.equal(room.members.get("a").state, 5);
  assert.deepEqual(heard.at(-1).leaves, [{ user: "b", id: "b1" }, { user: "x", id: "x" }]);
  assert.deepEqual(questions(), []);
});

test("an old diff is ignored; one that skips a version, or is of another epoch, makes the client ask once", () => {
  const { script, diff, state, questions, ids } = room_();
  diff(1, { leaves: [{ user: "a", id: "a" }] });
  assert.deepEqual([ids(), questions()], [["a", "b1", "b2"], []]);
  diff(3, { joins: [{ user: "d", id: "d" }] });
  diff(4, { joins: [{ user: "e", id: "e" }] });
  assert.deepEqual(questions(), [{ type: "presence", roomId: "r", id: "1" }]);
  state("1", { version: 4, members: [member("d"), member("e")] });
  diff(5, { joins: [{ user: "f", id: "f" }] });
  assert.deepEqual(ids(), ["d", "e", "f"]);
  script.says({ type: "presence_diff", roomId: "r", epoch: "other", version: 6, joins: [] });
  assert.equal(questions().length, 2);
});

test("pages are collected, with the diffs between them, and told when they are whole", () => {
  const { heard, diff, state, questions, ids } = room_({ version: 7, members: [member("a")], cursor: "p2" });
  assert.deepEqual(questions(), [{ type: "presence", roomId: "r", id: "1", cursor: "p2" }]);
  diff(8, { joins: [{ user: "n", id: "n" }], leaves: [{ user: "a", id: "a" }] });
  state("1", { version: 8, members: [member("m")], cursor: "p3" });
  assert.deepEqual([heard.length, questions().at(-1).cursor], [0, "p3"]);
  state("2", { version: 8, members: [member("z")] });
  assert.deepEqual([heard.length, ids()], [1, ["n", "m", "z"]]);
  diff(9, { leaves: [{ user: "z", id: "z" }] });
  assert.deepEqual(ids(), ["n", "m"]);
});

test("a page whose cursor is gone is asked for from the start; a late answer to an old question is ignored", () => {
  const { script, state, questions, ids } = room_({ version: 7, members: [member("a")], cursor: "p2" });
  script.says({ type: "error", code: "bad_cursor", message: "", retryable: false, id: "1" });
  assert.deepEqual(questions().at(-1), { type: "presence", roomId: "r", id: "2" });
  state("1", { version: 7, members: [member("late")] });
  state("2", { version: 9, members: [member("b")] });
  assert.deepEqual(ids(), ["b"]);
});

test("a question that is refused is asked again with the next diff", () => {
  const { script, diff, questions } = room_();
  diff(9, {});
  script.says({ type: "error", code: "busy", message: "", retryable: false, id: "1" });
  assert.equal(questions().length, 1);
  diff(10, {});
  assert.equal(questions().length, 2);
});

test("counts take the place of a list that is too large, and a list that of counts", () => {
  const { room, heard, diff, state, questions, ids } = room_();
  diff(0, { counts: { users: 5000, connections: 6000 } });
  assert.deepEqual([ids(), room.counts, heard.at(-1).counts], [[], { users: 5000, connections: 6000 }, { users: 5000, connections: 6000 }]);
  diff(8, { leaves: [{ user: "a", id: "a" }] });
  assert.equal(questions().length, 1, "no diff applies to a number");
  state("1", { version: 8, members: [member("b")] });
  assert.deepEqual([ids(), room.counts], [["b"], undefined]);
});

test("a join may be answered with counts", () => {
  const { room } = room_({ version: 3, counts: { users: 1, connections: 2 } });
  assert.deepEqual(room.counts, { users: 1, connections: 2 });
});

test("a resume tells the version that it knows; an unasked snapshot replaces the list", () => {
  const { script, diff, state, ids } = room_();
  diff(2, { joins: [] });
  script.reconnect();
  script.socket.opens();
  assert.equal(script.last("connect").resume.rooms.r.version, 2);
  script.welcome({ resumed: true, nextSeq: 2, rooms: { r: { complete: true, count: 0 } } });
  state(undefined, { version: 5, members: [member("n")] });
  assert.deepEqual(ids(), ["n"]);
});

test("a_list_that_was_cut_between_pages_claims_no_version: the next snapshot comes whole", () => {
  const { script } = room_({ version: 7, members: [member("a")], cursor: "p2" });
  script.reconnect();
  script.socket.opens();
  assert.equal(script.last("connect").resume.rooms.r.version, undefined);
});

test("a list is bounded, whatever the server says", () => {
  const { ids } = room_({ version: 1, members: Array.from({ length: 12_000 }, (_, n) => member(`m${n}`)) });
  assert.equal(ids().length, 10_000);
});
