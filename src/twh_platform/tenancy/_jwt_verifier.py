"""
Verifying bearer tokens: is this JWT ours, for us, and valid now?

What is pinned here follows RFC 8725: algorithms by name, keys tied to their
algorithms, issuer and audience compared, expiry required, `crit` refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from .._asgi import Scope, header_values
from .._extras import missing_extra
from ..errors import ConfigurationError, CredentialsError
from ._claim import TenantClaim
from ._jwks import JWKS
from ._jwt_keys import JWTKey, KeySource, VerifyingKey, given_keys, pinned

try:
    import jwt
except ImportError as error:
    raise missing_extra("jwt", error) from error

__all__ = ["BearerVerifier"]

# RFC 6750, section 2.1, with the three parts of a signed JWT spelled out.
_TOKEN = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SCHEME = re.compile(rb"bearer(?:\s|$)", re.IGNORECASE)
_ALIEN = frozenset({"crit", "b64", "zip"})  # headers that would change the meaning


@dataclass(slots=True, kw_only=True)
class _Verified:
    claims: Mapping[str, Any]
    not_before: float
    not_after: float
    # What `JWTResolver` makes of the claims: remembered with them, made once.
    claim: TenantClaim | None = None


class BearerVerifier:
    """
    Verify the bearer token of a request, in the Authorization header.

    It says nothing of tenants; that is `JWTResolver`, which builds on it.  Use
    it alone where those who ask belong to no tenant, such as administrators.

    Websockets are read the same way.  A token in `Sec-WebSocket-Protocol` or
    in the query is not: servers and proxies log both.

        >>> verifier = BearerVerifier(
        ...     keys=b"a secret of thirty-two bytes, or more",
        ...     algorithms=["HS256"],
        ...     audience="warehouse-administrators",
        ...     issuer="https://id.example.com",
        ... )

    Args:
        keys: A shared secret or a public key (PEM); several of them while they
            are rotated; several by `kid`; or a `JWKS`.

        algorithms: The only ones accepted: of the HS family, or of the RS, PS,
            ES families and EdDSA, never of both.

        audience: Ours; a token must be meant for one of them.

        issuer: Who may have issued it.

        leeway: Seconds by which clocks may differ.

        max_token_bytes: Longer headers are refused unread.

        cache_capacity: How many verified tokens are remembered, by digest.
            Expiry is checked again at each use.  0 remembers none.

        clock: Seconds since 1970.

    Raises:
        twh_platform.errors.ConfigurationError: If these do not fit together.
    """

    def __init__(
        self,
        *,
        keys: JWTKey | Sequence[JWTKey] | Mapping[str, JWTKey] | JWKS,
        algorithms: Iterable[str],
        audience: str | Iterable[str],
        issuer: str | Iterable[str],
        leeway: float = 0.0,
        max_token_bytes: int = 8192,
        cache_capacity: int = 4096,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._algorithms = pinned(algorithms)
        self._keys: KeySource
        if isinstance(keys, JWKS):
            if any(name.startswith("HS") for name in self._algorithms):
                message = "a JWKS is public: it cannot hold shared secrets"
                raise ConfigurationError(message)
            keys.pin(self._algorithms)
            self._keys = keys
        else:
            self._keys = given_keys(keys, self._algorithms)
        self._audience = _names("audience", audience)
        self._issuer = _names("issuer", issuer)
        self._leeway = leeway
        self._max_token_bytes = max_token_bytes
        self._clock = clock
        self._capacity = cache_capacity
        self._cache: dict[bytes, _Verified] = {}
        self._cached_for: tuple[VerifyingKey, ...] | None = None

    async def verify(self, scope: Scope) -> Mapping[str, Any] | None:
        """
        Return the claims of the token, or None if there is no bearer token.

        They are immutable throughout: requests that bear the token share them.

        Raises:
            twh_platform.errors.CredentialsError: For whatever is wrong with
                it; the code says what (``token_expired``, ...), for us alone.

            twh_platform.errors.BackendUnavailableError: With code
                ``jwks_unavailable``, if the keys cannot be had.
        """
        verified = await self._verified(scope)
        return None if verified is None else verified.claims

    async def _verified(self, scope: Scope) -> _Verified | None:
        values = header_values(scope, b"authorization")
        if not values:
            return None
        if len(values) > 1:
            _refuse("token_repeated", "more than one Authorization header")
        value = values[0]
        if len(value) > self._max_token_bytes:
            _refuse("token_too_long", f"an Authorization header of {len(value)} bytes")
        if value[:7].lower() != b"bearer ":
            if _SCHEME.match(value) or not value.strip():
                _refuse("token_malformed", "no token in the Authorization header")
            return None  # another scheme, so not for us
        # Of the token alone: the spaces before it are for the sender to choose.
        token = value[7:].lstrip(b" ")
        digest = hashlib.sha256(token).digest()
        known = self._cache.get(digest)
        if known is not None and self._still_good(known):
            return known
        return await self._verify(token, digest)

    def _still_good(self, known: _Verified) -> bool:
        keys = self._keys.keys()
        if keys is None or keys is not self._cached_for:
            return False
        return known.not_before <= self._clock() < known.not_after

    async def _verify(self, token: bytes, digest: bytes) -> _Verified:
        if not _TOKEN.fullmatch(token):
            _refuse("token_malformed", "no token in the Authorization header")
        verified = self._read(await self._payload(token.decode("ascii")))
        self._remember(digest, verified)
        return verified

    async def _payload(self, token: str) -> dict[str, Any]:
        # Only to choose a key; PyJWT reads and checks the whole token again.
        header = _header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            _refuse("token_algorithm", f"algorithm {str(algorithm)[:40]!r} is not pinned")
        if _ALIEN & header.keys() or not isinstance(kid, str | None):
            _refuse("token_malformed", "a token header with extensions")
        keys = await self._keys.find(kid, algorithm)
        if not keys:
            _refuse("token_key_unknown", f"no key for kid {str(kid)[:80]!r}")
        failure: Exception | None = None
        for key in keys:
            try:
                return self._decode(token, key, algorithm)
            except jwt.InvalidSignatureError as error:
                failure = error
        _refuse("token_signature", "the signature does not verify", failure)

    def _decode(self, token: str, key: VerifyingKey, algorithm: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key.material,
                algorithms=[algorithm],
                audience=self._audience,
                options={
                    "require": ["exp", "aud", "iss"],
                    # Checked by us: times by our clock, and the issuer because
                    # older PyJWT takes only one.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_iss": False,
                },
            )
        except jwt.InvalidSignatureError:
            raise
        except jwt.InvalidAudienceError as error:
            _refuse("token_audience", "the token is meant for others", error)
        except jwt.MissingRequiredClaimError as error:
            _refuse("token_claims", f"the token has no {error.claim}", error)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            _refuse("token_malformed", "an unreadable token", error)

    def _read(self, payload: dict[str, Any]) -> _Verified:
        issuer = payload["iss"]
        if not isinstance(issuer, str) or issuer not in self._issuer:
            _refuse("token_issuer", f"issuer {str(issuer)[:80]!r} is not ours")
        verified = _Verified(
            claims=_frozen(payload),
            not_before=_moment(payload.get("nbf", 0)) - self._leeway,
            not_after=_moment(payload["exp"]) + self._leeway,
        )
        now = self._clock()
        if now >= verified.not_after:
            _refuse("token_expired", "the token has expired")
        if now < verified.not_before:
            _refuse("token_not_yet_valid", "the token is not valid yet")
        return verified

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        keys = self._keys.keys()
        if keys is not self._cached_for:  # what other keys have verified is void
            self._cache.clear()
            self._cached_for = keys
        if self._capacity <= 0 or keys is None:
            return
        self._cache.pop(digest, None)
        while len(self._cache) >= self._capacity:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = verified


def _header(token: str) -> dict[str, Any]:
    part = token.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError) as error:
        _refuse("token_malformed", "an unreadable token header", error)
    if not isinstance(header, dict):
        _refuse("token_malformed", "a token header that is no object")
    return header


def _refuse(code: str, message: str, cause: Exception | None = None) -> NoReturn:
    raise CredentialsError(message, code=code) from cause


def _names(field: str, value: str | Iterable[str]) -> frozenset[str]:
    names = frozenset([value] if isinstance(value, str) else value)
    if not names or not all(names):
        message = f"{field}={value!r} must name at least one {field}"
        raise ConfigurationError(message)
    return names


def _moment(value: object) -> float:
    # A NumericDate (RFC 7519, section 2); JSON of Python also reads NaN.
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            if math.isfinite(value):
                return float(value)
    _refuse("token_claims", "a time in the token is not a number")


def _frozen(value: Any) -> Any:
    # Remembered claims are shared by requests, so they are immutable throughout.
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
