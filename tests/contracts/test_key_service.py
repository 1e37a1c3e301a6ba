"""
What every key service does: local, Vault and AWS, blocking and awaited.

What a service cannot do it must refuse as unsupported; the test is then skipped
with the names of the capabilities that are missing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import os
import secrets
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

pytest.importorskip("cryptography")

from tests.support.key_services import KEY_SERVICES
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyAccessDeniedError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyServiceError,
    KeyUnsupportedError,
)
from twh_platform.kms import (
    AsyncKeyService,
    Capability,
    DataKey,
    KeyContext,
    KeyService,
    KeyState,
    Mac,
    WrappedKey,
)

REFUSED = (DecryptionError, KeyAccessDeniedError, KeyNotFoundError)
GONE = (KeyDestroyedError, KeyNotFoundError)
LIFE = {
    Capability.CREATE: "create",
    Capability.ROTATE: "rotate",
    Capability.DISABLE: "disable",
    Capability.DESTROY: "destroy",
}


class Awaited:
    """
    The async twin, called as if it blocked: each call runs a loop to its end.
    """

    def __init__(self, service):
        self.runner = asyncio.Runner()
        self.twin = AsyncKeyService(service, seconds=60)

    def __getattr__(self, name):
        found = getattr(self.twin, name)
        return partial(self._run, found) if inspect.iscoroutinefunction(found) else found

    def close(self):
        """As the blocking one."""
        with self.runner:
            self.runner.run(self.twin.aclose())

    def _run(self, call, *args, **kwargs):
        async def called():
            return await call(*args, **kwargs)

        return self.runner.run(called())


@pytest.fixture(params=KEY_SERVICES)
def subject(request):
    """One of the key services, with fresh master keys."""
    with contextlib.contextmanager(KEY_SERVICES[request.param])(request) as made:
        yield made


@pytest.fixture(params=["blocking", "awaited"])
def service(request, subject):
    """The key service itself, or its async twin."""
    made = Awaited(subject.service) if request.param == "awaited" else subject.service
    yield made
    made.close()


def new_tenant():
    """A tenant that no run before has used."""
    return f"t-{secrets.token_hex(8)}"


def context(tenant=None, purpose="data"):
    """The context of a new data key."""
    return KeyContext(tenant_id=tenant or new_tenant(), purpose=purpose, data_key_id=os.urandom(16))


def need(service, capability):
    """Skip by name, once it is seen that what is missing is refused."""
    missing = capability & ~service.capabilities
    if not missing:
        return
    for one in missing:
        if one in LIFE:
            with pytest.raises(KeyUnsupportedError):
                getattr(service, LIFE[one])(new_tenant())
    pytest.skip(f"{service.name} has no {missing.name}")


def generated(service, *contexts):
    """Data keys, all of which must have come."""
    results = service.generate(contexts)
    assert [type(one) for one in results] == [DataKey] * len(contexts), results
    return results


def opened(service, *keys):
    """What unwraps, or the classes of the errors."""
    return [one if isinstance(one, bytes) else type(one) for one in service.unwrap(keys)]


def altered(wrapped, at):
    """A wrapped key with one bit flipped."""
    changed = bytearray(wrapped.ciphertext)
    changed[at] ^= 1
    return replace(wrapped, ciphertext=bytes(changed))


def test_it_keeps_the_protocol(subject):
    """A key service has every call of the protocol, and a name that fits what it wraps."""
    service = subject.service
    (key,) = generated(service, context())

    assert isinstance(service, KeyService)
    assert service.name in {"local", "vault", "aws"}
    assert key.wrapped.provider == service.name
    assert isinstance(service.capabilities, Capability)


def test_generated_keys_unwrap_in_the_order_asked(service):
    """Data keys of several tenants come and go in one batch, in order."""
    one, other = new_tenant(), new_tenant()
    contexts = [context(one), context(other), context(one), context(one, "index")]
    keys = generated(service, *contexts)
    pairs = [(key.wrapped, bound) for key, bound in zip(keys, contexts, strict=True)]

    assert {len(key.plaintext) for key in keys} == {32}
    assert len({key.plaintext for key in keys}) == 4
    assert opened(service, *pairs) == [key.plaintext for key in keys]
    assert opened(service, *reversed(pairs)) == [key.plaintext for key in reversed(keys)]


def test_keys_that_exist_are_wrapped(service):
    """A data key that is brought along comes back as it was."""
    bound = [context(), context()]
    plain = [os.urandom(32), bytes(32)]
    wrapped = service.wrap(list(zip(plain, bound, strict=True)))

    assert all(isinstance(one, WrappedKey) for one in wrapped)
    assert opened(service, *zip(wrapped, bound, strict=True)) == plain


def test_wrapping_twice_gives_two_ciphertexts(service):
    """The same key in the same context is never wrapped to the same bytes."""
    bound, plain = context(), os.urandom(32)
    one, other = service.wrap([(plain, bound), (plain, bound)])

    assert one.ciphertext != other.ciphertext


def test_an_empty_batch_is_answered_by_an_empty_one(service):
    """Nothing asked, nothing done."""
    assert service.generate([]) == []
    assert service.wrap([]) == []
    assert service.unwrap([]) == []
    assert service.rewrap([]) == []


def test_a_wide_batch_is_answered_whole(service):
    """A hundred keys of one tenant are one batch."""
    tenant = new_tenant()
    contexts = [context(tenant) for _ in range(100)]
    keys = generated(service, *contexts)
    pairs = [(key.wrapped, bound) for key, bound in zip(keys, contexts, strict=True)]

    assert opened(service, *pairs) == [key.plaintext for key in keys]


@pytest.mark.parametrize("changed", ["tenant_id", "purpose", "data_key_id"])
def test_another_context_opens_nothing(service, changed):
    """A wrapped key stays closed for another tenant, purpose or id."""
    bound, other = context(), context(purpose="index")
    key, _ = generated(service, bound, other)
    wrong = replace(bound, **{changed: getattr(other, changed)})

    assert opened(service, (key.wrapped, wrong)) == [DecryptionError]
    assert opened(service, (key.wrapped, bound)) == [key.plaintext]


def test_contexts_with_the_same_letters_are_not_the_same(service):
    """Where one field ends and the next begins is part of the context."""
    tenant = new_tenant()
    one = KeyContext(tenant_id=f"{tenant}a", purpose="data", data_key_id=bytes(16))
    other = KeyContext(tenant_id=tenant, purpose="adata", data_key_id=bytes(16))
    key, _ = generated(service, one, other)

    assert opened(service, (key.wrapped, other)) == [DecryptionError]


def test_one_altered_bit_opens_nothing(service):
    """Wherever a wrapped key is altered, it stays closed."""
    bound = context()
    (key,) = generated(service, bound)
    size = len(key.wrapped.ciphertext)
    places = sorted({*range(0, size, 5), *range(12), size - 1})
    results = opened(service, *[(altered(key.wrapped, at), bound) for at in places])

    assert set(results) == {DecryptionError}


def test_a_shortened_or_lengthened_key_opens_nothing(service):
    """A wrapped key has one length."""
    bound = context()
    (key,) = generated(service, bound)
    whole = key.wrapped.ciphertext
    lengths = [whole[:1], whole[:-1], whole[: len(whole) // 2], whole + b"\0", whole * 2]
    wrong = [(replace(key.wrapped, ciphertext=one), bound) for one in lengths]

    assert set(opened(service, *wrong)) == {DecryptionError}


def test_the_master_key_of_another_tenant_is_not_used(service):
    """A wrapped key that names another tenant's master key is refused."""
    bound, other = context(), context()
    mine, theirs = generated(service, bound, other)
    posing = replace(mine.wrapped, key_ref=theirs.wrapped.key_ref, ciphertext=b"x" * 60)
    (result,) = service.unwrap([(posing, bound)])

    assert isinstance(result, REFUSED)


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "elsewhere"},
        {"key_ref": "a-key-of-nobody"},
        {"key_ref": "../../sys/seal"},
        {"key_ref": "arn:aws:kms:eu-central-1:999999999999:key/mrk-attacker"},
        {"key_version": 2**31},
    ],
    ids=["provider", "unknown", "path", "foreign", "version"],
)
def test_a_foreign_wrapped_key_is_refused(service, change):
    """What another provider, key or version wrapped is refused, in its place."""
    bound = context()
    (key,) = generated(service, bound)
    if not key.wrapped.key_version and "key_version" in change:
        pytest.skip(f"{service.name} has no VERSIONS")
    foreign = replace(key.wrapped, **change)
    first, second = service.unwrap([(foreign, bound), (key.wrapped, bound)])

    assert isinstance(first, REFUSED)
    assert not first.retryable
    assert second == key.plaintext


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_only_keys_of_32_bytes_are_wrapped(service, length):
    """A data key of another length is a fault of the program, and nothing is wrapped."""
    with pytest.raises(ConfigurationError) as caught:
        service.wrap([(os.urandom(32), context()), (os.urandom(length), context())])

    assert caught.value.code == "data_key_length"


