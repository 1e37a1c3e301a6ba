"""
Claiming, committing and forgetting in PostgreSQL, without a driver.

The steps are carried out by `twh_platform.tenancy.postgres`, on the driver's connection.
"""

from __future__ import annotations

from ...errors import ConfigurationError
from ...tenancy._context import require_tenant
from ...tenancy.postgres._steps import Ask, Steps
from .._delivery import Delivery, checked_key
from .._replay import (
    Claim,
    ClaimState,
    ClaimToken,
    Retention,
    conflict,
    new_nonce,
    replayed,
)

__all__ = [
    "claim_steps",
    "commit_steps",
    "purge_steps",
    "release_steps",
    "transaction_claim_steps",
]

# Each names its tenant, so that an index is used.  The clock is the wall's: the
# transaction may be old.
_CLAIM = """\
INSERT INTO twh.webhook_claims AS kept
    (tenant_id, delivery, fingerprint, nonce, done, ends_at)
VALUES (
    (SELECT twh.current_tenant()), $1::bytea, $2::bytea, $3::bytea, $4::boolean,
    clock_timestamp() + $5::float8 * interval '1 second'
)
ON CONFLICT (tenant_id, delivery) DO UPDATE SET
    fingerprint = excluded.fingerprint, nonce = excluded.nonce, done = excluded.done,
    claimed_at = clock_timestamp(), ends_at = excluded.ends_at
    WHERE kept.ends_at <= clock_timestamp()
RETURNING true"""
_KNOWN = """\
SELECT fingerprint, done FROM twh.webhook_claims
WHERE tenant_id = (SELECT twh.current_tenant()) AND delivery = $1::bytea"""
_COMMIT = """\
INSERT INTO twh.webhook_claims AS kept
    (tenant_id, delivery, fingerprint, nonce, done, ends_at)
VALUES (
    (SELECT twh.current_tenant()), $1::bytea, $2::bytea, $3::bytea, true,
    clock_timestamp() + $4::float8 * interval '1 second'
)
ON CONFLICT (tenant_id, delivery) DO UPDATE SET
    fingerprint = excluded.fingerprint, nonce = excluded.nonce, done = true,
    ends_at = excluded.ends_at
    WHERE kept.nonce = excluded.nonce OR kept.ends_at <= clock_timestamp()
RETURNING true"""
_RELEASE = """\
DELETE FROM twh.webhook_claims
WHERE tenant_id = (SELECT twh.current_tenant()) AND delivery = $1::bytea
    AND nonce = $2::bytea AND NOT done
RETURNING true"""
# Rows that somebody else is writing over are left to him.
_PURGE = """\
WITH ended AS (
    SELECT delivery FROM twh.webhook_claims
    WHERE tenant_id = (SELECT twh.current_tenant()) AND ends_at <= clock_timestamp()
    ORDER BY ends_at LIMIT $1::int FOR UPDATE SKIP LOCKED
)
DELETE FROM twh.webhook_claims AS kept USING ended
WHERE kept.tenant_id = (SELECT twh.current_tenant()) AND kept.delivery = ended.delivery
RETURNING true"""

_MOST_TURNS = 3


def claim_steps(key: bytes, fingerprint: bytes, *, lease: float, ttl: float) -> Steps[Claim]:
    """
    Claim a delivery until its lease ends.
    """
    checked_key(key, fingerprint)
    require_tenant()
    token = ClaimToken(key=key, fingerprint=fingerprint, nonce=new_nonce(), ttl=ttl)
    state = yield from _claimed(token, lease, done=False)
    return Claim(state=state, token=token if state is ClaimState.NEW else None)


def commit_steps(token: ClaimToken) -> Steps[bool]:
    """
    Remember that a delivery was handled.
    """
    rows = yield Ask(_COMMIT, (token.key, token.fingerprint, token.nonce, token.ttl))
    return bool(rows)


def release_steps(token: ClaimToken) -> Steps[bool]:
    """
    Forget a claim.
    """
    rows = yield Ask(_RELEASE, (token.key, token.nonce))
    return bool(rows)


def purge_steps(limit: int) -> Steps[int]:
    """
    Delete what is remembered no longer; say how many.
    """
    if limit < 1:
        message = f"limit={limit!r} is not above zero"
        raise ConfigurationError(message)
    require_tenant()
    rows = yield Ask(_PURGE, (limit,))
    return len(rows)


def transaction_claim_steps(delivery: Delivery, retention: Retention) -> Steps[None]:
    """
    Remember a delivery as handled, as part of the transaction that handles it.
    """
    checked_key(delivery.key, delivery.fingerprint)
    retention.check_window(delivery.window)
    require_tenant()
    token = ClaimToken(
        key=delivery.key,
        fingerprint=delivery.fingerprint,
        nonce=new_nonce(),
        ttl=retention.ttl,
    )
    state = yield from _claimed(token, token.ttl, done=True)
    if state is ClaimState.CONFLICT:
        raise conflict()
    if state is not ClaimState.NEW:
        raise replayed()


def _claimed(token: ClaimToken, seconds: float, *, done: bool) -> Steps[ClaimState]:
    for _ in range(_MOST_TURNS):
        values = (token.key, token.fingerprint, token.nonce, done, seconds)
        if (yield Ask(_CLAIM, values)):
            return ClaimState.NEW
        known = yield Ask(_KNOWN, (token.key,))
        if known:
            ((fingerprint, handled),) = known
            if bytes(fingerprint) != token.fingerprint:
                return ClaimState.CONFLICT
            return ClaimState.DONE if handled else ClaimState.BUSY
        # Released in between.
    return ClaimState.BUSY
