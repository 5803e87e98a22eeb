// A screener's price socket, written by someone who had the protocol's description and no client library.
// Plain script: in a page it is `window.StockSocket`, in Node `require("./screener.js")`.
(function (root) {
  "use strict";

  var Socket = typeof WebSocket !== "undefined" ? WebSocket : require("ws");

  class StockSocket {
    constructor(baseUrl, token, options) {
      options = options || {};
      // "query": ?session_id=… · "message": {"type":"reconnect"} · "again": subscribe to everything again
      this.comeBack = options.comeBack || "query";
      this.baseUrl = baseUrl;
      this.token = token;
      this.sessionId = null;
      this.subscriptions = [];
      this.handlers = {};
      this.firstDelay = options.firstDelay || 1000;
      this.maxDelay = options.maxDelay || 30000;
      this.delay = this.firstDelay;
      this.pingInterval = options.pingInterval || 30000;
      this.pingTimer = null;
      this.reconnectTimer = null;
      this.closedByUser = false;
      this.prices = {};
      this.books = {};
    }

    on(type, handler) {
      (this.handlers[type] = this.handlers[type] || []).push(handler);
      return this;
    }

    emit(type, value) {
      (this.handlers[type] || []).forEach(function (handler) {
        handler(value);
      });
    }

    connect() {
      this.closedByUser = false;
      var url = this.baseUrl + "?token=" + this.token;
      if (this.sessionId && this.comeBack === "query") {
        url = this.baseUrl + "?session_id=" + this.sessionId + "&token=" + this.token;
      }
      this.url = url;
      this.ws = new Socket(url);
      this.ws.onopen = () => this.onOpen();
      this.ws.onmessage = (event) => this.onMessage(JSON.parse(event.data));
      this.ws.onerror = () => {};
      this.ws.onclose = (event) => this.onClose(event);
    }

    onOpen() {
      this.delay = this.firstDelay;
      this.pingTimer = setInterval(() => this.send({ type: "ping" }), this.pingInterval);
      if (!this.sessionId || this.comeBack === "again") {
        this.subscribeAll();
      }
      this.emit("open");
    }

    onClose(event) {
      clearInterval(this.pingTimer);
      this.emit("close", event.code);
      if (this.closedByUser) {
        return;
      }
      this.reconnectTimer = setTimeout(() => this.connect(), this.delay);
      this.emit("waiting", this.delay);
      this.delay = Math.min(this.delay * 2, this.maxDelay);
    }

    onMessage(message) {
      switch (message.type) {
        case "connection":
          if (this.sessionId && this.comeBack === "message") {
            this.send({ type: "reconnect", session_id: this.sessionId });
          }
          this.sessionId = message.connection_id;
          break;
        case "batch":
          message.messages.forEach((each) => this.onMessage(each));
          break;
        case "price_update":
          this.prices[message.code] = message.price;
          break;
        case "orderbook_update":
          this.books[message.code] = { bids: message.bids, asks: message.asks };
          break;
        case "reconnected":
          this.sessionId = message.session_id;
          break;
        case "error":
          if (message.code === "SESSION_RESTORATION_FAILED") {
            this.subscribeAll();
          }
          break;
      }
      this.emit(message.type, message);
    }

    subscribe(subscriptionType, targets) {
      this.subscriptions.push({ subscription_type: subscriptionType, targets: targets });
      this.send({ type: "subscribe", subscription_type: subscriptionType, targets: targets });
    }

    unsubscribe(subscriptionType, targets) {
      this.subscriptions.forEach(function (each) {
        if (each.subscription_type === subscriptionType) {
          each.targets = each.targets.filter((target) => targets.indexOf(target) < 0);
        }
      });
      this.send({ type: "unsubscribe", subscription_type: subscriptionType, targets: targets });
    }

    subscribeAll() {
      this.subscriptions.forEach((each) => {
        this.send({ type: "subscribe", subscription_type: each.subscription_type, targets: each.targets });
      });
    }

    refreshToken(token) {
      this.token = token;
      this.send({ type: "refresh_token", token: token });
    }

    send(message) {
      if (this.ws && this.ws.readyState === 1) {
        this.ws.send(JSON.stringify(message));
      }
    }

    close() {
      this.closedByUser = true;
      clearTimeout(this.reconnectTimer);
      clearInterval(this.pingTimer);
      if (this.ws) {
        this.ws.close();
      }
    }
  }

  if (typeof module !== "undefined" && module.exports) {
    module.exports = StockSocket;
  } else {
    root.StockSocket = StockSocket;
  }
})(typeof window !== "undefined" ? window : this);
