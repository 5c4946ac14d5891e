/**
 * Verify that whatever the network, the server's memory and the application do, each member of a room sees each publication exactly
 * once and in order, or is told of the gap; and that each promise of `publish` tells the truth.
 *
 * A seed makes one run of three clients and two rooms against the model server. SEEDS and FIRST choose others.
 */
import assert from "node:assert/strict";
import test from "node:test";
import { Throng } from "../../src/web/throng.js";
import { ModelServer } from "./model.mjs";
import { World } from "./world.mjs";

const SEEDS = Number(process.env.SEEDS ?? 3000);
const FIRST = Number(process.env.FIRST ?? 1);
const ROOMS = ["a", "__proto__"];

class App {
  published = [];
  asked = [];
  memberships = [];
  events = { recovered: 0, gap: 0 };

  constructor(world, server, name, Client) {
    Object.assign(this, { world, server, name, counter: 0, open: new Map() });
    const env = world.env();
    const { WebSocket } = env;
    const owned = (...args) => Object.assign(new WebSocket(...args), { owner: name });
    this.throng = new Client("ws://model/", { env: { ...env, WebSocket: function (...args) { return owned(...args); } }, queue: { count: 40 } });
  }

  join(id) {
    if (this.open.has(id)) return;
    const seen = { id, items: [], left: false };
    const room = this.throng.join(id);
    this.open.set(id, { room, seen });
    this.memberships.push(seen);
    room.on("message", ({ offset, data }) => seen.items.push({ kind: offset === undefined ? "cast" : "message", offset, data }));
    room.on("gap", (gap) => (this.events.gap++, seen.items.push({ kind: "gap", ...gap, epoch: room._epoch, offset: room._offset })));
    room.on("recovered", () => this.events.recovered++);
    room.on("state", ({ state }) => {
      if (state === "joined") seen.items.push({ kind: "joined", epoch: room._epoch, offset: room._offset });
    });
  }

  leave(id) {
    const found = this.open.get(id);
    if (!found) return;
    this.open.delete(id);
    found.room.leave();
    const seen = found.seen.items.length;
    found.seen.left = true;
    found.seen.check = () => assert.equal(found.seen.items.length, seen, "nothing comes after leave()");
  }

  publish(id) {
    const found = this.open.get(id);
    if (!found) return;
    const data = { by: this.name, n: ++this.counter };
    const fate = { id, data, seen: found.seen, state: "pending" };
    this.published.push(fate);
    found.room.publish(data).then(
      () => (fate.state = "resolved"),
      (error) => (fate.state = error.code),
    );
  }

  ask(id) {
    const found = this.open.get(id);
    if (!found) return;
    const question = { id, state: "pending" };
    this.asked.push(question);
    found.room.history().then(
      (answer) => Object.assign(question, { state: "answered", answer }),
      ({ code }) => (question.state = code),
    );
  }
}

function act(world, server, apps) {
  const pick = (list) => list[Math.floor(world.random() * list.length)];
  const app = pick(apps);
  const dice = world.random();
  world.act(() => {
    if (dice < 0.59) app.publish(pick(ROOMS));
    else if (dice < 0.6) for (let burst = 0; burst < 45; burst++) app.publish(pick(ROOMS));
    else if (dice < 0.62) app.ask(pick(ROOMS));
    else if (dice < 0.64) app.open.get(pick(ROOMS))?.room.cast({ by: app.name });
    else if (dice < 0.74) app.join(pick(ROOMS));
    else if (dice < 0.78) app.leave(pick(ROOMS));
    else if (dice < 0.9 && server.links?.length) server.cut(pick(server.links));
    else if (dice < 0.92) server.restart({ rooms: world.random() < 0.2 });
    else if (dice < 0.94) server.links?.length && pick(server.links).tell({ type: "reconnect", afterMs: 20 });
  });
  if (dice > 0.94 && dice < 0.96) world.event("pagehide", { persisted: true });
  else if (dice > 0.96 && dice < 0.98) world.event("pageshow", { persisted: true });
  else if (dice > 0.98) world.event("online");
}