def test_failures_stay_in_their_place(service):
    """What fails in a batch fails alone."""
    tenant = new_tenant()
    bound = [context(tenant) for _ in range(4)]
    keys = [one.wrapped for one in generated(service, *bound)]
    batch = [
        (keys[0], bound[0]),
        (altered(keys[1], -1), bound[1]),
        (keys[2], bound[3]),
        (keys[3], bound[3]),
    ]
    kinds = [isinstance(one, bytes) for one in service.unwrap(batch)]
    again = [isinstance(one, WrappedKey) for one in service.rewrap(batch)]

    assert kinds == [True, False, False, True]
    assert again == [True, False, False, True]


def test_refusals_tell_nothing_apart(service):
    """Whatever was wrong with a wrapped key, the message is the same."""
    bound = context()
    key, _ = generated(service, bound, replace(bound, purpose="index"))
    batch = [
        (altered(key.wrapped, -1), bound),
        (key.wrapped, replace(bound, purpose="index")),
        (key.wrapped, replace(bound, data_key_id=bytes(16))),
        (replace(key.wrapped, ciphertext=b"nonsense"), bound),
    ]
    errors = service.unwrap(batch)

    assert {(type(one), str(one), one.code) for one in errors} == {
        (DecryptionError, str(errors[0]), "decryption_failed")
    }


