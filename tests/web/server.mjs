/**
 * The browser client against a running server, with Node's built-in WebSocket or, where there is none, the package `ws`.
 *
 * Argument: HOST:PORT of a server. The last check puts a proxy between the two that cuts connections; it holds whether the server
 * resumes sessions and recovers from history, or starts anew and says `gap`. Prints a line for each check, and `N passed, N failed`.
 */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import net from "node:net";
import { Throng } from "../../src/web/throng.js";

const [host, port] = (process.argv[2] ?? "127.0.0.1:9000").split(":");
const WebSocket = globalThis.WebSocket ?? createRequire(import.meta.url)("ws");
const PATIENCE_MS = 30_000;
const CUTS = 30;

/** Resolves when `test` holds, which is looked at after each event of `emitters`. */
function until(emitters, what, test) {
  return new Promise((resolve, reject) => {
    const offs = [];
    const end = (f, value) => {
      clearTimeout(timer);
      for (const off of offs) off();
      f(value);
    };
    const timer = setTimeout(() => end(reject, new Error(`in vain: ${what}`)), PATIENCE_MS);
    const look = () => test() && end(resolve);
    for (const [emitter, name] of emitters) offs.push(emitter.on(name, look));
    look();
  });
}
const open = (user, at = `${host}:${port}`, env) => new Throng(`ws://${at}/ws?user=${user}`, { WebSocket, user, env });
const name = (text) => `${text}-${process.pid}-${process.hrtime.bigint()}`;

