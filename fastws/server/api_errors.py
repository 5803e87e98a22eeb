"""Errors that endpoints answer, in the shape of :mod:`fastws.server.http`."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from fastws.errors import ErrorCode, FastwsError
from fastws.server.handshake import error_body
from fastws.server.http import json_response


class ApiError(FastwsError):
    """Raised by a route to answer an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(code, message, details)
        self.headers = headers or {}


def error_response(problem: ApiError) -> web.Response:
    response = json_response(problem.body, status=problem.status)
    response.headers.update(problem.headers)
    return response


def invalid(field: str | None, message: str, **details: object) -> ApiError:
    return ApiError(
        400, ErrorCode.INVALID_MESSAGE, message, details if field is None else {**details, "field": field}
    )
