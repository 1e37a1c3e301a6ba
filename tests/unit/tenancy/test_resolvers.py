"""
The sources that anyone can speak through: header, host, path, a function.
"""

from __future__ import annotations

import pytest

from tests.support.tenancy import http_scope
from twh_platform.errors import ConfigurationError, TenantUnresolvedError
from twh_platform.tenancy import (
    FunctionResolver,
    HeaderResolver,
    HostResolver,
    PathResolver,
    TenantClaim,
)

HEADER = HeaderResolver()
HOST = HostResolver("{tenant}.example.com", reserved={"www"})
PATH = PathResolver("/t/{tenant}")


async def code_of(resolver, scope) -> str:
    """The code with which the source complains."""
    with pytest.raises(TenantUnresolvedError) as caught:
        await resolver.resolve(scope)
    return caught.value.code


async def test_a_bare_header_names_a_tenant_and_does_not_decide():
    """`X-Tenant-ID` is read, but anyone can write it."""
    claim = await HEADER.resolve(http_scope("/", ("x-tenant-id", "acme")))

    assert claim == TenantClaim(tenant_id="acme", source="header", decides=False)


async def test_a_header_name_in_capitals_is_the_same_header():
    """ASGI servers should send lower case, and need not."""
    claim = await HEADER.resolve(http_scope("/", ("X-Tenant-ID", "acme")))

    assert claim is not None


async def test_no_header_says_nothing():
    """Other headers are not our business."""
    assert await HEADER.resolve(http_scope("/", ("x-tenant", "acme"))) is None


@pytest.mark.parametrize("second", ["acme", "globex"])
async def test_a_repeated_header_is_refused(second):
    """Two headers are refused even if they agree: someone else may read the other."""
    scope = http_scope("/", ("x-tenant-id", "acme"), ("X-Tenant-Id", second))

    assert await code_of(HEADER, scope) == "tenant_header_repeated"


BAD_IDS = [
    b"",
    b" acme",
    b"acme ",
    b"acme,globex",
    b"acme\x00",
    b"acme\n",
    b"a" * 65,
    b"../acme",
    b"acme/globex",
    b"acme%00",
    b"acme;--",
    b"acme'",
    "\u0430cme".encode(),  # a Cyrillic letter that looks like ours
    "\uff41cme".encode(),  # a full-width letter that NFKC would fold
    "acme\u200b".encode(),
    b"\xe4cme",
    b"\xff\xfe",
]


@pytest.mark.parametrize("value", BAD_IDS)
async def test_what_is_not_an_id_is_refused_as_it_is(value):
    """Nothing is trimmed, folded or decoded until it fits."""
    assert await code_of(HEADER, http_scope("/", ("x-tenant-id", value))) == "tenant_id_invalid"


@pytest.mark.parametrize("name", ["", "X Tenant", "X-Tenant:", "tenänt"])
def test_a_header_name_has_to_be_one(name):
    """A name that no client could send is a mistake of ours."""
    with pytest.raises(ConfigurationError, match="is not a header name"):
        HeaderResolver(name)


@pytest.mark.parametrize(
    "host",
    [
        "acme.example.com",
        "ACME.Example.COM",
        "acme.example.com.",
        "acme.example.com:8000",
        "acme.example.com.:443",
        "acme.example.com:",
    ],
)
async def test_one_host_in_all_its_spellings(host):
    """Case, a port and one trailing dot change nothing."""
    claim = await HOST.resolve(http_scope("/", ("host", host)))

    assert claim == TenantClaim(tenant_id="acme", source="host", decides=False)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "www.example.com",
        "WWW.example.com",
        "a.b.example.com",
        "acme.example.org",
        "acmeexample.com",
        "acme.example.com.evil.org",
        "10.0.0.1:8000",
        "[::1]:8000",
        "localhost",
        "",
    ],
)
async def test_a_host_outside_the_template_says_nothing(host):
    """Neither a reserved label, nor two labels, nor another zone is a tenant."""
    assert await HOST.resolve(http_scope("/", ("host", host))) is None


@pytest.mark.parametrize(
    ("host", "code"),
    [
        (".example.com", "tenant_id_invalid"),
        (b"a" * 65 + b".example.com", "tenant_id_invalid"),
        (b"a." * 130 + b"example.com", "tenant_host_invalid"),
        ("xn--cme-7na.example.com", "tenant_host_invalid"),
        ("XN--CME-7NA.example.com", "tenant_host_invalid"),
        (b"\xc3\xa4cme.example.com", "tenant_host_invalid"),
        ("acme.example.com:80:80", "tenant_host_invalid"),
        ("acme.example.com:http", "tenant_host_invalid"),
        ("evil@acme.example.com", "tenant_host_invalid"),
        ("acme.example.com/", "tenant_host_invalid"),
        ("acme.example.com, b.example.com", "tenant_host_invalid"),
        ("acme%2eexample.com", "tenant_host_invalid"),
        (b"acme\x00.example.com", "tenant_host_invalid"),
        ("acme.example.com\n", "tenant_host_invalid"),
    ],
)
async def test_a_malformed_host_is_refused(host, code):
    """What could be read in two ways is not cleaned up."""
    assert await code_of(HOST, http_scope("/", ("host", host))) == code


async def test_a_repeated_host_is_refused():
    """A proxy may have routed on the other one."""
    scope = http_scope("/", ("host", "acme.example.com"), ("host", "globex.example.com"))

    assert await code_of(HOST, scope) == "tenant_header_repeated"


