"""
Attack 48: being taken for another tenant, or learning which there are.

The attacker is a user of ``acme`` and wants to be served as ``globex``.  The
control is a few lines as they are found in many services, behind a proxy that
has looked at the same request and let it through as one of acme's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import posixpath
import re
import unicodedata
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.tenancy import (
    Says,
    exchange,
    http_scope,
    name_tenant,
    payload,
    websocket_scope,
)
from tests.unit.tenancy import test_jwt as tokens
from twh_platform.tenancy import (
    Agreement,
    CachedTenantDirectory,
    HeaderResolver,
    HostResolver,
    MemoryTenantDirectory,
    PathResolver,
    Tenant,
    TenantMiddleware,
)

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
DIRECTORY = MemoryTenantDirectory([ACME, GLOBEX, Tenant(id="idle", status="suspended")])
ZONE = "{tenant}.example.com"

Naive = Callable[[dict[str, Any]], str | None]


def served(naive: Naive, scope: dict[str, Any]) -> list[str]:
    """Whom the naive service takes the attacker for, if it is another tenant."""
    return [one for one in (naive(scope),) if one == "globex"]


async def admitted(resolver: Any, scope: dict[str, Any]) -> list[str]:
    """Whom ours takes the attacker for, if it is another tenant."""
    app = TenantMiddleware(name_tenant, resolver=resolver, directory=DIRECTORY)
    answer = await exchange(app, scope)
    assert answer.body == b"acme" or answer.status in {401, 403}
    return [answer.body.decode()] * (answer.body == b"globex")


def headers_of(scope: dict[str, Any], name: bytes) -> list[str]:
    """All values of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


REPEATED = {
    "last wins": (["acme", "globex"], lambda values: values[-1]),
    "first wins": (["globex", "acme"], lambda values: values[0]),
    "joined": (["acme,globex"], lambda values: values[0].rpartition(",")[2]),
}


@pytest.mark.parametrize("form", REPEATED)
async def test_48_names_its_tenant_twice(twh_attack, form):
    """The proxy checks one of the headers and the service reads the other."""
    attack = twh_attack(number=48, title="sends the tenant's header twice", form=form)
    values, choose = REPEATED[form]
    scope = http_scope("/", *(("x-tenant-id", value) for value in values))

    attack.control(served(lambda scope: choose(headers_of(scope, b"x-tenant-id")), scope))
    attack.ours(await admitted(HeaderResolver(decides=True), scope))


async def test_48_names_another_tenant_than_its_token(twh_attack):
    """The first source that speaks wins in the control; in ours all have to agree."""
    attack = twh_attack(number=48, title="names another tenant in a header than in its token")
    token = ("authorization", f"Bearer {tokens.signed()}")
    scope = http_scope("/", token, ("x-tenant-id", "globex"))

    def header_first(scope: dict[str, Any]) -> str | None:
        return next(iter(headers_of(scope, b"x-tenant-id")), "acme")

    attack.control(served(header_first, scope))
    attack.ours(await admitted(Agreement(HeaderResolver(), tokens.resolver()), scope))
    attack.ours(await admitted(Agreement(tokens.resolver(), HeaderResolver()), scope))


@pytest.mark.parametrize("form", ["x-forwarded-host", "forwarded", "x-original-host"])
async def test_48_forwards_a_host_of_its_own(twh_attack, form):
    """The headers of proxies are a stranger's words."""
    attack = twh_attack(number=48, title="names another tenant's host as forwarded", form=form)
    forged = "globex.example.com"
    value = f"host={forged}" if form == "forwarded" else forged
    scope = http_scope("/", ("host", "acme.example.com"), (form, value))

    def believes(scope: dict[str, Any]) -> str:
        host = headers_of(scope, form.encode())[0].removeprefix("host=")
        return host.partition(".")[0]

    attack.control(served(believes, scope))
    attack.ours(await admitted(HostResolver(ZONE, decides=True), scope))


def first_label(host: str) -> str:
    """The tenant of a host, as most people read it."""
    return host.partition(".")[0].lower()


HOSTS: dict[str, tuple[str | bytes, Callable[[str], str]]] = {
    "another zone": ("globex.example.com.evil.org", first_label),
    "deeper": ("globex.acme.example.com", first_label),
    "user part": (
        "acme.example.com@globex.example.com",
        lambda host: first_label(host.split("@")[1]),
    ),
    "two hosts": (
        "acme.example.com,globex.example.com",
        lambda host: first_label(host.split(",")[1]),
    ),
    "in the port": ("acme.example.com:80.globex", lambda host: host.rpartition(".")[2]),
    "full width": (
        "\uff47lobex.example.com".encode(),
        lambda host: first_label(unicodedata.normalize("NFKC", host.encode("latin-1").decode())),
    ),
    "IDNA": (
        "xn--globex-.example.com",
        lambda host: first_label(host).removeprefix("xn--").rstrip("-"),
    ),
}


