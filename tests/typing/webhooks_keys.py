"""
Keys out of a secret store, and the doctor, as a service writes them; checked, never run.
"""

from __future__ import annotations

from typing import assert_type

from twh_platform.kms.postgres.listener import KeyChangeListener
from twh_platform.kms.secrets import MemorySecretStore
from twh_platform.tenancy import Tenant
from twh_platform.webhooks import (
    STRIPE,
    Cause,
    Diagnosis,
    Keyring,
    RawSecret,
    StoredKeys,
    Verifier,
    WebhookEndpoint,
    diagnose,
    stored_keyring,
)


async def keys_of_an_endpoint(tenant: Tenant) -> None:
    """A store's versions are an endpoint's keys, and a listener tells of changes."""
    store = MemorySecretStore()
    keys = StoredKeys(store, name="stripe/{endpoint}", read=RawSecret, profile=STRIPE)

    assert_type(await keys.endpoint("orders", tenant=tenant), WebhookEndpoint | None)
    assert_type(await keys.verifier("orders", tenant=tenant), Verifier | None)
    assert_type(await keys.keyring("orders"), Keyring | None)
    assert_type(stored_keyring(store, "stripe/orders", read=RawSecret), Keyring)
    KeyChangeListener("dbname=shop", secrets=keys)


def cause_of_a_refusal(body: bytes, headers: list[tuple[bytes, bytes]], keys: Keyring) -> str:
    """The diagnosis is a value for a log."""
    found = diagnose(body, headers, keys, others={"test mode": keys})

    assert_type(found, Diagnosis)
    assert_type(found.cause, Cause)
    return found.remedy
