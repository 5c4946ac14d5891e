/**
 * A model of the server: sessions, rooms and histories of PROTOCOL.md in as few words as can be, behind a network that delays and cuts.
 *
 * It decides nothing cleverly: commands in `seq` order, each once; a recovery is all or `gap`. It is the judge's memory too: `log`
 * keeps every publication that ever took effect. Bounds are small, so that they are met.
 */
const HISTORY = 12;
const BASICS = { heartbeatMs: 12_000, timeoutMs: 6_000, spreadMs: 2_000, limits: { maxMessageBytes: 65_536, window: 8 } };

export class ModelServer {
  rooms = new Map();
  sessions = new Map();
  log = [];
  stats = { resumed: 0, fresh: 0, gaps: 0, refused: 0, held: 0, cut: 0, duplicates: 0, recognised: 0, nacks: 0, outside: 0 };
  #names = 0;

  constructor(world, { faults = true } = {}) {
    this.world = world;
    this.faults = faults;
    world.onSocket = (socket) => this.accept(socket);
  }

  maybe(probability) {
    return this.faults && this.world.random() < probability;
  }

  /** A connection: frames of both directions arrive in order, each some time later, unless it is cut. */
  accept(socket) {
    const link = { socket, session: undefined, alive: true, toServer: 0, toClient: 0 };
    const later = (side, f) => {
      const { world } = this;
      link[side] = Math.max(link[side], world.time + world.random() * (this.faults ? 80 : 5));
      world.timer(() => link.alive && f(), link[side] - world.time);
    };
    link.tell = (frame) => later("toClient", () => socket.says(frame));
    link.end = (code, reason = "") => later("toClient", () => ((link.alive = false), socket.closes(code, reason), this.gone(link)));
    socket.onsend = (frame) => later("toServer", () => this.receive(link, frame));
    socket.ongone = (code) => later("toServer", () => ((link.alive = false), this.gone(link, code === 1000)));
    if (this.maybe(0.2)) return this.cut(link);
    later("toClient", () => socket.opens());
    this.links = [...(this.links ?? []).filter(({ alive }) => alive), link];
  }

  /** Whatever is on its way is lost; each side notices when it does, the client perhaps never. */
  cut(link) {
    if (!link.alive) return;
    this.stats.cut++;
    link.alive = false;
    const { world } = this;
    if (world.random() < 0.8) world.timer(() => link.socket.closes(1006), world.random() * 500);
    world.timer(() => this.gone(link), world.random() * 1000);
  }

  gone(link, clean = false) {
    const { session } = link;
    if (session?.link !== link) return;
    session.link = undefined;
    session.waiting.clear();
    if (clean) this.forget(session);
  }

  forget(session) {
    this.sessions.delete(session.id);
    for (const room of this.rooms.values()) room.members.delete(session);
  }

  /** Ends sessions, as the passing of `resume_ttl` would; with `rooms`, numbering restarts too. */
  restart({ rooms = false } = {}) {
    for (const session of [...this.sessions.values()]) {
      if (session.link) this.cut(session.link);
      this.forget(session);
    }
    if (rooms) this.rooms.clear();
  }

  room(id) {
    if (!this.rooms.has(id)) this.rooms.set(id, { id, epoch: `e${++this.#names}`, offset: 0, history: [], members: new Map() });
    return this.rooms.get(id);
  }

  receive(link, frame) {
    if (frame.type === "connect") return this.connect(link, frame);
    const { session } = link;
    if (session?.link !== link) return;
    session.oldToken = undefined;
    if (frame.type === "ping") return link.tell({ type: "pong" });
    if (frame.seq === undefined) return frame.type === "broadcast" && this.publish(session, frame);
    if (frame.seq < session.next) {
      this.stats.duplicates++;
      return link.tell({ type: "ack", seq: session.next - 1 });
    }
    if (frame.seq > session.next) {
      session.waiting.set(frame.seq, frame);
      if (session.nacked !== session.next && session.held !== session.next) {
        session.nacked = session.next;
        this.stats.nacks++;
        link.tell({ type: "nack", expectedSeq: session.next, received: frame.seq });
      }
      return;
    }
    session.waiting.set(frame.seq, frame);
    while (session.waiting.has(session.next)) {
      const command = session.waiting.get(session.next);
      session.waiting.delete(session.next);
      if (this.maybe(0.05)) {
        this.stats.held++;
        session.held = session.next;
        // The buffer has its bounds too.
        if (this.maybe(0.3)) session.waiting.clear();
        link.tell({ type: "error", code: "rate_limited", retryable: true, retryAfterMs: 50, seq: session.next });
        break;
      }
      session.next++;
      this.decide(session, command);
    }
    // An acknowledgement may take its time, which a cut may use.
    if (this.maybe(0.5)) this.world.timer(() => this.acknowledge(session), 200 * this.world.random());
    else this.acknowledge(session);
  }

