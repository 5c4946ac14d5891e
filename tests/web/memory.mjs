/**
 * The browser client's memory in headless Chromium: 1,000,000 messages, 10,000 rooms, 100,000 listeners and 1,000 reconnects against a
 * scripted server in the same page, and what the heap is after a garbage collection, before and after.
 *
 * The page talks to no network: its sockets are objects, so that what is measured is the client. Argument: the browser's program.
 * Prints a line of figures; fails if the heap grew by more than 10 %.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { openPage } from "./devtools.mjs";

const source = readFileSync(fileURLToPath(new URL("../../src/web/throng.js", import.meta.url)), "utf8");

/** Runs in the page: a server of a few lines, and the load in portions. */
async function setUp(text) {
  const { Throng } = await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  let id = 0;
  class Socket {
    bufferedAmount = 0;
    constructor() {
      globalThis.socket = this;
      queueMicrotask(() => this.onopen?.({}));
    }
    says(frame) {
      this.onmessage?.({ data: JSON.stringify(frame) });
    }
    send(text) {
      const { type, roomId, seq, since } = JSON.parse(text);
      const limits = { maxMessageBytes: 65536, window: 64 };
      const welcome = { type: "welcome", sessionId: `s${++id}`, resumed: false, nextSeq: 1, heartbeatMs: 25000, timeoutMs: 6000, limits };
      queueMicrotask(() => {
        if (type === "connect") this.says(welcome);
        if (type === "join_room") this.says({ type: "room_joined", roomId, seq, epoch: "e", offset: since?.offset ?? 0, recovered: !!since });
        if (seq) this.says({ type: "ack", seq });
      });
    }
    close() {}
  }
  const t = new Throng("ws://page/", { WebSocket: Socket, env: { random: () => 0 } });
  const room = t.join("r");
  globalThis.heard = 0;
  room.on("message", () => globalThis.heard++);
  const rest = () => new Promise((resolve) => setTimeout(resolve));
  const connected = () => new Promise((resolve) => (t.state === "connected" ? resolve() : globalThis.off = t.on("state", ({ state }) => state === "connected" && (off(), resolve()))));
  let offset = 0;
  globalThis.load = async (messages, rooms, listeners, reconnects) => {
    for (let n = 0; n < messages; n++) {
      socket.says({ type: "broadcast", roomId: "r", offset: ++offset, data: { n, text: `message ${n}` }, from: { user: "u", connection: "c" }, ts: n });
      if (n % 1000 === 0) await rest();
    }
    for (let n = 0; n < rooms; n++) {
      const other = t.join(`room-${n}`, { state: n });
      other.on("message", () => {});
      await other.publish(n);
      other.leave();
    }
    for (let n = 0; n < listeners; n++) room.on("message", () => {})();
    for (let n = 0; n < reconnects; n++) {
      socket.onclose({ code: 1006, reason: "" });
      await connected();
    }
    await rest();
    return { heard: globalThis.heard, listeners: room._listeners.get("message").size, timers: t._timers.size, rooms: t._rooms.size };
  };
}

async function measure({ evaluate, call }) {
  const heap = async () => {
    for (let n = 0; n < 3; n++) await call("HeapProfiler.collectGarbage");
    return (await call("Runtime.getHeapUsage")).usedSize;
  };
  await evaluate(`(${setUp})(${JSON.stringify(source)})`);
  // What is measured is what stays per message, not what the engine learns about code: the first load is left out.
  await evaluate("load(500_000, 5_000, 50_000, 500)");
  const before = await heap();
  const held = await evaluate("load(1_000_000, 10_000, 100_000, 1_000)");
  const after = await heap();
  const growth = (after / before - 1) * 100;
  console.log(`heap ${before} B before, ${after} B after (${growth.toFixed(1)} %); ${JSON.stringify(held)}`);
  return growth <= 10 && held.heard === 1_500_000 && held.listeners === 1 && held.rooms === 1 && held.timers === 1;
}

const page = await openPage(process.argv[2]);
const good = await measure(page).catch((error) => console.log(error.stack));
await page.close();
process.exit(good ? 0 : 1);
