"""
What is sealed opens for its tenant, its context and its key; all else is one refusal.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import traceback

import pytest

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.envelope_reference import reference_keys, reference_seal
from tests.support.gcm_collision import colliding_ciphertext
from twh_platform.errors import ConfigurationError, DecryptionError
from twh_platform.kms import WrappedKey, encode_context
from twh_platform.kms._envelope import (
    MOST_BYTES_AT_ONCE,
    Parsed,
    Suite,
    bound_tail,
    encode_inline,
    from_text,
    header_of,
    parse,
    parse_head,
    replace_inline,
    to_text,
)
from twh_platform.kms._suites import Keys

DATA_KEY = bytes(range(32))
ID = b"0123456789abcdef"
CONTEXT = {"table": "suppliers", "column": "iban", "row": "42"}
TAIL = bound_tail("acme", CONTEXT)
SUITES = list(Suite)
OVERHEADS = {Suite.FIELD: 79, Suite.STREAM: 91, Suite.DETERMINISTIC: 67}


def keys_of(tenant_id="acme", data_key=DATA_KEY, data_key_id=ID):
    """The keys of a data key for a tenant."""
    return Keys(data_key, tenant_id=tenant_id, data_key_id=data_key_id)


def wrapped_key(**changes):
    """A wrapped data key, as an envelope can carry it."""
    given = {"provider": "vault", "key_ref": "twh-mfrwk", "key_version": 3, "ciphertext": b"w" * 60}
    return WrappedKey(**{**given, **changes})


def seal(suite, plaintext=b"DE02120300000000202051", **options):
    """One envelope of the tenant acme."""
    return keys_of().seal(plaintext, TAIL, suite, **options)


def open_all(sealed, keys=None, tail=TAIL):
    """Parse and open."""
    return (keys or keys_of()).open(parse(sealed), tail)


def refusal(act, *arguments):
    """What a refusal says to whoever asked; it has no cause that would say more."""
    with pytest.raises(DecryptionError) as caught:
        act(*arguments)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return type(caught.value), str(caught.value), caught.value.code


ONE_REFUSAL = (DecryptionError, "it cannot be opened", "decryption_failed")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", [0, 1, 64, 4095, 4096, 16_383, 16_384, 16_385, 40_000])
def test_what_is_sealed_opens(suite, size):
    """An empty value is sealed like any other, and the overhead is what the page says."""
    sealed = seal(suite, b"x" * size)

    chunks = size // 16_384 if suite is Suite.STREAM else 0
    assert open_all(sealed) == b"x" * size
    assert len(sealed) - size == OVERHEADS[suite] + 16 * chunks


def test_equal_values_look_equal_in_the_deterministic_suite_alone():
    """Two seals of one value differ, unless it was asked that they do not."""
    twice = {suite: seal(suite) == seal(suite) for suite in SUITES}

    assert twice == {Suite.FIELD: False, Suite.STREAM: False, Suite.DETERMINISTIC: True}


@pytest.mark.parametrize("suite", SUITES)
def test_every_bit_of_an_envelope_counts(suite):
    """One bit changed anywhere, the header's included, gives the one refusal."""
    sealed = seal(suite, b"secret")

    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        assert refusal(open_all, bytes(changed)) == ONE_REFUSAL


@pytest.mark.parametrize("suite", SUITES)
def test_every_bit_of_a_header_with_keys_is_parsed_or_refused(suite):
    """The list of wrapped keys is not bound; no change in it crashes the parser."""
    inline = [wrapped_key(), wrapped_key(provider="aws", key_ref="arn:aws:kms:é")]
    sealed = seal(suite, b"secret", inline=inline)

    for bit in range(8 * parse(sealed).offset):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(DecryptionError):
            assert open_all(bytes(changed)) == b"secret"
            assert parse(bytes(changed)).inline != parse(sealed).inline