def test_an_unknown_tenant_is_not_found(subject):
    """Where missing keys are not made, a tenant without one is told so everywhere."""
    service, bound = subject.lacking(), context()
    need(service, Capability.TENANT_KEYS)
    (made,) = service.generate([bound])
    (wrapped,) = service.wrap([(os.urandom(32), bound)])

    assert isinstance(made, KeyNotFoundError)
    assert isinstance(wrapped, KeyNotFoundError)
    with pytest.raises(KeyNotFoundError):
        service.describe(bound.tenant_id)
    for one in service.capabilities & ~Capability.CREATE:
        if one in LIFE:
            with pytest.raises(KeyNotFoundError):
                getattr(service, LIFE[one])(bound.tenant_id)


def test_unwrapping_makes_no_master_key(service):
    """To ask for a tenant that never was does not bring its key about."""
    need(service, Capability.TENANT_KEYS)
    (key,) = generated(service, context())
    bound = context()
    (result,) = service.unwrap([(key.wrapped, bound)])

    assert isinstance(result, REFUSED)
    with pytest.raises(KeyNotFoundError):
        service.describe(bound.tenant_id)


def test_creating_twice_is_creating_once(service):
    """A master key that exists is described, not changed."""
    need(service, Capability.CREATE)
    tenant = new_tenant()
    first = service.create(tenant)
    (key,) = generated(service, context(tenant))

    assert first.state is KeyState.ENABLED
    assert first.destroyed_at is None
    assert service.create(tenant) == first == service.describe(tenant)
    assert key.wrapped.key_ref == first.key_ref
    assert key.wrapped.key_version == first.version


def test_many_at_once_make_one_master_key(subject):
    """Threads and instances that meet a new tenant together agree on its key."""
    bound = [context(new_tenant())] * 16
    services = [subject.service, subject.again(), subject.again()]
    with ThreadPoolExecutor(8) as pool:
        work = [
            pool.submit(services[at % 3].generate, [replace(one, data_key_id=os.urandom(16))])
            for at, one in enumerate(bound)
        ]
        keys = [one.result()[0] for one in work]

    assert all(isinstance(one, DataKey) for one in keys), keys
    assert len({one.wrapped.key_ref for one in keys}) == 1
    assert len({one.wrapped.key_version for one in keys}) == 1


