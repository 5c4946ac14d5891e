// What the types promise, as an application uses them: compiled by `tsc --noEmit`, never run.
import { Throng, ThrongError, type Message, type Room, type Status } from "throng-client";

interface Text {
  text: string;
}
interface Cursor {
  x: number;
  y: number;
}

const abort = new AbortController();
const t = new Throng(new URL("wss://example.org/ws"), {
  token: async () => (await fetch("/token")).text(),
  queue: { count: 100 },
  signal: abort.signal,
});
const room: Room<Text, Cursor> = t.join<Text, Cursor>("doc-1", { state: { x: 0, y: 0 }, mode: "latest" });
const off: () => void = room.on("message", ({ data, from, offset }: Message<Text>) => console.log(data.text, from.user, offset ?? "cast"));
room.on("presence", ({ members, counts }) => console.log(counts?.users ?? [...members.values()].map(({ state }) => state?.x)));
room.on("recovered", ({ count }) => console.log(count.toFixed()), { signal: abort.signal });
room.on("gap", ({ reason, from }) => console.log(reason, from));
room.on("state", ({ state, reason }) => state === "left" && console.log(reason));
t.on("state", (status: Status) => status.nextAttemptAt && console.log(new Date(status.nextAttemptAt)));
try {
  await room.publish({ text: "hello" }, { key: "k" });
  await room.setState({ x: 1, y: 2 });
} catch (error) {
  if (error instanceof ThrongError) console.log(error.code);
}
const { publications, epoch, more } = await room.history({ limit: 50 });
const last: Message<Text> | undefined = publications.at(-1);
if (more && last?.offset) await room.history({ since: { epoch, offset: last.offset }, signal: abort.signal });
const sent: boolean = room.cast({ text: "…" });
off();
room.leave();
t.close();

// @ts-expect-error: a publication has the room's type
room.publish({ txt: 1 });
// @ts-expect-error: there is no such event
room.on("messages", () => {});
// @ts-expect-error: rooms are joined, not made
new Room();
// @ts-expect-error: the state is not the application's to set
t.state = "closed";
console.log(sent);
