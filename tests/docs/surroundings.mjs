// What a page has that Node may lack: a WebSocket, where it comes from, and the application's address of tokens.
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket;
globalThis.location = { host: process.env.HOST };
const ask = globalThis.fetch;
globalThis.fetch = async (address, ...more) =>
  address === "/my/token" ? new Response(process.env.TOKEN) : ask(address, ...more);
