// npm's `ws` against a running server: both dialects, echo, pings, fragments and close codes.
//
// Argument: HOST:PORT of a server with --echo, --message-bytes-max 1048576 and a heartbeat of 1 s.
'use strict';
const assert = require('node:assert');
const { randomBytes } = require('node:crypto');
const { setTimeout: wait } = require('node:timers/promises');
const WebSocket = require('ws');

const base = `ws://${process.argv[2]}`;
const PATIENCE_MS = 30000;

/** A socket with a queue of what came, so that nothing is lost between two awaits. */
class Peer {
  constructor(path, protocols, options) {
    this.queue = [];
    this.waiting = null;
    this.pings = 0;
    this.socket = new WebSocket(base + path, protocols ?? [], options);
    this.socket.on('message', (data, binary) => this.push({ data, binary }));
    this.socket.on('ping', () => { this.pings += 1; });
    this.socket.on('close', (code, reason) => this.push({ closed: code, reason: reason.toString() }));
    this.socket.on('error', (error) => this.push({ error }));
  }
  push(event) {
    this.queue.push(event);
    this.waiting?.();
  }
  async next() {
    const deadline = Date.now() + PATIENCE_MS;
    while (this.queue.length === 0) {
      assert(Date.now() < deadline, 'nothing came');
      await Promise.race([new Promise((resolve) => { this.waiting = resolve; }), wait(500)]);
    }
    return this.queue.shift();
  }
  async open() {
    if (this.socket.readyState === WebSocket.CONNECTING) {
      await new Promise((resolve, reject) => { this.socket.once('open', resolve); this.socket.once('error', reject); });
    }
    return this;
  }
  async text() {
    const event = await this.next();
    assert(event.data !== undefined, `not a message: ${JSON.stringify(event)}`);
    return event.data.toString();
  }
  /** The next frame of a type; frames of other types are passed over. */
  async until(type) {
    for (;;) {
      const frame = JSON.parse(await this.text());
      if (frame.type === type) return frame;
      assert.notStrictEqual(frame.type, 'error', JSON.stringify(frame));
    }
  }
  async closed() {
    for (;;) {
      const event = await this.next();
      if (event.closed !== undefined) return event.closed;
    }
  }
  send(frame) { this.socket.send(JSON.stringify(frame)); }
}

const plain = (path = '/ws', options) => new Peer(path, [], options).open();
async function modern(user) {
  const peer = await new Peer('/ws', ['throng.v1']).open();
  assert.strictEqual(peer.socket.protocol, 'throng.v1');
  peer.send({ type: 'connect', user });
  await peer.until('welcome');
  return peer;
}

const checks = {
  async theLogPlain() {
    const [author, member] = [await plain('/'), await plain()];
    for (const peer of [member, author]) {
      peer.socket.send('{"type":"join_room","roomId":"doc-abc123","seq":1}');
      const text = await peer.text();
      assert(text.startsWith('{"type":"room_joined","roomId":"doc-abc123"'), text);
    }
    author.socket.send('{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{}},"seq":2}');
    const text = await member.text();
    assert(text.startsWith('{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{}}'), text);
    author.socket.close();
    member.socket.close();
  },
  async roomsInOrder() {
    const [author, member] = [await modern('author'), await modern('member')];
    member.send({ type: 'join_room', roomId: 'js', seq: 1 });
    await member.until('room_joined');
    author.send({ type: 'join_room', roomId: 'js', seq: 1 });
    for (let n = 2; n < 62; n += 1) author.send({ type: 'broadcast', roomId: 'js', data: { n }, seq: n });
    for (let n = 2; n < 62; n += 1) assert.strictEqual((await member.until('broadcast')).data.n, n);
    while ((await author.until('ack')).seq < 61);
    author.socket.close();
    member.socket.close();
  },
  async presence() {
    const watcher = await modern('watcher');
    watcher.send({ type: 'join_room', roomId: 'js-presence', presence: true, seq: 1 });
    assert.deepStrictEqual((await watcher.until('room_joined')).members.map((member) => member.user), ['watcher']);
    const guest = await modern('guest');
    guest.send({ type: 'join_room', roomId: 'js-presence', presence: true, seq: 1 });
    assert.strictEqual((await watcher.until('presence_diff')).joins[0].user, 'guest');
    guest.socket.close(1000);
    assert.strictEqual((await watcher.until('presence_diff')).leaves[0].user, 'guest');
    watcher.socket.close();
  },
  async echoSizes() {
    const peer = await plain('/echo', { perMessageDeflate: false });
    for (const size of [0, 1, 125, 126, 127, 65535, 65536, 1048576]) {
      const data = randomBytes(size);
      peer.socket.send(data);
      const event = await peer.next();
      assert(event.binary && data.equals(event.data), `${size} bytes`);
    }
    peer.socket.send('ünï→𝄞'.repeat(1000));
    assert.strictEqual(await peer.text(), 'ünï→𝄞'.repeat(1000));
    peer.socket.close();
  },
  async echoWithCompressionOffered() {
    const peer = await plain('/echo');
    peer.socket.send('x'.repeat(10000));
    assert.strictEqual(await peer.text(), 'x'.repeat(10000));
    peer.socket.close();
  },
  async fragments() {
    const peer = await plain('/echo', { perMessageDeflate: false });
    peer.socket.send('a', { fin: false });
    peer.socket.send('', { fin: false });
    peer.socket.ping('between');
    peer.socket.send('bc', { fin: false });
    peer.socket.send('d'.repeat(70000), { fin: true });
    assert.strictEqual(await peer.text(), `abc${'d'.repeat(70000)}`);
    peer.socket.close();
  },
  async pingsBothWays() {
    const peer = await plain();
    const pong = new Promise((resolve) => { peer.socket.once('pong', (data) => resolve(data.toString())); });
    peer.socket.ping('payload');
    assert.strictEqual(await pong, 'payload');
    const deadline = Date.now() + PATIENCE_MS;
    while (peer.pings < 2) {
      assert(Date.now() < deadline, 'the server does not ping');
      await wait(50);
    }
    peer.send({ type: 'ping', t: 5 });
    assert.strictEqual((await peer.until('pong')).t, 5);
    peer.socket.close();
  },
  async tooLarge() {
    const peer = await plain('/echo', { perMessageDeflate: false });
    peer.socket.send('x'.repeat(1048577));
    assert.strictEqual(await peer.closed(), 1009);
  },
  async closeCodes() {
    for (const code of [1000, 1001, 4900]) {
      const peer = await plain();
      peer.socket.close(code);
      assert([1000, code].includes(await peer.closed()), `${code}`);
    }
  },
  async refusals() {
    const peer = new Peer('/nowhere');
    const event = await peer.next();
    assert(/404/.test(String(event.error)), String(event.error));
  },
};

(async () => {
  let [passed, failed] = [0, 0];
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      passed += 1;
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${error}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
})();
