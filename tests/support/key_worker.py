"""
A process with a warm cache of data keys, which goes on opening until it is told to stop.

    python -m tests.support.key_worker KEYSET STORE MAX_AGE TENANT:SEALED...

*STORE* is an SQLite file, or the DSN of a PostgreSQL database, of which it then
hears what changes.  Each line that it writes is JSON: first ``warm``,
then, for each tenant whose value is refused for the first time, its id, the
code, and the wall-clock time of the last opening before and of the refusal.  It
ends when its standard input does, with the number of openings of each tenant.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from twh_platform import Tenant, bind_tenant
from twh_platform.errors import KeyServiceError
from twh_platform.kms import (
    CachePolicy,
    DataKeyStore,
    LocalKeyService,
    SqliteDataKeyStore,
    TenantCipher,
    from_text,
)

__all__ = ["say", "watch"]


def say(**what: Any) -> None:
    """
    Write a line.
    """
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def watch(cipher: TenantCipher, values: dict[str, bytes], stop: threading.Event) -> None:
    """
    Open each value again and again, and say when that ends.
    """
    opened, last = dict.fromkeys(values, 0), dict.fromkeys(values, 0.0)
    refused: set[str] = set()
    warm = False
    while not stop.wait(0.01):
        for tenant_id, sealed in values.items():
            began = time.time()
            try:
                with bind_tenant(Tenant(id=tenant_id)):
                    cipher.open(sealed, {"column": "iban"})
            except KeyServiceError as error:
                if tenant_id not in refused:
                    refused.add(tenant_id)
                    say(refused=tenant_id, code=error.code, last=last[tenant_id], at=began)
            else:
                if tenant_id in refused:
                    say(opened_again=tenant_id)
                opened[tenant_id] += 1
                last[tenant_id] = began
        if not warm:
            warm = True
            say(warm=sorted(values))
    say(opened=opened)


def main(keyset: str, store: str, max_age: str, *values: str) -> None:
    """
    Run until standard input ends.
    """
    policy = CachePolicy(max_age=float(max_age), stale_if_error=2 * float(max_age))
    listens = store.startswith("postgresql:")
    kept = postgres_store(store) if listens else SqliteDataKeyStore(store)
    cipher = TenantCipher(LocalKeyService(keyset), kept, policy=policy)
    with hearing(store, cipher) if listens else nullcontext():
        run(cipher, *values)


def postgres_store(dsn: str) -> DataKeyStore:
    """
    A store on connections of the service's login.
    """
    from twh_platform.kms.postgres.data_keys import PostgresDataKeyStore
    from twh_platform.tenancy.postgres.psycopg import TenantConnection

    return PostgresDataKeyStore(lambda: TenantConnection.connect(dsn))


@contextmanager
def hearing(dsn: str, cipher: TenantCipher) -> Iterator[None]:
    """
    Hear of changed keys.
    """
    from twh_platform.kms.postgres.listener import KeyChangeThread

    with KeyChangeThread(dsn, cipher=cipher) as thread:
        assert thread.wait_listening(30)
        yield


def run(cipher: TenantCipher, *values: str) -> None:
    """
    Open until standard input ends.
    """
    stop = threading.Event()
    pairs = (value.split(":") for value in values)
    sealed = {tenant_id: from_text(text) for tenant_id, text in pairs}
    thread = threading.Thread(target=watch, args=(cipher, sealed, stop))
    thread.start()
    sys.stdin.read()
    stop.set()
    thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
