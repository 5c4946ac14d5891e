/** Verify that attempts to connect keep to the delays of PROTOCOL §9, and never end by themselves. */
import assert from "node:assert/strict";
import test from "node:test";
import { Script } from "./support.mjs";

const SAMPLES = 20_000;

/** Delays before attempt `n` after a connection that was stable and `n` attempts that failed. */
function* delays(spreadMs) {
  const script = new Script({}, 7);
  const { world } = script;
  script.welcome({ spreadMs });
  for (;;) {
    world.run(10_000);
    script.socket.closes();
    for (let n = 0; ; n++) {
      const at = world.time;
      const status = script.states.at(-1);
      assert.equal(status.state, "resuming");
      yield { n, delay: status.nextAttemptAt - at };
      const sockets = world.sockets.splice(0).length;
      assert.ok(sockets >= 1);
      world.run(status.nextAttemptAt - at);
      assert.equal(world.sockets.length, 1, "the attempt is made when it was announced");
      script.states.length = 0;
      if (n === 8) break;
      script.socket.closes();
    }
    script.welcome({ spreadMs, resumed: true });
    script.states.length = 0;
  }
}

/** The greatest distance between the samples' distribution and the uniform one of 0 … width (Kolmogorov–Smirnov). */
function distance(samples, width) {
  const sorted = Float64Array.from(samples).sort();
  return sorted.reduce((worst, value, index) => Math.max(worst, Math.abs(value / width - (index + 0.5) / sorted.length)), 0);
}

for (const spreadMs of [0, 8_000]) {
  test(`delays are uniform up to min(30 s, 500 ms · 2ⁿ), and up to ${spreadMs} ms after a failure: ${SAMPLES} samples each`, (t) => {
    const samples = Array.from({ length: 9 }, () => []);
    for (const { n, delay } of delays(spreadMs)) {
      samples[n].push(delay);
      if (samples[8].length === SAMPLES) break;
    }
    const figures = samples.map((list, n) => {
      const width = Math.max(Math.min(30_000, 500 * 2 ** n), n > 0 ? spreadMs : 0);
      assert.equal(list.length, SAMPLES);
      assert.ok(Math.max(...list.slice(0, 1000)) <= width && list.every((delay) => delay >= 0 && delay <= width));
      const worst = distance(list, width);
      // The critical value at a level of one in a million.
      assert.ok(worst < 2.69 / Math.sqrt(SAMPLES), `attempt ${n}: distance ${worst}`);
      assert.ok(new Set(list).size > SAMPLES * 0.9, "the jitter is drawn after the cap: no heap of equal delays");
      return `${n}: 0…${width} ms, D=${worst.toFixed(4)}`;
    });
    t.diagnostic(figures.join("; "));
  });
}

/**
 * The rule of socket.io-client with its defaults (1 s, doubled, jitter one half, at most 5 s), as its documentation has it: the draw moves
 * the delay up or down by up to its half, by the parity of its first decimal, and the cap comes last.
 */
function cappedAfterTheDraw(n, draw) {
  const delay = 1000 * 2 ** n;
  const by = draw * 0.5 * delay;
  return Math.min(5000, Math.floor(Math.floor(draw * 10) % 2 === 0 ? delay - by : delay + by));
}

/** The share of the most frequent delay, on a grid of 1 ms. */
function shareOfEquals(list) {
  const counts = new Map();
  for (const delay of list) counts.set(Math.floor(delay), (counts.get(Math.floor(delay)) ?? 0) + 1);
  return Math.max(...counts.values()) / list.length;
}

test("unlike with a rule that draws before the cap, hardly any delays are equal", (t) => {
  const { world } = new Script({}, 5);
  const ours = Array.from({ length: 9 }, () => []);
  for (const { n, delay } of delays(0)) {
    ours[n].push(delay);
    if (ours[8].length === SAMPLES) break;
  }
  for (let n = 0; n < 9; n++) {
    const theirs = shareOfEquals(Array.from({ length: SAMPLES }, () => cappedAfterTheDraw(n, world.random())));
    const own = shareOfEquals(ours[n]);
    t.diagnostic(`attempt ${n + 1}: equal delays ${(own * 100).toFixed(1)} % of ours, ${(theirs * 100).toFixed(1)} % if capped after the draw`);
    assert.ok(own < 0.01, `attempt ${n + 1}: ${own}`);
    assert.ok(n < 3 || theirs > 0.85, "what is compared with does what it is said to");
  }
});