@pytest.mark.parametrize("form", HOSTS)
async def test_48_spells_a_host(twh_attack, form):
    """One label in front of our zone is a tenant, and nothing is cleaned up to be one."""
    attack = twh_attack(number=48, title="spells a host so that it is read as another", form=form)
    host, naive = HOSTS[form]
    scope = http_scope("/", ("host", host))

    attack.control(served(lambda scope: naive(headers_of(scope, b"host")[0]), scope))
    attack.ours(await admitted(HostResolver(ZONE, decides=True), scope))


@pytest.mark.parametrize("form", ["capitals", "trailing dot", "port"])
async def test_48_evades_a_block_by_spelling_its_host(twh_attack, form):
    """The control blocks a tenant by its exact name, then serves it by another spelling."""
    attack = twh_attack(number=48, title="evades its suspension by spelling its host", form=form)
    spelled = {"capitals": "IDLE.example.com", "trailing dot": "idle.example.com."}
    scope = http_scope("/", ("host", spelled.get(form, "idle.example.com:443")))

    def naive(scope: dict[str, Any]) -> str | None:
        host = headers_of(scope, b"host")[0]
        return None if host == "idle.example.com" else first_label(host)

    app = TenantMiddleware(
        name_tenant, resolver=HostResolver(ZONE, decides=True), directory=DIRECTORY
    )
    attack.control([one for one in (naive(scope),) if one == "idle"])
    attack.ours([one for one in ((await exchange(app, scope)).body,) if one == b"idle"])


def by_search(scope: dict[str, Any]) -> str | None:
    """The tenant of a path, as it is found anywhere in it."""
    found = re.search(r"/t/([^/]+)", posixpath.normpath(re.sub("/+", "/", scope["path"])))
    return found and found[1]


# Path, raw path and mount; the proxy has let each through by its beginning.
PATHS: dict[str, dict[str, Any]] = {
    "dots": {"path": "/t/acme/../globex/items"},
    "encoded dots": {
        "path": "/t/acme/../globex/items",
        "raw_path": b"/t/acme/%2e%2e/globex/items",
    },
    "encoded slash": {
        "path": "/t/acme/../globex",
        "raw_path": b"/t/acme%2f..%2fglobex",
    },
    "encoded letter": {"path": "/t/globex/items", "raw_path": b"/t/%67lobex/items"},
    "two slashes": {"path": "//t/globex/items"},
    "raw differs": {"path": "/t/globex/items", "raw_path": b"/t/acme/items"},
    "elsewhere": {"path": "/files/t/globex/items"},
    "outside the mount": {"path": "/t/globex/t/acme", "root_path": "/t/globex"},
}


@pytest.mark.parametrize("form", PATHS)
async def test_48_spells_a_path(twh_attack, form):
    """What a proxy may read in another way than we do is refused."""
    attack = twh_attack(number=48, title="spells a path so that it is read as another", form=form)
    given = PATHS[form]
    scope = {**http_scope(given["path"]), **given}

    attack.control(served(by_search, dict(scope)))
    attack.ours(await admitted(PathResolver("/t/{tenant}", decides=True), scope))


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, which nobody has verified."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def by_its_own_algorithm(token: str, key: bytes) -> str | None:
    """Verify a token as its header asks, which is the fault."""
    body, _, signature = token.rpartition(".")
    head = body.split(".")[0]
    algorithm = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))["alg"]
    made = urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    good = hmac.digest(key, body.encode(), hashlib.sha256) == made
    return claims_of(token)["tenant_id"] if algorithm.lower() == "none" or good else None


PEM = tokens.public_pem(tokens.RSA_KEY)
THEIRS = payload(tenant_id="globex")
FORGED = {
    "alg none": tokens.forged({"alg": "none"}, THEIRS).rpartition(".")[0] + ".",
    "alg nOnE": tokens.forged({"alg": "nOnE"}, THEIRS).rpartition(".")[0] + ".AA",
    "public key as secret": tokens.forged({"alg": "HS256", "typ": "JWT"}, THEIRS, PEM),
}


@pytest.mark.parametrize("form", FORGED)
async def test_48_chooses_how_its_token_is_verified(twh_attack, form):
    """The algorithm is ours to choose and is tied to the key."""
    attack = twh_attack(number=48, title="chooses the algorithm of its forged token", form=form)
    token = FORGED[form]
    scope = http_scope("/", ("authorization", f"Bearer {token}"))

    attack.control(served(lambda _: by_its_own_algorithm(token, PEM), scope))
    attack.ours(await admitted(tokens.rsa_resolver(), scope))


