"""
Sealing the current tenant here, and opening the envelope elsewhere.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest

from tests.support.tenancy import exchange, http_scope, name_tenant
from twh_platform.errors import (
    BackendUnavailableError,
    EnvelopeError,
    NoCurrentTenantError,
    TenantMismatchError,
    TenantSuspendedError,
    TenantUnresolvedError,
)
from twh_platform.tenancy import (
    ENVELOPE_HEADER,
    Agreement,
    EnvelopeResolver,
    HeaderResolver,
    MemoryTenantDirectory,
    Tenant,
    TenantEnvelopes,
    TenantMiddleware,
    bind_tenant,
    current_tenant,
    require_tenant,
)
from twh_platform.testing import ManualClock

SECRET = b"a secret of thirty-two bytes, or more"
ACME, GLOBEX = Tenant(id="acme", tier="growth"), Tenant(id="globex")


@pytest.fixture
def clock() -> ManualClock:
    """The clock of both ends."""
    return ManualClock()


@pytest.fixture
def envelopes(clock) -> TenantEnvelopes:
    """Seals and opens."""
    return TenantEnvelopes(SECRET, clock=clock.utc)


@pytest.fixture
def token(envelopes) -> str:
    """An envelope of acme for the audience of jobs, good for 300 seconds."""
    with bind_tenant(ACME):
        return envelopes.seal(audience="jobs", user_id="user-1")


def code_of(envelopes, token, audience="jobs") -> str | None:
    """Why an envelope is refused, or None."""
    try:
        envelopes.verify(token, audience=audience)
    except EnvelopeError as error:
        return error.code
    return None


def test_opening_binds_and_leaving_restores(envelopes, token):
    """Also when the work inside raises."""

    def work() -> None:
        with envelopes.open(token, audience="jobs") as envelope:
            assert require_tenant().id == envelope.tenant_id == "acme"
            raise ZeroDivisionError(envelope.user_id)

    with bind_tenant(GLOBEX):
        with pytest.raises(ZeroDivisionError, match="user-1"):
            work()
        assert require_tenant() is GLOBEX


def test_only_the_current_tenant_can_be_sealed(envelopes):
    """There is no argument that names another, and without one nothing is sealed."""
    with pytest.raises(NoCurrentTenantError):
        envelopes.seal(audience="jobs")
    with pytest.raises(TypeError):
        envelopes.seal(audience="jobs", tenant_id="acme")


def test_a_refused_envelope_binds_nothing(envelopes, token):
    """The work inside is not reached."""
    with pytest.raises(EnvelopeError), envelopes.open(token, audience="mail"):
        pytest.fail("opened by others")
    assert current_tenant() is None


def test_the_naive_job_believes_whoever_writes_to_the_queue(envelopes, token):
    """Control: an id in the job is any id; an envelope is changed by nobody."""
    job = {"tenant_id": "acme"}
    job["tenant_id"] = "globex"
    with bind_tenant(Tenant(id=job["tenant_id"])):
        assert require_tenant() == GLOBEX

    inside = urlsafe_b64decode(token + "==")
    changed = urlsafe_b64encode(inside.replace(b"\x04acme", b"\x04evil")).decode().rstrip("=")
    for forged in ("globex", changed, token[:-4] + "AAAA"):
        assert code_of(envelopes, forged) == "envelope_invalid"


def test_an_envelope_is_for_one_audience(envelopes, token):
    """What is meant for jobs does not open a service."""
    assert code_of(envelopes, token) is None
    assert code_of(envelopes, token, "jobs2") == "envelope_audience"


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(0, None), (304.9, None), (305, "envelope_expired"), (1e6, "envelope_expired")],
)
def test_an_envelope_expires(clock, envelopes, token, seconds, code):
    """After its lifetime, and the five seconds by which clocks may differ."""
    clock.advance(seconds)

    assert code_of(envelopes, token) == code


@pytest.mark.parametrize(("behind", "code"), [(5, None), (5.1, "envelope_not_yet_valid")])
def test_an_envelope_from_the_future_is_refused(token, behind, code):
    """A clock that is behind by more than the leeway is told so."""
    late = ManualClock(start=ManualClock().now() - behind)

    assert code_of(TenantEnvelopes(SECRET, clock=late.utc), token) == code


def test_what_no_key_of_ours_has_signed_is_not_judged_further(clock, envelopes):
    """An expired envelope for others, of a stranger: the answer tells neither."""
    with bind_tenant(ACME):
        strange = TenantEnvelopes(b"x" * 32, clock=clock.utc).seal(audience="mail", lifetime=1)
    clock.advance(1000)

    assert code_of(envelopes, strange) == "envelope_invalid"


def test_two_envelopes_are_never_the_same(envelopes):
    """The id is what a consumer claims to do a thing once."""
    with bind_tenant(ACME):
        tokens = {envelopes.seal(audience="jobs") for _ in range(100)}

    assert len({envelopes.verify(token, audience="jobs").id for token in tokens}) == 100


def test_a_replayed_envelope_opens_until_its_id_is_claimed(envelopes, token):
    """Control: the envelope alone does not know that it was opened before."""
    claimed: set[str] = set()
    done_naively, done_once = [], []
    for _ in range(3):
        with envelopes.open(token, audience="jobs") as envelope:
            done_naively.append(envelope.id)
            if envelope.id not in claimed:
                claimed.add(envelope.id)
                done_once.append(envelope.id)

    assert (len(done_naively), len(done_once)) == (3, 1)


def test_the_secret_is_not_shown(envelopes):
    """The representation names the key and hides it."""
    shown = repr(envelopes)

    assert shown.startswith("TenantEnvelopes(keys=['")
    assert "secret" not in shown


class Down:
    """A directory that is away."""

    async def get(self, tenant_id):
        """Refuse."""
        raise BackendUnavailableError("away")


async def test_the_directory_is_asked(envelopes, token):
    """What is bound is the tenant as the directory has it."""
    directory = MemoryTenantDirectory([ACME])
    async with envelopes.open_served(token, audience="jobs", directory=directory) as envelope:
        assert require_tenant() is ACME
        assert envelope.tenant_id == "acme"
    assert current_tenant() is None


SINCE = [
    (MemoryTenantDirectory([Tenant(id="acme", status="suspended")]), TenantSuspendedError),
    (MemoryTenantDirectory([Tenant(id="acme", status="deleting")]), TenantSuspendedError),
    (
        MemoryTenantDirectory([Tenant(id="acme", expires_at=ManualClock().utc())]),
        TenantSuspendedError,
    ),
    (MemoryTenantDirectory(), TenantUnresolvedError),
    (Down(), BackendUnavailableError),
]


@pytest.mark.parametrize(("directory", "error"), SINCE)
async def test_a_job_does_not_outlive_a_suspension(envelopes, token, directory, error):
    """Control: who does not ask the directory runs the job of a suspended tenant."""
    with envelopes.open(token, audience="jobs"):
        assert require_tenant().id == "acme"

    with pytest.raises(error):
        async with envelopes.open_served(token, audience="jobs", directory=directory):
            pytest.fail("the job ran")


def test_work_without_an_event_loop_can_ask_too(envelopes, token):
    """Whoever looks tenants up, the same is refused."""
    with envelopes.open(token, audience="jobs", look_up={"acme": ACME}.get):
        assert require_tenant() is ACME
    for answer, error in (
        (None, TenantUnresolvedError),
        (GLOBEX, TenantMismatchError),
        (Tenant(id="acme", status="suspended"), TenantSuspendedError),
    ):
        opening = envelopes.open(token, audience="jobs", look_up={"acme": answer}.get)
        with pytest.raises(error):
            opening.__enter__()
    assert current_tenant() is None


async def test_the_directory_cannot_give_another_tenant(envelopes, token):
    """A directory with a fault does not turn a job over to somebody else."""
    directory = MemoryTenantDirectory()
    directory._tenants["acme"] = GLOBEX
    with pytest.raises(TenantMismatchError):
        async with envelopes.open_served(token, audience="jobs", directory=directory):
            pytest.fail("the job ran")


def service(envelopes, **options) -> TenantMiddleware:
    """A sister service that answers with the id of the tenant."""
    return TenantMiddleware(
        name_tenant,
        resolver=Agreement(
            EnvelopeResolver(envelopes, audience="stock"), HeaderResolver(), **options
        ),
        directory=MemoryTenantDirectory([ACME, GLOBEX]),
    )


@pytest.fixture
def header(envelopes) -> tuple[str, str]:
    """What the caller of the sister service sends."""
    with bind_tenant(ACME):
        return (ENVELOPE_HEADER, envelopes.seal(audience="stock", user_id="user-1"))


async def test_a_sister_service_serves_the_tenant_of_the_envelope(envelopes, header):
    """The user comes along and can be checked for membership."""
    asked = []
    app = service(envelopes, member=lambda user, tenant: asked.append((user, tenant)) or True)
    answer = await exchange(app, http_scope("/", header))

    assert (answer.status, answer.body) == (200, b"acme")
    assert asked == [("user-1", "acme")]


async def test_the_envelope_agrees_with_other_sources(envelopes, header):
    """Control: the bare header alone decides nothing; against the envelope it refuses."""
    app = service(envelopes)
    contrary = await exchange(app, http_scope("/", header, ("X-Tenant-ID", "globex")))
    alone = await exchange(app, http_scope("/", ("X-Tenant-ID", "globex")))

    assert (contrary.status, alone.status) == (403, 401)


@pytest.mark.parametrize("value", ["", "acme", "é", "A" * 700])
async def test_a_bad_envelope_is_answered_like_other_bad_credentials(envelopes, header, value):
    """One answer, whatever is wrong with it; two envelopes are wrong too."""
    app = service(envelopes)
    for headers in ([(ENVELOPE_HEADER, value)], [header, header]):
        answer = await exchange(app, http_scope("/", *headers))

        assert (answer.status, answer.json["code"]) == (401, "credentials_invalid")
