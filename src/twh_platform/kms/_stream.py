"""
Sealing and opening piece by piece, for what does not fit into memory: suite 2.

A stream that opens gives out authenticated bytes only, but whether it is whole
is known at its end: until `OpeningStream.finish` has returned, what came out
may be the beginning of something that was cut.
"""

from __future__ import annotations

import os

from .._extras import missing_extra
from ..errors import ConfigurationError, DecryptionError
from ._envelope import HEADER_BYTES, Suite, header_of, parse_head
from ._suites import Keys

try:
    from cryptography.cobblestone import Cobblestone256Decryptor
    from cryptography.exceptions import InvalidTag
except ImportError as error:
    raise missing_extra("kms", error) from error

__all__ = ["OpeningStream", "SealingStream"]


class SealingStream:
    """
    Seals one value whose bytes come in pieces of any size.

        stream = SealingStream(keys, bound_tail)
        sealed = stream.update(b"one ") + stream.update(b"two") + stream.finish()

    It belongs to the process that began it: a forked child that went on with it
    would seal other bytes under the same keys and nonces.

    Args:
        keys: The keys of the data key to seal with.

        bound_tail: What `bound_tail` gave for the tenant and the context.
    """

    __slots__ = ("_encryptor", "_finished", "_header", "_process")

    def __init__(self, keys: Keys, bound_tail: bytes) -> None:
        self._header = header_of(Suite.STREAM, keys.data_key_id)
        self._encryptor = keys.encryptor(self._header, bound_tail)
        self._finished = False
        self._process = os.getpid()

    def update(self, piece: bytes) -> bytes:
        """
        Take the next piece; return what can be sealed by now, perhaps nothing.
        """
        self._ready()
        sealed = self._header + self._encryptor.update(piece)
        self._header = b""
        return sealed

    def finish(self) -> bytes:
        """
        Return the end of the envelope.  Without it nothing of it opens as a whole.
        """
        self._ready()
        self._finished = True
        return self._header + self._encryptor.finalize()

    def _ready(self) -> None:
        if self._finished:
            raise _finished()
        if self._process != os.getpid():
            message = "this stream was begun by another process: begin another"
            raise ConfigurationError(message, code="stream_finished")


class OpeningStream:
    """
    Opens one envelope of suite 2 whose bytes come in pieces of any size.

    Once it has refused, it refuses whatever is asked of it.

    Args:
        keys: The keys of its data key; `parse_head` tells which that is.

        bound_tail: What `bound_tail` gave for the tenant and the context.
    """

    __slots__ = ("_decryptor", "_failed", "_finished", "_keys", "_start", "_tail")

    def __init__(self, keys: Keys, bound_tail: bytes) -> None:
        self._keys, self._tail = keys, bound_tail
        self._decryptor: Cobblestone256Decryptor | None = None
        self._start = b""
        self._failed = self._finished = False

    def update(self, piece: bytes) -> bytes:
        """
        Take the next piece of the envelope, its header included.

        Returns:
            What was authenticated by now, perhaps nothing.

        Raises:
            twh_platform.errors.DecryptionError: For whatever does not fit.
        """
        self._ready()
        try:
            return self._update(piece)
        except (InvalidTag, DecryptionError):
            self._failed = True
            raise DecryptionError from None

    def finish(self) -> bytes:
        """
        Return the rest, after the last piece.

        Raises:
            twh_platform.errors.DecryptionError: If the envelope was cut, or
                its end is not its own: what came out before is not the whole.
        """
        self._ready()
        self._finished = True
        if self._decryptor is None:
            self._failed = True
            raise DecryptionError
        try:
            return self._decryptor.finalize()
        except InvalidTag:
            self._failed = True
            raise DecryptionError from None

    def _ready(self) -> None:
        if self._failed:
            raise DecryptionError
        if self._finished:
            raise _finished()

    def _update(self, piece: bytes) -> bytes:
        if self._decryptor is not None:
            return self._decryptor.update(piece)
        self._start += piece
        head = parse_head(self._start)
        if head is None:
            return b""
        if head.suite is not Suite.STREAM:
            raise DecryptionError
        self._decryptor = self._keys.decryptor(head.sealed[:HEADER_BYTES], self._tail)
        rest, self._start = self._start[head.offset :], b""
        return self._decryptor.update(rest)


def _finished() -> ConfigurationError:
    return ConfigurationError("this stream is finished: begin another", code="stream_finished")
