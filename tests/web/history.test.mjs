/** Verify that a question for a room's history is asked until it is answered or refused, over whatever happens to the connection. */
import assert from "node:assert/strict";
import test from "node:test";
import { Script, fate, settle } from "./support.mjs";

const ANSWER = { type: "history", roomId: "r", epoch: "e", offset: 2, publications: [{ offset: 1 }, { offset: 2 }] };

/** A joined room and a question with seq 2. */
function asking(options) {
  const script = new Script().welcome();
  const room = script.joined();
  const promise = script.do(() => room.history(options));
  return { script, room, promise, question: fate(promise) };
}
const asked = (script) => script.sent.filter(({ type }) => type === "history");

test("a question has a seq, which is its id, and resolves with the answer", async () => {
  const { script, promise } = asking({ since: { epoch: "e", offset: 1 }, limit: 5 });
  assert.deepEqual(asked(script), [{ type: "history", roomId: "r", since: { epoch: "e", offset: 1 }, limit: 5, seq: 2, id: 2 }]);
  script.says({ ...ANSWER, id: 2 });
  assert.deepEqual((await promise).publications, ANSWER.publications);
  script.says({ type: "ack", seq: 2 });
  assert.equal(script.t._count, 0, "it holds no place in the queue any more");
});

test("an answer that a cut has swallowed is asked for again, though the server has decided the question", async () => {
  const { script, question } = asking();
  script.reconnect().welcome({ resumed: true, nextSeq: 3, rooms: { r: { complete: true, count: 0 } } });
  await settle();
  assert.deepEqual([question.now, asked(script).map(({ seq, id }) => [seq, id])], ["pending", [[3, 3]]]);
  script.says({ ...ANSWER, id: 3 });
  script.says({ type: "ack", seq: 3 });
  await settle();
  assert.deepEqual([question.now, script.t._count], ["resolved", 0]);
});

test("a new session asks again, after its join", async () => {
  const { script, question } = asking();
  script.reconnect().welcome({ sessionId: "s2", resumed: false });
  assert.deepEqual(script.sent.slice(1).map(({ type, seq }) => [type, seq]), [["join_room", 1], ["history", 2]]);
  script.says({ ...ANSWER, id: 2 });
  await settle();
  assert.equal(question.now, "resolved");
});

test("a_refusal_that_names_only_the_id_ends_the_question: it is not asked for ever", async () => {
  const { script, question } = asking();
  script.says({ type: "error", code: "not_joined", retryable: false, id: 2 });
  script.says({ type: "ack", seq: 2 });
  await settle();
  assert.deepEqual([question.now, asked(script).length, script.t._count], ["not_joined", 1, 0]);
});

test("leave() and close() reject what was not asked yet", async () => {
  const script = new Script();
  const [left, closed] = ["left", "closed"].map((id) => script.do(() => script.t.join(id)));
  const fates = [left, closed].map((room) => fate(script.do(() => room.history())));
  script.do(() => left.leave());
  script.do(() => script.t.close());
  await settle();
  assert.deepEqual(fates.map(({ now }) => now), ["left", "closed"]);
});
