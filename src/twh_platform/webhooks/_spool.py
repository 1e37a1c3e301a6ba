"""
A body that is kept until it may be released: in memory, and past a threshold in a file.

The file has no name, so nobody finds it and nothing is left of it.

Writing it is copying into the system's memory, which takes less than half of what
hashing the same bytes does; to have a thread do it takes longer than both.  So it is
written where it is hashed, until the disk falls behind and one write has to wait for
it: from then on threads do it, until that is over.  It is read in threads too, unless
the system has it at hand.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar, final

from ..errors import BackendUnavailableError

__all__ = ["PIECE_BYTES", "Spool"]

T = TypeVar("T")

PIECE_BYTES: Final = 65_536
"""How much of a file is released at a time, if no more is kept in memory."""

# Smaller pieces are put together: each as an object would take many times its size.
_SMALL_BYTES: Final = 4_096

# Whatever the threshold is, a file is not written in the pieces that a sender chooses.
_BATCH_BYTES: Final = 16_384

# A write that takes longer has waited for the disk; a busy processor seldom does that.
_WAIT_SECONDS: Final = 0.01
_AVOIDED_SECONDS: Final = 1.0


class _Disk:
    """
    Whether a write has lately had to wait; one for all, as they share the disk.
    """

    __slots__ = ("_behind_until",)

    def __init__(self) -> None:
        self._behind_until = 0.0

    def is_behind(self) -> bool:
        return time.monotonic() < self._behind_until

    def wrote(self, began: float) -> None:
        now = time.monotonic()
        if now - began > _WAIT_SECONDS:
            self._behind_until = now + _AVOIDED_SECONDS


_disk: Final = _Disk()


@final
class Spool:
    """
    Bytes in the order in which they came; written first, read afterwards.

    Args:
        most: How many bytes are kept in memory.
    """

    __slots__ = ("_at", "_beside", "_buffer", "_file", "_held", "_most", "_pieces", "_thread")

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: deque[bytes | bytearray] = deque()
        self._held = 0
        self._file: Any = None
        self._at = 0
        # It and what is made of it are at most what is kept in memory and 64 KiB.
        self._beside = min(PIECE_BYTES, (most + PIECE_BYTES) // 2 - _SMALL_BYTES)
        self._buffer: bytearray | None = None
        self._thread: asyncio.Future[Any] | None = None

    async def write(self, piece: bytes) -> None:
        """
        Take in the next bytes.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``spool_unavailable``, if the file cannot be written.
        """
        self._put(piece)
        most = self._most if self._file is None else max(self._most, _BATCH_BYTES)
        if self._held > most:
            del piece
            await self._spilled()

    async def rewind(self) -> None:
        """
        Begin to read.
        """
        if self._file is not None:
            await self._spilled()

    async def read(self) -> tuple[bytes, bool]:
        """
        Read the next piece, and whether there is more.
        """
        if self._file is not None:
            piece = self._at_hand()
            if piece is None:
                piece = await self._in_thread(self._next)
            self._at += len(piece)
            return piece, bool(piece)
        piece = bytes(self._pieces.popleft()) if self._pieces else b""
        return piece, bool(self._pieces)

    def close(self) -> None:
        """
        Let everything go; a thread that still writes does it afterwards.
        """
        if self._thread is not None and not self._thread.done():
            self._thread.add_done_callback(lambda _: self._drop())
        else:
            self._drop()

    def _put(self, piece: bytes) -> None:
        self._held += len(piece)
        last = self._pieces[-1] if self._pieces else b""
        if isinstance(last, bytearray) and len(last) < PIECE_BYTES:
            last += piece
        elif 0 < len(last) < _SMALL_BYTES:
            self._pieces[-1] = bytearray(last)
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytes(piece))

    def _drop(self) -> None:
        self._pieces.clear()
        file, self._file = self._file, None
        if file is not None:
            file.close()

    async def _spilled(self) -> None:
        if _disk.is_behind():
            await self._in_thread(self._spill)
            return
        try:
            self._spill()
        except OSError as error:
            raise _unavailable(error) from error

    def _spill(self) -> None:
        began = time.monotonic()
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- closed by _drop()
        while self._pieces:
            left = memoryview(self._pieces.popleft())
            while left:
                left = left[self._file.write(left) :]
        self._held = 0
        _disk.wrote(began)

    def _next(self) -> bytes:
        self._file.seek(self._at)
        found: bytes = self._file.read(max(PIECE_BYTES, self._most // 4))
        return found

    def _at_hand(self) -> bytes | None:
        # What the page cache has needs no thread, which costs several times the copy.
        nowait = getattr(os, "RWF_NOWAIT", None)
        if nowait is None:
            return None
        buffer = self._buffer = self._buffer or bytearray(self._beside)
        try:
            found = os.preadv(self._file.fileno(), [buffer], self._at, nowait)
        except OSError:  # not at hand, or a file system that cannot tell
            return None
        return bytes(memoryview(buffer)[:found])

    async def _in_thread(self, step: Callable[[], T]) -> T:
        # To its end, also if we are cancelled: a file must not be closed under a thread.
        loop = asyncio.get_running_loop()
        future = self._thread = loop.run_in_executor(None, step)
        try:
            return await asyncio.shield(future)
        except OSError as error:
            raise _unavailable(error) from error
        finally:
            if future.done():
                self._thread = None


def _unavailable(error: OSError) -> BackendUnavailableError:
    message = f"the body cannot be kept in a file: {type(error).__name__}"
    return BackendUnavailableError(message, code="spool_unavailable")
