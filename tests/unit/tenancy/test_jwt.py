"""
Bearer tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support.tenancy import AUDIENCE, ISSUER, SECRET, http_scope, payload, websocket_scope
from twh_platform.errors import ConfigurationError, CredentialsError
from twh_platform.tenancy.jwt import BearerVerifier, JWTResolver
from twh_platform.testing import ManualClock

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def public_pem(key) -> bytes:
    """The public half, as it is handed around."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def resolver(**options) -> JWTResolver:
    """A resolver for the shared secret, unless told otherwise."""
    return JWTResolver(
        **{
            "keys": SECRET,
            "algorithms": ["HS256"],
            "audience": AUDIENCE,
            "issuer": ISSUER,
            **options,
        }
    )


def rsa_resolver(**options) -> JWTResolver:
    """A resolver for RS256."""
    return resolver(keys=public_pem(RSA_KEY), algorithms=["RS256"], **options)


def signed(key=SECRET, algorithm="HS256", headers=None, **changes) -> str:
    """A token with good claims, but for the changes."""
    return jwt.encode(payload(**changes), key, algorithm, headers)


def forged(header: dict, claims: dict, key: bytes = SECRET) -> str:
    """A token made by hand, signed with HMAC-SHA256 whatever its header says."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    body = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims).encode())
    return (body + b"." + part(hmac.digest(key, body, hashlib.sha256))).decode()


def bearing(token: str | bytes, scheme="Bearer "):
    """A request with this token."""
    value = token if isinstance(token, bytes) else scheme + token
    return http_scope("/", ("authorization", value))


async def code_of(source, scope) -> str:
    """The code of the refusal."""
    with pytest.raises(CredentialsError) as caught:
        await source.resolve(scope)
    return caught.value.code


async def test_a_good_token_names_tenant_and_user():
    """The verified claims come along."""
    claim = await resolver().resolve(bearing(signed(roles=["clerk"])))

    assert claim is not None
    assert (claim.tenant_id, claim.user_id, claim.source) == ("acme", "user-1", "jwt")
    assert claim.decides
    assert claim.claims["roles"] == ("clerk",)


async def test_claims_cannot_be_changed():
    """They are shared by the requests that bear the token, so they are frozen throughout."""
    claim = await resolver().resolve(bearing(signed(deep={"list": [{"a": 1}]})))

    assert claim is not None
    with pytest.raises(TypeError):
        claim.claims["tenant_id"] = "globex"  # type: ignore[index]
    with pytest.raises(TypeError):
        claim.claims["deep"]["list"][0]["a"] = 2


async def test_names_of_claims_are_ours_to_choose():
    """A provider with its own claim names."""
    source = resolver(tenant_claim="https://x/org", user_claim="uid")
    claim = await source.resolve(bearing(signed(**{"https://x/org": "globex", "uid": "u9"})))

    assert claim is not None
    assert (claim.tenant_id, claim.user_id) == ("globex", "u9")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA_KEY, "RS256"), (RSA_KEY, "PS512"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")],
)
async def test_public_keys_verify(key, algorithm):
    """As PEM, and as an object of `cryptography`."""
    for given in (public_pem(key), public_pem(key).decode(), key.public_key()):
        source = resolver(keys=given, algorithms=[algorithm])
        assert await source.resolve(bearing(signed(key, algorithm))) is not None


async def test_websockets_bear_tokens_in_the_same_header():
    """And in no other: the subprotocol and the query are logged by servers."""
    token = signed()
    header = websocket_scope("/ws", ("authorization", f"Bearer {token}"))
    other = websocket_scope("/ws", ("sec-websocket-protocol", f"bearer, {token}"))

    assert await resolver().resolve(header) is not None
    assert await resolver().resolve({**other, "subprotocols": ["bearer", token]}) is None


@pytest.mark.parametrize("value", ["Basic dTpw", "Bearertoken", "Token x", "DPoP x"])
async def test_another_scheme_says_nothing(value):
    """It is for another source."""
    assert await resolver().resolve(bearing(value, scheme="")) is None
    assert await resolver().resolve(http_scope()) is None


@pytest.mark.parametrize("scheme", ["bearer ", "BEARER ", "Bearer   "])
async def test_the_scheme_has_no_case(scheme):
    """RFC 9110, section 11.1."""
    assert await resolver().resolve(bearing(signed(), scheme)) is not None


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer a.b",
        "Bearer a.b.c.d",
        "Bearer a.b.",
        "Bearer ..",
        "Bearer a.b.c",
        "Bearer a b.c",
        "Bearer a.b.c, Bearer a.b.c",
        "Bearer\ta.b.c",
        b"Bearer \xff.b.c",
        b"Bearer a.b.c\x00",
        "Bearer a.b.c\n",
        "Bearer eyJ.eyJ.sig=",
        "Bearer W10.e30.AAAA",
        "Bearer bnVsbA.e30.AAAA",
    ],
)
async def test_what_is_not_a_token_is_refused(value):
    """One way out of the parser, whatever was wrong."""
    assert await code_of(resolver(), bearing(value, scheme="")) in {
        "token_malformed",
        "token_algorithm",
    }


async def test_repeated_authorization_is_refused():
    """Two good tokens are one too many."""
    header = ("authorization", f"Bearer {signed()}")

    assert await code_of(resolver(), http_scope("/", header, header)) == "token_repeated"


async def test_a_long_token_is_refused_before_it_is_read():
    """The bound counts bytes of the header."""
    token = signed(filler="x" * 8192)

    assert await code_of(resolver(), bearing(token)) == "token_too_long"
    assert await resolver(max_token_bytes=20_000).resolve(bearing(token)) is not None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": 1}, "token_expired"),
        ({"exp": None}, "token_claims"),
        ({"exp": "soon"}, "token_malformed"),
        ({"exp": True}, "token_claims"),
        ({"exp": math.inf}, "token_claims"),
        ({"exp": math.nan}, "token_claims"),
        ({"exp": 10**400}, "token_claims"),
        ({"nbf": 9_000_000_000}, "token_not_yet_valid"),
        ({"nbf": "now"}, "token_malformed"),
        ({"aud": None}, "token_claims"),
        ({"aud": "billing"}, "token_audience"),
        ({"aud": ["billing"]}, "token_audience"),
        ({"aud": []}, "token_claims"),
        ({"aud": {"warehouse": 1}}, "token_audience"),
        ({"iss": None}, "token_claims"),
        ({"iss": "https://evil.example.com"}, "token_issuer"),
        ({"iss": [ISSUER]}, "token_issuer"),
        ({"tenant_id": None}, "token_claims"),
        ({"sub": 7}, "token_malformed"),
        ({"sub": ""}, "token_claims"),
        ({"sub": "u" * 256}, "token_claims"),
    ],
)
async def test_wrong_claims_are_refused(changes, code):
    """Though the signature is good."""
    token = forged({"alg": "HS256"}, payload(**changes))
    refused = await code_of(resolver(), bearing(token))

    # PyJWT may reject the form of a time or subject before we do.
    assert refused in {code, "token_claims" if code == "token_malformed" else code}


@pytest.mark.parametrize(
    "tenant_id", ["", "a b", "acme'", 7, ["acme"], {"id": "acme"}, "\u0430cme"]
)
async def test_a_tenant_claim_that_is_no_id_is_refused(tenant_id):
    """A good signature does not make an id, and a bad token has one way out."""
    assert await code_of(resolver(), bearing(signed(tenant_id=tenant_id))) == "token_claims"


async def test_a_token_without_a_tenant_is_verified_too():
    """For those who belong to none: the claims, or nothing, or the same refusals."""
    options = {"keys": SECRET, "algorithms": ["HS256"], "issuer": ISSUER}
    verifier = BearerVerifier(**options, audience=AUDIENCE)
    header = ("authorization", f"Bearer {signed(tenant_id=None)}")
    claims = await verifier.verify(http_scope("/", header))

    assert claims is not None
    assert claims["sub"] == "user-1"
    assert await verifier.verify(http_scope()) is None
    with pytest.raises(CredentialsError, match="more than one"):
        await verifier.verify(http_scope("/", header, header))
    with pytest.raises(CredentialsError, match="meant for others"):
        await BearerVerifier(**options, audience="x").verify(http_scope("/", header))


async def test_an_unsigned_token_is_refused():
    """`alg: none`, in every spelling, with and without a signature."""
    for name in ("none", "None", "NONE", ""):
        token = forged({"alg": name}, payload())
        assert await code_of(resolver(), bearing(token)) == "token_algorithm"
    unsigned = jwt.encode(payload(), None, "none")
    assert await code_of(resolver(), bearing(unsigned)) == "token_malformed"


async def test_a_public_key_is_not_a_secret():
    """HS256 signed with the RSA key's PEM: a library that trusts `alg` takes it."""
    token = forged({"alg": "HS256"}, payload(), public_pem(RSA_KEY))

    assert await code_of(rsa_resolver(), bearing(token)) == "token_algorithm"
    with pytest.raises(ConfigurationError, match="never a public key"):
        resolver(keys=public_pem(RSA_KEY), algorithms=["HS256"])