def test_a_second_instance_opens_what_the_first_wrapped(subject):
    """Master keys belong to the service, not to a process."""
    bound = context()
    (key,) = generated(subject.service, bound)

    assert opened(subject.again(), (key.wrapped, bound)) == [key.plaintext]


def test_rotation_keeps_what_was_wrapped(service):
    """After a rotation a new version wraps, and the old one still opens."""
    need(service, Capability.ROTATE)
    tenant = new_tenant()
    bound = [context(tenant), context(tenant)]
    (old,) = generated(service, bound[0])
    before, after = service.describe(tenant), service.rotate(tenant)
    (new,) = generated(service, bound[1])
    pairs = zip([old.wrapped, new.wrapped], bound, strict=True)

    assert opened(service, *pairs) == [old.plaintext, new.plaintext]
    assert after.key_ref == before.key_ref == new.wrapped.key_ref
    assert service.describe(tenant) == after


def test_rotation_counts_versions(service):
    """Versions rise, and each wrapped key says its own."""
    need(service, Capability.ROTATE | Capability.VERSIONS)
    tenant = new_tenant()
    (old,) = generated(service, context(tenant))
    after = service.rotate(tenant)
    (new,) = generated(service, context(tenant))

    assert old.wrapped.key_version >= 1
    assert new.wrapped.key_version == after.version == old.wrapped.key_version + 1
    assert after.versions == (old.wrapped.key_version, after.version)


def test_rotation_of_a_new_tenant_touches_no_other(service):
    """Each tenant's master key has a life of its own."""
    need(service, Capability.ROTATE | Capability.TENANT_KEYS)
    one, other = new_tenant(), new_tenant()
    generated(service, context(one), context(other))
    before = service.describe(other)
    service.rotate(one)

    assert service.describe(other) == before


def test_rotations_at_once_leave_no_unknown_version(subject):
    """Whatever a racing rotation settles on, every instance opens what any has wrapped."""
    need(subject.service, Capability.ROTATE)
    tenant = new_tenant()
    generated(subject.service, context(tenant))
    services = [subject.service, subject.again()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: one.rotate(tenant), services))
    bound = [context(tenant), context(tenant)]
    keys = [one.generate([its])[0] for one, its in zip(services, bound, strict=True)]
    pairs = list(zip([key.wrapped for key in keys], bound, strict=True))

    for one in services:
        assert opened(one, *pairs) == [key.plaintext for key in keys]


def test_rewrapping_moves_to_the_newest_version(service):
    """A rewrapped key opens as before, and needs the old version no more."""
    need(service, Capability.ROTATE)
    bound = context()
    (key,) = generated(service, bound)
    version = service.rotate(bound.tenant_id).version
    (moved,) = service.rewrap([(key.wrapped, bound)])
    (again,) = service.rewrap([(moved, bound)])

    assert opened(service, (moved, bound), (again, bound)) == [key.plaintext] * 2
    assert moved.key_version == again.key_version == version
    assert moved.ciphertext != key.wrapped.ciphertext


def test_rewrapping_does_not_loosen_the_context(service):
    """What was wrapped for one context cannot be rewrapped into another."""
    bound, other = context(), context(purpose="index")
    key, _ = generated(service, bound, replace(other, tenant_id=bound.tenant_id))
    (refused,) = service.rewrap([(key.wrapped, replace(bound, purpose="index"))])
    (moved,) = service.rewrap([(key.wrapped, bound)])

    assert isinstance(refused, DecryptionError)
    assert opened(service, (moved, replace(bound, purpose="index"))) == [DecryptionError]


def test_a_disabled_key_is_refused_until_it_is_enabled(service):
    """A disabled master key does nothing; enabled, it goes on as before."""
    need(service, Capability.DISABLE)
    bound = context()
    (key,) = generated(service, bound)
    assert service.disable(bound.tenant_id).state is KeyState.DISABLED
    assert service.disable(bound.tenant_id).state is KeyState.DISABLED
    results = [
        *service.unwrap([(key.wrapped, bound)]),
        *service.rewrap([(key.wrapped, bound)]),
        *service.generate([bound]),
        *service.wrap([(key.plaintext, bound)]),
    ]

    assert {type(one) for one in results} == {KeyDisabledError}
    assert service.describe(bound.tenant_id).state is KeyState.DISABLED
    assert service.enable(bound.tenant_id).state is KeyState.ENABLED
    assert opened(service, (key.wrapped, bound)) == [key.plaintext]


