/**
 * The browser client in headless Chromium against a running server: messages, presence, and a page that goes into the back/forward
 * cache and comes back. Arguments: HOST:PORT and the browser's program. Prints a line for each check, and `N passed, N failed`.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { openPage } from "./devtools.mjs";
import { strip } from "./strip.mjs";

const [, , address, program] = process.argv;
const served = strip(readFileSync(new URL("../../src/web/throng.js", import.meta.url), "utf8"));

/** Runs in the page. */
async function play(text, address) {
  const { Throng } = await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  const url = `ws://${address}/ws`;
  const [ada, bob] = ["ada", "bob"].map((user) => new Throng(`${url}?user=${user}`, { user }));
  const id = `chromium-${Date.now()}`;
  const [a, b] = [ada.join(id), bob.join(id, { state: { x: 1 } })];
  const heard = [];
  const codes = [];
  b.on("message", ({ data }) => heard.push(data));
  bob.on("state", ({ code }) => code && codes.push(code));
  const event = (emitter, name, test) => new Promise((resolve) => emitter.on(name, (each) => test(each) && resolve()));
  const joined = (room) => room.state === "joined" || event(room, "state", ({ state }) => state === "joined");
  await joined(b);
  for (let n = 0; n < 20; n++) await a.publish(n);
  while (heard.length < 20) await event(b, "message", () => true);
  const listed = b.members.size === 2 || event(b, "presence", () => b.members.size === 2);
  await listed;
  const users = [...b.members.values()].map(({ user }) => user).sort();
  const back = event(bob, "state", ({ state }) => state === "connected");
  dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
  const hidden = bob.state;
  dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
  await back;
  await joined(a);
  await joined(b);
  await a.publish("after");
  while (heard.at(-1) !== "after") await event(b, "message", () => true);
  ada.close();
  bob.close();
  return { heard, users, hidden, codes, closed: bob.state };
}

const page = await openPage(program);
let failed = 0;
try {
  const { heard, users, hidden, codes, closed } = await page.evaluate(`(${play})(${JSON.stringify(served)}, ${JSON.stringify(address)})`);
  assert.deepEqual(heard, [...Array.from({ length: 20 }, (_, n) => n), "after"]);
  assert.deepEqual([users, hidden, codes[0], closed], [["ada", "bob"], "resuming", 4901, "closed"]);
  console.log("ok messages, presence and the back/forward cache");
} catch (error) {
  failed++;
  console.log(`FAILED messages, presence and the back/forward cache: ${error.stack}`);
}
await page.close();
console.log(`${1 - failed} passed, ${failed} failed`);
process.exit(failed);
