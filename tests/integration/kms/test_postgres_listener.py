"""
Who listens learns at once of changed keys and secrets; an election has one leader.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.integration.kms._house import ACME, OTHER, record
from tests.support.postgres_keys import KEEPER, Shifted
from tests.support.serving import PATIENCE, eventually
from twh_platform import bind_tenant
from twh_platform.errors import BackendUnavailableError
from twh_platform.kms._secret import Secret
from twh_platform.kms.postgres.election import PostgresElection
from twh_platform.kms.postgres.listener import KeyChangeListener, KeyChangeThread
from twh_platform.kms.postgres.secrets import PostgresSecretStore


class Told:
    """
    What a cache is told to forget, in order.
    """

    def __init__(self) -> None:
        self.said: list[str] = []

    def evict(self, tenant_id: str) -> None:
        """As a cipher."""
        self.said.append(f"evict {tenant_id}")

    def forget(self, name: str, *, tenant_id: str | None = None) -> None:
        """As cached secrets."""
        self.said.append(f"forget {tenant_id} {name}")

    def clear(self, *, tenant_id: str | None = None) -> None:
        """As both."""
        self.said.append(f"clear {tenant_id}")


@pytest.fixture
async def told(house):
    """A cipher and secrets that are told, from now on."""
    cipher, secrets = Told(), Told()
    async with KeyChangeListener(house.dsn(), cipher=cipher, secrets=[secrets]) as listener:
        await asyncio.wait_for(listener.wait_listening(), PATIENCE)
        assert (cipher.said, secrets.said) == (["clear None"], ["clear None"])
        cipher.said.clear()
        secrets.said.clear()
        yield cipher, secrets


def said(cache: Told, *wanted: str):
    """A condition: that and no more was said."""

    async def condition() -> bool:
        return cache.said == list(wanted)

    return condition


async def test_a_shredded_tenant_is_evicted_everywhere(house, told, acme):
    """Once, however many keys it has; adding and rewrapping a key tell nobody."""
    cipher, secrets = told
    store = house.store()
    for _ in range(3):
        kept = store.add(record())
    assert store.replace(kept, revision=kept.revision)
    house.store(KEEPER).destroy(ACME.id)

    await eventually(said(cipher, "evict acme"))
    await eventually(said(secrets, "clear acme"))


async def test_a_tenant_without_keys_is_evicted_too(house, told):
    """What is cached of it may come from a backup that had some."""
    cipher, _ = told
    with bind_tenant(OTHER):
        house.store(KEEPER).destroy(OTHER.id)

    await eventually(said(cipher, "evict other"))


async def test_a_changed_secret_is_forgotten(house, told, acme):
    """By its tenant and its name; no key is."""
    cipher, secrets = told
    store = PostgresSecretStore(house.connect, Shifted())
    store.put("smtp/password", Secret("one"))
    await eventually(said(secrets, "forget acme smtp/password"))
    store.revoke("smtp/password", 1)

    await eventually(said(secrets, *["forget acme smtp/password"] * 2))
    assert cipher.said == []


async def test_what_is_rolled_back_is_not_told(house, told, acme):
    """A notification is part of its transaction."""
    cipher, _ = told
    with house.connect(KEEPER) as connection:
        connection.execute("SELECT twh.shred_tenant()")
        connection.rollback()
    with bind_tenant(OTHER):
        house.store(KEEPER).destroy(OTHER.id)

    await eventually(said(cipher, "evict other"))


async def test_what_is_no_payload_of_ours_clears_all(house, told):
    """An emptied table, and whatever a stranger says."""
    cipher, secrets = told
    house.database.execute("TRUNCATE twh.data_keys")
    await eventually(said(cipher, "clear None"))
    for payload in ("key:a b", "key:", "secret:acme", "secret:acme:Ä", "x" * 500):
        house.database.execute(f"SELECT pg_notify('twh_keys', $${payload}$$)")

    await eventually(said(cipher, *["clear None"] * 6))
    await eventually(said(secrets, *["clear None"] * 6))


async def test_after_a_lost_connection_all_is_cleared(house, told):
    """Notifications may have been missed; and the next ones are heard."""
    cipher, _ = told
    house.look(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name = 'twh-key-changes' AND datname = current_database()"
    )
    await eventually(said(cipher, "clear None"))
    house.database.execute("SELECT pg_notify('twh_keys', 'key:acme')")

    await eventually(said(cipher, "clear None", "evict acme"))


async def test_a_thread_listens_for_who_has_no_loop(house, acme):
    """It tells from its thread, and ends with the block, also where it never connected."""
    cipher = Told()
    with KeyChangeThread(house.dsn(), cipher=cipher) as listener:
        assert await asyncio.to_thread(listener.wait_listening, PATIENCE)
        house.store(KEEPER).destroy(ACME.id)
        await eventually(said(cipher, "clear None", "evict acme"))
    with KeyChangeThread("postgresql://nobody@127.0.0.1:9/none") as deaf:
        assert not deaf.wait_listening(0.05)

    assert not [one for one in threading.enumerate() if one.name == "twh-key-changes"]


def test_one_of_many_leads(house):
    """The others are told at once; when it is over the next one leads."""
    first, second = PostgresElection(house.dsn()), PostgresElection(house.dsn())
    other = PostgresElection(house.dsn(), name="something else")
    with first.lead() as leads, second.lead() as follows, other.lead() as apart:
        assert (leads, follows, apart) == (True, False, True)

    house.until(
        "SELECT count(*) = 0 FROM pg_stat_activity "
        "WHERE application_name = 'twh-election' AND datname = current_database()"
    )
    with second.lead() as leads:
        assert leads


def test_an_election_without_a_database_is_none():
    """The error names neither the server nor the login."""
    election = PostgresElection("postgresql://x:hunter2@127.0.0.1:9/none")
    with pytest.raises(BackendUnavailableError) as caught, election.lead():
        pass

    assert caught.value.code == "election_unavailable"
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__}"
