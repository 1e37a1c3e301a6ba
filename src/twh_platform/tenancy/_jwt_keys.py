"""
Keys that verify tokens: what each may be used for, and which a token may choose.

A key is tied to algorithms before any token is seen.  A token's header chooses
among the keys that we hold, by `kid`, and among the algorithms pinned for that
key; it never brings a key (`jwk`, `jku`, `x5u`, `x5c` are not read).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .._extras import missing_extra
from ..errors import ConfigurationError

try:
    import jwt
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
except ImportError as error:
    raise missing_extra("jwt", error) from error

__all__ = [
    "JWTKey",
    "KeySource",
    "StaticKeys",
    "VerifyingKey",
    "given_keys",
    "key_set",
    "pinned",
]

JWTKey = str | bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
"""
A shared secret (HMAC), a public key in PEM, or a public key of `cryptography`.
"""

_HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, section 3.2: bytes
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_ASYMMETRIC = _RSA | frozenset(_CURVES.values()) | {"EdDSA"}
_RSA_BITS = 2048  # RFC 7518, section 3.3
_MAX_KEYS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyingKey:
    """
    One key, its id, and the algorithms that it may verify.
    """

    kid: str | None
    algorithms: frozenset[str]
    material: Any = field(repr=False)


class KeySource(Protocol):
    """
    Where a resolver takes its keys from.
    """

    def keys(self) -> tuple[VerifyingKey, ...] | None:
        """
        The keys held now, always the same object until they change; None if
        there are none that are fresh enough.
        """
        ...

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """
        The keys that a token with this header may be verified with.

        Raises:
            twh_platform.errors.BackendUnavailableError: If it cannot be known.
        """
        ...


class StaticKeys:
    """
    Keys that are given once: one, several for rotation, or several by `kid`.
    """

    def __init__(self, keys: tuple[VerifyingKey, ...]) -> None:
        self._keys = keys

    def keys(self) -> tuple[VerifyingKey, ...]:
        """
        All of them, at any time.
        """
        return self._keys

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """
        Those with this id and algorithm; keys without an id fit every token.
        """
        return [key for key in self._keys if algorithm in key.algorithms and key.kid in {None, kid}]


def pinned(algorithms: Iterable[str]) -> frozenset[str]:
    """
    Return *algorithms* if they can be pinned together.

    Raises:
        twh_platform.errors.ConfigurationError: If there are none, if one is
            unknown or ``none``, or if shared-secret and public-key algorithms
            are mixed: then a public key could serve as a secret.
    """
    names = frozenset([algorithms] if isinstance(algorithms, str) else algorithms)
    if not names:
        message = "algorithms is empty: pin at least one"
        raise ConfigurationError(message)
    unknown = names - _HMAC.keys() - _ASYMMETRIC
    if unknown:
        message = f"algorithms={sorted(unknown)} cannot be pinned"
        raise ConfigurationError(message)
    if names & _HMAC.keys() and names & _ASYMMETRIC:
        message = f"algorithms={sorted(names)} mixes shared secrets and public keys"
        raise ConfigurationError(message)
    return names


def given_keys(
    keys: JWTKey | Sequence[JWTKey] | Mapping[str, JWTKey], algorithms: frozenset[str]
) -> StaticKeys:
    """
    Build the key source for keys given in code.

    Raises:
        twh_platform.errors.ConfigurationError: If a key is not fit for any of
            the algorithms, or an algorithm for none of the keys.
    """
    if isinstance(keys, Mapping):
        made = [_given_key(key, algorithms, kid) for kid, key in keys.items()]
    elif isinstance(keys, Sequence) and not isinstance(keys, str | bytes):
        made = [_given_key(key, algorithms, None) for key in keys]
    else:
        made = [_given_key(keys, algorithms, None)]
    unused = algorithms.difference(*(key.algorithms for key in made))
    if unused or not made:
        message = f"no key given fits algorithms={sorted(unused)}"
        raise ConfigurationError(message)
    return StaticKeys(tuple(made))


def _given_key(key: Any, algorithms: frozenset[str], kid: str | None) -> VerifyingKey:
    if algorithms & _HMAC.keys():
        return _secret(key, algorithms, kid)
    if isinstance(key, str | bytes):
        try:
            key = load_pem_public_key(key.encode() if isinstance(key, str) else key)
        except Exception as error:  # noqa: BLE001 -- the library's kinds are many
            # Without the cause: its text could quote a private key.
            message = f"a key is not a public key in PEM ({type(error).__name__})"
            raise ConfigurationError(message) from None
    fit = algorithms & _public_key_algorithms(key)
    if not fit:
        message = f"a {type(key).__name__} does not fit algorithms={sorted(algorithms)}"
        raise ConfigurationError(message)
    return VerifyingKey(kid=kid, algorithms=fit, material=key)


def _secret(key: Any, algorithms: frozenset[str], kid: str | None) -> VerifyingKey:
    secret = key.encode() if isinstance(key, str) else key
    if not isinstance(secret, bytes) or b"-----BEGIN" in secret or secret[:4] == b"ssh-":
        message = "a shared secret is str or bytes, never a public key"
        raise ConfigurationError(message)
    needed = max(_HMAC[name] for name in algorithms)
    if len(secret) < needed:
        message = f"a secret of {len(secret)} bytes is too short, {needed} are needed"
        raise ConfigurationError(message)
    return VerifyingKey(kid=kid, algorithms=algorithms, material=secret)


def _public_key_algorithms(key: object) -> frozenset[str]:
    if isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS:
        return _RSA
    if isinstance(key, EllipticCurvePublicKey):
        return frozenset({_CURVES[key.curve.name]} if key.curve.name in _CURVES else ())
    return frozenset({"EdDSA"} if isinstance(key, Ed25519PublicKey) else ())


def key_set(document: object, algorithms: frozenset[str]) -> tuple[VerifyingKey, ...]:
    """
    Read a JWK set (RFC 7517, section 5); what we cannot use is passed over.

    Shared secrets in it are never used: what is published is not a secret.

    Raises:
        ValueError: If it is not a set, or holds no key or too many.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        message = f"not a JWK set of at most {_MAX_KEYS} keys"
        raise ValueError(message)
    found = [key for entry in entries if (key := _published_key(entry, algorithms))]
    if not found:
        message = f"no key in the set fits algorithms={sorted(algorithms)}"
        raise ValueError(message)
    return tuple(found)


def _published_key(entry: Any, algorithms: frozenset[str]) -> VerifyingKey | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    operations, kid = entry.get("key_ops", ["verify"]), entry.get("kid")
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kind = entry.get("kty")
    if not isinstance(kind, str) or kind not in {"RSA", "EC", "OKP"} or "d" in entry:
        return None
    try:
        material = jwt.PyJWK(entry).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    fit = algorithms & _public_key_algorithms(material)
    fit = frozenset(name for name in fit if name == entry.get("alg", name))
    if not fit or not isinstance(kid, str | None):
        return None
    return VerifyingKey(kid=kid, algorithms=fit, material=material)