@pytest.mark.parametrize("form", ["foreign key", "claims replaced", "expired"])
async def test_48_bears_a_token_that_nobody_verified(twh_attack, form):
    """A service behind a gateway that decodes only believes all of them."""
    attack = twh_attack(number=48, title="bears a token that was not verified", form=form)
    parts, replaced = tokens.signed().split("."), tokens.signed(tenant_id="globex").split(".")
    token = {
        "foreign key": tokens.signed(key=b"\0" * 32, tenant_id="globex"),
        "claims replaced": ".".join((parts[0], replaced[1], parts[2])),
        "expired": tokens.signed(tenant_id="globex", exp=1),
    }[form]
    scope = http_scope("/", ("authorization", f"Bearer {token}"))

    attack.control(served(lambda _: claims_of(token)["tenant_id"], scope))
    attack.ours(await admitted(tokens.resolver(), scope))


CLEANED: dict[str, tuple[bytes, Callable[[str], str]]] = {
    "space": (b" globex", str.strip),
    "capitals": (b"GLOBEX", str.lower),
    "NUL": (b"globex\0.acme", lambda text: text.partition("\0")[0]),
    "new line": (b"globex\n", lambda text: text.splitlines()[0]),
    "full width": (
        "\uff47lobex".encode(),
        lambda text: unicodedata.normalize("NFKC", text.encode("latin-1").decode()),
    ),
    "zero width": (
        "glo\u200bbex".encode(),
        lambda text: text.encode("latin-1").decode().replace("\u200b", ""),
    ),
    "encoded": (b"%67lobex", lambda text: text.replace("%67", "g")),
    "path": (b"acme/../globex", posixpath.normpath),
    "cut": (b"globex" + b"-" * 59, lambda text: text[:64].rstrip("-")),
}


@pytest.mark.parametrize("form", CLEANED)
async def test_48_writes_an_id_that_is_cleaned_up(twh_attack, form):
    """The proxy has denied ``globex``; cleaned up behind it, another text becomes it."""
    attack = twh_attack(number=48, title="writes an id that becomes another's", form=form)
    value, clean = CLEANED[form]
    scope = http_scope("/", ("x-tenant-id", value))

    attack.control(served(lambda scope: clean(headers_of(scope, b"x-tenant-id")[0]), scope))
    attack.ours(await admitted(HeaderResolver(decides=True), scope))


def test_48_writes_an_id_that_is_sql(twh_attack):
    """The id goes into the text of BEGIN, so its alphabet has nothing that SQL reads."""
    attack = twh_attack(number=48, title="writes an id that ends the SQL literal")
    hostile = ["a'; DROP TABLE x --", "a\\", "a$$", 'a"', "a;b", "a\n--", "a\0", "'", "", "é"]

    def taken(make: Callable[[str], Any]) -> int:
        made = 0
        for one in hostile:
            try:
                make(one)
            except Exception:  # noqa: BLE001 -- refused in whatever way
                continue
            made += 1
        return made

    attack.control(taken(lambda one: f"SET LOCAL app.tenant_id = '{one}'"))
    attack.ours(taken(lambda one: Tenant(id=one)))


STATUSES = ["suspended", "deleting", "provisioning", "expired"]


@pytest.mark.parametrize("form", STATUSES)
async def test_48_is_served_though_it_may_not_be(twh_attack, form):
    """That it is known is not enough."""
    attack = twh_attack(number=48, title="is served though it was suspended", form=form)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    gone = {"expires_at": past} if form == "expired" else {"status": form}
    directory = MemoryTenantDirectory([Tenant(id="globex", **gone)])
    app = TenantMiddleware(name_tenant, resolver=Says("globex"), directory=directory)

    known = await directory.get("globex")
    attack.control(served(lambda _: known and known.id, http_scope()))
    attack.ours([one for one in ((await exchange(app, http_scope())).body,) if one == b"globex"])


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_48_learns_which_tenants_exist(twh_attack, kind):
    """Unknown, suspended and foreign tenants get one answer, but for the request's id."""
    attack = twh_attack(number=48, title="learns from answers which tenants exist", form=kind)
    names = ["globex", "idle", "nobody"]

    async def naive(name: str) -> int:
        tenant = await DIRECTORY.get(name)
        if tenant is None:
            return 404
        return 403 if tenant.status == "active" else 423

    attack.control(len({await naive(name) for name in names}) - 1)
    token = ("authorization", f"Bearer {tokens.signed()}")
    make = http_scope if kind == "http" else websocket_scope
    seen = set()
    for name in names:
        app = TenantMiddleware(
            name_tenant,
            resolver=Agreement(tokens.resolver(), HeaderResolver()),
            directory=DIRECTORY,
        )
        scope = make("/", token, ("x-tenant-id", name), extensions={"websocket.http.response": {}})
        answer = await exchange(app, scope)
        secret = answer.json["request_id"]
        seen.add(re.sub(secret, "", f"{answer.status} {answer.headers} {answer.body!r}"))
    attack.ours(len(seen) - 1)


