"""
Keys published at a URL.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.serving import PATIENCE
from tests.support.tenancy import AUDIENCE, ISSUER, http_scope, payload
from twh_platform.errors import BackendUnavailableError, ConfigurationError, CredentialsError
from twh_platform.tenancy import bind_tenant, current_tenant
from twh_platform.tenancy._jwks import fetch_bytes
from twh_platform.tenancy.jwt import JWKS, JWTResolver
from twh_platform.testing import ManualClock

URL = "https://id.example.com/jwks.json"
KEYS = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in "ab"}
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(name: str, **changes) -> dict:
    """The published form of one of our keys; None takes a member out."""
    numbers = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEYS[name].public_key()))
    entry = {**numbers, "kid": name, "use": "sig", "alg": "RS256", **changes}
    return {member: value for member, value in entry.items() if value is not None}


class Provider:
    """An identity provider: what it publishes, and how often it was asked."""

    def __init__(self, *entries: dict) -> None:
        self.document: object = {"keys": list(entries)}
        self.asked = 0
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        self.tenants: list[object] = []

    def __call__(self, url: str, timeout: float) -> bytes:
        """Take the place of the HTTP request, in its thread."""
        self.asked += 1
        self.tenants.append(current_tenant())
        assert threading.current_thread() is not threading.main_thread()
        self.open.wait(10)
        if self.error is not None:
            raise self.error
        return json.dumps(self.document).encode()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


def resolver(
    provider: Provider, clock: ManualClock, *, algorithms=("RS256",), **options
) -> JWTResolver:
    """A resolver that takes its keys from the provider."""
    keys = JWKS(URL, fetch=provider, clock=clock.monotonic, **options)
    return JWTResolver(keys=keys, algorithms=algorithms, audience=AUDIENCE, issuer=ISSUER)


def bearing(name="a", kid: str | None = "", **changes):
    """A request with a token signed by one of the keys."""
    headers = {} if kid is None else {"kid": kid or name}
    token = jwt.encode(payload(**changes), KEYS[name], "RS256", headers)
    return http_scope("/", ("authorization", f"Bearer {token}"))


async def code_of(source, scope) -> str:
    """The code of the refusal."""
    with pytest.raises((CredentialsError, BackendUnavailableError)) as caught:
        await source.resolve(scope)
    return caught.value.code


async def settle(source) -> None:
    """Wait for a fetch in the background."""
    if (task := source._verifier._keys._task) is not None:
        await asyncio.wait((task,))


async def test_keys_are_fetched_once(clock):
    """And asked for only when the first token arrives."""
    provider = Provider(jwk("a"), jwk("b"))
    source = resolver(provider, clock)
    assert provider.asked == 0

    for name in "abab":
        assert await source.resolve(bearing(name)) is not None
    assert provider.asked == 1


async def test_many_tokens_share_one_fetch(clock):
    """Also if one of those who wait goes away, and as no tenant."""
    provider = Provider(jwk("a"))
    provider.open.clear()
    source = resolver(provider, clock)
    with bind_tenant(None):
        waiting = [asyncio.create_task(source.resolve(bearing(sub=f"u{n}"))) for n in range(20)]
    await asyncio.sleep(0.01)
    waiting.pop(0).cancel()
    provider.open.set()

    assert all(await asyncio.gather(*waiting))
    assert provider.asked == 1
    assert provider.tenants == [None]


async def test_a_new_key_is_found_by_its_id(clock):
    """The provider rotates: an unknown `kid` makes us look."""
    provider = Provider(jwk("a"))
    source = resolver(provider, clock, min_interval=10)
    await source.resolve(bearing("a"))
    provider.document = {"keys": [jwk("a"), jwk("b")]}
    clock.advance(10)

    assert await source.resolve(bearing("b")) is not None
    assert provider.asked == 2


async def test_strangers_cannot_make_us_hammer_the_provider(clock):
    """A hundred invented ids cost one fetch per interval."""
    provider = Provider(jwk("a"))
    source = resolver(provider, clock, min_interval=10)
    await source.resolve(bearing("a"))
    clock.advance(10)
    for number in range(100):
        assert await code_of(source, bearing("b", kid=f"invented-{number}")) == "token_key_unknown"

    assert provider.asked == 2


async def test_a_withdrawn_key_takes_its_tokens_along(clock):
    """Verified tokens are remembered only as long as the keys are the same."""
    provider = Provider(jwk("a"), jwk("b"))
    source = resolver(provider, clock, refresh_after=300)
    await source.resolve(bearing("a"))
    token_of_b = bearing("b")
    await source.resolve(token_of_b)
    provider.document = {"keys": [jwk("a")]}
    clock.advance(300)

    assert await source.resolve(token_of_b) is not None  # which starts the fetch
    await settle(source)
    assert await code_of(source, token_of_b) == "token_key_unknown"


async def test_the_same_keys_keep_the_remembered_tokens(clock):
    """A fetch that brings nothing new costs no verification."""
    source = resolver(Provider(jwk("a")), clock, refresh_after=300)
    scope = bearing("a", exp=4e9)
    claim = await source.resolve(scope)
    clock.advance(300)
    await source.resolve(scope)
    await settle(source)

    assert await source.resolve(scope) is claim


async def test_a_provider_that_is_down_is_survived_for_a_while(clock):
    """Until max_age the keys at hand go on; then nobody is served on them."""
    provider = Provider(jwk("a"))
    source = resolver(provider, clock, refresh_after=300, max_age=3600)
    scope = bearing("a", exp=4e9)
    await source.resolve(scope)
    provider.error = OSError("no route")

    clock.advance(3599)
    assert await source.resolve(scope) is not None
    await settle(source)
    clock.advance(10)
    assert await code_of(source, scope) == "jwks_unavailable"
    provider.error = None
    clock.advance(10)
    assert await source.resolve(scope) is not None


async def test_no_keys_at_all_is_unavailable(clock):
    """Not a refusal of the token, and not an attempt for each request."""
    provider = Provider()
    source = resolver(provider, clock, min_interval=10)
    provider.error = OSError("connection refused")

    with pytest.raises(BackendUnavailableError) as caught:
        await source.resolve(bearing())
    assert caught.value.retry_after == 10
    assert isinstance(caught.value.__cause__, OSError)
    assert await code_of(source, bearing()) == "jwks_unavailable"
    assert provider.asked == 1


async def test_a_provider_that_hangs_is_given_up(clock):
    """The wait ends at the deadline, though the thread goes on."""
    provider = Provider(jwk("a"))
    provider.open.clear()
    source = resolver(provider, clock, timeout=0.02)

    assert await asyncio.wait_for(code_of(source, bearing()), 5) == "jwks_unavailable"
    provider.open.set()


async def test_a_provider_that_hangs_takes_one_thread_of_its_own(clock):
    """The loop's executor stays free, and no fetch follows one that has not ended."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    provider = Provider(jwk("a"))
    provider.open.clear()
    source = resolver(provider, clock, timeout=0.02, min_interval=10)
    for _ in range(3):
        assert await code_of(source, bearing()) == "jwks_unavailable"
        clock.advance(10)
    try:
        assert await asyncio.wait_for(asyncio.to_thread(int), 5) == 0
        assert provider.asked == 1
    finally:
        provider.open.set()
    await asyncio.wait((asyncio.wrap_future(source._verifier._keys._thread),))
    assert await source.resolve(bearing()) is not None


