"""
Names that belong to a tenant: for caches, locks and channels.
"""

from __future__ import annotations

import hashlib
import hmac
import re

import pytest

from twh_platform.errors import ConfigurationError, NoCurrentTenantError
from twh_platform.tenancy import Tenant, bind_tenant, tenant_key
from twh_platform.tenancy.postgres import tenant_channel, tenant_lock_key

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
SECRET = b"a secret of the tests, thirty-two bytes"


def test_a_key_begins_with_the_tenant():
    """The tenant, then the parts as they were given."""
    with bind_tenant(ACME):
        assert tenant_key("item", 7) == "acme:item:7"
        assert tenant_key("") == "acme:"
        assert tenant_key("ärger", -1) == "acme:ärger:-1"


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a:b",), ("a", "b")), (("a", ""), ("a",)), (("a%3Ab",), ("a:b",)), (("%",), ("%25",))],
)
def test_different_parts_are_different_keys(one, other):
    """What separates the parts is escaped in them."""
    with bind_tenant(ACME):
        assert tenant_key(*one) != tenant_key(*other)


def test_no_part_reaches_into_another_tenant():
    """Control: put together by hand with the tenant behind, two tenants have one key."""
    with bind_tenant(ACME):
        ours = tenant_key("item", "7:globex")
    with bind_tenant(GLOBEX):
        theirs = tenant_key("item", "7")

    assert f"item:{'7:globex'}:acme" == f"item:{'7'}:globex:acme"
    assert ours.partition(":")[0] != theirs.partition(":")[0]


@pytest.mark.parametrize("parts", [(), (1.0,), (None,), (True,), (b"x",), (("a",),)])
def test_a_part_is_a_string_or_an_integer(parts):
    """What has more than one text is refused: 1.0, None, bytes."""
    with bind_tenant(ACME), pytest.raises(TypeError):
        tenant_key(*parts)


def test_a_lock_key_is_a_bigint_of_the_tenant():
    """Another tenant, another name, another key; of the documented form."""
    with bind_tenant(ACME):
        key, other = tenant_lock_key("nightly"), tenant_lock_key("hourly")
    with bind_tenant(GLOBEX):
        theirs = tenant_lock_key("nightly")
    digest = hashlib.sha256(b"twh.lock.v1\0acme\0nightly").digest()

    assert key == int.from_bytes(digest[:8], "big", signed=True)
    assert len({key, other, theirs}) == 3
    assert all(-(2**63) <= one < 2**63 for one in (key, other, theirs))


def test_a_channel_is_of_the_tenant_and_of_the_secret():
    """Of the documented form, and an identifier that needs no quotes."""
    with bind_tenant(ACME):
        channel = tenant_channel("orders", secret=SECRET)
        others = {
            tenant_channel("items", secret=SECRET),
            tenant_channel("orders", secret=b"x" * 32),
        }
    with bind_tenant(GLOBEX):
        others.add(tenant_channel("orders", secret=SECRET))
    digest = hmac.digest(SECRET, b"twh.channel.v1\0acme\0orders", "sha256")

    assert channel == f"twh_{digest[:20].hex()}"
    assert re.fullmatch("[a-z_][a-z0-9_]{0,62}", channel)
    assert len(others - {channel}) == 3


def test_a_short_secret_is_refused_and_not_shown():
    """Thirty-two bytes, as for every key of ours."""
    with bind_tenant(ACME), pytest.raises(ConfigurationError, match="31 bytes") as caught:
        tenant_channel("orders", secret=b"y" * 31)

    assert "yy" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tenant_key("item"),
        lambda: tenant_lock_key("nightly"),
        lambda: tenant_channel("orders", secret=SECRET),
    ],
)
def test_nobody_has_no_names(make):
    """Without a tenant there is no key that everybody would share."""
    with pytest.raises(NoCurrentTenantError):
        make()
