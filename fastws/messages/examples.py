"""Examples of every message, for the contract that the server publishes about itself."""

from __future__ import annotations

from typing import Any, Final

import msgspec

_LINES: Final = """
{"type":"subscribe","subscription_type":"stock","targets":["005930","000660","035720"]}
{"type":"subscribe","subscription_type":"market","targets":["KOSPI"],"max_rate":2,"channels":["price"],"id":"a"}
{"type":"unsubscribe","subscription_type":"stock","targets":["005930"]}
{"type":"ping"}
{"type":"ping","id":7}
{"type":"list_subscriptions"}
{"type":"set_subscriptions","subscriptions":{"stock":["005930"],"market":["KOSPI"]}}
{"type":"pause"}
{"type":"resume"}
{"type":"auth","token":"JWT"}
{"type":"refresh_token","token":"NEW_JWT"}
{"type":"reconnect","session_id":"550e8400-e29b-41d4-a716-446655440000"}
{"type":"reconnect","session_id":"550e8400-e29b-41d4-a716-446655440000","last_sequence":12345,"epoch":"k3f9"}
{"type":"connection","status":"connected","connection_id":"550e8400-e29b-41d4-a716-446655440000","authenticated":true,"user_id":"user-123","epoch":"k3f9","sequence":12344,"batch_interval_ms":30,"limits":{"subscriptions":50,"rate_limit":100,"message_bytes":65536},"feeds":{"kis":"live"},"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"subscribed","subscription_type":"stock","targets":["005930","000660","035720"],"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"subscribed","subscription_type":"stock","targets":["005930"],"rejected":[{"target":"999999","reason":"unknown symbol"}],"timestamp":"2025-11-11T00:00:00.000Z","id":"a"}
{"type":"unsubscribed","subscription_type":"stock","targets":["005930"],"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"subscriptions","subscriptions":{"stock":["005930"],"market":["KOSPI"]},"rejected":[],"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"pong","timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"authenticated","user_id":"user-123","expires_at":"2025-11-11T01:00:00.000Z","timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"token_refreshed","expires_at":"2025-11-11T01:00:00.000Z","timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"reconnected","session_id":"550e8400-e29b-41d4-a716-446655440000","restored_subscriptions":{"stock":["005930","000660"],"market":["KOSPI"]},"missed_messages_count":5,"recovered":true,"timestamp":"2025-11-11T09:30:10.000Z"}
{"type":"paused","timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"resumed","timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"server_shutdown","reconnect_after_ms":4200,"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"error","code":"RATE_LIMIT_EXCEEDED","error_code":"RATE_LIMIT_EXCEEDED","message":"Rate limit exceeded (100 messages/second)","details":{"rate_limit":100},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"error","code":"SUBSCRIPTION_FAILED","error_code":"SUBSCRIPTION_FAILED","message":"What could not be subscribed to: 999999","details":{"rejected":[{"target":"999999","reason":"unknown symbol"}]},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"price_update","code":"005930","name":"Samsung Electronics","price":73000,"change":1000,"change_percent":1.39,"volume":12345678,"timestamp":"2025-11-11T09:30:00.000Z","sequence":12345,"seq":101}
{"type":"orderbook_update","code":"005930","bids":[{"price":72900,"quantity":1000}],"asks":[{"price":73000,"quantity":800}],"timestamp":"2025-11-11T09:30:00.000Z","sequence":12346,"seq":88}
{"type":"market_status","market":"KOSPI","status":"open","timestamp":"2025-11-11T09:30:00.000Z","sequence":12347}
{"type":"feed_status","feed":"kis","status":"reconnecting","timestamp":"2025-11-11T09:30:00.000Z","sequence":12348}
{"type":"symbol_status","code":"005930","status":"stale","last_update":"2025-11-11T09:29:49.500Z","usual_interval_ms":250,"stale_after_ms":10000,"timestamp":"2025-11-11T09:30:00.000Z","sequence":12348}
{"type":"alert","code":"005930","alert_type":"price_above","threshold":75000,"current_price":75100,"message":"Samsung Electronics exceeded 75,000 KRW","timestamp":"2025-11-11T09:30:00.000Z","sequence":12349}
{"type":"portfolio_update","portfolio_id":123,"name":"Growth Portfolio","total_value":50000.00,"daily_change":125.50,"daily_change_percent":0.25,"timestamp":"2025-11-11T09:30:00.000Z","sequence":12349}
{"type":"portfolio_update","portfolio_id":123,"name":"Growth Portfolio","total_value":50000.00,"daily_change":0.00,"daily_change_percent":0.00,"unpriced":["AAPL","005930"],"timestamp":"2025-11-11T09:30:00.000Z","sequence":12349}
{"type":"batch","batch_size":2,"messages":[{"type":"price_update","code":"005930","name":"Samsung Electronics","price":73100,"timestamp":"2025-11-11T09:30:00.010Z","sequence":12350,"seq":102},{"type":"price_update","code":"AAPL","name":"Apple","price":150.25,"timestamp":"2025-11-11T09:30:00.020Z","sequence":12351,"seq":9}],"timestamp":"2025-11-11T09:30:00.030Z","sequence":12352}
{"type":"batch","batch_size":2,"snapshot":true,"messages":[{"type":"price_update","code":"000660","name":"SK hynix","price":250500,"timestamp":"2025-11-10T06:30:00.000Z","stale":true,"sequence":7,"seq":1},{"type":"price_update","code":"005930","name":"Samsung Electronics","price":73100,"timestamp":"2025-11-11T09:30:00.010Z","sequence":12350,"seq":102}],"timestamp":"2025-11-11T09:30:00.030Z","sequence":12352}
{"type":"overflow","items":[{"code":"005930","channel":"price","dropped":5,"from_seq":101,"to_seq":105}],"timestamp":"2025-11-11T09:30:00.000Z"}
"""  # noqa: E501