test("the judge of distributions finds jitter that is drawn before the cap", () => {
  const { world } = new Script({}, 3);
  const capped = Array.from({ length: SAMPLES }, () => Math.min(30_000, world.random() * 64_000));
  assert.ok(distance(capped, 30_000) > 2.69 / Math.sqrt(SAMPLES));
});

/** The window that the next delay is drawn from: what it would be if chance said 1. */
function windowOf(script) {
  const { nextAttemptAt } = script.states.at(-1);
  return nextAttemptAt - script.world.time;
}
const certain = { env: { random: () => 1 } };

test("a connection of less than 10 s does not reset the row of attempts, one of 10 s does", () => {
  const script = new Script(certain);
  script.welcome();
  const windows = [];
  for (const up of [9_999, 9_999, 9_999, 10_000, 9_999]) {
    script.world.run(up);
    script.socket.closes();
    windows.push(windowOf(script));
    script.world.run(windows.at(-1));
    script.welcome({ resumed: true });
  }
  assert.deepEqual(windows, [1000, 2000, 4000, 500, 1000]);
});

test("retryAfterMs of a close is a lower bound, also for what would be sooner", () => {
  for (const random of [0, 0.5, 1]) {
    const script = new Script({ env: { random: () => random } });
    script.welcome();
    script.world.run(10_000);
    script.socket.closes(4100, { ra: 12_345 });
    assert.equal(windowOf(script), 12_345);
    script.world.event("online");
    script.world.event("visibilitychange");
    script.world.run(12_344);
    assert.equal(script.world.sockets.length, 1, "neither a page event nor chance comes before it");
    script.world.run(1);
    assert.equal(script.world.sockets.length, 2);
  }
});

test("retryAfterMs below the jitter leaves the jitter", () => {
  const script = new Script(certain);
  script.welcome();
  script.world.run(10_000);
  script.socket.closes(4200, { ra: 100 });
  assert.equal(windowOf(script), 500);
});

test("it never gives up: 10,000 failures later it still says when it tries next", () => {
  const script = new Script();
  for (let n = 0; n < 10_000; n++) {
    const { socket } = script;
    socket.closes();
    const { state, nextAttemptAt } = script.states.at(-1);
    assert.equal(state, "connecting");
    assert.ok(nextAttemptAt - script.world.time <= 30_000);
    script.world.sockets.length = 0;
    script.world.run(nextAttemptAt - script.world.time);
    script.states.length = 0;
  }
  assert.equal(script.world.sockets.length, 1);
});

test("an attempt that hangs is over after 20 s", () => {
  const script = new Script();
  script.socket.opens();
  const hung = script.socket;
  script.world.run(20_000);
  assert.equal(hung.closedWith, 4900, "not a clean close: the server may have resumed the session already");
  assert.equal(hung.held, 0);
  assert.equal(script.states.at(-1).reason, "timeout");
});

test("reconnect: moves after afterMs, to the url of the server and then back to its own", () => {
  const script = new Script();
  script.welcome();
  script.says({ type: "reconnect", afterMs: 3_000, reason: "drain", url: "ws://other/" });
  const { socket } = script;
  script.world.run(2_999);
  assert.equal(socket.closedWith, undefined);
  script.world.run(1 + 1000);
  assert.equal(socket.closedWith, 4900, "its session goes on");
  assert.equal(script.socket.url, "ws://other/");
  script.reconnect();
  assert.equal(script.socket.url, "ws://server/");
});

test("reconnect before a close that refuses is honoured", () => {
  const script = new Script({ env: { random: () => 0 } });
  script.socket.opens();
  script.says({ type: "reconnect", afterMs: 7_000, reason: "capacity" });
  script.socket.closes(4100, "");
  assert.equal(windowOf(script), 7_000);
});
