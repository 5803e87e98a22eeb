"""The fake KIS server's REST interface: keys, tokens and quotations."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from tests.kis_server import QUOTATIONS, world


async def test_approval_keys_and_tokens_are_given_to_whom_they_belong() -> None:
    async with world() as w:
        kis = w.kis
        body = {"grant_type": "client_credentials", "appkey": kis.app_key, "secretkey": kis.app_secret}
        status, answer = await w.post("/oauth2/Approval", body)
        assert status == 200
        assert set(answer) == {"approval_key"}
        assert re.fullmatch(r"[0-9a-f-]{36}", answer["approval_key"])
        for change, code in (
            ({"appkey": "PS" + "x" * 34}, "EGW00103"),
            ({"secretkey": "wrong"}, "EGW00105"),
            ({"secretkey": None, "appsecret": kis.app_secret}, "EGW00104"),  # the other endpoint's name
            ({"grant_type": "password"}, "EGW00101"),
        ):
            status, answer = await w.post("/oauth2/Approval", body | change)
            assert (status, answer["error_code"]) == (403, code)
        del body["secretkey"]
        status, answer = await w.post("/oauth2/tokenP", body | {"appsecret": kis.app_secret})
        assert status == 200
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 86_400)
        time.strptime(answer["access_token_token_expired"], "%Y-%m-%d %H:%M:%S")


async def test_keys_and_tokens_are_issued_at_the_pace_of_kis() -> None:
    async with world(approval_interval=60.0, token_interval=60.0) as w:
        keys = {"grant_type": "client_credentials", "appkey": w.kis.app_key}
        secret = w.kis.app_secret
        assert (await w.post("/oauth2/Approval", keys | {"secretkey": secret}))[0] == 200
        status, answer = await w.post("/oauth2/Approval", keys | {"secretkey": secret})
        assert (status, answer["error_code"]) == (500, "EGW00201")
        assert (await w.post("/oauth2/tokenP", keys | {"appsecret": secret}))[0] == 200
        status, answer = await w.post("/oauth2/tokenP", keys | {"appsecret": secret})
        assert (status, answer["error_code"]) == (403, "EGW00133")
        assert [entry.kind for entry in w.kis.journal.violations] == ["hasty_approval", "hasty_token"]


async def test_quotations() -> None:
    async with world(rest_rate=7, market="simulator") as w:
        kis = w.kis
        keys = {"grant_type": "client_credentials", "appkey": kis.app_key, "appsecret": kis.app_secret}
        token = (await w.post("/oauth2/tokenP", keys))[1]["access_token"]
        headers = {
            "authorization": f"Bearer {token}", "appkey": kis.app_key, "appsecret": kis.app_secret, "custtype": "P",
        }  # fmt: skip

        async def call(
            path: str, tr_id: str, changed: dict[str, str] | None = None, **parameters: str
        ) -> Any:
            sent = {**headers, "tr_id": tr_id, **(changed or {})}
            url = kis.rest_url + QUOTATIONS + path
            async with w.http.get(url, headers=sent, params=parameters) as response:
                return response.status, await response.json()

        one = {"FID_COND_MRKT_DIV_CODE": "UN", "FID_INPUT_ISCD": "005930"}
        status, answer = await call("/inquire-price", "FHKST01010100", **one)
        assert (status, answer["rt_cd"]) == (200, "0")
        price = int(answer["output"]["stck_prpr"])
        assert int(answer["output"]["stck_llam"]) <= price <= int(answer["output"]["stck_mxpr"])
        several = {}
        for i in range(1, 36):
            several |= {f"FID_COND_MRKT_DIV_CODE_{i}": "J", f"FID_INPUT_ISCD_{i}": f"{i:06}"}
        status, answer = await call("/intstock-multprice", "FHKST11300006", **several)
        assert [row["inter_shrn_iscd"] for row in answer["output"]] == [f"{i:06}" for i in range(1, 31)]
        status, answer = await call("/inquire-asking-price-exp-ccn", "FHKST01010200", **one)
        assert int(answer["output1"]["askp1"]) > int(answer["output1"]["bidp1"]) > 0
        for tr_id, changed, expected in (
            ("FHKST01010100", {"authorization": "Bearer x"}, (500, "EGW00121")),
            ("FHKST01010100", {"appsecret": "x"}, (403, "EGW00105")),
            ("FHKST99999999", {}, (200, "OPSQ0002")),
        ):
            status, answer = await call("/inquire-price", tr_id, changed, **one)
            assert (status, answer["msg_cd"], answer["rt_cd"]) == (*expected, "1")
        status, answer = await call("/inquire-price", "FHKST01010100", FID_COND_MRKT_DIV_CODE="J")
        assert answer["msg_cd"] == "OPSQ2001"
        answers = [await call("/inquire-price", "FHKST01010100", **one) for _ in range(8)]
        assert (500, "EGW00201") in [(status, answer["msg_cd"]) for status, answer in answers]
        assert kis.journal.n_violations("rest_rate") > 0
        kis.do("expire_tokens")
        await asyncio.sleep(1.0)  # a second's calls have to be over, which is what is tested
        status, answer = await call("/inquire-price", "FHKST01010100", **one)
        assert (status, answer["msg_cd"]) == (500, "EGW00123")


async def test_http_can_be_spoilt() -> None:
    async with world() as w:
        body = {"grant_type": "client_credentials", "appkey": w.kis.app_key, "secretkey": w.kis.app_secret}
        w.kis.do("rest", of="approval", status=502, times=2)
        for _ in range(2):
            assert (await w.post("/oauth2/Approval", body))[0] == 502
        assert (await w.post("/oauth2/Approval", body))[0] == 200
        w.kis.do("rest", of="approval", body="<html>")
        async with w.http.post(w.kis.rest_url + "/oauth2/Approval", json=body) as response:
            assert (response.status, await response.text()) == (200, "<html>")
        w.kis.do("rest", of="token", code="EGW00103")
        assert (await w.post("/oauth2/Approval", body))[0] == 200
        status, answer = await w.post("/oauth2/tokenP", body | {"appsecret": w.kis.app_secret})
        assert (status, answer["error_code"]) == (403, "EGW00103")
        w.kis.do("rest", delay=0.2)
        started = time.monotonic()
        assert (await w.post("/oauth2/Approval", body))[0] == 200
        assert time.monotonic() - started >= 0.2