UNUSABLE = [
    {"kty": "oct", "kid": "a", "alg": "HS256", "k": base64.urlsafe_b64encode(b"k" * 32).decode()},
    {"kty": "oct", "kid": "a", "alg": "RS256", "k": "AAAA"},
    jwk("a", use="enc"),
    jwk("a", key_ops=["encrypt"]),
    jwk("a", key_ops="verify"),
    jwk("a", alg="RS512"),
    jwk("a", alg="HS256"),
    jwk("a", alg=["RS256"]),
    jwk("a", n="AQAB"),
    jwk("a", n=None),
    jwk("a", kty="EC"),
    jwk("a", kty=["RSA"]),
    jwk("a", kty={}),
    jwk("a", alg={}),
    jwk("a", kid=7),
    json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEYS["a"])) | {"kid": "a"},
    json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC_KEY.public_key())) | {"kid": "a"},
    {"kid": "a"},
    "a",
    None,
]


@pytest.mark.parametrize("entry", UNUSABLE)
async def test_unusable_keys_are_passed_over(entry, clock):
    """A shared secret, another purpose or algorithm, a broken or private key."""
    source = resolver(Provider(entry, jwk("b")), clock)

    assert await source.resolve(bearing("b")) is not None
    assert await code_of(source, bearing("a")) == "token_key_unknown"


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"keys": {}},
        {"keys": []},
        {"keys": [jwk("a", use="enc")]},
        {"keys": [jwk("a")] * 65},
    ],
)
async def test_what_is_not_a_key_set_is_unavailable(document, clock):
    """An error page with status 200 is not taken for "no such key"."""
    provider = Provider()
    provider.document = document

    assert await code_of(resolver(provider, clock), bearing("a")) == "jwks_unavailable"


