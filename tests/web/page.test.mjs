/** Verify what the page's events, sleep and throttling do to a connection, and that a silent socket is given up (PROTOCOL §9). */
import assert from "node:assert/strict";
import test from "node:test";
import { Script } from "./support.mjs";

function connected(more = {}, options = {}) {
  const script = new Script(options);
  script.welcome(more);
  return { script, world: script.world, pings: () => script.sent.filter(({ type }) => type === "ping").length };
}

test("silence for heartbeatMs: a ping; for timeoutMs more: 4900 and a resume", () => {
  const { script, world, pings } = connected();
  const { socket } = script;
  world.run(11_999);
  assert.equal(pings(), 0);
  world.run(1);
  assert.equal(pings(), 1);
  world.run(5_999);
  assert.equal(socket.closedWith, undefined);
  world.run(1);
  assert.deepEqual([socket.closedWith, socket.held, script.t.state], [4900, 0, "resuming"]);
  assert.equal(script.states.at(-1).code, 4900);
  world.run(1_000);
  script.socket.opens();
  assert.equal(script.last("connect").resume.token, "t1");
});

test("whatever arrives is life, and puts the ping off", () => {
  const { script, world, pings } = connected();
  for (let n = 0; n < 20; n++) {
    world.run(8_000);
    script.says({ type: "novelty" });
  }
  assert.equal(pings(), 0);
  world.run(12_000);
  assert.equal(pings(), 1);
  script.says({ type: "pong" });
  world.run(11_000);
  assert.equal(script.t.state, "connected");
});

test("the server's heartbeat is the one that counts", () => {
  const { world, pings } = connected({ heartbeatMs: 60_000, timeoutMs: 1_000 });
  world.run(59_999);
  assert.equal(pings(), 0);
  world.run(1);
  assert.equal(pings(), 1);
});

test("after a sleep it pings first, and a live socket is kept", () => {
  const { script, world, pings } = connected();
  const { socket } = script;
  world.sleep(3_600_000);
  assert.deepEqual([pings(), socket.closedWith], [1, undefined]);
  script.says({ type: "pong" });
  world.run(18_000 - 1);
  assert.equal(script.t.state, "connected");
});

test("a sleep within the timeout proves nothing: it pings again", () => {
  const { script, world, pings } = connected();
  const { socket } = script;
  world.run(12_000);
  world.sleep(600_000);
  assert.deepEqual([pings(), socket.closedWith], [2, undefined]);
  world.run(5_999);
  assert.equal(socket.closedWith, undefined);
  world.run(1);
  assert.equal(socket.closedWith, 4900);
});

test("a page whose timers run once a minute keeps a live socket, and gives a dead one up at the third late timer", () => {
  const { script, world } = connected();
  const { socket } = script;
  for (let minute = 0; minute < 30; minute++) {
    world.sleep(60_000);
    script.says({ type: "pong" });
  }
  assert.equal(socket.closedWith, undefined);
  const minutes = [0, 0, 0, 0].map(() => (world.sleep(60_000), socket.closedWith));
  assert.deepEqual(minutes, [undefined, undefined, undefined, 4900]);
});

test("online, offline and a page that is shown again ask the socket at once, but only once", () => {
  for (const type of ["online", "offline", "visibilitychange"]) {
    const { script, world, pings } = connected();
    world.event(type);
    world.event(type);
    assert.equal(pings(), 1);
    world.run(6_000);
    assert.equal(script.t.state, "resuming");
  }
});

test("a page that is hidden asks nothing", () => {
  const { world, pings } = connected();
  world.page.document.hidden = true;
  world.event("visibilitychange");
  assert.equal(pings(), 0);
});

test("online and a shown page shorten the wait to at most 500 ms; the state says so", () => {
  for (const type of ["online", "visibilitychange"]) {
    const script = new Script({ env: { random: () => 1 } });
    for (let n = 0; n < 6; n++) {
      script.socket.closes();
      script.world.run(n < 5 ? script.t.status.nextAttemptAt - script.world.time : 0);
    }
    assert.equal(script.t.status.nextAttemptAt - script.world.time, 30_000);
    const attempts = script.world.sockets.length;
    script.world.event(type);
    assert.equal(script.states.at(-1).nextAttemptAt - script.world.time, 500);
    script.world.run(500);
    assert.equal(script.world.sockets.length, attempts + 1);
    script.world.event(type);
    assert.equal(script.world.sockets.length, attempts + 1, "an attempt under way is left alone");
  }
});

test("offline does not stop attempts: the browser may be wrong", () => {
  const script = new Script();
  script.socket.closes();
  script.world.event("offline");
  script.world.run(1_000);
  assert.equal(script.world.sockets.length, 2);
});

test("pagehide of a page that is kept: 4901, no timer; pageshow: resume", () => {
  const { script, world } = connected();
  const { socket } = script;
  world.event("pagehide", { persisted: true });
  assert.deepEqual([socket.closedWith, socket.held, world.timers.size, script.t.state], [4901, 0, 0, "resuming"]);
  world.event("online");
  world.run(3_600_000);
  assert.equal(world.sockets.length, 1);
  world.event("pageshow", { persisted: true });
  world.run(500);
  script.socket.opens();
  const { resume, lastCode } = script.last("connect");
  assert.deepEqual([resume.token, lastCode], ["t1", 4901]);
});

test("pagehide within an attempt, or between two, stops that too; a token that comes meanwhile is kept for later", async () => {
  for (const close of [true, false]) {
    const script = new Script();
    if (close) script.socket.closes();
    script.world.event("pagehide", { persisted: true });
    script.world.run(60_000);
    assert.deepEqual([script.world.sockets.length, script.world.timers.size], [1, 0]);
    script.world.event("pageshow", { persisted: true });
    script.world.run(1_000);
    assert.equal(script.world.sockets.length, 2);
  }
});

test("pagehide of a page that goes, and the first pageshow, do nothing", () => {
  const { script, world } = connected();
  world.event("pageshow", { persisted: false });
  world.event("pagehide", { persisted: false });
  assert.deepEqual([script.t.state, script.socket.closedWith], ["connected", undefined]);
});

test("a_clock_that_is_set_back_does_not_stop_the_watch", () => {
  const { world, pings } = connected();
  world.time -= 3_600_000;
  for (const timer of world.timers.values()) timer.at -= 3_600_000;
  world.run(12_000);
  assert.equal(pings(), 1);
});