def test_disabling_one_tenant_leaves_the_others(service):
    """One batch holds the refusal of one tenant and the keys of another."""
    need(service, Capability.DISABLE | Capability.TENANT_KEYS)
    bound, other = context(), context()
    key, theirs = generated(service, bound, other)
    service.disable(bound.tenant_id)

    assert opened(service, (key.wrapped, bound), (theirs.wrapped, other)) == [
        KeyDisabledError,
        theirs.plaintext,
    ]


def test_a_destroyed_key_is_gone_for_good(service):
    """Nothing uses a destroyed master key, and nothing brings it back."""
    need(service, Capability.DESTROY)
    bound = context()
    (key,) = generated(service, bound)
    info = service.destroy(bound.tenant_id)
    with contextlib.suppress(KeyServiceError):
        service.enable(bound.tenant_id)
    with contextlib.suppress(KeyServiceError):
        assert service.create(bound.tenant_id).state is not KeyState.ENABLED
    with contextlib.suppress(KeyServiceError):
        service.rotate(bound.tenant_id)
    results = [
        *service.unwrap([(key.wrapped, bound)]),
        *service.rewrap([(key.wrapped, bound)]),
        *service.generate([bound]),
        *service.wrap([(key.plaintext, bound)]),
    ]

    assert info.state in {KeyState.DESTROYED, KeyState.DESTROYING}
    assert info.destroyed_at is not None
    assert all(isinstance(one, GONE) for one in results), results
    assert not any(one.retryable for one in results)


def test_destroying_twice_is_destroying_once(service):
    """To destroy what is destroyed is no error, and changes no date."""
    need(service, Capability.DESTROY)
    bound = context()
    generated(service, bound)
    first = service.destroy(bound.tenant_id)
    again = service.destroy(bound.tenant_id)

    assert again.state is first.state
    assert again.destroyed_at == first.destroyed_at


def test_a_disabled_key_can_be_destroyed(service):
    """A tenant that was locked out first can be shredded later."""
    need(service, Capability.DISABLE | Capability.DESTROY)
    bound = context()
    (key,) = generated(service, bound)
    service.disable(bound.tenant_id)
    service.destroy(bound.tenant_id)
    (result,) = service.unwrap([(key.wrapped, bound)])

    assert isinstance(result, GONE)


def test_destroying_one_tenant_leaves_the_others(service):
    """The others' data keys open as before."""
    need(service, Capability.DESTROY | Capability.TENANT_KEYS)
    bound, other = context(), context()
    _, theirs = generated(service, bound, other)
    service.destroy(bound.tenant_id)

    assert opened(service, (theirs.wrapped, other)) == [theirs.plaintext]


def test_destruction_reaches_every_instance(subject):
    """Another process refuses what this one destroyed."""
    need(subject.service, Capability.DESTROY)
    bound, other = context(), subject.again()
    (key,) = generated(subject.service, bound)
    assert opened(other, (key.wrapped, bound)) == [key.plaintext]
    subject.service.destroy(bound.tenant_id)
    (result,) = other.unwrap([(key.wrapped, bound)])

    assert isinstance(result, GONE)


def test_a_mac_is_verified(service):
    """A message authenticates by the key that made its MAC, also in another instance."""
    need(service, Capability.MAC)
    mac = service.mac(b"a receipt", key="receipts")

    assert isinstance(mac, Mac)
    assert len(mac.tag) >= 32
    service.verify_mac(b"a receipt", mac, key="receipts")
    service.verify_mac(b"", service.mac(b"", key="receipts"), key="receipts")