@pytest.mark.parametrize(
    "name", ["HS384", "RS256", "ES256", "EdDSA", "HS256 ", 256, None, ["HS256"]]
)
async def test_an_algorithm_that_is_not_pinned_is_refused(name):
    """Whoever signed it, and however well."""
    token = forged({"alg": name}, payload())

    assert await code_of(resolver(), bearing(token)) == "token_algorithm"


async def test_another_key_of_the_same_algorithm_is_refused():
    """The signature counts."""
    assert (
        await code_of(rsa_resolver(), bearing(signed(OTHER_RSA_KEY, "RS256"))) == "token_signature"
    )
    assert await code_of(resolver(), bearing(signed(b"x" * 32))) == "token_signature"


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_token_that_was_touched_is_refused(place):
    """In the header, the claims, or the signature."""
    parts = signed().split(".")
    parts[place] = parts[place][:5] + ("A" if parts[place][5] != "A" else "B") + parts[place][6:]

    assert await code_of(resolver(), bearing(".".join(parts))) in {
        "token_signature",
        "token_malformed",
        "token_algorithm",
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": True},
        {"crit": []},
        {"b64": False},
        {"zip": "DEF"},
        {"kid": 7},
        {"kid": ["a"]},
    ],
)
async def test_header_extensions_are_refused(headers):
    """What we do not understand might change what was signed (RFC 7515, section 4.1.11)."""
    token = forged({"alg": "HS256", **headers}, payload())

    assert await code_of(resolver(), bearing(token)) == "token_malformed"


