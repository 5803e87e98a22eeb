"""Where the app key comes from: arguments, the environment, or a file; and which hosts it belongs to.

Each value is looked for on its own, in this order. Nothing here prints a secret.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from fastws.kis.errors import KISCredentialsError

REAL_REST: Final = "https://openapi.koreainvestment.com:9443"
REAL_WS: Final = "ws://ops.koreainvestment.com:21000"
PAPER_REST: Final = "https://openapivts.koreainvestment.com:29443"
PAPER_WS: Final = "ws://ops.koreainvestment.com:31000"
# What KIS's current client asks for; any path works.
WS_PATH: Final = "/tryitout"

_BOOLEANS: Final = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False, "": False,
}  # fmt: skip

# Control characters and spaces would be a paste gone wrong, and could forge a header.
_KEY: Final = re.compile(r"[!-~]{1,512}")

# Keys of a file: ours, and those of the kis_devlp.yaml that KIS hands out, where paper trading has its own pair.
_FILE_KEYS: Final = {
    "app_key": ("app_key", "my_app", "paper_app"),
    "app_secret": ("app_secret", "my_sec", "paper_sec"),
    "hts_id": ("hts_id", "my_htsid", "my_htsid"),
}


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """An app key of KIS with its secret, and the hosts that know it.

    `is_paper` tells paper trading (mock investing) from real; keys are good for one of them only. `hts_id` is the
    user's HTS id, which execution notices are registered by, "" where it is not known. `customer_type` is P for a
    person and B for a corporation. Neither the key nor the secret is in the `repr`.
    """

    app_key: str
    app_secret: str
    is_paper: bool = False
    hts_id: str = ""
    rest_url: str = REAL_REST
    ws_url: str = REAL_WS + WS_PATH
    customer_type: str = "P"

    def __repr__(self) -> str:
        return f"Credentials(app_key='{self.label}', environment={self.environment!r})"

    @property
    def environment(self) -> str:
        """``real`` or ``paper``."""
        return "paper" if self.is_paper else "real"

    @property
    def label(self) -> str:
        """Enough of the app key to tell it from others."""
        return f"{self.app_key[:4]}…" if len(self.app_key) >= 16 else "…"


def find_credentials(
    *,
    app_key: str | None = None,
    app_secret: str | None = None,
    paper: bool | None = None,
    hts_id: str | None = None,
    config_file: str | os.PathLike[str] | None = None,
    rest_url: str | None = None,
    ws_url: str | None = None,
    customer_type: str = "P",
    environ: Mapping[str, str] | None = None,
) -> Credentials:
    """Return the credentials that the arguments, else `environ`, else `config_file` name.

    The variables are KIS_APP_KEY, KIS_APP_SECRET, KIS_PAPER, KIS_HTS_ID, KIS_REST_URL, KIS_WS_URL, and KIS_CONFIG for
    the file. The file is TOML or YAML, by its name; it has ``app_key``, ``app_secret``, ``paper``, ``hts_id``,
    ``rest_url`` and ``ws_url``, at the top or in a table ``kis``, or what KIS's own kis_devlp.yaml has.

    Raises:
        KISCredentialsError: a value is missing or malformed, or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    path = config_file if config_file is not None else environ.get("KIS_CONFIG") or None
    table = read_file(Path(path)) if path is not None else {}
    is_paper = paper
    if is_paper is None:
        is_paper = _boolean(environ["KIS_PAPER"], "KIS_PAPER") if "KIS_PAPER" in environ else None
    if is_paper is None:
        is_paper = _boolean(table.get("paper", False), f"paper in {path}")

    def value(given: str | None, name: str) -> str:
        if given is not None:
            return given
        if environ.get(f"KIS_{name.upper()}"):
            return environ[f"KIS_{name.upper()}"].strip()
        own, real, mock = _FILE_KEYS.get(name, (name, name, name))
        found = table.get(own, table.get(mock if is_paper else real, ""))
        return str(found).strip()

    key, secret = value(app_key, "app_key"), value(app_secret, "app_secret")
    for text, name, what in ((key, "app_key", "app key"), (secret, "app_secret", "app secret")):
        if not text:
            raise KISCredentialsError(
                f"no connection without an {what} of KIS: set KIS_{name.upper()}, pass {name}=, "
                f"or name a file that has it in KIS_CONFIG"
            )
        if _KEY.fullmatch(text) is None:
            raise KISCredentialsError(
                f"no connection with this {what} of KIS: it has blanks or other characters that no key has"
            )
    if customer_type not in ("P", "B"):
        raise KISCredentialsError(
            f"no connection with customer type {customer_type!r}: it is P for a person or B for a corporation"
        )
    return Credentials(
        app_key=key,
        app_secret=secret,
        is_paper=is_paper,
        hts_id=value(hts_id, "hts_id"),
        rest_url=_url(
            value(rest_url, "rest_url") or (PAPER_REST if is_paper else REAL_REST),
            ("http", "https"),
            "KIS_REST_URL",
        ).rstrip("/"),
        ws_url=_url(
            value(ws_url, "ws_url") or (PAPER_WS if is_paper else REAL_WS), ("ws", "wss"), "KIS_WS_URL"
        ),
        customer_type=customer_type,
    )


def read_file(path: Path) -> dict[str, Any]:
    """Return the table of a TOML or YAML file. Raises KISCredentialsError, in whose text nothing of the file is."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise KISCredentialsError(f"no connection: {path} cannot be read: {reason}") from None
    if path.suffix.lower() in (".yaml", ".yml"):
        table = _read_yaml(path, text)
    else:
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError):  # also of whole numbers with thousands of digits
            raise KISCredentialsError(f"no connection: {path} is not valid TOML") from None
    inner = table.get("kis", table) if isinstance(table, dict) else None
    if not isinstance(inner, dict):
        raise KISCredentialsError(f"no connection: {path} has no table of names and values")
    return inner


def _read_yaml(path: Path, text: str) -> Any:
    try:
        import yaml  # noqa: PLC0415 - of the extra
    except ImportError:
        raise KISCredentialsError(
            f"no connection: {path} is YAML, which needs PyYAML: pip install PyYAML, or write it as TOML"
        ) from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # also of dates that are none
        raise KISCredentialsError(f"no connection: {path} is not valid YAML") from None


def _boolean(value: object, source: str) -> bool:
    found = value if isinstance(value, bool) else _BOOLEANS.get(str(value).strip().lower())
    if found is None:
        raise KISCredentialsError(f"no connection: {source} is neither true nor false")
    return found


def _url(text: str, schemes: tuple[str, ...], name: str) -> str:
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good or parts.username or parts.password or parts.query or parts.fragment:
        raise KISCredentialsError(
            f"no connection: {name} must be like {schemes[0]}://host:port, without user, password and query"
        )
    path = parts.path or (WS_PATH if "ws" in schemes else "")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
