// A server that sends what no server may send: prints what becomes of a client that meets it, one line for each message.
import { Fastws, FastwsRealtime } from "fastws";
import { WebSocket, WebSocketServer } from "ws";

const GREETING = { status: "connected", connection_id: "c", authenticated: false, user_id: null, epoch: "e", sequence: 0 };
const BOTH = ["null", "[]", '"text"', "17", "{}", "not JSON", '{"type":null}'];
const SCREENER = [
  '{"type":"batch"}', '{"type":"batch","messages":null}', '{"type":"batch","messages":{}}',
  '{"type":"batch","messages":[null],"sequence":3}', '{"type":"overflow"}', '{"type":"overflow","items":[null]}',
  '{"type":"price_update","code":"__proto__","seq":"1","sequence":"x"}', '{"type":"reconnected"}',
];
const REALTIME = ['{"type":"server_shutdown","data":null}', '{"type":"asset_update","data":null}', '{"type":"error"}'];

async function meet(Client, text) {
  const server = new WebSocketServer({ port: 0 });
  await new Promise((resolve) => server.on("listening", resolve));
  let n = 0;
  server.on("connection", (socket) => {
    n += 1;
    const timestamp = new Date().toISOString();
    const greeting =
      Client === Fastws
        ? { type: "connection", ...GREETING, timestamp }
        : { type: "connection", data: GREETING, timestamp };
    socket.send(JSON.stringify(greeting));
    socket.send(n === 1 ? text : JSON.stringify({ type: "pong", data: {}, timestamp }));
  });
  const client = new Client(`ws://127.0.0.1:${server.address().port}/`, { WebSocket, backoff: { min: 10, max: 50 } });
  // Whether it goes on with this connection or gives it up for another, it has to hear what comes then.
  const heard = new Promise((resolve) => client.on("pong", resolve));
  await new Promise((resolve) => setTimeout(resolve, 100));
  server.clients.forEach((socket) => socket.send(JSON.stringify({ type: "pong", data: {} })));
  await heard;
  client.close();
  server.clients.forEach((socket) => socket.terminate());
  server.close();
  console.log(JSON.stringify({ text, n }));
}

async function hurry(delay) {
  const server = new WebSocketServer({ port: 0 });
  await new Promise((resolve) => server.on("listening", resolve));
  let n = 0;
  server.on("connection", (socket) => {
    n += 1;
    const timestamp = new Date().toISOString();
    socket.send(JSON.stringify({ type: "connection", ...GREETING, timestamp }));
    socket.send(`{"type":"server_shutdown","reconnect_after_ms":${delay},"timestamp":"${timestamp}"}`);
    socket.close(1012);
  });
  const client = new Fastws(`ws://127.0.0.1:${server.address().port}/`, { WebSocket, backoff: { min: 200, max: 1000 } });
  await new Promise((resolve) => setTimeout(resolve, 1000));
  client.close();
  server.clients.forEach((socket) => socket.terminate());
  server.close();
  console.log(JSON.stringify({ delay, n }));
}

await Promise.all([
  ...[...BOTH, ...SCREENER].map((text) => meet(Fastws, text)),
  ...[...BOTH, ...REALTIME].map((text) => meet(FastwsRealtime, text)),
  ...['"zz"', "1e12", "0", "-5", "1"].map(hurry),
]);