@pytest.mark.parametrize("suite", SUITES)
def test_every_length_but_its_own_is_refused(suite):
    """A beginning of an envelope is none, nor is one with something behind it."""
    sealed = seal(suite, b"secret")

    for size in range(len(sealed)):
        assert refusal(open_all, sealed[:size]) == ONE_REFUSAL
    for more in (b"\x00", b"=", b"x" * 16, sealed):
        assert refusal(open_all, sealed + more) == ONE_REFUSAL


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    ("keys", "tail"),
    [
        (keys_of("other"), bound_tail("other", CONTEXT)),
        (keys_of("other"), TAIL),
        (keys_of(), bound_tail("other", CONTEXT)),
        (keys_of(), bound_tail("acme", {**CONTEXT, "row": "43"})),
        (keys_of(), bound_tail("acme", {**CONTEXT, "column": "bic"})),
        (keys_of(), bound_tail("acme", {})),
        (keys_of(data_key=b"k" * 32), TAIL),
        (keys_of(data_key_id=b"another id here."), TAIL),
    ],
    ids=["tenant", "keys", "bound", "row", "column", "no context", "data key", "data key id"],
)
def test_what_belongs_elsewhere_stays_closed(suite, keys, tail):
    """Another tenant, row, column or key opens nothing, and is told nothing."""
    assert refusal(open_all, seal(suite), keys, tail) == ONE_REFUSAL


def test_contexts_that_run_together_differ():
    """Where one pair ends is bound: control, without lengths the two are the same."""
    one, other = {"a": "bc"}, {"ab": "c"}
    sealed = keys_of().seal(b"x", bound_tail("acme", one), Suite.FIELD)

    assert "".join("".join(pair) for pair in one.items()) == "".join(*other.items())
    assert refusal(open_all, sealed, None, bound_tail("acme", other)) == ONE_REFUSAL


@pytest.mark.parametrize("made", SUITES)
@pytest.mark.parametrize("claimed", [0, *SUITES, 4, 255])
def test_a_suite_cannot_be_exchanged(made, claimed):
    """Each suite has keys of its own and is bound: another number opens nothing."""
    sealed = seal(made, b"x" * 100)
    changed = sealed[:1] + bytes([claimed]) + sealed[2:]

    if claimed != made:
        assert refusal(open_all, changed) == ONE_REFUSAL


@pytest.mark.parametrize(
    "start", [b"\x00\x01\x00", b"\x02\x01\x00", b"\x01\x04\x00", b"\x01\x00\x00"]
)
@pytest.mark.parametrize("flags", range(2, 256, 37))
def test_unknown_versions_suites_and_flags_are_refused(start, flags):
    """What is not on the list is not tried."""
    rest = seal(Suite.FIELD)[3:]

    assert refusal(parse, start + rest) == ONE_REFUSAL
    assert refusal(parse_head, start) == ONE_REFUSAL
    assert refusal(parse, bytes([1, 1, flags]) + rest) == ONE_REFUSAL


@pytest.mark.parametrize("suite", [Suite.FIELD, Suite.DETERMINISTIC])
def test_a_commitment_of_another_key_is_refused(suite):
    """The body of one data key with the commitment of the other opens under neither."""
    one, other = keys_of(), keys_of(data_key=b"k" * 32)
    first, second = (keys.seal(b"secret", TAIL, suite) for keys in (one, other))
    crossed = first[:19] + second[19:51] + first[51:]

    assert refusal(open_all, crossed, one) == ONE_REFUSAL
    assert refusal(open_all, crossed, other) == ONE_REFUSAL