  acknowledge(session) {
    session.link?.tell({ type: "ack", seq: session.next - 1 });
  }

  connect(link, { resume }) {
    const found = resume && [...this.sessions.values()].find(({ token, oldToken }) => token === resume.token || oldToken === resume.token);
    if (found) {
      this.stats.resumed++;
      if (found.link) found.link.end(4202);
      found.oldToken = resume.token;
      Object.assign(found, { link, token: `t${++this.#names}`, nacked: 0 });
      found.waiting.clear();
      link.session = found;
      const recoveries = [];
      const rooms = {};
      for (const room of this.rooms.values()) {
        // A room may have had no place for it when it came back.
        if (this.maybe(0.1) && room.members.delete(found)) this.stats.outside++;
        if (!room.members.has(found)) continue;
        const at = resume.rooms[room.id];
        if (!at) {
          rooms[room.id] = { complete: true, count: 0 };
          continue;
        }
        const missed = this.missed(room, at, found);
        if (missed.gap) this.stats.gaps++;
        rooms[room.id] = missed.gap ? { gap: missed, epoch: room.epoch, offset: room.offset } : { complete: true, count: missed.length };
        if (!missed.gap) recoveries.push(...missed.map((publication) => [room, publication]));
      }
      const failed = [...found.failed].filter(([seq]) => seq > resume.acked).map(([seq, code]) => ({ seq, code }));
      link.tell({ type: "welcome", sessionId: found.id, resumeToken: found.token, resumed: true, nextSeq: found.next, rooms, failed, ...BASICS });
      for (const [room, publication] of recoveries) this.deliver(found, room, publication);
      return;
    }
    this.stats.fresh++;
    const id = `s${++this.#names}`;
    const session = { id, link, token: `t${++this.#names}`, next: 1, waiting: new Map(), failed: new Map(), nacked: 0, held: 0 };
    this.sessions.set(id, session);
    link.session = session;
    link.tell({ type: "welcome", sessionId: id, resumeToken: session.token, resumed: false, nextSeq: 1, ...BASICS });
  }

  missed(room, { epoch, offset }, session) {
    if (epoch !== room.epoch) return { gap: true, reason: "epoch_changed" };
    if (offset < room.offset - room.history.length) return { gap: true, reason: "window_exceeded" };
    return room.history.filter((publication) => publication.offset > offset && publication.session !== session.id);
  }

  decide(session, frame) {
    const room = this.room(frame.roomId);
    const refuse = (code) => {
      this.stats.refused++;
      session.failed.set(frame.seq, code);
      session.link?.tell({ type: "error", code, retryable: false, seq: frame.seq, message: code });
    };
    if (frame.type === "leave_room") {
      room.members.delete(session);
      session.link?.tell({ type: "room_left", roomId: room.id, reason: "left", seq: frame.seq });
    } else if (frame.type === "join_room") {
      room.members.set(session, true);
      const missed = frame.since ? this.missed(room, frame.since, session) : [];
      if (missed.gap) this.stats.gaps++;
      const answer = { recovered: !!frame.since && !missed.gap, gap: missed.gap ? missed : undefined };
      session.link?.tell({ type: "room_joined", roomId: room.id, seq: frame.seq, epoch: room.epoch, offset: room.offset, ...answer });
      if (frame.since && !missed.gap) for (const publication of missed) this.deliver(session, room, publication, true);
    } else if (frame.type === "history") {
      // A question is named by its `id` alone, in the answer and in the refusal.
      const { id } = frame;
      const publications = room.history.map(({ data, offset, session }) => ({ data, offset, from: { user: "u", connection: session } }));
      if (room.members.has(session)) session.link?.tell({ type: "history", roomId: room.id, id, epoch: room.epoch, offset: room.offset, publications });
      else session.link?.tell({ type: "error", code: "not_joined", retryable: false, id });
    } else if (!room.members.has(session)) refuse("not_joined");
    else if (this.maybe(0.04)) refuse("too_rude");
    else this.publish(session, frame);
  }

  publish(session, { roomId, data, seq }) {
    const room = this.room(roomId);
    const publication = { data, seq, session: session.id, offset: seq === undefined ? undefined : ++room.offset };
    if (seq !== undefined) {
      room.history.push(publication);
      if (room.history.length > HISTORY) room.history.shift();
      this.log.push({ roomId, epoch: room.epoch, offset: room.offset, data });
    }
    for (const member of room.members.keys()) if (member !== session) this.deliver(member, room, publication);
  }

  deliver(member, room, { data, offset, session, seq }, recovery = false) {
    const from = { user: "u", connection: session };
    // The link knows who asks: the author of a lost session gets the seq along.
    const own = recovery && member.link?.socket.owner !== undefined && data.by === member.link.socket.owner;
    if (own) this.stats.recognised++;
    member.link?.tell({ type: "broadcast", roomId: room.id, data, offset, from, ts: 1, ...(own ? { seq } : {}) });
  }
}
