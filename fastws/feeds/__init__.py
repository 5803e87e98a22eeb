"""Sources of market data: what brings prices and order books into a :class:`fastws.market.market.Market`."""
