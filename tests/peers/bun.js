// A Bun server for comparison: /echo sends each message back, /room publishes each to all other connections of the room.
//
// Settings are those that make it work least: no compression, no subprotocol, no log, no copy of the publication to its publisher.
// A publication is wrapped once into a frame of the form and length of throng's `broadcast`, so that both deliver the same bytes;
// Bun is spared the parsing of a command, the acknowledgement and the choice of the room. Prints `listening HOST:PORT`.
const ROOM = 'bench';
const CONNECTION = 'AAAAAAAAAAA';
let offset = 0;

const server = Bun.serve({
  hostname: '127.0.0.1',
  port: 0,
  fetch(request, server) {
    const { pathname, searchParams } = new URL(request.url);
    const data = { echo: pathname === '/echo', user: searchParams.get('user') ?? 'user-100' };
    return server.upgrade(request, { data }) ? undefined : new Response('not a WebSocket\n', { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    // About as often as throng pings a silent member.
    idleTimeout: 16,
    sendPings: true,
    backpressureLimit: 256 * 1024,
    open(socket) {
      if (!socket.data.echo) socket.subscribe(ROOM);
    },
    message(socket, message) {
      if (socket.data.echo) {
        socket.send(message);
        return;
      }
      offset += 1;
      const from = `{"user":"${socket.data.user}","connection":"${CONNECTION}"}`;
      const frame = `{"type":"broadcast","roomId":"bench-12345-0","data":${message},"offset":${offset},"from":${from},"ts":${Date.now()}}`;
      socket.publish(ROOM, frame);
    },
  },
});
console.log(`listening ${server.hostname}:${server.port}`);