def test_no_envelope_opens_under_two_keys():
    """The two-key collision: control, plain AES-GCM opens it under both; ours never does."""
    both = [DATA_KEY, b"k" * 32]
    made = [reference_keys(key, Suite.FIELD, ID, "acme") for key in both]
    header, nonce = header_of(Suite.FIELD, ID), b"n" * 12
    crafted = colliding_ciphertext(made[0][:32], made[1][:32], nonce, header + TAIL)
    plain = {AESGCM(one[:32]).decrypt(nonce, crafted, header + TAIL) for one in made}
    assert len(plain) == 2

    for commitment, opener in [(made[0][32:], 0), (made[1][32:], 1), (b"c" * 32, None)]:
        sealed = header + commitment + nonce + crafted
        for number, data_key in enumerate(both):
            if number == opener:
                assert open_all(sealed, keys_of(data_key=data_key)) in plain
            else:
                assert refusal(open_all, sealed, keys_of(data_key=data_key)) == ONE_REFUSAL


@pytest.mark.parametrize("suite", SUITES)
def test_an_envelope_can_carry_its_key(suite):
    """One to four wrapped keys are read back as they were written."""
    keys = [
        wrapped_key(),
        wrapped_key(provider="local", key_ref="k" * 512, key_version=0, ciphertext=b"w"),
        wrapped_key(provider="aws", key_ref="é" * 512, key_version=2**32 - 1),
        wrapped_key(ciphertext=b"w" * 1024),
    ]

    for count in range(1, 5):
        sealed = seal(suite, inline=keys[:count])
        parsed = parse(sealed)
        assert (parsed.inline, parsed.data_key_id, parsed.suite) == (tuple(keys[:count]), ID, suite)
        assert open_all(sealed) == b"DE02120300000000202051"


def inline_with(section):
    """An envelope of suite 1 whose list of wrapped keys was written by hand."""
    sealed = seal(Suite.FIELD, inline=[wrapped_key()])
    return sealed[:19] + section + sealed[parse(sealed).offset :]


def entry(*, provider=2, ref=b"key", ref_size=None, version=1, wrapped=b"w", wrapped_size=None):
    """One entry of the list, with what lengths it claims."""
    ref_size = len(ref) if ref_size is None else ref_size
    wrapped_size = len(wrapped) if wrapped_size is None else wrapped_size
    start = bytes([provider]) + ref_size.to_bytes(2, "big") + ref
    return start + version.to_bytes(4, "big") + wrapped_size.to_bytes(2, "big") + wrapped


@pytest.mark.parametrize(
    "section",
    [
        b"",
        b"\x00",
        b"\x00" + entry(),
        b"\x05" + 5 * entry(),
        b"\xff" + 255 * entry(),
        b"\x01" + entry(wrapped=b"w" * 1025),
        b"\x01" + entry(wrapped=b""),
        b"\x01" + entry(ref=b""),
        b"\x01" + entry(ref=b"k" * 513),
        b"\x01" + entry(ref=b"k" * 2049),
        b"\x01" + entry(ref=b"\xff\xfe"),
        b"\x01" + entry(ref=b"\xed\xa0\x80"),
        b"\x01" + entry(ref=b"\xc0\xaf"),
        b"\x01" + entry(provider=0),
        b"\x01" + entry(provider=4),
        b"\x01" + entry(ref_size=65_535),
        b"\x01" + entry(wrapped_size=1024),
        b"\x02" + entry(),
    ],
    ids=lambda section: f"{len(section)} bytes, {section[:6].hex()}",
)
def test_a_list_of_keys_that_breaks_a_rule_is_refused(section):
    """Counts, lengths, names and key services: each is checked before it is believed."""
    well_formed = inline_with(b"\x01" + entry())

    assert parse(well_formed).inline == (
        WrappedKey(provider="vault", key_ref="key", key_version=1, ciphertext=b"w"),
    )
    assert refusal(open_all, inline_with(section)) == ONE_REFUSAL


