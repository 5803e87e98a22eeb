// Bun's HTTP server (uWebSockets in Zig) with its `publish`, which sends at the end of a turn of the loop.

const TOPIC = "prices";
const SUBSCRIBED = '{"type":"subscribed"}';
const BURST = 32;

const rate = Number(Bun.argv[2]);
const head = Bun.argv[3];

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, server) {
    if (!server.upgrade(request)) return new Response("a WebSocket is expected", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    sendPings: false,
    idleTimeout: 0,
    message(ws) {
      ws.send(SUBSCRIBED);
      ws.subscribe(TOPIC);
    },
  },
});

const began = performance.now();
let n = 0;

function turn() {
  const due = Math.min(Math.floor(((performance.now() - began) * rate) / 1000), n + BURST);
  while (n < due) {
    n += 1;
    server.publish(TOPIC, `${head}${new Date().toISOString()}","sequence":${n},"seq":${n}}`);
  }
  const wait = began + ((n + 1) * 1000) / rate - performance.now();
  if (wait <= 0) setImmediate(turn);
  else setTimeout(turn, Math.max(1, wait));
}

console.log(JSON.stringify({ port: server.port, pids: [process.pid] }));
turn();
