"""
The keys of tenants: what their columns are sealed with, rotated, and destroyed.

Each tenant has a master key of its own, in the keyset.  It wraps the tenant's
data keys, which are in the database under the tenant's policies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from psycopg_pool import ConnectionPool

from twh_platform import Tenant, bind_tenant
from twh_platform.kms import (
    AsyncBlindIndex,
    AsyncTenantCipher,
    BlindIndex,
    KeyService,
    TenantCipher,
)
from twh_platform.kms.lifecycle import (
    FileShredJournal,
    KeyUse,
    RewrapReport,
    ShredReceipt,
    key_uses,
    receipt_text,
    remaining,
    rewrap,
    shred,
)
from twh_platform.kms.postgres.data_keys import PostgresDataKeyStore
from twh_platform.kms.postgres.listener import KeyChangeListener
from twh_platform.telemetry import ClientCalls
from twh_platform.telemetry.psycopg import watch_pool
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.psycopg import TenantConnection

from .sealing import Sealing, sealing_with
from .settings import Settings
from .threads import Threads

__all__ = ["Keys"]

_OPTIONS = "-c statement_timeout=4s -c lock_timeout=3s -c idle_in_transaction_session_timeout=10s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """
    One set per running app.

    Attributes:
        service: Where master keys are.

        cipher: Seals and opens what belongs to the tenant that is bound.

        bank_accounts: The index of `suppliers.bank_account`.

        store: The wrapped data keys, for the app.

        administered: The same for the administrator, who may destroy them; the
            policies hold that login, too.

        journal: What a shred keeps, so that another run can end it.

        listener: Hears which keys have changed.

        pools: What the two stores connect with; nothing else takes from them.

        threads: Where calls block that an administrator asks for.
    """

    service: KeyService
    cipher: TenantCipher
    bank_accounts: BlindIndex
    store: PostgresDataKeyStore
    administered: PostgresDataKeyStore
    journal: FileShredJournal
    listener: KeyChangeListener
    pools: tuple[ConnectionPool[Any], ...]
    threads: Threads

    @classmethod
    def of(cls, settings: Settings, *, service: KeyService, seal: Seal, calls: ClientCalls) -> Self:
        """
        Put them together.

        Args:
            settings: Where the database is, and the journal.

            service: Where master keys are.

            seal: Seals the tenants of the connections.

            calls: Is told of what the two stores ask.
        """
        app = _plain(settings.app_dsn)
        pools = tuple(
            _pool(dsn, seal=seal, size=size)
            for dsn, size in ((app, 4), (_plain(settings.administrator_dsn), 2))
        )
        for pool, name in zip(pools, ("keys", "administered-keys"), strict=True):
            watch_pool(pool, calls, name=name)
        store, administered = (PostgresDataKeyStore(pool.connection) for pool in pools)
        cipher = TenantCipher(service, store)
        return cls(
            service=service,
            cipher=cipher,
            # So long that no two accounts meet: what is found is what was meant.
            bank_accounts=BlindIndex(cipher, "suppliers.bank_account", bits=128),
            store=store,
            administered=administered,
            journal=FileShredJournal(settings.secrets_file.with_name("shreds")),
            listener=KeyChangeListener(app, cipher=cipher),
            pools=pools,
            threads=Threads(4),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Open what has to be opened, and forget all keys at the end.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self.cipher.close)
            await stack.enter_async_context(self.threads)
            for pool in self.pools:
                pool.open(wait=False)
                stack.push_async_callback(self.threads.run, pool.close)
            await stack.enter_async_context(self.listener)
            yield

    def sealing(self) -> AbstractContextManager[None]:
        """
        Seal and open columns inside a `with`; `warm` comes before.
        """
        return sealing_with(Sealing(cipher=self.cipher, bank_accounts=self.bank_accounts))

    async def warm(self) -> None:
        """
        Have the keys of the tenant that is bound at hand.

        A column is sealed and opened within a statement, in the event loop.  A
        key that is not at hand by then would be loaded there, and all wait.

        Raises:
            twh_platform.errors.KeyServiceError: If they cannot be had.
        """
        await AsyncTenantCipher(self.cipher).warm()
        # An index has no `warm`: any value loads its keys.
        await AsyncBlindIndex(self.bank_accounts).value("")

    async def uses(self, tenant_id: str) -> tuple[list[KeyUse], bool]:
        """
        How many data keys each version of a tenant's master key wraps; whether it was shredded.
        """
        return await self.threads.run(self._uses, tenant_id)

    async def rotate(self, tenant_id: str) -> tuple[int, RewrapReport, int]:
        """
        Give a tenant's master key a new version, and wrap all data keys by it.

        No sealed value is touched.

        Returns:
            The new version, what was done, and how many data keys an older
            version still wraps.
        """
        return await self.threads.run(self._rotate, tenant_id)

    async def shred(self, tenant_id: str) -> tuple[ShredReceipt, str]:
        """
        Destroy a tenant's keys for good; the receipt, and its signed text.
        """
        return await self.threads.run(self._shred, tenant_id)

    def _uses(self, tenant_id: str) -> tuple[list[KeyUse], bool]:
        with bind_tenant(Tenant(id=tenant_id)):
            shredded = self.administered.shredded(tenant_id)
        return key_uses(self.administered, tenants=[tenant_id]), shredded

    def _rotate(self, tenant_id: str) -> tuple[int, RewrapReport, int]:
        version = self.service.rotate(tenant_id).version
        report = rewrap(self.service, self.administered, tenants=[tenant_id])
        return version, report, remaining(self.service, self.administered, tenant_id)

    def _shred(self, tenant_id: str) -> tuple[ShredReceipt, str]:
        receipt = shred(
            tenant_id,
            service=self.service,
            store=self.administered,
            journal=self.journal,
            cipher=self.cipher,
            cache_seconds=self.cipher.policy.stale_if_error,
        )
        return receipt, receipt_text(receipt, self.service)


def _pool(dsn: str, *, seal: Seal, size: int) -> ConnectionPool[Any]:
    return ConnectionPool(
        dsn,
        connection_class=TenantConnection.using(seal=seal),
        kwargs={"connect_timeout": 3, "options": _OPTIONS},
        min_size=0,
        max_size=size,
        timeout=2.0,
        open=False,
    )


def _plain(dsn: str) -> str:
    return dsn.replace("postgresql+psycopg://", "postgresql://", 1)