async def test_keys_that_a_token_brings_are_not_used():
    """`jwk`, `jku`, `x5u`, `x5c` name the attacker's key; ours decides."""
    numbers = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_RSA_KEY.public_key()))
    brought = {
        "jwk": numbers,
        "jku": "http://127.0.0.1:9/",
        "x5u": "http://127.0.0.1:9/",
        "x5c": ["x"],
    }
    attack = signed(OTHER_RSA_KEY, "RS256", brought)
    harmless = signed(RSA_KEY, "RS256", brought)

    assert await code_of(rsa_resolver(), bearing(attack)) == "token_signature"
    assert await rsa_resolver().resolve(bearing(harmless)) is not None


async def test_keys_rotate():
    """Several keys: a token of either is taken; by `kid`, only the named one counts."""
    old, new = b"o" * 32, b"n" * 32
    both = resolver(keys=[new, old])
    named = resolver(keys={"old": old, "new": new})

    for key in (old, new):
        assert await both.resolve(bearing(signed(key))) is not None
    assert await named.resolve(bearing(signed(new, headers={"kid": "new"}))) is not None
    for headers in ({"kid": "old"}, {"kid": "other"}, {}):
        code = await code_of(named, bearing(signed(new, headers=headers)))
        assert code in {"token_signature", "token_key_unknown"}


