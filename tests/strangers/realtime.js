// The live prices of a finance application, written by someone who had the protocol's description: a plain class that
// sends and receives {type, data, timestamp}. In a page it is `window.RealtimeSocket`, in Node a module.
(function (root) {
  "use strict";

  var Socket = typeof WebSocket !== "undefined" ? WebSocket : require("ws");

  class RealtimeSocket {
    constructor(url, token) {
      this.url = url;
      this.token = token;
      this.socket = null;
      this.symbols = new Set();
      this.portfolios = new Set();
      this.reconnectAttempts = 0;
      this.reconnectInterval = RealtimeSocket.RECONNECT_INTERVAL;
      this.pingInterval = 30000;
      this.stopped = false;
      this.onStatus = null;
      this.onAsset = null;
      this.onPortfolio = null;
      this.onError = null;
      this.onOther = null;
    }

    connect() {
      this.stopped = false;
      var url = this.token ? this.url + "?token=" + encodeURIComponent(this.token) : this.url;
      this.socket = new Socket(url);
      this.socket.onopen = () => {
        this.reconnectAttempts = 0;
        this.timer = setInterval(() => this.send("ping", {}), this.pingInterval);
        this.symbols.forEach((symbol) => this.send("subscribe_asset", { symbol: symbol }));
        this.portfolios.forEach((id) => this.send("subscribe_portfolio", { portfolio_id: id }));
        this.call(this.onStatus, "open");
      };
      this.socket.onmessage = (event) => this.handleMessage(JSON.parse(event.data));
      this.socket.onerror = () => {};
      this.socket.onclose = () => {
        clearInterval(this.timer);
        this.call(this.onStatus, "closed");
        if (!this.stopped) {
          var wait = this.reconnectInterval * Math.pow(2, Math.min(this.reconnectAttempts, 5));
          this.reconnectAttempts += 1;
          this.retry = setTimeout(() => this.connect(), wait);
        }
      };
    }

    handleMessage(message) {
      var data = message.data;
      switch (message.type) {
        case "asset_update":
          this.call(this.onAsset, data);
          break;
        case "portfolio_update":
          this.call(this.onPortfolio, data);
          break;
        case "error":
          this.call(this.onError, data);
          break;
        default:
          this.call(this.onOther, message);
      }
    }

    send(type, data) {
      if (this.socket && this.socket.readyState === 1) {
        this.socket.send(JSON.stringify({ type: type, data: data, timestamp: new Date().toISOString() }));
      }
    }

    subscribeAsset(symbol) {
      this.symbols.add(symbol);
      this.send("subscribe_asset", { symbol: symbol });
    }

    unsubscribeAsset(symbol) {
      this.symbols.delete(symbol);
      this.send("unsubscribe_asset", { symbol: symbol });
    }

    subscribePortfolio(id) {
      this.portfolios.add(id);
      this.send("subscribe_portfolio", { portfolio_id: id });
    }

    disconnect() {
      this.stopped = true;
      clearTimeout(this.retry);
      clearInterval(this.timer);
      if (this.socket) {
        this.socket.close();
      }
    }

    call(callback, value) {
      if (callback) {
        callback(value);
      }
    }
  }

  RealtimeSocket.RECONNECT_INTERVAL = 1000;

  if (typeof module !== "undefined" && module.exports) {
    module.exports = RealtimeSocket;
  } else {
    root.RealtimeSocket = RealtimeSocket;
  }
})(typeof window !== "undefined" ? window : this);
