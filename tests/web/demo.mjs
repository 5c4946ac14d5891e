/**
 * What the admin listener serves to browsers: the client as a file, and the demonstration in two windows of headless Chromium, over a
 * restart of the server. Arguments: the server's program and the browser's. Prints a line for each check, and `N passed, N failed`.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import http from "node:http";
import { openPage } from "./devtools.mjs";
import { strip } from "./strip.mjs";

const [, , program, browserProgram] = process.argv;
const PATIENCE_MS = 60_000;
const source = (name) => readFileSync(new URL(`../../src/web/${name}`, import.meta.url), "utf8");

/** A server; resolves when it listens. */
function serve(listen = "127.0.0.1:0", admin = "127.0.0.1:0") {
  const child = spawn(program, ["serve", "--listen", listen, "--admin", admin], { stdio: ["ignore", "pipe", "inherit"] });
  const gone = new Promise((resolve) => child.on("exit", resolve));
  process.once("exit", () => child.kill("SIGKILL")); // Also when this ends by an exception.
  return new Promise((resolve, reject) => {
    let said = "";
    gone.then((code) => reject(new Error(`the server ended with ${code}: ${said}`)));
    child.stdout.on("data", (chunk) => {
      said += chunk;
      const [, listen] = /ws:\/\/([\d.:]+)/.exec(said) ?? [];
      const [, admin] = /http:\/\/([\d.:]+)/.exec(said) ?? [];
      if (listen && admin) resolve({ listen, admin, kill: () => (child.kill("SIGKILL"), gone) });
    });
  });
}

let server = await serve();
const at = (path) => `http://${server.admin}${path}`;

/** Resolves when an expression holds in the page, which is looked at after each change of its document. */
async function until(page, expression) {
  const text = `new Promise((resolve, reject) => {
    const holds = () => ${expression};
    const end = (f, value) => (observer.disconnect(), clearTimeout(timer), f(value));
    const look = () => holds() && end(resolve);
    const observer = new MutationObserver(look);
    const timer = setTimeout(() => end(reject, new Error("in vain: " + holds + "\\n" + document.body.innerText)), ${PATIENCE_MS});
    observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    look();
  })`;
  for (;;) {
    try {
      return await page.evaluate(text);
    } catch (error) {
      // The document that was asked has made way for another.
      if (!/context was destroyed|Cannot find context/.test(error.message)) throw error;
    }
  }
}
const run = (page, f, ...values) => page.evaluate(`(${f})(${values.map((value) => JSON.stringify(value)).join()})`);
const connected = (page) => until(page, `document.getElementById("connection")?.dataset.state === "connected"`);
const people = (page, count) => until(page, `document.querySelectorAll("#people li").length === ${count}`);
const said = (page, text) => until(page, `document.getElementById("messages").innerText.includes(${JSON.stringify(text)})`);
const messages = (page) => run(page, () => [...document.querySelectorAll("#messages > li:not(.note)")].map((item) => item.lastChild.textContent));
const say = (page, text) =>
  run(page, (text) => {
    document.getElementById("text").value = text;
    document.getElementById("compose").requestSubmit();
  }, text);

let browser;
async function open(path) {
  browser ??= await openPage(browserProgram);
  const page = await browser.another(at(path));
  await connected(page);
  return page;
}

