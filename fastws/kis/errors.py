"""What can go wrong with KIS, each in one sentence that says what to do."""

from __future__ import annotations

from fastws.errors import FastwsError


class KISError(FastwsError):
    """Root of the errors of `fastws.kis`."""


class KISConnectionError(KISError):
    """The connection to KIS could not be made, was lost or is not what it should be.

    The text always contains the word "connection".
    """


class KISCredentialsError(KISConnectionError):
    """KIS refuses the credentials, or there are none. Trying again does not help before they are changed."""


class KISTokenLimitError(KISConnectionError):
    """KIS has issued an access token for this app key less than a minute ago (EGW00133), and the program does not have
    it: it went to another program, or to this one before it was started again. `retry_after` is in seconds."""

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class KISInUseError(KISConnectionError):
    """Another session is using the same app key (OPSP8996); KIS allows one."""


class KISSubscriptionError(KISError):
    """KIS refuses a registration, does not answer it, or has no room for it.

    `tr_id` and `tr_key` name the registration; they are empty where the answer does not tell them. `code` is KIS's
    ``msg_cd``, empty when there was no answer.
    """

    def __init__(self, text: str, *, tr_id: str = "", tr_key: str = "", code: str = "") -> None:
        super().__init__(text)
        self.tr_id = tr_id
        self.tr_key = tr_key
        self.code = code


class KISCallbackError(KISError):
    """A callback of the user's has raised; its exception is the `__cause__`."""


class KISOverflowError(KISError):
    """A callback was too slow, and frames were dropped before it saw them. `n_frames` counts them."""

    def __init__(self, text: str, n_frames: int) -> None:
        super().__init__(text)
        self.n_frames = n_frames