const checks = {
  async "publications come in order and are acknowledged; casts come too"() {
    const [ada, bob] = [open("ada"), open("bob")];
    const id = name("order");
    const [a, b] = [ada.join(id), bob.join(id)];
    const heard = [];
    b.on("message", ({ data, offset, from }) => heard.push([data.n, offset === undefined, from.user]));
    await until([[b, "state"]], "bob is in the room", () => b.state === "joined");
    await Promise.all(Array.from({ length: 50 }, (_, n) => a.publish({ n })));
    assert.equal(a.cast({ n: "cast" }), true);
    await until([[b, "message"]], "51 messages", () => heard.length === 51);
    assert.deepEqual(heard, [...Array.from({ length: 50 }, (_, n) => [n, false, "ada"]), ["cast", true, "ada"]]);
    ada.close();
    bob.close();
  },

  async "a room's history comes in pages, whole and in order"() {
    const ada = open("ada");
    const room = ada.join(name("history"));
    const pad = "x".repeat(1000);
    await Promise.all(Array.from({ length: 100 }, (_, n) => room.publish({ n, pad })));
    const bob = open("bob");
    const late = bob.join(room.id);
    const found = [];
    let pages = 0;
    let since;
    for (let more = true; more; pages++) {
      const page = await late.history({ since });
      assert.equal(page.gap, undefined);
      found.push(...page.publications.map(({ data, offset, from }) => [data.n, offset, from.user]));
      since = { epoch: page.epoch, offset: page.publications.at(-1).offset };
      more = page.more;
    }
    assert.deepEqual(found, Array.from({ length: 100 }, (_, n) => [n, n + 1, "ada"]));
    assert.ok(pages >= 3, "100 KiB are more than two pages of 32");
    assert.equal((await late.history({ limit: 7 })).publications.length, 7);
    ada.close();
    bob.close();
  },

  async "presence lists come whole, change, and end with a clean close"() {
    const id = name("presence");
    const watcher = open("watcher");
    const room = watcher.join(id, { state: { name: "w" } });
    const others = Array.from({ length: 3 }, (_, n) => open(`user${n}`));
    const rooms = others.map((each, n) => each.join(id, { state: n }));
    const members = () => [...room.members.values()].map(({ user, state }) => [user, state]).sort();
    await until([[room, "presence"]], "all four", () => room.members.size === 4);
    assert.deepEqual(members(), [["user0", 0], ["user1", 1], ["user2", 2], ["watcher", { name: "w" }]]);
    assert.equal(room.members.get(watcher.id)?.user, "watcher", "t.id is one's own");
    await rooms[0].setState("new");
    await until([[room, "presence"]], "the new state", () => members().some(([, state]) => state === "new"));
    others.forEach((each) => each.close());
    await until([[room, "presence"]], "all have gone", () => room.members.size === 1);
    watcher.close();
  },

  async "a large presence list comes in pages"() {
    const id = name("pages");
    const state = "x".repeat(900);
    const others = Array.from({ length: 80 }, (_, n) => open(`member${n}`));
    const rooms = others.map((each) => each.join(id, { state, presence: false }));
    await Promise.all(rooms.map((room) => room.publish(1)));
    const watcher = open("watcher");
    const room = watcher.join(id, { presence: true });
    await until([[room, "presence"]], "81 members", () => room.members.size === 81);
    assert.ok(watcher._questions >= 2, "72 KiB are at least three pages");
    others.forEach((each) => each.close());
    watcher.close();
  },

  async "the server's refusals reach the promise; leaving and joining again works"() {
    const t = open("ada");
    const room = t.join(name("x".repeat(300)));
    const reason = new Promise((resolve) => room.on("state", ({ state, reason }) => state === "left" && resolve(reason)));
    assert.match(await reason, /room/);
    const id = name("again");
    for (let n = 0; n < 5; n++) {
      const again = t.join(id);
      await again.publish(n);
      again.leave();
    }
    t.close();
  },

  async [`${CUTS} cuts lose and repeat nothing silently`]() {
    const links = new Set();
    const proxy = net.createServer((client) => {
      const server = net.connect(Number(port), host);
      links.add(client);
      for (const [from, to] of [[client, server], [server, client]]) {
        from.pipe(to);
        from.on("error", () => to.destroy());
        from.on("close", () => (links.delete(client), to.destroy()));
      }
    });
    await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    const at = `127.0.0.1:${proxy.address().port}`;
    // No connection here gets old enough to reset the back-off; chance says 0, so that attempts follow at once.
    const env = { random: () => 0 };
    const [ada, bob] = [open("ada", at, env), open("bob", at, env)];
    const id = name("cuts");
    const [a, b] = [ada.join(id), bob.join(id)];
    const heard = [];
    let gaps = 0;
    let resumes = 0;
    b.on("message", ({ data }) => heard.push(data));
    b.on("gap", () => (gaps++, heard.push("gap")));
    b.on("recovered", () => resumes++);
    // Both: who is cut off before its first welcome goes on `connecting`, and is never `resuming`.
    await until([[a, "state"], [b, "state"]], "both are in the room", () => a.state === "joined" && b.state === "joined");
    const fates = [];
    let n = 0;
    for (let cut = 0; cut < CUTS; cut++) {
      for (let burst = 0; burst < 10; burst++) {
        const number = n++;
        fates.push(a.publish(number).then(() => number, ({ code }) => assert.equal(code, "unknown")));
      }
      // The oldest one: so both are cut in turn.
      const [link] = links;
      link.resetAndDestroy();
      const both = [ada, bob];
      await until(both.map((each) => [each, "state"]), "one is cut off", () => both.some(({ state }) => state === "resuming"));
      await until([[ada, "state"], [bob, "state"], [b, "state"]], "both are back", () =>
        both.every(({ state }) => state === "connected") && b.state === "joined");
    }
    const acknowledged = (await Promise.all(fates)).filter((number) => number !== undefined);
    await a.publish("end");
    await until([[b, "message"]], "the last one", () => heard.at(-1) === "end");
    ada.close();
    bob.close();
    proxy.close();
    const numbers = heard.filter((each) => typeof each === "number");
    assert.equal(new Set(numbers).size, numbers.length, "none twice");
    // What is unknown may still lie in the socket of a lost session, and take effect after what the next session published.
    const known = numbers.filter((number) => acknowledged.includes(number));
    assert.deepEqual(known, known.toSorted((x, y) => x - y), "what is acknowledged comes in order");
    // What is missing must lie where a gap was told.
    const missing = acknowledged.filter((number) => !numbers.includes(number));
    for (const number of missing) {
      const next = heard.findIndex((each) => each === "end" || each > number);
      const before = heard.slice(0, next).findLastIndex((each) => typeof each === "number");
      assert.ok(heard.slice(before + 1, next).includes("gap"), `${number} is missing without a gap`);
    }
    console.log(`  ${acknowledged.length} of ${n} acknowledged, ${missing.length} in ${gaps} gaps, ${resumes} recoveries`);
  },
};

let failed = 0;
for (const [check, run] of Object.entries(checks)) {
  try {
    await run();
    console.log(`ok ${check}`);
  } catch (error) {
    failed++;
    console.log(`FAILED ${check}: ${error.stack}`);
  }
}
console.log(`${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
