"""
What the service is told from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from twh_platform.kms import KeyService

__all__ = ["Settings"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    Addresses, secrets and limits; nothing of them is shown in a `repr`.

    Args:
        app_dsn: The database as `warehouse_app`.

        directory_dsn: The database as `warehouse_directory`.

        administrator_dsn: The database as `warehouse_administrator`.

        support_dsn: The database as `warehouse_support`.

        keyset_file: The master keys, of the platform and of the tenants; only
            the user of the service may read it.

        secrets_file: The platform's own secrets, sealed; see `vault`.

        administrator_email: The address that the administrator logs in with.

        administrator_password_hash: See `passwords.hash_password`.

        token_seconds: How long a token is good for.

        database_seconds: How long a request may spend on the database.

        max_body_bytes: The largest request body that is read.

        redis_url: Where quotas are counted for all instances; without it, in
            the memory of this process.

        plan_file: The limits of each tier; without it, the example that comes
            with the package.

        trusted_proxies: The load balancers in front, whose `X-Forwarded-For`
            is believed: addresses and networks.

        webhook_seconds: How long a receiver of webhooks may take to answer.

        webhook_loopback: Whether webhooks may go to this machine, without TLS:
            for a demo and for tests.

        metrics_token: What asks for the page of metrics; without it, this
            machine may.

        otel: The ``OTEL_*`` variables; without ``OTEL_EXPORTER_OTLP_ENDPOINT``
            there are no spans.

        key_service: Opens what holds the master keys instead of the keyset.

        now: The clock.
    """

    app_dsn: str = field(repr=False)
    directory_dsn: str = field(repr=False)
    administrator_dsn: str = field(repr=False)
    support_dsn: str = field(repr=False)
    keyset_file: Path
    secrets_file: Path
    administrator_email: str
    administrator_password_hash: str = field(repr=False)
    token_seconds: float = 900.0
    database_seconds: float = 5.0
    max_body_bytes: int = 64 * 1024
    redis_url: str | None = field(default=None, repr=False)
    plan_file: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    webhook_seconds: float = 3.0
    webhook_loopback: bool = False
    metrics_token: str | None = field(default=None, repr=False)
    otel: Mapping[str, str] = field(default_factory=dict, repr=False)
    key_service: Callable[[], KeyService] | None = None
    now: Callable[[], datetime] = _utc_now