/** One run; returns what its judge needs. */
async function play(seed, Client = Throng) {
  const world = new World(seed);
  const server = new ModelServer(world);
  const apps = ["x", "y", "z"].map((name) => world.act(() => new App(world, server, name, Client)));
  for (const app of apps) world.act(() => ROOMS.forEach((id) => app.join(id)));
  for (let step = 0; step < 80; step++) {
    act(world, server, apps);
    world.run(world.random() < 0.1 ? 5_000 : world.random() * 120);
  }
  server.faults = false;
  world.event("pageshow", { persisted: true });
  world.run(300_000);
  await new Promise(setImmediate);
  // The quiet end: one more of each, so that whoever lost something silently has to show it.
  for (const app of apps) world.act(() => ROOMS.forEach((id) => (app.join(id), app.publish(id))));
  world.run(60_000);
  await new Promise(setImmediate);
  return { world, server, apps };
}

function judge({ server, apps }) {
  const places = new Map();
  for (const entry of server.log) {
    const key = `${entry.data.by}${entry.data.n}`;
    assert.ok(!places.has(key), `${key} took effect twice`);
    places.set(key, entry);
  }
  for (const app of apps) {
    let last = new Map();
    for (const { id, data, seen, state } of app.published) {
      const place = places.get(`${data.by}${data.n}`);
      assert.notEqual(state, "pending", `${data.by}${data.n} is never settled`);
      assert.ok(state !== "not_joined" || seen.left, `${data.by}${data.n} found no member, though its room was never left`);
      if (state === "resolved") assert.ok(place, `${data.by}${data.n} was acknowledged and is lost`);
      else if (state !== "unknown") assert.ok(!place, `${data.by}${data.n} was refused as ${state} and took effect`);
      if (!place) continue;
      const index = server.log.indexOf(place);
      assert.ok(index > (last.get(id) ?? -1), `${data.by}${data.n} overtook an earlier one`);
      last.set(id, index);
    }
    for (const question of app.asked) judgeQuestion(server, question);
    for (const seen of app.memberships) judgeMembership(server, app, seen);
    assert.equal(app.throng.state, "connected", "it never gives up");
  }
}

/** An answer is what the room remembered at its head, without a hole; none is made up and none is owed. */
function judgeQuestion(server, { id, state, answer }) {
  assert.notEqual(state, "pending", "a question is never settled");
  if (!answer) return;
  const log = server.log.filter((entry) => entry.roomId === id && entry.epoch === answer.epoch && entry.offset <= answer.offset);
  const last = answer.publications.map(({ offset, data }) => ({ offset, data }));
  assert.deepEqual(last, log.slice(log.length - last.length).map(({ offset, data }) => ({ offset, data })), "it is the end of the log");
}

/** Follows what one membership saw through the log: every offset of others is seen, or in a gap. */
function judgeMembership(server, app, seen) {
  seen.check?.();
  let at;
  const others = (epoch, from, to) =>
    server.log.filter((e) => e.roomId === seen.id && e.epoch === epoch && e.offset > from && e.offset < to && e.data.by !== app.name);
  for (const item of seen.items) {
    if (item.kind === "joined") at ??= { epoch: item.epoch, offset: item.offset };
    else if (item.kind === "gap") at = { epoch: item.epoch, offset: item.offset };
    else if (item.kind === "message") {
      assert.ok(at, "no message comes before the room is joined");
      assert.notEqual(item.data.by, app.name, "an own publication is not echoed");
      assert.ok(item.offset > at.offset, `offset ${item.offset} came again or late`);
      assert.deepEqual(others(at.epoch, at.offset, item.offset), [], "something was skipped without a gap");
      const entry = server.log.find((e) => e.roomId === seen.id && e.epoch === at.epoch && e.offset === item.offset);
      assert.deepEqual(entry?.data, item.data, "it is what was published there");
      at.offset = item.offset;
    }
  }
  if (seen.left || !at) return;
  const room = server.room(seen.id);
  assert.equal(at.epoch, room.epoch, "it is where the room is");
  assert.deepEqual(others(at.epoch, at.offset, Infinity), [], "the last ones came too");
}