class Counting:
    """A directory that counts how often each tenant is looked up."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.asked: list[str] = []

    async def get(self, tenant_id: str) -> Tenant | None:
        """Look up, and note it."""
        self.asked.append(tenant_id)
        found: Tenant | None = await self.inner.get(tenant_id)
        return found


class NaiveCache:
    """Remembers what was found, the last used of all ids."""

    def __init__(self, inner: Any, capacity: int) -> None:
        self.inner, self.capacity = inner, capacity
        self.entries: OrderedDict[str, Tenant | None] = OrderedDict()
        self.negative = False

    async def get(self, tenant_id: str) -> Tenant | None:
        """Look up what is not remembered."""
        if tenant_id not in self.entries:
            found = await self.inner.get(tenant_id)
            if found is None and not self.negative:
                return None
            self.entries[tenant_id] = found
        self.entries.move_to_end(tenant_id)
        while len(self.entries) > self.capacity:
            self.entries.popitem(last=False)
        return self.entries.get(tenant_id)


async def test_48_learns_from_time_which_tenants_exist(twh_attack):
    """Counted in look-ups, not in seconds: a second request costs the same for all of them."""
    attack = twh_attack(number=48, title="learns from how long it takes which tenants exist")

    async def told_apart(make: Callable[[Any], Any]) -> int:
        inner = Counting(DIRECTORY)
        cache = make(inner)
        for name in ("idle", "nobody", "idle", "nobody"):
            await cache.get(name)
        return abs(inner.asked.count("idle") - inner.asked.count("nobody"))

    attack.control(await told_apart(lambda inner: NaiveCache(inner, 10)))
    attack.ours(await told_apart(CachedTenantDirectory))


async def test_48_pushes_tenants_out_of_the_cache(twh_attack):
    """Invented ids have bounds of their own."""
    attack = twh_attack(number=48, title="pushes others out of the cache by inventing tenants")

    async def pushed_out(make: Callable[[Any], Any]) -> int:
        inner = Counting(DIRECTORY)
        cache = make(inner)
        await cache.get("globex")
        for number in range(20):
            await cache.get(f"invented-{number}")
        await cache.get("globex")
        return inner.asked.count("globex") - 1

    def naive(inner: Any) -> NaiveCache:
        cache = NaiveCache(inner, 10)
        cache.negative = True
        return cache

    attack.control(await pushed_out(naive))
    attack.ours(
        await pushed_out(
            lambda inner: CachedTenantDirectory(inner, capacity=10, negative_capacity=10)
        )
    )


async def test_48_is_refused_for_ever_by_a_remembered_refusal(twh_attack):
    """Whoever asks for a tenant before it is made has it refused; ours forgets soon."""
    attack = twh_attack(number=48, title="has a new tenant refused by asking before it is made")
    clock = tokens.ManualClock()

    async def locked_out(make: Callable[[Any], Any]) -> int:
        inner = MemoryTenantDirectory()
        cache = make(inner)
        await cache.get("globex")
        inner.put(GLOBEX)
        clock.advance(6)
        return await cache.get("globex") is None

    def naive(inner: Any) -> NaiveCache:
        cache = NaiveCache(inner, 10)
        cache.negative = True
        return cache

    attack.control(await locked_out(naive))
    attack.ours(await locked_out(lambda inner: CachedTenantDirectory(inner, clock=clock.monotonic)))


@pytest.mark.parametrize("form", ["tenant", "token"])
async def test_48_speaks_through_a_websocket_subprotocol(twh_attack, form):
    """Browsers cannot set headers there, so some services read the subprotocol."""
    attack = twh_attack(number=48, title="names its tenant in a websocket subprotocol", form=form)
    said = "globex" if form == "tenant" else tokens.signed(tenant_id="globex")
    scope = websocket_scope("/", ("sec-websocket-protocol", f"chat, {said}"))
    scope["subprotocols"] = ["chat", said]

    def naive(scope: dict[str, Any]) -> str:
        last: str = scope["subprotocols"][-1]
        return last if form == "tenant" else claims_of(last)["tenant_id"]

    attack.control(served(naive, scope))
    resolver = Agreement(tokens.resolver(), HeaderResolver())
    app = TenantMiddleware(name_tenant, resolver=resolver, directory=DIRECTORY)
    answer = await exchange(app, scope)
    attack.ours([one for one in answer.messages if one["type"] != "websocket.close"])