async def test_a_bad_document_does_not_replace_good_keys(clock):
    """The keys at hand go on until they are too old."""
    provider = Provider(jwk("a"))
    source = resolver(provider, clock, refresh_after=300)
    await source.resolve(bearing("a"))
    provider.document = {"keys": []}
    clock.advance(300)
    await source.resolve(bearing("a"))
    await settle(source)

    assert await source.resolve(bearing("a")) is not None


async def test_without_an_id_only_a_single_key_is_meant(clock):
    """With several, a token has to say which."""
    one = resolver(Provider(jwk("a")), clock)
    two = resolver(Provider(jwk("a"), jwk("b")), clock)

    assert await one.resolve(bearing("a", kid=None)) is not None
    assert await code_of(two, bearing("a", kid=None)) == "token_key_unknown"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "id.example.com",
        "http://id.example.com/k",
        "file:///etc/passwd",
        "https://",
        "ftp://x/k",
    ],
)
def test_keys_come_by_https(url):
    """Plain HTTP on loopback only; no other scheme at all."""
    with pytest.raises(ConfigurationError, match="is not an https URL"):
        JWKS(url)


def test_options_that_contradict_each_other_are_refused():
    """An interval above the age, or no time at all."""
    for options in ({"min_interval": 0}, {"refresh_after": 5000}, {"timeout": 0}, {"max_age": 1}):
        with pytest.raises(ConfigurationError, match="must hold"):
            JWKS(URL, **options)


def test_a_key_set_serves_one_set_of_algorithms():
    """And no shared-secret algorithms: what is published is no secret."""
    keys = JWKS(URL)
    options = {"keys": keys, "audience": AUDIENCE, "issuer": ISSUER}
    JWTResolver(algorithms=["RS256"], **options)

    with pytest.raises(ConfigurationError, match="another resolver"):
        JWTResolver(algorithms=["ES256"], **options)
    with pytest.raises(ConfigurationError, match="cannot hold shared secrets"):
        JWTResolver(algorithms=["HS256"], **options)


class Site(BaseHTTPRequestHandler):
    """A provider on loopback."""

    def do_GET(self):
        """Serve keys, a redirect to them, an error, or far too much."""
        if self.path.startswith("/drip"):
            return self.drip()
        moved = self.path == "/moved"
        self.send_response({"/moved": 302, "/error": 500, "/none": 204}.get(self.path, 200))
        if moved:
            self.send_header("location", "/jwks")
        self.end_headers()
        if self.path == "/jwks":
            self.wfile.write(json.dumps({"keys": [jwk("a")]}).encode())
        elif self.path == "/large":
            self.wfile.write(b" " * 600_000)

    def drip(self):
        """Send an answer that never pauses for long, and takes long."""
        start = b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if self.path == "/drip-body" else b"x-long: ")
        with suppress(OSError):
            self.wfile.write(start)
            for _ in range(150):
                self.wfile.write(b"x")
                time.sleep(0.01)
            self.wfile.write(b"\r\n\r\n")

    def log_message(self, *_args):
        """Say nothing."""


@pytest.fixture
def site():
    """The address of a running provider."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_keys_come_over_real_http(site):
    """The default way to fetch, against a server."""
    keys = JWKS(f"{site}/jwks")
    source = JWTResolver(keys=keys, algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER)

    assert await source.resolve(bearing("a")) is not None


@pytest.mark.parametrize("path", ["/drip-headers", "/drip-body"])
def test_an_answer_that_drips_is_given_up(path, site):
    """No pause is as long as the time; control: without haste it is read to its end."""
    with pytest.raises(TimeoutError):
        fetch_bytes(site + path, 0.2)
    assert fetch_bytes(site + path, PATIENCE) is not None


@pytest.mark.parametrize("path", ["/moved", "/error", "/none", "/large", "/empty"])
async def test_redirects_errors_and_too_much_are_failures(path, site):
    """A redirect could lead anywhere; a body has a bound."""
    keys = JWKS(f"{site}{path}")
    source = JWTResolver(keys=keys, algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER)

    assert await code_of(source, bearing("a")) == "jwks_unavailable"
