"""
Stream many MiB through seal and open, cut at every boundary of a chunk, in a process of its own.

    python -m tests.support.stream_probe MIB CUT_MIB

It writes one line of JSON: of MIB, how many bytes came out and how far the
memory's peak rose; of CUT_MIB, how many cuts were tried and how many refused.
The state of an opening cannot be copied, but a process can: at every boundary a
fork is told that this was the end, and has to refuse it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator

from twh_platform.errors import DecryptionError
from twh_platform.kms._envelope import bound_tail
from twh_platform.kms._stream import OpeningStream, SealingStream
from twh_platform.kms._suites import Keys

__all__ = ["main"]

PIECE = 64 * 1024
CHUNK = 16 * 1024 + 16
START = 19 + 24 + 32
KEYS = Keys(bytes(range(32)), tenant_id="acme", data_key_id=b"0123456789abcdef")
TAIL = bound_tail("acme", {"file": "backup"})


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _plaintext(pieces: int) -> Iterator[bytes]:
    for number in range(pieces):
        yield number.to_bytes(8, "big") * (PIECE // 8)


def _sealed(pieces: int) -> Iterator[bytes]:
    stream = SealingStream(KEYS, TAIL)
    for piece in _plaintext(pieces):
        yield stream.update(piece)
    yield stream.finish()


def _at_boundaries(sealed: Iterator[bytes]) -> Iterator[bytes]:
    # The same bytes in pieces that end where a chunk ends.
    rest, wanted = b"", START
    for piece in sealed:
        rest += piece
        while len(rest) >= wanted:
            yield rest[:wanted]
            rest, wanted = rest[wanted:], CHUNK
    yield rest


def _flow(pieces: int) -> int:
    stream, out = OpeningStream(KEYS, TAIL), 0
    for sealed in _sealed(pieces):
        out += len(stream.update(sealed))
    return out + len(stream.finish())


def _refused(stream: OpeningStream) -> bool:
    child = os.fork()
    if not child:
        try:
            stream.finish()
        except DecryptionError:
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _cuts(pieces: int) -> tuple[int, int]:
    stream, tried, refused = OpeningStream(KEYS, TAIL), 0, 0
    for sealed in _at_boundaries(_sealed(pieces)):
        if len(sealed) in (START, CHUNK):
            stream.update(sealed)
            tried, refused = tried + 1, refused + _refused(stream)
    return tried, refused


def main(mib: int, cut_mib: int) -> None:
    """Measure and tell."""
    pieces, cut_pieces = (size * 1024 * 1024 // PIECE for size in (mib, cut_mib))
    _flow(8)
    before = _peak()
    out = _flow(pieces)
    grown = _peak() - before
    tried, refused = _cuts(cut_pieces)
    print(json.dumps({"out": out, "grown": grown, "tried": tried, "refused": refused}))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