async def test_a_key_is_tied_to_its_algorithm():
    """With two algorithms pinned, each key serves only its own."""
    source = resolver(keys=[public_pem(RSA_KEY), public_pem(EC_KEY)], algorithms=["RS256", "ES256"])

    assert await source.resolve(bearing(signed(RSA_KEY, "RS256"))) is not None
    assert await source.resolve(bearing(signed(EC_KEY, "ES256"))) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithms": []}, "algorithms is empty"),
        ({"algorithms": ["none"]}, "cannot be pinned"),
        ({"algorithms": ["HS256", "none"]}, "cannot be pinned"),
        ({"algorithms": ["hs256"]}, "cannot be pinned"),
        ({"algorithms": ["HS256", "RS256"]}, "mixes"),
        ({"audience": []}, "audience"),
        ({"audience": ""}, "audience"),
        ({"issuer": ()}, "issuer"),
        ({"keys": b"short"}, "too short"),
        ({"keys": SECRET, "algorithms": ["HS512"]}, "too short"),
        ({"keys": ""}, "too short"),
        ({"keys": []}, "no key given fits"),
        ({"keys": {}}, "no key given fits"),
        ({"keys": public_pem(RSA_KEY).decode()}, "never a public key"),
        ({"keys": "ssh-rsa " + "A" * 40}, "never a public key"),
        ({"keys": EC_KEY.public_key()}, "never a public key"),
        ({"keys": SECRET, "algorithms": ["RS256"]}, "not a public key in PEM"),
        ({"keys": public_pem(EC_KEY), "algorithms": ["RS256"]}, "does not fit"),
        ({"keys": public_pem(EC_KEY), "algorithms": ["ES384"]}, "does not fit"),
        ({"keys": public_pem(RSA_KEY), "algorithms": ["RS256", "ES256"]}, "no key given fits"),
        ({"keys": RSA_KEY, "algorithms": ["RS256"]}, "does not fit"),
    ],
)
def test_what_does_not_fit_together_is_refused_at_once(options, message):
    """When the app is put together, not when the first token arrives."""
    with pytest.raises(ConfigurationError, match=message):
        resolver(**options)


def test_a_private_key_is_refused_and_not_quoted():
    """A service that only verifies has no business with it."""
    pem = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ConfigurationError) as caught:
        resolver(keys=pem, algorithms=["RS256"])

    assert caught.value.__cause__ is None
    assert pem.decode().splitlines()[1] not in str(caught.value)


def test_a_small_rsa_key_is_refused():
    """RFC 7518, section 3.3."""
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)

    with pytest.raises(ConfigurationError, match="does not fit"):
        resolver(keys=public_pem(small), algorithms=["RS256"])


@pytest.fixture
def clock() -> ManualClock:
    """Seconds since 1970, standing still."""
    return ManualClock()


async def test_a_remembered_token_is_checked_again_for_its_times(clock):
    """Remembering a verification does not prolong the token."""
    source = resolver(clock=clock)
    scope = bearing(signed(nbf=clock() + 10, exp=clock() + 20))

    assert await code_of(source, scope) == "token_not_yet_valid"
    clock.advance(10)
    first = await source.resolve(scope)
    clock.advance(9.5)
    assert await source.resolve(scope) is first
    clock.advance(0.5)
    assert await code_of(source, scope) == "token_expired"


async def test_leeway_is_for_clocks_that_differ(clock):
    """On both ends, remembered or not."""
    source = resolver(clock=clock, leeway=5)
    scope = bearing(signed(nbf=clock() + 5, exp=clock() + 10))

    assert await source.resolve(scope) is not None
    clock.advance(14.9)
    assert await source.resolve(scope) is not None
    clock.advance(0.1)
    assert await code_of(source, scope) == "token_expired"


async def test_remembered_tokens_are_bounded_and_not_kept():
    """At most so many, as digests; a bad token takes no place."""
    source = resolver(cache_capacity=3)
    tokens = [signed(sub=f"u{number}") for number in range(5)]
    for token in tokens:
        await source.resolve(bearing(token))
    await code_of(source, bearing(signed(b"x" * 32)))

    assert len(source._verifier._cache) == 3
    assert all(len(key) == 32 for key in source._verifier._cache)
    assert await source.resolve(bearing(tokens[0])) is not None


async def test_a_token_takes_one_place_however_it_is_spaced():
    """The scheme and the spaces are the sender's choice, so they buy no second place."""
    source, mine = resolver(cache_capacity=3), bearing(signed(sub="me"))
    claim, other = await source.resolve(mine), signed(sub="other")
    for number in range(1, 50):
        spaced = ("authorization", "bEaReR" + " " * number + other)
        assert await source.resolve(http_scope("/", spaced)) is not None

    assert len(source._verifier._cache) == 2
    assert await source.resolve(mine) is claim


async def test_nothing_is_remembered_where_that_is_wanted():
    """Capacity 0: every token is verified every time."""
    source, scope = resolver(cache_capacity=0), bearing(signed())

    assert await source.resolve(scope) is not await source.resolve(scope)


def test_a_secret_is_not_shown():
    """Neither the resolver nor its keys print it."""
    source = resolver()

    assert "thirty-two" not in repr(source) + repr(source._verifier._keys.keys())
