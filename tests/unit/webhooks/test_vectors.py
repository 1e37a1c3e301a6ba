"""
The vectors of `tests/vectors/webhooks.json`, as any other language would run them.
"""

from __future__ import annotations

import base64
import hmac
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twh_platform.errors import WebhookError
from twh_platform.webhooks import (
    PROFILES,
    Key,
    Keyring,
    KeyState,
    RawSecret,
    StandardSecret,
    Verified,
    Verifier,
)
from twh_platform.webhooks._messages import content_digest, signature_base

FILE = Path(__file__).parents[2] / "vectors" / "webhooks.json"
FOUND = json.loads(FILE.read_text())
VECTORS = FOUND["vectors"]
# What has no header twice, so that a dict can say it.
MAPPINGS = [case for case in VECTORS if len(dict(case["headers"])) == len(case["headers"])]
EXTRA = importlib.util.find_spec("cryptography") is not None

Case = dict[str, Any]
Act = Callable[[Verifier, bytes, Any, Case], Verified]


def secret_of(entry: Case) -> Any:
    """The typed secret of an entry; a public key needs the extra."""
    if entry["type"] == "standard":
        return StandardSecret(entry["text"])
    if entry["type"] == "raw":
        return RawSecret(entry["text"] if "text" in entry else base64.b64decode(entry["base64"]))
    pytest.importorskip("cryptography")
    from twh_platform.webhooks.ed25519 import PublicKey

    return PublicKey(entry["text"])


def key_of(entry: Case) -> Key:
    """The key of an entry."""
    state = KeyState(entry.get("state", "active"))
    times = {name: entry.get(name) for name in ("not_before", "not_after")}
    return Key(secret=secret_of(entry), id=entry["id"], state=state, **times)


def target_of(case: Case) -> dict[str, str]:
    """What only the profile `MESSAGE` signs."""
    return {name: case[name] for name in ("method", "url") if name in case}


def outcome_of(case: Case, headers: Any, act: Act) -> Any:
    """The code of the error, or the facts as the file writes them."""
    try:
        keys = Keyring(key_of(entry) for entry in case["keys"])
        verifier = Verifier(keys, profile=PROFILES[case["profile"]], clock=lambda: case["now"])
        verified = act(verifier, base64.b64decode(case["body"]), headers, case)
    except WebhookError as error:
        return error.code
    assert verified.profile == case["profile"]
    return {name: getattr(verified, name) for name in case.get("verified", {"id": ""})}


def at_once(verifier: Verifier, body: bytes, headers: Any, case: Case) -> Verified:
    """Verify a body that is there."""
    return verifier.verify(body, headers, **target_of(case))


def in_chunks(verifier: Verifier, body: bytes, headers: Any, case: Case) -> Verified:
    """Verify a body as it comes, in chunks of seven bytes and empty ones."""
    verification = verifier.begin(headers, **target_of(case))
    for start in range(0, len(body), 7):
        verification.update(body[start : start + 7])
        verification.update(b"")
    return verification.finish()


@pytest.mark.parametrize("act", [at_once, in_chunks])
@pytest.mark.parametrize("case", VECTORS, ids=[case["id"] for case in VECTORS])
def test_every_vector(case, act):
    """Each is verified with these facts or refused with this code, whole and in chunks."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in case["headers"]]

    outcome = outcome_of(case, pairs, act)

    assert outcome == (case["code"] if case["result"] == "invalid" else case["verified"])


@pytest.mark.parametrize("case", MAPPINGS, ids=[case["id"] for case in MAPPINGS])
def test_headers_as_a_mapping(case):
    """A dict says the same as the pairs of ASGI."""
    outcome = outcome_of(case, dict(case["headers"]), at_once)

    assert outcome == (case["code"] if case["result"] == "invalid" else case["verified"])


@pytest.mark.parametrize(
    "entry", FOUND["secrets"], ids=lambda entry: f"{entry['type']} {entry['text']!r}"
)
def test_every_secret(entry):
    """Each is taken or refused."""
    if entry["result"] == "valid":
        text = secret_of(entry).reveal()
        assert (text.decode() if entry["type"] == "raw" else text) == entry["text"]
        return
    with pytest.raises(WebhookError) as refused:
        secret_of(entry)
    assert refused.value.code == "secret_malformed"


@pytest.mark.parametrize("kind", ["hmac-sha256", "content-digest", "signature-base"])
def test_primitives(kind):
    """What the profiles are built of gives what the RFCs print."""
    cases = [one for one in FOUND["primitives"] if one["kind"] == kind]

    assert cases
    for case in cases:
        CHECKS[kind](case)


def hmac_holds(case: Case) -> None:
    """Ours refuses keys beyond 8 to 64 bytes, and otherwise agrees with RFC 4231."""
    key, message = base64.b64decode(case["key"]), base64.b64decode(case["message"])
    assert hmac.digest(key, message, "sha256").hex() == case["mac"]
    if not 8 <= len(key) <= 64:
        with pytest.raises(WebhookError) as refused:
            RawSecret(key)
        assert refused.value.code == "secret_malformed"
        return
    inner, outer = (one.copy() for one in RawSecret(key).pads("sha256"))
    inner.update(message)
    outer.update(inner.digest())
    assert outer.digest().hex() == case["mac"]


def digest_holds(case: Case) -> None:
    """As RFC 9530 prints it."""
    assert content_digest(base64.b64decode(case["body"])) == case["digest"]


def base_holds(case: Case) -> None:
    """What is built of the components is what the RFC's signature is of."""
    base = signature_base(case["components"], case["params"])
    key, signature = base64.b64decode(case["key"]), base64.b64decode(case["signature"])
    if case["algorithm"] == "hmac-sha256":
        assert hmac.digest(key, base, "sha256") == signature
        return
    entry = {"type": "public", "text": f"whpk_{case['key']}"}
    if EXTRA:
        assert secret_of(entry).fits(signature, base)
        assert not secret_of(entry).fits(signature, base + b"\n")


CHECKS = {
    "hmac-sha256": hmac_holds,
    "content-digest": digest_holds,
    "signature-base": base_holds,
}


def test_the_file_is_what_is_made():
    """The generator, which has none of our code, makes this file byte by byte."""
    pytest.importorskip("cryptography")
    from tests.support.webhook_vectors import written

    assert written() == FILE.read_text()


def test_every_profile_and_every_code_has_vectors():
    """There are positive and negative cases of each profile, and of each code of theirs."""
    seen = {(case["profile"], case["result"]) for case in VECTORS}
    codes = {case["code"] for case in VECTORS if "code" in case}

    assert seen == {(name, result) for name in PROFILES for result in ("valid", "invalid")}
    assert codes == {
        *("missing_header", "duplicate_header", "malformed_header", "timestamp_malformed"),
        *("too_old", "too_new", "no_supported_scheme", "signature_mismatch", "key_unknown"),
        "secret_malformed",
    }


def test_no_two_vectors_have_one_id():
    """An id names one vector, so that another language can list its exceptions."""
    ids = [case["id"] for case in VECTORS]

    assert len(set(ids)) == len(ids)
