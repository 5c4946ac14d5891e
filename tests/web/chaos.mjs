/**
 * A page in headless Chromium that takes part in the chaos run. Arguments: HOST:PORT of the proxy, the browser's program, the page's
 * number among the authors, and the numbers of its rooms (`0,3`).
 *
 * Orders come by standard input, answers go by standard output, a line each: `joined`; on `publish` it begins; on `calm` it ends, waits
 * for all answers and publishes a last number into each room: `settled [[room, number], …]`; on `report [[room, author, number], …]` it
 * waits until it has heard those: `record {sent, heard}`. On `end`, or when the input ends, so does it.
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { openPage } from "./devtools.mjs";
import { strip } from "./strip.mjs";

const [, , address, program, author, rooms] = process.argv;
const served = strip(readFileSync(new URL("../../src/web/throng.js", import.meta.url), "utf8"));

/** Runs in the page: joins, and leaves the orders behind as `chaos`. */
async function play(text, address, author, numbers) {
  const { Throng } = await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  const user = `u${author}`;
  const throng = new Throng(`ws://${address}/ws?user=${user}`, { user });
  const sent = [];
  const heard = {};
  // What is waited for is looked at after each event.
  const looks = new Set();
  const look = () => looks.forEach((each) => each());
  const until = (holds) =>
    new Promise((resolve) => {
      const each = () => holds() && (looks.delete(each), resolve());
      looks.add(each);
      each();
    });
  // Copies are asked for in the first room.
  const rooms = numbers.map((number, place) => {
    const room = throng.join(`r${`${number}`.padStart(4, "0")}`, { presence: place === 0, echo: place === 0 });
    const list = (heard[number] = []);
    room.on("message", ({ data, offset, from }) => {
      list.push([data.from, data.number, offset, from.connection]);
      look();
    });
    room.on("gap", ({ from, to }) => {
      list.push(to === undefined ? [] : [from, to]);
      look();
    });
    room.on("state", look);
    return { number, room, echo: place === 0 };
  });
  const publish = async ({ number, room, echo }) => {
    const entry = [number, echo, "open"];
    const data = { from: author, number: sent.push(entry) - 1, pad: "x".repeat(Math.random() * 200) };
    await room.publish(data).then(
      () => (entry[2] = "acked"),
      ({ code }) => (entry[2] = code === "unknown" ? "unknown" : "refused"),
    );
    look();
    return entry[2];
  };
  let timer;
  globalThis.chaos = {
    publish() {
      timer = setInterval(() => publish(rooms[Math.floor(Math.random() * rooms.length)]), 250);
    },
    async calm() {
      clearInterval(timer);
      await until(() => sent.every(([, , fate]) => fate !== "open"));
      const last = [];
      for (const room of rooms) {
        while ((await publish(room)) !== "acked");
        last.push([room.number, sent.length - 1]);
      }
      return last;
    },
    async report(owed) {
      const isHeard = ([room, from, number]) => heard[room].some((each) => each[0] === from && each[1] === number);
      await until(() => (owed = owed.filter((each) => !isHeard(each))).length === 0);
      return { sent, heard };
    },
    end: () => throng.close(),
  };
  await until(() => rooms.every(({ room }) => room.state === "joined"));
}

const page = await openPage(program);
const say = (word, value) => console.log(value === undefined ? word : `${word} ${JSON.stringify(value)}`);
await page.evaluate(`(${play})(${JSON.stringify(served)}, ${JSON.stringify(address)}, ${author}, [${rooms}])`);
say("joined");
for await (const line of createInterface({ input: process.stdin })) {
  const [order, argument] = line.split(" ");
  if (order === "publish") await page.evaluate("chaos.publish()");
  else if (order === "calm") say("settled", await page.evaluate("chaos.calm()"));
  else if (order === "report") say("record", await page.evaluate(`chaos.report(${argument})`));
  else break;
}
await page.evaluate("chaos.end()");
await page.close();
process.exit(0);
