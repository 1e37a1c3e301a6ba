"""
Which keys are in use: counted from data keys, and from the headers of what is sealed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...errors import ConfigurationError, DecryptionError, KeyServiceError
from .._data_keys import DataKeyState, DataKeyStore, records_of
from .._envelope import Suite, from_text, parse_head
from .._owner import as_owner
from .._service import KeyService, WrappedKey

__all__ = [
    "KeyUse",
    "SealedUse",
    "ensure_retirable",
    "inventory_sql",
    "key_uses",
    "remaining",
    "sealed_uses",
    "tenants_of",
]

_TENANTS_AT_ONCE = 500
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """
    How many data keys of a tenant are wrapped by one version of a master key.

    Attributes:
        tenant_id: Whose.

        provider: The key service's name.

        key_ref: The master key.

        key_version: Its version; 0 if the service does not tell.

        data_keys: How many.
    """

    tenant_id: str
    provider: str
    key_ref: str
    key_version: int
    data_keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedUse:
    """
    How many sealed values of a tenant depend on one version of a master key.

    A value with several wrapped keys of its own counts once for each.

    Attributes:
        suite: How they are sealed; None for what is no envelope.

        inline: Whether they carry their wrapped data key themselves.

        provider: The key service's name; None if the data key is not there, or
            destroyed, or if it is no envelope.

        key_ref: The master key, or None likewise.

        key_version: Its version, or None likewise.

        values: How many.
    """

    suite: Suite | None
    inline: bool
    provider: str | None
    key_ref: str | None
    key_version: int | None
    values: int


def tenants_of(store: DataKeyStore, *, after: str = "") -> Iterator[str]:
    """
    All tenants that have data keys, after one of them, in the store's order.
    """
    while page := store.tenants(after=after, limit=_TENANTS_AT_ONCE):
        yield from page
        after = page[-1]


def key_uses(store: DataKeyStore, *, tenants: Iterable[str] | None = None) -> list[KeyUse]:
    """
    Count data keys by tenant and version of the master key; destroyed ones do not count.

    Args:
        store: Where they are.

        tenants: Whose; all of the store if None.
    """
    return [
        KeyUse(
            tenant_id=tenant_id,
            provider=provider,
            key_ref=key_ref,
            key_version=version,
            data_keys=count,
        )
        for tenant_id in (tenants_of(store) if tenants is None else tenants)
        for (provider, key_ref, version), count in sorted(_count(store, tenant_id).items())
    ]


def remaining(service: KeyService, store: DataKeyStore, tenant_id: str) -> int:
    """
    How many of a tenant's data keys are not wrapped by the newest version.

    It is what `rewrap` still has to do: exact at the moment of the count.

    Raises:
        twh_platform.errors.KeyServiceError: If the key cannot be described.
    """
    counts = _count(store, tenant_id)
    if not counts:
        return 0  # of a shredded tenant the service may know nothing
    info = service.describe(tenant_id)
    newest = (service.name, info.key_ref, info.version)
    return sum(count for key, count in counts.items() if key != newest)


def ensure_retirable(
    service: KeyService, store: DataKeyStore, tenant_id: str, version: int
) -> None:
    """
    Return if nothing in the store is wrapped by this version, or an older one, any more.

    Retiring a version (Vault's ``min_decryption_version``) retires those before
    it, so they are asked for too.  Values that carry wrapped keys of their own
    are not in the store: ask `inventory_sql`, or `sealed_uses`, about them.
    So are backups of the store: a backup from before the rewrap needs it.

    Raises:
        twh_platform.errors.KeyServiceError: With code ``key_version_in_use``
            and the count; with ``key_version_current``, if it is the version
            that wraps, or a version that is yet to come.
    """
    info = service.describe(tenant_id)
    if version >= info.version:
        message = f"version {version} of {info.key_ref!r} is not behind {info.version}, which wraps"
        raise KeyServiceError(message, code="key_version_current")
    count = sum(
        keys
        for (provider, key_ref, used), keys in _count(store, tenant_id).items()
        if (provider, key_ref) == (service.name, info.key_ref) and used <= version
    )
    if count:
        message = (
            f"version {version} of {info.key_ref!r}, or an older one, still wraps "
            f"{count} data key{'' if count == 1 else 's'} of tenant {tenant_id!r}: rewrap first"
        )
        raise KeyServiceError(message, code="key_version_in_use")


def sealed_uses(
    sealed: Iterable[bytes | str], store: DataKeyStore, tenant_id: str
) -> list[SealedUse]:
    """
    Count a tenant's sealed values by suite and version of the master key, from their headers.

    It opens nothing, and asks the store once for each data key.

    Args:
        sealed: The values, as bytes or as text; of each, its first 20 bytes are
            enough if it carries no wrapped keys.

        store: Where the data keys are.

        tenant_id: Whose they are.
    """
    known: dict[bytes, WrappedKey | None] = {}
    counts: Counter[_Use] = Counter()
    with as_owner(tenant_id):
        for one in sealed:
            counts.update(_uses(one, store, tenant_id, known))
    return [
        SealedUse(
            suite=suite,
            inline=inline,
            provider=provider,
            key_ref=key_ref,
            key_version=version,
            values=count,
        )
        for (suite, inline, provider, key_ref, version), count in counts.items()
    ]


def inventory_sql(table: str, column: str, *, tenant_column: str = "tenant_id") -> str:
    """
    The same count in SQL, for a column ``bytea`` of sealed values in PostgreSQL.

    One row for each tenant, suite, kind and version of a master key, with the
    number of values.  It reads headers only.  `provider` is NULL for values
    whose data key is not there or is destroyed, and `suite` for what is no
    envelope.  Under row-level security it counts what the login may see.
    `key_ref` of a value that carries its key has bytes beyond ASCII escaped.

    An index makes the count of one version fast, if it is asked often:
    ``CREATE INDEX ON items (tenant_id, substring(sealed from 4 for 16))``.

        >>> print(inventory_sql("items", "sealed").splitlines()[0])
        WITH RECURSIVE sealed AS (

    Args:
        table: Its name: lower-case, with its schema if it needs one.

        column: The column's name.

        tenant_column: The name of the column with the tenant's id.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``inventory_name_invalid``, for another name.
    """
    for name in (table, column, tenant_column):
        if not _IDENTIFIER.fullmatch(name):
            message = f"{name[:80]!r} is not a lower-case name of PostgreSQL"
            raise ConfigurationError(message, code="inventory_name_invalid")
    return _SQL.format(table=table, column=column, tenant=tenant_column)


# Wrapped keys that an envelope carries are walked one by one: each tells where
# the next one begins.  What does not fit ends the walk.  Conditions of WHERE may
# be tried in any order, so every byte is looked at behind a CASE of its own.
_SQL = """\
WITH RECURSIVE sealed AS (
    SELECT {tenant}::text AS tenant_id, {column} AS value,
           CASE WHEN length({column}) < 19 THEN false
                ELSE get_byte({column}, 0) = 1 AND get_byte({column}, 1) BETWEEN 1 AND 3
                    AND get_byte({column}, 2) BETWEEN 0 AND 1 END AS envelope
    FROM {table}
    WHERE {column} IS NOT NULL
), heads AS (
    SELECT tenant_id, get_byte(value, 1) AS suite, get_byte(value, 2) = 1 AS inline,
           substring(value FROM 4 FOR 16) AS data_key_id,
           CASE WHEN get_byte(value, 2) = 1 THEN value END AS value
    FROM sealed
    WHERE envelope
), keys AS (
    SELECT tenant_id, suite, value, 20 AS at,
           CASE WHEN length(value) > 19 THEN least(get_byte(value, 19), 4) ELSE 0 END AS rest,
           NULL::int AS number, NULL::bytea AS name, NULL::bigint AS version
    FROM heads
    WHERE inline
    UNION ALL
    SELECT one.tenant_id, one.suite, one.value, named.at + 6 + told.wrapped, one.rest - 1,
           begun.number, told.name, told.version
    FROM keys AS one
    CROSS JOIN LATERAL (
        SELECT one.rest > 0 AND length(one.value) >= one.at + 3 AS whole
    ) AS start
    CROSS JOIN LATERAL (
        SELECT CASE WHEN start.whole THEN get_byte(one.value, one.at) END AS number,
               CASE WHEN start.whole THEN get_byte(one.value, one.at + 1) * 256
                   + get_byte(one.value, one.at + 2) END AS size
    ) AS begun
    CROSS JOIN LATERAL (SELECT one.at + 3 + begun.size AS at) AS named
    CROSS JOIN LATERAL (SELECT length(one.value) >= named.at + 6 AS whole) AS rest
    CROSS JOIN LATERAL (
        SELECT CASE WHEN rest.whole THEN substring(one.value FROM one.at + 4 FOR begun.size)
                   END AS name,
               CASE WHEN rest.whole THEN get_byte(one.value, named.at)::bigint * 16777216
                   + get_byte(one.value, named.at + 1) * 65536
                   + get_byte(one.value, named.at + 2) * 256
                   + get_byte(one.value, named.at + 3) END AS version,
               CASE WHEN rest.whole THEN get_byte(one.value, named.at + 4) * 256
                   + get_byte(one.value, named.at + 5) END AS wrapped
    ) AS told
    WHERE told.wrapped IS NOT NULL
)
SELECT heads.tenant_id, suite, false AS inline, provider, key_ref, key_version,
       count(*) AS values
FROM heads
LEFT JOIN twh.data_keys AS stored
    ON stored.tenant_id = heads.tenant_id AND stored.data_key_id = heads.data_key_id
        AND stored.state <> 'destroyed'
WHERE NOT inline
GROUP BY 1, 2, 3, 4, 5, 6
UNION ALL
SELECT tenant_id, suite, true, (ARRAY['local', 'vault', 'aws'])[number],
       encode(name, 'escape'), version, count(*)
FROM keys
WHERE number IS NOT NULL
GROUP BY 1, 2, 3, 4, 5, 6
UNION ALL
SELECT tenant_id, NULL, NULL, NULL, NULL, NULL, count(*)
FROM sealed
WHERE NOT envelope
GROUP BY 1
ORDER BY 1, 2, 3, 4, 5, 6"""

_Use = tuple[Suite | None, bool, str | None, str | None, int | None]


def _uses(
    sealed: bytes | str, store: DataKeyStore, tenant_id: str, known: dict[bytes, WrappedKey | None]
) -> Iterator[_Use]:
    try:
        head = parse_head(from_text(sealed) if isinstance(sealed, str) else sealed)
    except DecryptionError:
        head = None
    if head is None:
        yield None, False, None, None, None
        return
    for key in head.inline or (_stored(head.data_key_id, store, tenant_id, known),):
        found = (key.provider, key.key_ref, key.key_version) if key else (None, None, None)
        yield head.suite, bool(head.inline), *found


def _stored(
    data_key_id: bytes, store: DataKeyStore, tenant_id: str, known: dict[bytes, WrappedKey | None]
) -> WrappedKey | None:
    if data_key_id not in known:
        record = store.get(tenant_id, data_key_id)
        usable = record is not None and record.state is not DataKeyState.DESTROYED
        known[data_key_id] = record.wrapped if record is not None and usable else None
    return known[data_key_id]


def _count(store: DataKeyStore, tenant_id: str) -> Counter[tuple[str, str, int]]:
    with as_owner(tenant_id):
        wrapped = (one.wrapped for one in records_of(store, tenant_id))
        return Counter((one.provider, one.key_ref, one.key_version) for one in wrapped)