const checks = {
  async "both listeners serve the client as it is measured, to pages of any origin, and once"() {
    for (const url of [at("/throng.js"), `http://${server.listen}/throng.js`]) {
      const answer = await fetch(url);
      assert.equal(await answer.text(), strip(source("throng.js")), "byte by byte");
      const header = (name) => answer.headers.get(name);
      assert.equal(header("content-type"), "text/javascript; charset=utf-8");
      assert.deepEqual([header("access-control-allow-origin"), header("cache-control")], ["*", "public, max-age=300"]);
      assert.match(header("etag"), /^"[0-9a-f]{16}"$/);
      const again = await fetch(url, { headers: { "if-none-match": header("etag") } });
      assert.deepEqual([again.status, await again.text(), again.headers.get("etag")], [304, "", header("etag")]);
      const head = await fetch(url, { method: "HEAD" });
      assert.deepEqual([head.status, head.headers.get("content-length")], [200, header("content-length")]);
    }
    assert.equal((await fetch(at("/demo"), { method: "POST" })).status, 405);
    assert.equal(await (await fetch(at("/throng.d.ts"))).text(), source("throng.d.ts"));
  },

  async "a page of another origin imports it"() {
    const other = http.createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<title>elsewhere</title>"));
    await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
    browser ??= await openPage(browserProgram);
    const page = await browser.another(`http://127.0.0.1:${other.address().port}/`);
    await until(page, `document.title === "elsewhere"`);
    for (const url of [at("/throng.js"), `http://${server.listen}/throng.js`]) {
      const names = await run(page, async (url) => Object.keys(await import(url)).sort(), url);
      assert.deepEqual(names, ["Room", "Throng", "ThrongError"]);
    }
    other.close();
    other.closeAllConnections();
  },

  async "two windows share presence, cursors and messages; who comes later sees what was said"() {
    const [a, b] = [await open("/demo?room=two"), await open("/demo?room=two")];
    await people(a, 2);
    await people(b, 2);
    await run(a, () => {
      document.getElementById("name").value = "Ada";
      document.getElementById("rename").requestSubmit();
    });
    await until(b, `document.getElementById("people").innerText.includes("Ada")`);
    await run(a, () => {
      const board = document.getElementById("board");
      const { left, top, width, height } = board.getBoundingClientRect();
      board.dispatchEvent(new PointerEvent("pointermove", { clientX: left + width / 4, clientY: top + height / 2 }));
    });
    await until(b, `document.querySelector(".cursor")?.textContent === "Ada" && document.querySelector(".cursor").style.left.startsWith("2")`);
    await say(a, "hello <b>there</b>");
    await said(b, "hello <b>there</b>");
    await say(b, "hello yourself");
    await said(a, "hello yourself");
    const c = await open("/demo?room=two");
    await said(c, "hello yourself");
    assert.deepEqual(await messages(c), ["hello <b>there</b>", "hello yourself"]);
    await run(a, () => document.getElementById("board").dispatchEvent(new PointerEvent("pointerleave")));
    await until(b, `!document.querySelector(".cursor")`);
    for (const page of [a, b, c]) await page.call("Page.navigate", { url: "about:blank" });
  },

  async "its policy lets no other script run"() {
    const page = await open("/demo?room=policy");
    const ran = await run(page, () => {
      document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = true" }));
      return [window.ran === true, getComputedStyle(document.getElementById("board")).position];
    });
    assert.deepEqual(ran, [false, "relative"], "no inline script, but the style");
    await page.call("Page.navigate", { url: "about:blank" });
  },

  async "a restart of the server is told, loses what it must, and nothing after it"() {
    const [a, b] = [await open("/demo?room=again"), await open("/demo?room=again")];
    await people(a, 2);
    await say(a, "before");
    await said(b, "before");
    await server.kill();
    for (const page of [a, b]) {
      await until(page, `document.getElementById("connection").dataset.state === "resuming"`);
      await until(page, `/Attempt \\d+ in \\d+ s/.test(document.getElementById("countdown").textContent)`);
    }
    await say(a, "meanwhile");
    await until(a, `document.getElementById("pending").innerText.includes("On its way")`);
    server = await serve(server.listen, server.admin);
    for (const page of [a, b]) {
      await connected(page);
      await people(page, 2);
      await said(page, "The server has started anew");
      await said(page, "meanwhile");
    }
    // Both ways: nobody is taken for somebody of the server's last life.
    await say(a, "after");
    await said(b, "after");
    await say(b, "indeed");
    await said(a, "indeed");
    for (const page of [a, b]) {
      assert.deepEqual(await messages(page), ["before", "meanwhile", "after", "indeed"]);
      assert.equal(await run(page, () => document.querySelectorAll("#pending > li").length), 0);
      assert.equal(await run(page, () => document.querySelectorAll(".note.loss").length), 1, "told once");
    }
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
await browser?.close();
await server.kill();
console.log(`${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