def test_a_rewrapped_key_takes_the_old_one_s_place():
    """The list is replaced, the body stays; the flag that says so is bound."""
    sealed = seal(Suite.STREAM, b"secret", inline=[wrapped_key()])
    newer = replace_inline(sealed, [wrapped_key(key_version=4), wrapped_key(provider="aws")])
    stripped = sealed[:2] + b"\x00" + sealed[3:19] + sealed[parse(sealed).offset :]

    assert [key.key_version for key in parse(newer).inline] == [4, 3]
    assert open_all(newer) == b"secret"
    assert refusal(open_all, stripped) == ONE_REFUSAL
    assert refusal(replace_inline, seal(Suite.STREAM), [wrapped_key()]) == ONE_REFUSAL


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [wrapped_key()] * 5,
        [wrapped_key(provider="gcp")],
        [wrapped_key(key_version=2**32)],
    ],
)
def test_a_list_that_could_not_be_read_is_not_written(keys):
    """What the parser would refuse is refused when it is made."""
    with pytest.raises(ConfigurationError) as caught:
        encode_inline(keys)

    assert caught.value.code == "wrapped_key_invalid"


def test_a_start_is_known_before_the_rest_has_come():
    """While more may come there is no answer; what no envelope begins with is refused at once."""
    sealed = seal(Suite.STREAM, inline=[wrapped_key()])
    offset = parse(sealed).offset

    assert [parse_head(sealed[:size]) for size in range(offset)] == [None] * offset
    assert parse_head(sealed[:offset])[:2] == (Suite.STREAM, ID)
    assert refusal(parse_head, b"\x07") == ONE_REFUSAL
    assert refusal(parse_head, b"\x01\x07") == ONE_REFUSAL


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_a_database_gives_is_read(kind):
    """Drivers give bytes in several types."""
    assert open_all(kind(seal(Suite.FIELD, b"secret"))) == b"secret"


@pytest.mark.parametrize("sealed", [None, "tw1.AQ", 5, [1, 1, 0], b"", b"\x01"])
def test_what_is_no_envelope_is_refused(sealed):
    """An empty column, text or a number is no crash."""
    assert refusal(parse, sealed) == ONE_REFUSAL


def test_a_stream_cannot_end_where_a_chunk_ends():
    """The last chunk is short, so its length alone tells that the rest was cut off."""
    sealed = seal(Suite.STREAM, b"x" * 40_000)

    for cut in (0, 1, 15):
        for chunks in (0, 1, 2):
            at = 19 + 56 + 16_400 * chunks + cut
            assert refusal(parse, sealed[:at]) == ONE_REFUSAL


@pytest.mark.parametrize("suite", [Suite.FIELD, Suite.DETERMINISTIC])
def test_too_large_a_value_is_refused_before_it_is_sealed(suite):
    """Over 64 MiB the error names the suite to use; the stream takes it."""
    large = bytes(MOST_BYTES_AT_ONCE + 1)

    for options in ({}, {"inline": [wrapped_key()]}):
        with pytest.raises(ConfigurationError, match=r"Suite\.STREAM") as caught:
            seal(suite, large, **options)
        assert caught.value.code == "plaintext_too_large"
    assert open_all(seal(Suite.STREAM, large)) == large


def test_an_envelope_that_is_too_large_is_not_tried():
    """The limit holds for reading too."""
    sealed = seal(Suite.FIELD, bytes(MOST_BYTES_AT_ONCE))

    assert len(open_all(sealed)) == MOST_BYTES_AT_ONCE
    assert refusal(parse, sealed + b"\x00") == ONE_REFUSAL


def test_text_has_one_form():
    """Padding, spaces, the other alphabet, spare bits and other prefixes are refused."""
    sealed = seal(Suite.FIELD, b"1")
    text = to_text(sealed)
    spare = text[:-1] + chr(ord(text[-1]) + 1)

    assert (text[:8], from_text(text)) == ("tw1.AQEA", sealed)
    assert "=" not in text
    for other in (
        *(text + "=", text + "==", text + "\n", " " + text, text[:9] + " " + text[9:], spare),
        *("tw1.A", text[4:], "TW1." + text[4:], "tw2." + text[4:], "tw1", "", text + "é"),
        *(text.replace(text[20], "+", 1), text.replace(text[20], "/", 1), None, text.encode()),
    ):
        assert refusal(from_text, other) == ONE_REFUSAL


