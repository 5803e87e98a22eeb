// Makes the programs of strangers and lets them act as orders say, in a page and in Node; tells what becomes of it.
//
// In:  {"make": name, "program": "screener" | "realtime", "url": …, "token": …, "options": {…}}
//      {"name": name, "call": method, "arguments": […]}
//      {"name": name, "read": member, "n": number}        answered by {"n": number, "value": …}
// Out: {"name": name, "type": …, "value": …} for everything that the program hands to the application.
(function (root) {
  "use strict";

  function makeDriver(programs, tell) {
    const made = {};

    function make({ make: name, program, url, token, options }) {
      // What was never given is undefined, and that is what these programs send.
      const stranger = new programs[program](url, token === null ? undefined : token, options);
      const told = (type) => (value) => tell({ name, type, value: value === undefined ? null : value });
      if (program === "screener") {
        const emit = stranger.emit;
        stranger.emit = function (type, value) {
          told(type)(value);
          emit.call(stranger, type, value);
        };
      } else {
        Object.assign(stranger, options);
        stranger.onStatus = told("status");
        stranger.onAsset = told("asset");
        stranger.onPortfolio = told("portfolio");
        stranger.onError = told("error");
        stranger.onOther = told("other");
      }
      made[name] = stranger;
    }

    return function act(order) {
      if (order.make) {
        make(order);
      } else if (order.read) {
        tell({ n: order.n, value: made[order.name][order.read] });
      } else {
        made[order.name][order.call](...order.arguments);
      }
    };
  }

  if (typeof module !== "undefined" && module.exports) {
    module.exports = makeDriver;
    if (require.main === module) {
      const programs = { screener: require("./screener.js"), realtime: require("./realtime.js") };
      const act = makeDriver(programs, (line) => process.stdout.write(JSON.stringify(line) + "\n"));
      const lines = require("readline").createInterface({ input: process.stdin });
      lines.on("line", (line) => act(JSON.parse(line)));
    }
  } else {
    root.makeDriver = makeDriver;
  }
})(typeof window !== "undefined" ? window : this);