test(`exactly once and in order, over ${SEEDS} seeds`, async (t) => {
  const sums = {};
  const fates = {};
  const answers = {};
  for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
    const run = await play(seed).catch((error) => assert.fail(`seed ${seed}: ${error.stack}`));
    try {
      judge(run);
      run.world.act(() => run.apps.forEach(({ throng }) => throng.close()));
      await new Promise(setImmediate);
      run.world.run(10_000);
      assert.deepEqual([run.world.timers.size, run.world.page.count], [0, 0], "close() leaves nothing");
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
    for (const [name, value] of Object.entries(run.server.stats)) sums[name] = (sums[name] ?? 0) + value;
    for (const app of run.apps) {
      for (const [name, value] of Object.entries(app.events)) sums[name] = (sums[name] ?? 0) + value;
      for (const { state } of app.published) fates[state] = (fates[state] ?? 0) + 1;
      for (const { state } of app.asked) answers[state] = (answers[state] ?? 0) + 1;
    }
  }
  t.diagnostic(JSON.stringify(sums));
  t.diagnostic(JSON.stringify(fates));
  t.diagnostic(JSON.stringify(answers));
  for (const [name, value] of Object.entries(sums)) assert.ok(value > 0, `no run had any ${name}: the fuzz is too tame`);
  for (const name of ["resolved", "unknown", "too_rude", "queue_full", "left"]) assert.ok(fates[name] > 0, `no publication ended as ${name}`);
  for (const name of ["answered", "left"]) assert.ok(answers[name] > 0, `no question ended as ${name}`);
});

// Clients with one bug each: the judge must find every one of them.
const planted = {
  sends_blindly_after_a_failed_resume: (Base) =>
    class extends Base {
      _startOver() {
        const sent = [...this._sent.values()].filter(({ type }) => type === "broadcast");
        for (const command of sent) this._sent.delete(command.seq);
        this._queue.push(...sent);
        super._startOver();
      }
    },
  sends_again_with_a_new_seq: (Base) =>
    class extends Base {
      _resume(frame) {
        const sent = [...this._sent.values()].filter(({ type }) => type === "broadcast");
        for (const command of sent) this._sent.delete(command.seq);
        super._resume(frame);
        this._queue.unshift(...sent);
      }
    },
  takes_the_head_for_its_position: (Base) =>
    class extends Base {
      _receive(text) {
        const frame = JSON.parse(text);
        const room = this._rooms.get(frame.roomId);
        if (frame.type === "room_joined" && room?._epoch === frame.epoch) room._offset = frame.offset;
        super._receive(text);
      }
    },
  forgets_gaps: (Base) =>
    class extends Base {
      join(...args) {
        const room = super.join(...args);
        room._on_gap = ({ to }) => (room._offset = Math.max(room._offset, to ?? 0));
        return room;
      }
    },
  takes_a_lost_ack_for_a_failure: (Base) =>
    class extends Base {
      _resume(frame) {
        super._resume({ ...frame, failed: [...this._sent.keys()].map((seq) => ({ seq, code: "lost" })) });
      }
    },
};

for (const [name, plant] of Object.entries(planted)) {
  test(`the judge finds a client that ${name.replaceAll("_", " ")}`, async () => {
    const Bad = plant(Throng);
    for (let seed = 1; seed <= 300; seed++) {
      try {
        judge(await play(seed, Bad));
      } catch (error) {
        if (error instanceof assert.AssertionError) return;
        throw error;
      }
    }
    assert.fail("300 seeds are clean");
  });
}
