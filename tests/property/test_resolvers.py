"""
Laws of the sources: whatever is sent, no other tenant comes out.
"""

from __future__ import annotations

import asyncio
import re
import string

from hypothesis import given
from hypothesis import strategies as st

from tests.support.tenancy import Says, http_scope
from twh_platform.errors import TenantError, TenantUnresolvedError
from twh_platform.tenancy import (
    Agreement,
    HeaderResolver,
    HostResolver,
    PathResolver,
    TenantClaim,
)
from twh_platform.tenancy._public_paths import PublicPaths

ids = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)
VALID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def resolve(resolver, scope) -> TenantClaim | TenantError | None:
    """What the source says, its complaint included."""
    try:
        return asyncio.run(resolver.resolve(scope))
    except TenantError as error:
        return error


@given(st.binary(max_size=80))
def test_a_header_is_an_id_or_a_complaint(value):
    """Exactly the bytes that were sent, or nothing."""
    outcome = resolve(HeaderResolver(), http_scope("/", ("x-tenant-id", value)))

    if isinstance(outcome, TenantClaim):
        assert outcome.tenant_id.encode() == value
        assert VALID.fullmatch(outcome.tenant_id)
    else:
        assert isinstance(outcome, TenantUnresolvedError)


@given(ids)
def test_every_id_passes_through_a_header(tenant_id):
    """What is an id is taken."""
    claim = resolve(HeaderResolver(), http_scope("/", ("x-tenant-id", tenant_id)))

    assert isinstance(claim, TenantClaim)
    assert claim.tenant_id == tenant_id


hosts = st.one_of(
    st.binary(max_size=60),
    st.text("aA.-_:@/%0[]", max_size=20).map(lambda text: f"{text}.example.com".encode()),
    ids.map(lambda text: f"{text}.example.com".encode()),
)


@given(hosts)
def test_a_host_gives_its_first_label_or_nothing(host):
    """Never a part of the zone, never two labels, never another case."""
    outcome = resolve(HostResolver("{tenant}.example.com"), http_scope("/", ("host", host)))

    if isinstance(outcome, TenantClaim):
        pattern = re.escape(outcome.tenant_id) + r"\.example\.com\.?(:\d*)?"
        assert re.fullmatch(pattern, host.decode().lower())
        assert outcome.tenant_id == outcome.tenant_id.lower()


segments = st.sampled_from(["t", "acme", "globex", "", ".", "..", "x", "%2f", "%2e", "%61cme", "é"])


@given(st.lists(segments, max_size=6), st.sampled_from(["", "/api", "/t"]))
def test_a_path_names_the_tenant_that_is_written_there(parts, root):
    """Byte for byte, directly behind the mount; and the mount ends with it."""
    raw = root + "/" + "/".join(parts)
    path = raw.replace("%2f", "/").replace("%2e", ".").replace("%61", "a")
    scope = http_scope(path, raw_path=raw.encode(), root_path=root)
    outcome = resolve(PathResolver("/t/{tenant}"), scope)

    if isinstance(outcome, TenantClaim):
        mount = outcome.root_path or ""
        assert mount == f"{root}/t/{outcome.tenant_id}"
        assert (raw + "/").startswith(mount + "/")
        rest = path.removeprefix(mount).split("/")
        assert not {".", ".."} & set(rest)


@given(st.lists(segments, max_size=5))
def test_public_subtrees_contain_only_what_is_below(parts):
    """However a path is written, resolving its dots does not lead out."""
    path = "/" + "/".join(parts)
    if PublicPaths(["/x/*"]).cover(http_scope(path, raw_path=path.encode())):
        assert path.startswith("/x/")
        assert not {".", ".."} & set(parts)
        assert "%" not in path


claims = st.builds(
    TenantClaim,
    tenant_id=st.sampled_from(["acme", "globex"]),
    source=st.just("s"),
    decides=st.booleans(),
    user_id=st.sampled_from([None, "u1"]),
)


@given(st.lists(st.none() | claims, min_size=1, max_size=5))
def test_agreement_admits_only_what_all_say_and_one_decides(said):
    """For every combination of sources, in any order."""
    outcome = resolve(Agreement(*map(Says, said)), http_scope())
    spoken = [claim for claim in said if claim]

    if not spoken:
        assert outcome is None
    elif len({claim.tenant_id for claim in spoken}) == 1 and any(c.decides for c in spoken):
        assert isinstance(outcome, TenantClaim)
        assert outcome in spoken
        assert outcome.decides
    else:
        assert isinstance(outcome, TenantError)
