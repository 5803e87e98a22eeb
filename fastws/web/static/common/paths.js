// Where the server is. The address of this module tells it, whatever prefix a proxy has put before its paths, and
// however the page itself was reached (with or without its trailing slash).

const ROOT = new URL("../../", import.meta.url);

/** The address of `path` on the server: `httpUrl("v1/ws/stats")`. */
export function httpUrl(path) {
  return new URL(path.replace(/^\/+/, ""), ROOT).href;
}

/** The same as a WebSocket address: `websocketUrl("v1/ws")`. */
export function websocketUrl(path) {
  return httpUrl(path).replace(/^http/, "ws");
}