def test_a_mac_is_of_one_message_and_key(service):
    """Another message, another key or an altered tag does not verify."""
    need(service, Capability.MAC)
    mac = service.mac(b"a receipt", key="receipts")
    other = service.mac(b"a receipt", key="others")
    wrong = [
        (b"another", mac, "receipts"),
        (b"a receipt", mac, "others"),
        (b"a receipt", replace(mac, tag=other.tag), "receipts"),
        (b"a receipt", replace(mac, tag=mac.tag[:-1]), "receipts"),
        (b"a receipt", replace(mac, tag=b""), "receipts"),
        (b"a receipt", replace(mac, key_ref="a-key-of-nobody"), "receipts"),
    ]
    for message, given, key in wrong:
        with pytest.raises(DecryptionError):
            service.verify_mac(message, given, key=key)


def test_a_mac_is_of_at_most_4096_bytes(service):
    """What no key service could authenticate is refused before one is asked."""
    need(service, Capability.MAC)
    service.mac(bytes(4096), key="receipts")

    with pytest.raises(ConfigurationError) as caught:
        service.mac(bytes(4097), key="receipts")
    assert caught.value.code == "mac_message_too_long"


def test_health_is_a_round_trip(subject, service):
    """It is green while keys unwrap, and red as soon as they do not."""
    before = service.health()
    subject.unwrap_fails()
    after = service.health()

    assert before.ok
    assert before.code is None
    assert before.seconds >= 0
    assert not after.ok
    assert after.code


@pytest.mark.parametrize("capability", [*LIFE, Capability.MAC], ids=lambda one: one.name)
def test_what_is_not_there_is_refused_as_unsupported(service, capability):
    """A capability is there, or its call raises `KeyUnsupportedError`."""
    if capability in service.capabilities:
        return
    call = partial(service.mac, b"", key="receipts")
    if capability in LIFE:
        call = partial(getattr(service, LIFE[capability]), new_tenant())
    with pytest.raises(KeyUnsupportedError):
        call()


@pytest.mark.parametrize("tenant", ["", "a/b", "..", "a b", "ü", "x" * 65])
def test_a_tenant_id_is_checked_before_a_key_is_named(service, tenant):
    """What is no tenant id never becomes part of a name or an address."""
    from twh_platform.errors import TenantUnresolvedError

    for call in (service.create, service.rotate, service.describe, service.destroy):
        with pytest.raises((TenantUnresolvedError, KeyUnsupportedError)):
            call(tenant)


def test_no_key_is_among_the_locals_of_an_error(subject):
    """A traceback that shows locals shows no data key, wherever of ours it went through."""
    service, bound = subject.service, context()
    (key,) = generated(service, bound)
    short = bytes(key.plaintext)[:-1]
    errors = service.unwrap([(key.wrapped, replace(bound, purpose="index"))])
    with pytest.raises(ConfigurationError) as caught:
        service.wrap([(bytes(key.plaintext), bound), (short, bound)])
    frames = [
        frame
        for error in [*errors, caught.value]
        for frame in traceback.TracebackException.from_exception(error, capture_locals=True).stack
        if "twh_platform" in frame.filename
    ]
    shown = "".join(value for frame in frames for value in (frame.locals or {}).values())

    assert shown
    assert repr(short)[2:-1] not in shown


def test_no_secret_is_shown(subject):
    """Neither a data key nor a credential is in a repr, a message or a traceback."""
    service, bound = subject.service, context()
    (key,) = generated(service, bound)
    wrong = replace(bound, purpose="index")
    errors = [
        *service.unwrap([(key.wrapped, wrong), (altered(key.wrapped, -1), bound)]),
        *service.rewrap([(key.wrapped, wrong)]),
        *service.unwrap([(replace(key.wrapped, key_ref="a-key-of-nobody"), bound)]),
    ]
    try:
        service.wrap([(key.plaintext + b"!", bound)])
    except ConfigurationError as error:
        errors.append(error)
    shown = "".join(
        [
            repr((service, key, AsyncKeyService.__repr__(AsyncKeyService(service)))),
            *[f"{one!r} {one}" for one in errors],
            *[line for one in errors for line in traceback.format_exception(one)],
        ]
    )
    plain = bytes(key.plaintext)
    forms = [repr(plain)[2:-1], plain.hex(), base64.b64encode(plain).decode()]

    assert len(errors) == 5
    assert [one for one in [*forms, *subject.secrets] if one in shown] == []
