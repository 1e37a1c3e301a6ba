"""
One command to a Redis and its reply, over a socket of its own.

The protocol is RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/)::

    request   *N CRLF, then N times: $LENGTH CRLF BYTES CRLF
    reply     +text  -error  :number  $LENGTH and bytes  *N and N replies

It is for tests: no pool, no pipelining, and a driver is not needed.
"""

from __future__ import annotations

import socket
from typing import BinaryIO, TypeAlias

from ..errors import PlatformError

__all__ = ["RedisArgument", "RedisReply", "ask"]

RedisArgument: TypeAlias = str | bytes | int
RedisReply: TypeAlias = str | int | list["RedisReply"] | None

_CLOSED = "the connection was closed"


def ask(
    address: tuple[str, int], *commands: tuple[RedisArgument, ...], timeout: float
) -> RedisReply:
    """
    Send *commands* over one connection and return the reply to the last.

    Args:
        address: Host and port.

        commands: Each with its arguments; a refusal of any ends it.

        timeout: For connecting and for each reply, in seconds.

    Raises:
        twh_platform.errors.PlatformError: If a command is refused, or none answers.
    """
    reply: RedisReply = None
    try:
        with (
            socket.create_connection(address, timeout) as connection,
            connection.makefile("rb") as stream,
        ):
            for command in commands:
                connection.sendall(_request(command))
                reply = _read(stream)
    except OSError as error:
        message = f"no answer from the Redis at {address[0]}:{address[1]}: {error}"
        raise PlatformError(message, code="test_redis_failed") from error
    return reply


def _request(command: tuple[RedisArgument, ...]) -> bytes:
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def _read(stream: BinaryIO) -> RedisReply:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError(_CLOSED)
    kind, rest = line[:1], _text(line[1:-2])
    if kind == b"-":
        raise PlatformError(rest, code="test_redis_failed")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if int(rest) < 0 else _text(_exactly(int(rest) + 2, stream)[:-2])
    if kind == b"*":
        return None if int(rest) < 0 else [_read(stream) for _ in range(int(rest))]
    return rest


def _exactly(count: int, stream: BinaryIO) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise ConnectionError(_CLOSED)
    return found


def _text(raw: bytes) -> str:
    # What is not text can be had back with the same error handler.
    return raw.decode(errors="surrogateescape")
