"""
A secret shows itself to nobody unasked.
"""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict
from datetime import UTC, datetime

import pytest

pytest.importorskip("cryptography")

from twh_platform.errors import ConfigurationError, SecretError
from twh_platform.kms._secret import HiddenBytes
from twh_platform.kms.secrets import Secret, SecretValue, SecretVersion, Stage

MARK = "mark-4b1f"


def test_no_way_to_print_it_shows_it():
    """As itself, in a container, in a dataclass, with every conversion and format."""
    secret = Secret(MARK)
    version = SecretVersion(name="n", version=1, stage=Stage.CURRENT, created_at=datetime.now(UTC))
    value = SecretValue(version=version, secret=secret)

    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!s:>40}",
        f"{secret:>40}",
        "%s %r" % (secret, secret),  # noqa: UP031 -- as a logger does it
        repr([secret]),
        repr(value),
        repr(asdict(value)),
        json.dumps(asdict(value), default=str),
        repr(secret.hidden()),
        str(secret.hidden()),
        f"{secret.hidden()}",
    ]
    assert [one for one in shown if MARK in one or MARK.encode().hex() in one] == []


def test_the_value_comes_out_by_name():
    """As bytes or as text, plain ones."""
    secret = Secret(MARK)

    assert secret.reveal() == MARK.encode()
    assert type(secret.reveal()) is bytes
    assert secret.text() == MARK
    assert secret.hidden() == MARK.encode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_not_pickled(protocol):
    """Neither it nor its bytes, on their own or in something."""
    for one in (Secret(MARK), [Secret(MARK)], Secret(MARK).hidden()):
        with pytest.raises(SecretError) as caught:
            pickle.dumps(one, protocol)
        assert caught.value.code == "secret_pickled"


def test_a_copy_is_itself():
    """So that `dataclasses.asdict` works, and makes nothing readable."""
    secret = Secret(MARK)

    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret
    assert copy.deepcopy(secret.hidden()) is secret.hidden()


def test_it_equals_what_has_the_same_bytes():
    """Another secret, not the bytes themselves; and it has no hash."""
    assert Secret(MARK) == Secret(MARK.encode())
    assert Secret(MARK) != Secret(MARK + "x")
    assert Secret(MARK) != MARK
    assert MARK.encode() != Secret(MARK)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret(MARK))


def test_it_does_not_change():
    """Nothing can be put into it or taken from it."""
    secret = Secret(MARK)

    with pytest.raises(SecretError, match="does not change"):
        secret._hidden = HiddenBytes(b"x")
    with pytest.raises(SecretError, match="does not change"):
        del secret._hidden
    with pytest.raises(TypeError):
        vars(secret)


@pytest.mark.parametrize("value", [b"", "", None, 7, b"x" * 65_537, "\ud800", ["x"]])
def test_what_is_no_value_is_refused(value):
    """And is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        Secret(value)

    assert caught.value.code == "secret_invalid"
    assert len(str(caught.value)) < 80


def test_what_is_not_text_says_so_without_a_byte_of_it():
    """The decoder's own error has the bytes: it is not its cause or context."""
    with pytest.raises(SecretError) as caught:
        Secret(b"\xffmark").text()

    assert caught.value.code == "secret_not_text"
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("form", "length"), [("raw", 24), ("hex", 48), ("base64url", 32), ("whsec", 38)]
)
def test_random_secrets_are_written_in_forms(form, length):
    """Of the length that the form makes, and each another one."""
    made = [Secret.random(24, form).reveal() for _ in range(5)]

    assert {len(one) for one in made} == {length}
    assert len(set(made)) == 5


@pytest.mark.parametrize(("n", "form"), [(15, "raw"), (1025, "raw"), (32, "rot13")])
def test_a_random_secret_is_long_enough_and_of_a_known_form(n, form):
    """Nobody gets a weak one by a slip."""
    with pytest.raises(ConfigurationError) as caught:
        Secret.random(n, form)

    assert caught.value.code == "secret_invalid"
