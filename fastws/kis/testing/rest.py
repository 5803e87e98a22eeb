"""The HTTP side: approval keys, access tokens and quotations."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from fastws.kis.testing import actions
from fastws.kis.testing.credentials import ERRORS
from fastws.kis.testing.journal import CallEntry
from fastws.kis.testing.market import REST_VENUES
from fastws.kis.testing.replies import KST

if TYPE_CHECKING:
    from fastws.kis.testing.server import FakeKIS

_QUOTATIONS: Final = "/uapi/domestic-stock/v1/quotations"
_MAX_SYMBOLS: Final = 30
# The gateway says "too fast" and "no such token" with this status.
_GATEWAY_STATUS: Final = 500


class Rest:
    """Handlers of what a client of quotations needs; answers come as KIS gives them, with KIS's codes."""

    def __init__(self, server: FakeKIS) -> None:
        self._server = server

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/oauth2/Approval", self._approval)
        router.add_post("/oauth2/tokenP", self._token)
        router.add_get(f"{_QUOTATIONS}/inquire-price", self._price)
        router.add_get(f"{_QUOTATIONS}/inquire-asking-price-exp-ccn", self._book)
        router.add_get(f"{_QUOTATIONS}/intstock-multprice", self._prices)
        router.add_get(f"{_QUOTATIONS}/inquire-daily-itemchartprice", self._days)

    # Keys

    async def _approval(self, request: web.Request) -> web.Response:
        return await self._issue(request, "approval", "secretkey")

    async def _token(self, request: web.Request) -> web.Response:
        return await self._issue(request, "token", "appsecret")

    async def _issue(self, request: web.Request, what: str, secret_name: str) -> web.Response:
        server = self._server
        body = await _read_object(request)
        app_key = body.get("appkey")
        shown = app_key if isinstance(app_key, str) else ""
        wrong = await self._spoil(request, what, shown)
        if wrong is not None:
            return wrong
        if body.get("grant_type") != "client_credentials":
            return self._refuse_key(request, shown, "EGW00101")
        refused = server.credentials.refused(server.settings, app_key, body.get(secret_name))
        if refused:
            return self._refuse_key(request, shown, refused)
        now = server.now()
        if server.credentials.is_blocked(shown, now):
            server.discipline.note("blocked", now, shown, detail=request.path)
            return self._refuse_key(request, shown, "EGW00003")
        if what == "approval":
            key = server.credentials.issue_approval(server.settings, shown, now)
            if key is None:
                server.discipline.note("hasty_approval", now, shown)
                return self._refuse_key(request, shown, "EGW00201", _GATEWAY_STATUS)
            return self._answer(request, shown, {"approval_key": key})
        token = server.credentials.issue_token(server.settings, shown, now)
        if token is None:
            server.discipline.note("hasty_token", now, shown)
            return self._refuse_key(request, shown, "EGW00133")
        seconds = server.settings.token_seconds
        end = datetime.datetime.now(KST) + datetime.timedelta(seconds=seconds)
        return self._answer(
            request,
            shown,
            {
                "access_token": token,
                "access_token_token_expired": end.strftime("%Y-%m-%d %H:%M:%S"),
                "token_type": "Bearer",
                "expires_in": int(seconds),
            },
        )

    def _refuse_key(self, request: web.Request, app_key: str, code: str, status: int = 403) -> web.Response:
        answer = {"error_description": ERRORS[code], "error_code": code}
        return self._answer(request, app_key, answer, status=status, code=code)

    # Quotations

    async def _price(self, request: web.Request) -> web.Response:
        refused = await self._check_call(request, "FHKST01010100")
        if refused is not None:
            return refused
        parameters = _upper(request)
        venue = REST_VENUES.get(parameters.get("FID_COND_MRKT_DIV_CODE", ""))
        output = venue and self._server.market.quote(parameters.get("FID_INPUT_ISCD", ""), venue)
        return self._quotation(request, output and {"output": output}, "FID_INPUT_ISCD")

    async def _book(self, request: web.Request) -> web.Response:
        refused = await self._check_call(request, "FHKST01010200")
        if refused is not None:
            return refused
        parameters = _upper(request)
        venue = REST_VENUES.get(parameters.get("FID_COND_MRKT_DIV_CODE", ""))
        code = parameters.get("FID_INPUT_ISCD", "")
        if not venue or not code or (book := self._server.market.book_quote(code, venue)) is None:
            return self._quotation(request, None, "FID_INPUT_ISCD")
        price = self._server.market.quote(code, venue)
        return self._quotation(request, {"output1": book, "output2": price}, "")

    async def _prices(self, request: web.Request) -> web.Response:
        refused = await self._check_call(request, "FHKST11300006")
        if refused is not None:
            return refused
        if self._server.settings.environment == "paper":
            return self._refuse_call(request, _app_key(request), "OPSQ0002", 200)
        parameters = _upper(request)
        rows = []
        for i in range(1, _MAX_SYMBOLS + 1):
            code = parameters.get(f"FID_INPUT_ISCD_{i}", "")
            venue = REST_VENUES.get(parameters.get(f"FID_COND_MRKT_DIV_CODE_{i}", ""))
            row = self._server.market.multi_quote(code, venue) if code and venue else None
            if row is not None:
                rows.append(row)
        return self._quotation(request, rows and {"output": rows}, "FID_INPUT_ISCD_1", len(rows))

    async def _days(self, request: web.Request) -> web.Response:
        refused = await self._check_call(request, "FHKST03010100")
        if refused is not None:
            return refused
        parameters = _upper(request)
        code = parameters.get("FID_INPUT_ISCD", "")
        is_known = parameters.get("FID_COND_MRKT_DIV_CODE", "") in REST_VENUES
        try:
            first, last = (
                datetime.datetime.strptime(parameters.get(f"FID_INPUT_DATE_{n}", ""), "%Y%m%d").date()
                for n in (1, 2)
            )
        except ValueError:
            return self._quotation(request, None, "FID_INPUT_DATE_1")
        # Today is among them, as far as it has come.
        last = min(last, datetime.datetime.now(KST).date())
        rows = self._server.market.day_quotes(code, first, last) if is_known else None
        if rows is None:
            return self._quotation(request, None, "FID_INPUT_ISCD")
        price = self._server.market.quote(code, "KRX")
        return self._quotation(request, {"output1": price, "output2": rows}, "")

    def _quotation(self, request: web.Request, body: Any, field: str, n: int = 1) -> web.Response:
        app_key = _app_key(request)
        if not body:
            text = f"{ERRORS['OPSQ2001']} [{field}]"
            return self._refuse_call(request, app_key, "OPSQ2001", 200, text)
        done = {"rt_cd": "0", "msg_cd": "MCA00000", "msg1": "정상처리 되었습니다."}
        return self._answer(request, app_key, body | done, symbols=n)

    async def _check_call(self, request: web.Request, tr_id: str) -> web.Response | None:
        """What a call gets that is not granted."""
        server, headers = self._server, request.headers
        app_key = _app_key(request)
        wrong = await self._spoil(request, "quotations", app_key)
        if wrong is not None:
            return wrong
        refused = server.credentials.refused(server.settings, app_key, headers.get("appsecret"))
        if refused:
            return self._refuse_call(request, app_key, refused, 403)
        now = server.now()
        if server.credentials.is_blocked(app_key, now):
            server.discipline.note("blocked", now, app_key, detail=request.path)
            return self._refuse_call(request, app_key, "EGW00003", 403)
        token = headers.get("authorization", "").removeprefix("Bearer ").strip()
        refused = server.credentials.token_refused(token, app_key, now)
        if refused:
            return self._refuse_call(request, app_key, refused, _GATEWAY_STATUS)
        if not server.credentials.call(server.settings, app_key, now):
            server.discipline.note("rest_rate", now, app_key, detail=request.path)
            return self._refuse_call(request, app_key, "EGW00201", _GATEWAY_STATUS)
        if headers.get("tr_id") != tr_id:
            return self._refuse_call(request, app_key, "OPSQ0002", 200)
        return None

    def _refuse_call(
        self, request: web.Request, app_key: str, code: str, status: int, text: str | None = None
    ) -> web.Response:
        answer = {"rt_cd": "1", "msg_cd": code, "msg1": ERRORS[code] if text is None else text}
        return self._answer(request, app_key, answer, status=status, code=code)

    # Both

    async def _spoil(self, request: web.Request, what: str, app_key: str) -> web.Response | None:
        """Apply a standing fault of HTTP; returns the answer where it makes one."""
        server = self._server
        fault = server.faults.take(
            actions.Rest, server.now(), app_key, lambda fault: fault.of in (what, "all")
        )
        if fault is None:
            return None
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.body is not None:
            status = fault.status or 200
            server.journal.calls.append(
                CallEntry(at=server.now(), path=request.path, app_key=app_key, status=status, code="body")
            )
            return web.Response(status=status, text=fault.body, content_type="application/json")
        if fault.code is None and fault.status is None:
            return None
        code = fault.code or ""
        text = ERRORS.get(code, "")
        answer = (
            {"rt_cd": "1", "msg_cd": code, "msg1": text}
            if what == "quotations"
            else {"error_description": text, "error_code": code}
        )
        status = fault.status or (403 if fault.code else _GATEWAY_STATUS)
        response = self._answer(request, app_key, answer, status=status, code=code or str(status))
        if fault.retry_after is not None:
            response.headers["Retry-After"] = f"{fault.retry_after:g}"
        return response

    def _answer(
        self,
        request: web.Request,
        app_key: str,
        answer: dict[str, Any],
        *,
        status: int = 200,
        code: str = "",
        symbols: int = 0,
    ) -> web.Response:
        server = self._server
        server.journal.calls.append(
            CallEntry(
                at=server.now(), path=request.path, app_key=app_key, status=status, code=code, symbols=symbols
            )
        )
        return web.Response(
            status=status,
            body=msgspec.json.encode(answer),
            content_type="application/json",
            charset="utf-8",
            headers={"tr_cont": ""},
        )


async def _read_object(request: web.Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _app_key(request: web.Request) -> str:
    return request.headers.get("appkey", "")


def _upper(request: web.Request) -> dict[str, str]:
    """The parameters; KIS does not mind in which case their names are."""
    return {name.upper(): value for name, value in request.query.items()}
