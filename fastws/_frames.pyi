from typing import Final, Literal, TypeAlias

from typing_extensions import Buffer, disjoint_base

OP_CONT: Final = 0
OP_TEXT: Final = 1
OP_BINARY: Final = 2
OP_CLOSE: Final = 8
OP_PING: Final = 9
OP_PONG: Final = 10

_Event: TypeAlias = (
    tuple[Literal["message"], int, bool, bytes]
    | tuple[Literal["ping", "pong"], bytes]
    | tuple[Literal["close", "violation"], int, str]
)

def build_frame(
    opcode: int, payload: Buffer, *, fin: bool = True, rsv1: bool = False, mask: bytes | None = None
) -> bytes: ...
def build_close(code: int, reason: str = "", *, mask: bytes | None = None) -> bytes: ...
def mask_payload(data: Buffer, key: bytes) -> bytes: ...
def buffered_size() -> int: ...

@disjoint_base
class FrameParser:
    """Base class for Cython code only; Python code uses `FrameReader`."""

@disjoint_base
class FrameReader:
    def __init__(
        self,
        *,
        is_client: bool = False,
        max_message_size: int = 65536,
        allow_binary: bool = True,
        rsv_allowed: int = 0,
    ) -> None: ...
    def feed(self, data: Buffer) -> list[_Event]: ...
    @property
    def has_failed(self) -> bool: ...
    @property
    def n_fragments(self) -> int: ...
    @property
    def n_control(self) -> int: ...
    @property
    def buffer_size(self) -> int: ...
