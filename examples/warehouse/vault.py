"""
The secrets of the service itself, in versions, sealed by a key of the platform.

Tokens are signed with one, and tenants are sealed for the database with the
other.  The second is needed to open a connection, so they cannot be in the
database; they are in a file of SQLite beside the keyset, which `twh-platform
secrets` reads as well.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Self

from twh_platform.errors import PlatformError
from twh_platform.kms import (
    GuardedKeyService,
    KeyService,
    LocalKeyService,
    SqliteDataKeyStore,
    TenantCipher,
    platform_owner,
)
from twh_platform.kms.secrets import (
    AsyncCachedSecrets,
    AsyncSecretStore,
    CachedSecrets,
    FileElection,
    RotationPolicy,
    RotationTask,
    Secret,
    SecretVersion,
    SqliteSecretStore,
    rotate_secret,
)
from twh_platform.tenancy.postgres import Seal, SealKey

from .settings import Settings
from .threads import Threads

__all__ = ["SEAL", "TOKENS", "Vault"]

_logger = logging.getLogger("warehouse")

TOKENS = "token-signing"
"""The name of the secret that tokens are signed with."""

SEAL = "tenant-seal"
"""The name of the secret that tenants are sealed with for the database."""

_PURPOSE = "secrets"  # as the command line has it
_SEAL_FILE = "twh-seal-1"
_LOOK_EVERY = 10.0  # seconds
# Twice as long as a token lives: nobody is logged out by a rotation.
_OVERLAPS = 2.0
_EVERY = timedelta(days=30).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """
    One per running app.

    Attributes:
        service: The key service: the platform's master key, and the tenants'.

        secrets: The secrets, remembered for seconds; its calls block.

        reader: The same for the event loop: what is asked for at each request.

        store: The same for the event loop: what an administrator asks.

        rotation: Gives the secrets with a policy their next value.

        threads: Where an administrator's rotation blocks.
    """

    service: KeyService
    secrets: CachedSecrets
    reader: AsyncCachedSecrets
    store: AsyncSecretStore
    rotation: RotationTask
    threads: Threads

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """
        Open the keyset, or what is there instead, and the file of secrets.
        """
        file = settings.secrets_file
        opened = settings.key_service or partial(LocalKeyService, settings.keyset_file)
        service = GuardedKeyService(opened())
        cipher = TenantCipher(service, SqliteDataKeyStore(file), purpose=_PURPOSE)
        secrets = CachedSecrets(SqliteSecretStore(file, cipher, now=settings.now), now=settings.now)
        return cls(
            service=service,
            secrets=secrets,
            reader=AsyncCachedSecrets(secrets),
            store=AsyncSecretStore(secrets),
            rotation=RotationTask(secrets, FileElection(file.with_suffix(".lock"))),
            threads=Threads(1),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Rotate what is due from time to time, and let the threads go at the end.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.threads)
            await stack.enter_async_context(self.reader)
            await stack.enter_async_context(self.store)
            await stack.enter_async_context(self.rotation)
            yield

    async def rotate(self, name: str) -> SecretVersion:
        """
        Give a secret its next value now.

        Raises:
            twh_platform.errors.SecretConflictError: If somebody else does.
        """
        with platform_owner():
            return await self.threads.run(rotate_secret, self.secrets, name)

    def seal(self) -> Seal:
        """
        What tenants are sealed with for the database; it blocks.
        """
        with platform_owner():
            return Seal(_seal_key(self.secrets.get(SEAL).secret))

    @asynccontextmanager
    async def following(self, seal: Seal) -> AsyncIterator[None]:
        """
        Have *seal* use the key that is the current one, also when there is another.
        """
        task = asyncio.create_task(self._follow(seal))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def _follow(self, seal: Seal) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                with platform_owner():
                    key = _seal_key((await self.reader.get(SEAL)).secret)
            except (PlatformError, ValueError) as error:
                _logger.warning("the seal key stays %s: %s", seal.key.id, type(error).__name__)
                continue
            if key.id != seal.key.id:
                seal.use(key)

    def put_seal(self, key: SealKey) -> None:
        """
        Keep the key that tenants are sealed with; running apps use it within a minute.

        It is kept as the command line has it in files (`--seal`).
        """
        text = f"{_SEAL_FILE} {key.id} {b64encode(key.secret).decode()}\n"
        with platform_owner():
            self.secrets.put(SEAL, Secret(text))

    def make_token_secret(self, *, token_seconds: float) -> None:
        """
        Make the secret that tokens are signed with, and have it rotated.

        Args:
            token_seconds: How long a token lives; the secret before is
                accepted for longer than that.
        """
        policy = RotationPolicy(every=_EVERY, overlap=_OVERLAPS * token_seconds)
        with platform_owner():
            self.secrets.put(TOKENS, Secret.random(policy.random_bytes), policy=policy)


def _seal_key(secret: Secret) -> SealKey:
    _, key_id, value = secret.text().split()
    return SealKey(id=key_id, secret=b64decode(value, validate=True))
