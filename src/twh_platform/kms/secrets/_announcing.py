"""
Announcing what is done with secrets, and what was tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..._signals import announce, has_listeners
from ...errors import PlatformError
from .._announcements import SecretChanged, SecretRead

__all__ = ["announce_read", "announcing_change", "code_of"]


def announce_read(
    tenant_id: str, name: str, version: int | None, source: str, code: str | None = None
) -> None:
    """
    Announce a `SecretRead`, if somebody listens.
    """
    if has_listeners(SecretRead):
        announce(
            SecretRead(tenant_id=tenant_id, name=name, version=version, source=source, code=code)
        )


def code_of(error: Exception) -> str:
    """
    The code of an error of ours, or the name of another's class.
    """
    return error.code if isinstance(error, PlatformError) else type(error).__name__


@contextmanager
def announcing_change(tenant_id: str, name: str, action: str) -> Iterator[list[int]]:
    """
    Announce a `SecretChanged` at the end, with the version that is put into the list.
    """
    done: list[int] = []
    try:
        yield done
    except Exception as error:
        announce(
            SecretChanged(
                tenant_id=tenant_id, name=name, version=None, action=action, code=code_of(error)
            )
        )
        raise
    announce(SecretChanged(tenant_id=tenant_id, name=name, version=done[0], action=action))