_REALTIME_LINES: Final = """
{"type":"ping","data":{}}
{"type":"ping","id":7}
{"type":"subscribe_asset","data":{"symbol":"AAPL"},"timestamp":"2025-11-11T09:30:00Z"}
{"type":"subscribe_asset","id":"a","data":{"symbols":["AAPL","GOOGL","MSFT"]}}
{"type":"unsubscribe_asset","data":{"symbol":"AAPL"}}
{"type":"subscribe_portfolio","data":{"portfolio_id":123}}
{"type":"unsubscribe_portfolio","data":{"portfolio_id":123}}
{"type":"auth","data":{"token":"JWT"}}
{"type":"connection","data":{"status":"connected","connection_id":"550e8400-e29b-41d4-a716-446655440000","authenticated":true,"user_id":123},"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"connection","data":{"status":"connected","connection_id":"550e8400-e29b-41d4-a716-446655440000","authenticated":false,"user_id":null},"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"pong","data":{},"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"subscribed","data":{"symbol":"AAPL"},"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"subscribed","data":{"portfolio_id":123},"timestamp":"2025-11-11T00:00:00.000Z","id":7}
{"type":"unsubscribed","data":{"symbol":"AAPL"},"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"authenticated","data":{"user_id":123,"expires_at":"2025-11-11T01:00:00.000Z"},"timestamp":"2025-11-11T00:00:00.000Z"}
{"type":"asset_update","data":{"symbol":"AAPL","price":150.25,"change":2.50,"change_percent":1.69,"volume":50000000,"high":151.00,"low":148.50},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"asset_update","data":{"symbol":"005930","price":73000,"high":73000,"low":72500,"quality":"polled","stale":true},"timestamp":"2025-11-10T06:30:00.000Z"}
{"type":"portfolio_update","data":{"portfolio_id":123,"name":"Growth Portfolio","total_value":50000.00,"daily_change":125.50,"daily_change_percent":0.25},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"feed_status","data":{"feed":"kis","status":"reconnecting"},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"symbol_status","data":{"symbol":"005930","status":"stale","last_update":"2025-11-11T09:29:49.500Z","usual_interval_ms":250,"stale_after_ms":10000},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"alert","data":{"code":"005930","alert_type":"price_above","threshold":75000,"current_price":75100,"message":"Samsung Electronics exceeded 75,000 KRW"},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"overflow","data":{"items":[{"code":"kis","channel":"feed_status","dropped":5,"from_seq":101,"to_seq":105}]},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"server_shutdown","data":{"reconnect_after_ms":4200},"timestamp":"2025-11-11T09:30:00.000Z"}
{"type":"error","data":{"code":"FORBIDDEN","error_code":"FORBIDDEN","message":"Portfolios are for their owners, with a token or a session that says who they are","details":{}},"timestamp":"2025-11-11T09:30:00.000Z"}
"""  # noqa: E501


def examples() -> dict[str, list[dict[str, Any]]]:
    """Return the examples of the screener dialect by message type."""
    return _by_type(_LINES)


def realtime_examples() -> dict[str, list[dict[str, Any]]]:
    """Return the examples of the realtime dialect by message type."""
    return _by_type(_REALTIME_LINES)


def _by_type(lines: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in filter(None, lines.split("\n")):
        message = msgspec.json.decode(line, type=dict[str, Any])
        found.setdefault(message["type"], []).append(message)
    return found
