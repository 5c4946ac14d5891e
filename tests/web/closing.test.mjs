/** Verify that each close code means what PROTOCOL §7 says, and that tokens are asked for when they are needed. */
import assert from "node:assert/strict";
import test from "node:test";
import { Script, fate, settle } from "./support.mjs";

for (const code of [1000, 1001, 1005, 4003, 4004, 4042]) {
  test(`${code} ends it`, async () => {
    const script = new Script();
    script.welcome();
    script.socket.closes(code);
    assert.equal(script.t.state, "closed");
    assert.equal(script.states.at(-1).code, code);
    script.world.run(100_000);
    assert.deepEqual([script.world.sockets.length, script.world.timers.size], [1, 0]);
  });
}

for (const code of [1006, 1011, 1012, 3000, 4101, 4102, 4103, 4104, 4200, 4201, 4299, 4999]) {
  test(`${code} is followed by a resume`, () => {
    const script = new Script();
    script.welcome();
    script.reconnect(code);
    script.socket.opens();
    assert.equal(script.last("connect").resume.token, "t1");
    assert.equal(script.last("connect").lastCode, code);
  });
}

for (const code of [4202, 4203]) {
  test(`${code} on the current socket drops the resume token: a fresh session`, () => {
    const script = new Script();
    script.welcome();
    script.reconnect(code);
    script.socket.opens();
    assert.equal(script.last("connect").resume, undefined);
  });
}

test("4202 on a socket that was given up is ignored", () => {
  const script = new Script();
  script.welcome();
  const old = script.socket;
  script.world.event("pagehide", { persisted: true });
  script.world.event("pageshow", { persisted: true });
  script.world.run(1_000);
  assert.notEqual(script.socket, old);
  old.closes(4202);
  script.welcome({ resumed: true });
  assert.equal(script.last("connect").resume.token, "t1");
  assert.equal(script.t.state, "connected");
});

for (const code of [1002, 1003, 1007]) {
  test(`${code} is reported and retried at the cap`, () => {
    const script = new Script({ env: { random: () => 1 } });
    script.welcome();
    script.world.run(10_000);
    script.socket.closes(code);
    const { code: reported, nextAttemptAt } = script.states.at(-1);
    assert.deepEqual([reported, nextAttemptAt - script.world.time], [code, 30_000]);
  });
}

test("a_40xx_with_advice_is_not_the_end: a slow handshake is closed with 4004 and a time to come again", () => {
  const script = new Script({ env: { random: () => 0 } });
  script.socket.opens();
  script.socket.closes(4004, { ra: 2_000 });
  assert.equal(script.t.state, "connecting");
  script.world.run(2_000);
  assert.equal(script.world.sockets.length, 2);
});

test("1009 fails the largest command in flight, and the others are unknown", async () => {
  const script = new Script();
  script.welcome();
  const room = script.joined();
  const fates = ["a", "b".repeat(1000)].map((data) => fate(script.do(() => room.publish(data))));
  script.reconnect(1009);
  script.socket.opens();
  assert.equal(script.last("connect").resume, undefined, "its number would be missing for ever in that session");
  await settle();
  assert.deepEqual(fates.map(({ now }) => now), ["pending", "message_too_large"]);
});

/** Waits for the next attempt, which asks for a token first. */
async function attempt(script) {
  const before = script.world.sockets.length;
  for (let n = 0; script.world.sockets.length === before && n < 100; n++) {
    script.world.run(1000);
    await settle();
  }
}

test("a token may be text", () => {
  const script = new Script({ token: "abc", user: "ada" });
  script.socket.opens();
  assert.deepEqual([script.last("connect").token, script.last("connect").user], ["abc", "ada"]);
  script.socket.closes(4001);
  assert.equal(script.t.state, "closed");
});

test("4001: one call for a new token, then it stops; a welcome allows the next call", async () => {
  let calls = 0;
  const script = new Script({ token: async () => `token${++calls}` });
  await settle();
  script.socket.opens();
  assert.equal(script.last("connect").token, "token1");
  script.socket.closes(4001);
  await attempt(script);
  script.welcome();
  assert.equal(script.last("connect").token, "token2");
  script.socket.closes(4001);
  await attempt(script);
  script.socket.opens();
  assert.equal(script.last("connect").token, "token3");
  script.socket.closes(4001);
  assert.equal(script.t.state, "closed");
  assert.equal(calls, 3);
});

test("4204: a new token first, then the resume with it", async () => {
  let calls = 0;
  const script = new Script({ token: () => `token${++calls}` });
  await settle();
  script.welcome({ tokenTtlMs: 3_600_000 });
  script.socket.closes(4204);
  await attempt(script);
  script.socket.opens();
  const { token, resume } = script.last("connect");
  assert.deepEqual([token, resume.token], ["token2", "t1"]);
});

test("a token that still holds is not asked for again; one whose time is over is", async () => {
  let calls = 0;
  const script = new Script({ token: () => `token${++calls}` });
  await settle();
  script.welcome({ tokenTtlMs: 60_000 });
  script.socket.closes(4201);
  await attempt(script);
  script.socket.opens();
  assert.equal(script.last("connect").token, "token1");
  script.socket.closes(4201);
  script.world.sleep(100_000);
  await attempt(script);
  script.socket.opens();
  assert.equal(script.last("connect").token, "token2");
});

test("a token is renewed before it ends, and a failed call is repeated", async () => {
  let calls = 0;
  const token = async () => {
    if (++calls === 2) throw new Error("not now");
    return `token${calls}`;
  };
  const script = new Script({ token });
  await settle();
  script.welcome({ tokenTtlMs: 100_000, heartbeatMs: 1e6 });
  const errors = script.hear(script.t, "error");
  script.world.run(80_000);
  await settle();
  script.do(() => {});
  assert.equal(errors[0].message, "not now");
  assert.equal(script.last("refresh"), undefined);
  script.world.run(5_000);
  await settle();
  assert.equal(script.last("refresh").token, "token3");
  script.says({ type: "refreshed", tokenTtlMs: 200_000 });
  script.world.run(159_999);
  await settle();
  assert.equal(calls, 3);
  script.world.run(1);
  await settle();
  assert.equal(calls, 4);
});

test("a callback that fails or hangs is a failed attempt, and its late answer is not used", async () => {
  const asked = [];
  const script = new Script({ token: () => new Promise((resolve, reject) => asked.push({ resolve, reject })) });
  asked[0].reject(new Error("offline"));
  await settle();
  script.do(() => {});
  assert.equal(script.states.at(-1).error.message, "offline");
  script.world.run(1_000);
  assert.equal(asked.length, 2);
  script.world.run(20_000);
  assert.ok(script.states.some(({ reason }) => reason === "timeout"));
  script.do(() => script.t.close());
  asked[1].resolve("late");
  await settle();
  assert.deepEqual([script.world.sockets.length, script.world.timers.size], [0, 0]);
});

test("a server address that is none ends it with the error", () => {
  const script = new Script({
    env: {
      WebSocket: class {
        constructor() {
          throw new SyntaxError("no address");
        }
      },
    },
  });
  assert.equal(script.t.state, "closed");
  assert.equal(script.t.status.error.message, "no address");
});
