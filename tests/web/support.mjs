/** A client in a world of its own, and the few words that a scripted server says to it. */
import { Throng } from "../../src/web/throng.js";
import { World } from "./world.mjs";

export const WELCOME = {
  type: "welcome",
  sessionId: "s1",
  resumeToken: "t1",
  resumed: false,
  nextSeq: 1,
  heartbeatMs: 12_000,
  timeoutMs: 6_000,
  spreadMs: 0,
  limits: { maxMessageBytes: 65_536, window: 64 },
};

/** Lets promises settle. */
export const settle = () => new Promise(setImmediate);

export class Script {
  states = [];

  constructor(options = {}, seed = 1) {
    this.world = new World(seed);
    this.t = this.world.act(() => new Throng("ws://server/", { ...options, env: this.world.env(options.env) }));
    this.t.on("state", (status) => this.states.push(status));
  }
  get socket() {
    return this.world.socket;
  }
  get sent() {
    return this.socket.sent;
  }
  /** The last frame of a type that the client sent on the current socket. */
  last(type) {
    return this.sent.findLast((frame) => frame.type === type);
  }
  do(f) {
    return this.world.act(f);
  }
  says(frame) {
    this.socket.says(frame);
  }
  /** Opens the current socket and welcomes. */
  welcome(more = {}) {
    this.socket.opens();
    this.says({ ...WELCOME, ...more });
    return this;
  }
  /** Joins a room that is at `offset` of epoch `e`. */
  joined(id = "r", options = {}, answer = {}) {
    const room = this.do(() => this.t.join(id, options));
    const { seq } = this.last("join_room");
    this.says({ type: "room_joined", roomId: id, seq, epoch: "e", offset: 0, recovered: false, ...answer });
    this.says({ type: "ack", seq });
    return room;
  }
  /** Loses the connection and waits for the next attempt. */
  reconnect(code = 1006, reason = "") {
    const before = this.world.sockets.length;
    this.socket.closes(code, reason);
    for (let n = 0; this.world.sockets.length === before; n++) {
      if (n === 100) throw new Error("no attempt follows");
      this.world.run(1000);
    }
    return this;
  }
  /** Collects what a listener hears. */
  hear(emitter, name) {
    const heard = [];
    emitter.on(name, (event) => heard.push(event));
    return heard;
  }
  message(offset, data = offset, more = {}) {
    this.says({ type: "broadcast", roomId: "r", offset, data, from: { user: "u", connection: "other" }, ts: 1, ...more });
  }
}

/** How a promise stands: `pending`, `resolved`, or the code that it was rejected with. */
export function fate(promise) {
  const result = { now: "pending" };
  promise.then(
    () => (result.now = "resolved"),
    (error) => (result.now = error.code ?? error.name),
  );
  return result;
}