def test_empty_text_is_no_envelope():
    """The prefix alone stands for no bytes, which are no envelope."""
    assert refusal(parse, from_text("tw1.")) == ONE_REFUSAL


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_data_key_has_one_length(size):
    """A shorter one is not stretched; the key is not in the error, nor in its frames."""
    with pytest.raises(ConfigurationError) as caught:
        keys_of(data_key=b"K" * size)

    *_, innermost = traceback.walk_tb(caught.tb)
    assert caught.value.code == "data_key_invalid"
    assert "KKKK" not in f"{caught.value} {innermost[0].f_locals}"


@pytest.mark.parametrize("suite", SUITES)
def test_keys_are_not_shown(suite):
    """No repr, pickle, copy or traceback with variables gives a key away."""
    keys = keys_of()
    with pytest.raises(DecryptionError) as caught:
        open_all(seal(suite)[:-1] + b"!", keys)
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(report.format()) + repr(keys)

    for key in (DATA_KEY, reference_keys(DATA_KEY, suite, ID, "acme")[:32]):
        assert repr(key)[2:-1] not in shown
        assert key.hex() not in shown
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            act(keys)


@pytest.mark.parametrize("suite", SUITES)
def test_another_hand_writes_the_same(suite):
    """A second implementation's envelopes open, and where nothing is drawn they are the same."""
    options = {"data_key": DATA_KEY, "data_key_id": ID, "tenant_id": "acme", "context": CONTEXT}
    for size in (0, 5, 16_384, 50_000):
        chance = b"r" * {Suite.FIELD: 12, Suite.STREAM: 24, Suite.DETERMINISTIC: 0}[suite]
        sealed = reference_seal(b"x" * size, suite=suite, random=chance, **options)
        keys = Keys(DATA_KEY, tenant_id="acme", data_key_id=ID, random=lambda count: b"r" * count)
        assert open_all(sealed) == b"x" * size
        if suite is not Suite.STREAM:
            assert keys.seal(b"x" * size, TAIL, suite) == sealed


def test_nonces_are_drawn_anew():
    """A thousand seals have a thousand nonces of 12 bytes."""
    nonces = {seal(Suite.FIELD)[51:63] for _ in range(1000)}

    assert len(nonces) == 1000


def test_a_sealer_is_the_same_seal():
    """What a caller keeps for its hot path opens like everything else."""
    keys = keys_of()

    for suite in SUITES:
        assert open_all(keys.sealer(suite)(b"secret", TAIL)) == b"secret"


@pytest.mark.parametrize("suite", SUITES)
def test_a_plain_number_is_its_suite(suite):
    """No number slips into another suite, and none that is no suite is taken."""
    assert parse(keys_of().seal(b"x", TAIL, int(suite))).suite is suite
    assert len(seal(int(suite), b"")) == OVERHEADS[suite]
    for number in (0, -1, 4, None):
        with pytest.raises(ValueError, match="not a valid Suite"):
            keys_of().seal(b"x", TAIL, number)


def test_what_is_bound_is_the_tenant_and_the_context():
    """LP of the tenant, then the context's own encoding."""
    assert bound_tail("acme", CONTEXT) == b"\x00\x00\x00\x04acme" + encode_context(CONTEXT)


def test_a_header_needs_an_id_of_16_bytes():
    """Another length would move what stands behind it."""
    with pytest.raises(ConfigurationError) as caught:
        header_of(Suite.FIELD, b"short")

    assert caught.value.code == "key_context_invalid"


def test_parsing_says_where_things_are():
    """The body of an envelope by reference begins at 19."""
    sealed = seal(Suite.FIELD)

    assert parse(sealed) == Parsed(Suite.FIELD, ID, (), sealed, 19)
