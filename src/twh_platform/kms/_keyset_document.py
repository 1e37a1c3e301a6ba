"""
A keyset as a document: JSON, with a checksum or under a passphrase.

Without a passphrase the body is readable, and SHA-256 over it finds damage,
not an attacker: whoever may write the file has the keys.

    {"format": "twh-keyset/1", "protection": "none", "checksum": HEX, "body": {...}}

With one, the body is sealed by AES-256-GCM.  scrypt (RFC 7914) gives 64 bytes:
the key, and a commitment that tells a wrong passphrase from a damaged file.
All fields but the body are authenticated with it.

    {"format": "twh-keyset/1", "protection": "scrypt", "n": N, "r": R, "p": P,
     "salt": B64, "commitment": B64, "nonce": B64, "body": B64}

The body:

    {"id": HEX, "revision": N, "root": B64, "keys": {TENANT: {
        "state": "enabled", "version": N, "versions": {"1": B64},
        "created_at": ISO, "destroyed_at": ISO or null}}}
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import unicodedata
from datetime import datetime
from types import MappingProxyType
from typing import Any, NoReturn

from .._extras import missing_extra
from ..errors import ConfigurationError, TenantUnresolvedError
from ..tenancy._tenant import valid_tenant_id
from ._keyset import KEYSET_ID_BYTES, MASTER_KEY_BYTES, Keyset, MasterKey
from ._secret import HiddenBytes, Secret
from ._service import KeyState

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as error:
    raise missing_extra("kms", error) from error

__all__ = ["LARGEST_DOCUMENT_BYTES", "Passphrase", "decode_keyset", "encode_keyset"]

LARGEST_DOCUMENT_BYTES = 64 * 2**20
SCRYPT_N = 2**17
"""128 MiB and a third of a second, once for each process."""

_FORMAT = "twh-keyset/1"
_R, _P = 8, 1
_MOST_SCRYPT_BYTES = 2**30
_SHORTEST_PASSPHRASE = 12
_SALT_BYTES = 16
_NONCE_BYTES = 12
_PLAIN_FIELDS = {"format", "protection", "checksum", "body"}
_SEALED_FIELDS = {
    "format",
    "protection",
    "n",
    "r",
    "p",
    "salt",
    "commitment",
    "nonce",
    "body",
}
_BODY_FIELDS = ("id", "revision", "root", "keys")
_ENTRY_FIELDS = ("state", "version", "versions", "created_at", "destroyed_at")


class Passphrase:
    """
    A passphrase, and what was derived from it; neither is shown or pickled.

    Args:
        text: The passphrase; text is taken in Unicode's NFC form.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``keyset_passphrase_short``, for fewer than 12 characters.
    """

    __slots__ = ("_derived", "_text")

    def __init__(self, text: str | bytes | Secret) -> None:
        if isinstance(text, Secret):
            text = text.hidden()
        if isinstance(text, str):
            text = unicodedata.normalize("NFC", text).encode()
        # Its own name is freed, so that no traceback shows it among its locals.
        self._text, text = HiddenBytes(text), b""
        if len(self._text) < _SHORTEST_PASSPHRASE:
            message = f"a passphrase has at least {_SHORTEST_PASSPHRASE} characters"
            raise ConfigurationError(message, code="keyset_passphrase_short")
        self._derived: dict[tuple[bytes, int, int, int], bytes] = {}

    def __reduce__(self) -> NoReturn:
        message = "a passphrase is not pickled"
        raise TypeError(message)

    def derive(self, salt: bytes, n: int, r: int, p: int) -> tuple[bytes, bytes]:
        """
        The key and the commitment; computed once for each salt.
        """
        asked = (salt, n, r, p)
        both = self._derived.get(asked)
        if both is None:
            memory = 128 * r * (n + p + 2)
            both = HiddenBytes(
                hashlib.scrypt(self._text, salt=salt, n=n, r=r, p=p, maxmem=2 * memory, dklen=64)
            )
            # One salt at a time is in use: the others are of files that were replaced.
            self._derived = {asked: both}
        return HiddenBytes(both[:32]), HiddenBytes(both[32:])

    def salt(self) -> tuple[bytes, int, int, int] | None:
        """
        The salt and cost that were used last, so that a file keeps its own.
        """
        return next(iter(self._derived), None)


def encode_keyset(keyset: Keyset, passphrase: Passphrase | None = None) -> bytes:
    """
    The document of a keyset.
    """
    body = _body(keyset)
    if passphrase is None:
        head = {"format": _FORMAT, "protection": "none", "checksum": _checksum(body)}
        return HiddenBytes(_canonical({**head, "body": body}) + b"\n")
    used = passphrase.salt() or (os.urandom(_SALT_BYTES), SCRYPT_N, _R, _P)
    key, commitment = passphrase.derive(*used)
    nonce = os.urandom(_NONCE_BYTES)
    sealed_head = {
        "format": _FORMAT,
        "protection": "scrypt",
        "n": used[1],
        "r": used[2],
        "p": used[3],
        "salt": _to_base64(used[0]),
        "commitment": _to_base64(commitment),
        "nonce": _to_base64(nonce),
    }
    sealed = AESGCM(key).encrypt(nonce, _canonical(body), _canonical(sealed_head))
    return _canonical({**sealed_head, "body": _to_base64(sealed)}) + b"\n"


def decode_keyset(document: bytes, passphrase: Passphrase | None = None) -> Keyset:
    """
    The keyset of a document.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``keyset_damaged``,
            ``keyset_passphrase_missing``, ``keyset_passphrase_wrong``, or
            ``keyset_passphrase_unused`` where one is given for a keyset that
            has none: somebody may have replaced it.
    """
    document = HiddenBytes(document)
    try:
        return _decoded(document, passphrase)
    except ConfigurationError as error:
        told = ConfigurationError(str(error), code=error.code)
    # Anew, for the frames that it came from have keys among their locals.
    raise told


def _decoded(document: bytes, passphrase: Passphrase | None) -> Keyset:
    fields = _json(document)
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
        raise _damaged("it is no keyset of a form that is known")
    protection = fields.get("protection")
    if protection == "none" and set(fields) == _PLAIN_FIELDS:
        if passphrase is not None:
            message = "a passphrase is given, and the keyset is under none"
            raise ConfigurationError(message, code="keyset_passphrase_unused")
        if fields["checksum"] != _checksum(fields["body"]):
            raise _damaged("its checksum is wrong")
        return _keyset(fields["body"])
    if protection == "scrypt" and set(fields) == _SEALED_FIELDS:
        if passphrase is None:
            message = "the keyset is under a passphrase, and none is given"
            raise ConfigurationError(message, code="keyset_passphrase_missing")
        return _keyset(_json(_opened(fields, passphrase)))
    raise _damaged("its fields are not those of a keyset")


def _opened(fields: dict[str, Any], passphrase: Passphrase) -> bytes:
    n, r, p = (fields[name] for name in ("n", "r", "p"))
    costs = all(type(cost) is int and 0 < cost <= _MOST_SCRYPT_BYTES for cost in (n, r, p))
    # What a file asks for is bounded before it is believed; scrypt's n is a power of two.
    if not costs or n % 2 or n.bit_count() != 1 or 128 * n * r * p > _MOST_SCRYPT_BYTES:
        raise _damaged("its scrypt costs are out of range")
    salt = _from_base64(fields["salt"], _SALT_BYTES)
    key, commitment = passphrase.derive(salt, n, r, p)
    if not hmac.compare_digest(commitment, _from_base64(fields["commitment"], 32)):
        message = "the passphrase of the keyset is wrong"
        raise ConfigurationError(message, code="keyset_passphrase_wrong")
    head = {name: fields[name] for name in fields if name != "body"}
    nonce = _from_base64(fields["nonce"], _NONCE_BYTES)
    try:
        return AESGCM(key).decrypt(nonce, _from_base64(fields["body"]), _canonical(head))
    except InvalidTag:
        raise _damaged("it was altered") from None


def _body(keyset: Keyset) -> dict[str, Any]:
    return {
        "id": keyset.id,
        "revision": keyset.revision,
        "root": _to_base64(keyset.root),
        "keys": {tenant_id: _entry(key) for tenant_id, key in keyset.keys.items()},
    }


def _entry(key: MasterKey) -> dict[str, Any]:
    return {
        "state": key.state.value,
        "version": key.version,
        "versions": {str(one): _to_base64(material) for one, material in key.versions.items()},
        "created_at": key.created_at.isoformat(),
        "destroyed_at": key.destroyed_at.isoformat() if key.destroyed_at else None,
    }


def _keyset(body: Any) -> Keyset:
    try:
        return Keyset(
            id=_identity(body),
            revision=_number(body["revision"]),
            root=_from_base64(body["root"], MASTER_KEY_BYTES),
            keys=MappingProxyType(
                {valid_tenant_id(one): _key(entry) for one, entry in body["keys"].items()}
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError, TenantUnresolvedError):
        raise _damaged("its fields are not those of a keyset") from None


def _identity(body: dict[str, Any]) -> str:
    identity: str = body["id"]
    if len(bytes.fromhex(identity)) != KEYSET_ID_BYTES or set(body) != set(_BODY_FIELDS):
        raise ValueError
    return identity


def _key(entry: dict[str, Any]) -> MasterKey:
    versions = {
        _number(int(one)): _from_base64(material, MASTER_KEY_BYTES)
        for one, material in entry["versions"].items()
    }
    version, state = _number(entry["version"]), KeyState(entry["state"])
    destroyed = state is KeyState.DESTROYED
    ended = entry["destroyed_at"]
    fits = not versions and ended if destroyed else max(versions) == version and not ended
    if set(entry) != set(_ENTRY_FIELDS) or state is KeyState.DESTROYING or not fits:
        raise ValueError
    return MasterKey(
        versions=MappingProxyType(versions),
        version=version,
        state=state,
        created_at=_moment(entry["created_at"]),
        destroyed_at=_moment(ended) if ended else None,
    )


def _number(value: object) -> int:
    if type(value) is not int or not 0 < value < 2**32:
        raise ValueError
    return value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _checksum(body: Any) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _json(document: bytes) -> Any:
    try:
        return json.loads(document, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        # Its message would quote the document.
        raise _damaged("it is not JSON") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _from_base64(text: object, length: int | None = None) -> bytes:
    try:
        value = base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raise _damaged("a field is not base64") from None
    if length is not None and len(value) != length:
        raise _damaged("a field has the wrong length")
    return HiddenBytes(value)


def _damaged(what: str) -> ConfigurationError:
    return ConfigurationError(f"the keyset is damaged: {what}", code="keyset_damaged")
