"""
The tenant as a value.
"""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pytest

from twh_platform.errors import ConfigurationError, TenantSuspendedError, TenantUnresolvedError
from twh_platform.tenancy import Tenant, TenantKind, TenantStatus, valid_tenant_id

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "value", ["a", "A-Z_09", "0", "a" * 64, "6f9619ff-8b86-d011-b42d-00cf4fc964ff"]
)
def test_ids(value):
    """Letters, digits, underscore and hyphen, up to 64 of them."""
    assert valid_tenant_id(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a" * 65,
        "a b",
        "a.b",
        "a/b",
        "a\n",
        "\na",
        "a\0",
        "é",
        "\u0430",
        "\u0661",
        b"acme",
        7,
        None,
    ],
)
def test_what_is_not_an_id(value):
    """One error and one code for all of them; the message quotes a bounded part."""
    with pytest.raises(TenantUnresolvedError) as caught:
        valid_tenant_id(value)

    assert caught.value.code == "tenant_id_invalid"
    assert len(str(caught.value)) < 200


def test_text_becomes_status_and_kind():
    """As rows and JSON have them."""
    tenant = Tenant(id="acme", status="suspended", kind="sandbox")

    assert (tenant.status, tenant.kind) == (TenantStatus.SUSPENDED, TenantKind.SANDBOX)


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "gone"},
        {"kind": "test"},
        {"time_zone": "europe/berlin"},
        {"time_zone": ""},
        {"time_zone": "../etc/passwd"},
        {"expires_at": datetime(2030, 1, 1)},  # noqa: DTZ001 -- the point
    ],
)
def test_other_fields_are_checked(wrong):
    """The message names the tenant."""
    with pytest.raises(ConfigurationError, match="tenant 'acme'"):
        Tenant(id="acme", **wrong)


def test_a_tenant_does_not_change():
    """Neither its fields nor its attributes, nor through the mapping it was given."""
    given = {"seats": 3}
    tenant = Tenant(id="acme", attributes=given)
    given["seats"] = 4

    with pytest.raises(FrozenInstanceError):
        tenant.tier = "free"  # type: ignore[misc]
    with pytest.raises(TypeError):
        tenant.attributes["seats"] = 5  # type: ignore[index]
    assert tenant.attributes == {"seats": 3}


def test_a_tenant_can_be_sent_to_another_process():
    """Equal, hashable, and still immutable."""
    tenant = Tenant(id="acme", expires_at=NOW, attributes={"a": [1]})
    copy = pickle.loads(pickle.dumps(tenant))

    assert copy == tenant
    assert hash(copy) == hash(tenant)


@pytest.mark.parametrize("status", [one for one in TenantStatus if one is not TenantStatus.ACTIVE])
def test_only_active_tenants_are_served(status):
    """The code says why not."""
    with pytest.raises(TenantSuspendedError) as caught:
        Tenant(id="acme", status=status).ensure_served(NOW)

    assert caught.value.code == f"tenant_{status}"


def test_a_tenant_is_served_until_it_expires():
    """To the moment."""
    tenant = Tenant(id="acme", expires_at=NOW)
    tenant.ensure_served(NOW - timedelta(microseconds=1))

    with pytest.raises(TenantSuspendedError) as caught:
        tenant.ensure_served(NOW)
    assert caught.value.code == "tenant_expired"
