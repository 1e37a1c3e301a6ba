"""
A request that is sent twice is carried out once.

The key is claimed in the transaction that does the work.  A second request
with the same key waits at the unique index until the first is decided: if that
one commits, its answer is given again; if it rolls back, the second does the
work.  So only what has happened is remembered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from .models import IdempotencyKey
from .problems import Refusal

__all__ = ["Rendered", "answer_once", "key_of"]

_KEY = re.compile(r"[\x21-\x7e]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """
    An answer as it goes out.
    """

    status: int
    headers: dict[str, str]
    body: bytes


def key_of(request: Request) -> str | None:
    """
    The `Idempotency-Key` of the request, or None.

    Raises:
        Refusal: If there are several, or it is not 1 to 100 visible characters.
    """
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Refusal("idempotency_key_invalid")
    return keys[0]


async def answer_once(
    db: AsyncSession,
    user_id: UUID,
    key: str,
    asked: str,
    produce: Callable[[], Awaitable[Rendered]],
) -> Rendered:
    """
    Produce the answer, or give the one that was given to this request before.

    Args:
        db: The session whose transaction does the work.

        user_id: Whose key it is.

        key: The key.

        asked: What is asked for, in full; another request may not use the key.

        produce: Does the work.

    Raises:
        Refusal: If the key was used for another request.
    """
    digest = hashlib.sha256(asked.encode()).digest()
    claim = insert(IdempotencyKey).values(user_id=user_id, key=key, digest=digest)
    claimed = await db.scalar(claim.on_conflict_do_nothing().returning(IdempotencyKey.key))
    query = select(IdempotencyKey).filter_by(user_id=user_id, key=key)
    record = (await db.scalars(query)).one()
    if claimed is None:
        return _again(record, digest)
    answer = await produce()
    record.status, record.headers, record.body = answer.status, answer.headers, answer.body
    return answer


def _again(record: IdempotencyKey, digest: bytes) -> Rendered:
    if record.digest != digest:
        raise Refusal("idempotency_conflict")
    headers = {**record.headers, "idempotency-replayed": "true"}
    return Rendered(status=record.status, headers=headers, body=record.body)