async def test_forwarded_hosts_are_not_read():
    """`X-Forwarded-Host` and `Forwarded` are a stranger's words."""
    forged = [("x-forwarded-host", "globex.example.com"), ("forwarded", "host=globex.example.com")]
    claim = await HOST.resolve(http_scope("/", ("host", "acme.example.com"), *forged))

    assert claim is not None
    assert claim.tenant_id == "acme"
    assert await HOST.resolve(http_scope("/", *forged)) is None


@pytest.mark.parametrize(
    "template", ["example.com", "{tenant}", "a.{tenant}.com", "{tenant}.Ex.com"]
)
def test_a_host_template_begins_with_the_tenant(template):
    """Other templates are refused when the app is put together."""
    with pytest.raises(ConfigurationError, match="is not like"):
        HostResolver(template)


@pytest.mark.parametrize("path", ["/t/acme", "/t/acme/", "/t/acme/items/1", "/t/acme/a//b"])
async def test_a_path_names_its_tenant_and_where_the_app_is_mounted(path):
    """The part up to the tenant is to become `root_path`."""
    claim = await PATH.resolve(http_scope(path))

    assert claim == TenantClaim(tenant_id="acme", source="path", root_path="/t/acme")


@pytest.mark.parametrize(
    "path", ["/", "/t", "/tt/acme", "/x/t/acme", "//t/acme", "/T/acme", "/./t/acme"]
)
async def test_a_path_that_does_not_begin_so_says_nothing(path):
    """Nothing is normalised until it fits."""
    assert await PATH.resolve(http_scope(path)) is None


@pytest.mark.parametrize(
    ("path", "raw", "code"),
    [
        ("/t/", None, "tenant_id_invalid"),
        ("/t//acme", None, "tenant_id_invalid"),
        ("/t/../acme", None, "tenant_id_invalid"),
        ("/t/acme/../globex/x", None, "tenant_path_invalid"),
        ("/t/acme/./x", None, "tenant_path_invalid"),
        ("/t/acme//x", None, "tenant_path_invalid"),
        ("/t/acme/../globex", b"/t/acme/%2e%2e/globex", "tenant_path_invalid"),
        ("/t/acme/globex/x", b"/t/acme%2fglobex/x", "tenant_path_invalid"),
        ("/t/acme/x", b"/t%2Facme/x", "tenant_path_invalid"),
        ("/t/acme/x", b"/t/%61cme/x", "tenant_path_invalid"),
        ("/t/acme/x", b"/%74/acme/x", "tenant_path_invalid"),
        ("/t/acme/x", b"/t/globex/x", "tenant_path_invalid"),
        ("/t/acme\x00", b"/t/acme%00", "tenant_id_invalid"),
        ("/t/äcme", b"/t/%C3%A4cme", "tenant_id_invalid"),
        ("/t/acme;x", None, "tenant_id_invalid"),
        ("/t/" + "a" * 65, None, "tenant_id_invalid"),
    ],
)
async def test_an_ambiguous_path_is_refused(path, raw, code):
    """Encoding up to the tenant, and dots behind it, could be read differently inside."""
    scope = http_scope(path, raw_path=raw if raw is not None else path.encode())

    assert await code_of(PATH, scope) == code


async def test_encoding_behind_the_tenant_is_the_apps_own_affair():
    """An encoded slash in an item's name does not concern the tenant."""
    scope = http_scope("/t/acme/items/a/b", raw_path=b"/t/acme/items/a%2Fb")

    assert await PATH.resolve(scope) is not None


@pytest.mark.parametrize("raw", [b"/caf%C3%A9/t/acme/x", None])
async def test_a_mounted_app_looks_behind_its_root_path(raw):
    """The mount is not part of the template, and grows by the tenant."""
    scope = http_scope("/café/t/acme/x", root_path="/café", raw_path=raw)
    claim = await PATH.resolve(scope)

    assert claim is not None
    assert claim.root_path == "/café/t/acme"


async def test_a_path_can_be_left_as_it_is():
    """For apps whose own routes begin with the tenant."""
    claim = await PathResolver("/t/{tenant}", rewrite=False).resolve(http_scope("/t/acme/x"))

    assert claim is not None
    assert claim.root_path is None


@pytest.mark.parametrize("template", ["/t", "t/{tenant}", "/t/{tenant}/x", "//{tenant}", "/t/{id}"])
def test_a_path_template_ends_with_the_tenant(template):
    """Other templates are refused when the app is put together."""
    with pytest.raises(ConfigurationError, match="is not like"):
        PathResolver(template)


async def test_a_function_is_a_source():
    """A plain and an async function serve alike."""

    async def later(scope):
        return scope["certificate"]

    scope = http_scope(certificate="acme")
    plain = FunctionResolver(lambda scope: scope["certificate"], source="tls", decides=True)
    expected = TenantClaim(tenant_id="acme", source="tls", decides=True)

    assert await plain.resolve(scope) == expected
    assert await FunctionResolver(later, source="tls", decides=True).resolve(scope) == expected
    assert await FunctionResolver(lambda _: None, source="tls").resolve(scope) is None


async def test_what_a_function_returns_is_checked():
    """A custom source is no way around the alphabet."""
    resolver = FunctionResolver(lambda _: "acme'; --", source="own", decides=True)

    assert await code_of(resolver, http_scope()) == "tenant_id_invalid"
