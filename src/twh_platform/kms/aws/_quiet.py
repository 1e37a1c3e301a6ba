"""
Keeps what passes through our calls out of botocore's debug log.

At level DEBUG botocore writes requests and responses whole, and with them data
keys in the clear, secrets and session tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["quiet"]

_TALKERS = (
    "botocore.auth",
    "botocore.awsrequest",
    "botocore.client",
    "botocore.endpoint",
    "botocore.handlers",
    "botocore.hooks",
    "botocore.httpsession",
    "botocore.parsers",
    "botocore.retryhandler",
    "botocore.retries.standard",
)

_hushed: ContextVar[bool] = ContextVar("twh_aws_hushed", default=False)


class _Hush(logging.Filter):
    """
    Drops the debug records of calls that are ours, and no others.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Whether the record may be written.
        """
        return record.levelno > logging.DEBUG or not _hushed.get()


_HUSH = _Hush()


@contextmanager
def quiet() -> Iterator[None]:
    """
    Have botocore write nothing at level DEBUG within a `with`.
    """
    # Each time: a configuration of logging may have come in between.
    for name in _TALKERS:
        logging.getLogger(name).addFilter(_HUSH)
    token = _hushed.set(True)
    try:
        yield
    finally:
        _hushed.reset(token)
