/** Verify that the client, as it is served, has at most 6 KiB gzipped, and that it is then still the same client. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { gzipSync } from "node:zlib";
import { ModelServer } from "./model.mjs";
import { strip } from "./strip.mjs";
import { World } from "./world.mjs";

const BYTES_MAX = 6 * 1024;
const source = readFileSync(new URL("../../src/web/throng.js", import.meta.url), "utf8");
const served = strip(source);

test("at most 6 KiB gzipped", (t) => {
  const bytes = gzipSync(served, { level: 9 }).length;
  t.diagnostic(`${bytes} bytes served, ${gzipSync(source, { level: 9 }).length} with comments`);
  assert.ok(bytes <= BYTES_MAX, `${bytes} bytes`);
});

test("no comment is left, and nothing else is gone", () => {
  assert.doesNotMatch(served, /\/\*|(^|\s)\/\//m);
  const code = (text) => text.replace(/\/\*\*[^]*?\*\/|(?<![:"])\/\/ .*$/gm, "").replace(/\s/g, "");
  assert.equal(code(served), code(source));
});

test("it does what it should", async () => {
  const { Throng } = await import(`data:text/javascript,${encodeURIComponent(served)}`);
  const world = new World(5);
  const server = new ModelServer(world, { faults: false });
  const [ada, bob] = [1, 2].map(() => world.act(() => new Throng("ws://model/", { env: world.env() })));
  const heard = [];
  world.act(() => ada.join("r").on("message", ({ data }) => heard.push(data.n)));
  const room = world.act(() => bob.join("r"));
  world.run(1_000);
  for (let n = 0; n < 5; n++) {
    const published = world.act(() => room.publish({ by: "bob", n }));
    if (n === 2) server.cut(server.links[0]);
    world.run(20_000);
    await published;
  }
  assert.deepEqual(heard, [0, 1, 2, 3, 4]);
});
