// A React hook around the finance application's socket, in the manner of the first years of hooks.
"use strict";

const { useCallback, useEffect, useRef, useState } = require("react");
const RealtimeSocket = require("./realtime.js");

function useRealtime(url, token, symbols, portfolioId) {
  const [connected, setConnected] = useState(false);
  const [prices, setPrices] = useState({});
  const [portfolio, setPortfolio] = useState(null);
  const [error, setError] = useState(null);
  const socket = useRef(null);

  useEffect(() => {
    const connection = new RealtimeSocket(url, token);
    socket.current = connection;
    connection.onStatus = (status) => setConnected(status === "open");
    connection.onAsset = (data) => setPrices((known) => ({ ...known, [data.symbol]: data }));
    connection.onPortfolio = (data) => setPortfolio(data);
    connection.onError = (data) => setError(data);
    connection.connect();
    return () => {
      connection.onStatus = connection.onAsset = connection.onPortfolio = connection.onError = null;
      connection.disconnect();
      socket.current = null;
    };
  }, [url, token]);

  const wanted = symbols.join(",");
  useEffect(() => {
    const list = wanted ? wanted.split(",") : [];
    list.forEach((symbol) => socket.current.subscribeAsset(symbol));
    return () => {
      if (socket.current) {
        list.forEach((symbol) => socket.current.unsubscribeAsset(symbol));
      }
    };
  }, [url, token, wanted]);

  useEffect(() => {
    if (portfolioId !== undefined) {
      socket.current.subscribePortfolio(portfolioId);
    }
  }, [url, token, portfolioId]);

  const ping = useCallback(() => socket.current && socket.current.send("ping", {}), []);
  return { connected, prices, portfolio, error, ping };
}

module.exports = useRealtime;
