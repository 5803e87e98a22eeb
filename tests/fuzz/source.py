"""Values out of the bytes that a fuzzer makes: zeros once they are used up, so that every input means something."""

from __future__ import annotations


class Source:
    """Reads from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        begin, self._place = self._place, min(self._place + size, len(self._data))
        return self._data[begin : self._place]

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def whole(self, size: int) -> int:
        """A number of `size` bytes, not negative."""
        return int.from_bytes(self.take(size), "little")

    def below(self, limit: int) -> int:
        return self.whole(1 if limit <= 256 else 2) % limit

    @property
    def is_empty(self) -> bool:
        return self._place == len(self._data)


def cuts(data: bytes, seed: int) -> list[bytes]:
    """`data` in pieces that `seed`, a byte, stands for: whole, byte by byte, or of sizes that look irregular."""
    if seed == 0 or not data:
        return [data]
    if seed == 1:
        return [data[i : i + 1] for i in range(len(data))]
    pieces, begin, size = [], 0, seed
    while begin < len(data):
        size = (size * 167 + 13) % 251
        pieces.append(data[begin : begin + 1 + size % (2 + seed // 8)])
        begin += len(pieces[-1])
    return pieces
