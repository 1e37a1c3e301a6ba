"""
Sources put together: the first that answers, and agreement.
"""

from __future__ import annotations

import pytest

from tests.support.tenancy import Says, http_scope
from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    CredentialsError,
    TenantError,
    TenantMismatchError,
    TenantUnresolvedError,
)
from twh_platform.tenancy import Agreement, FirstAnswer


async def code_of(resolver) -> str:
    """The code with which the composition refuses."""
    with pytest.raises(TenantError) as caught:
        await resolver.resolve(http_scope())
    return caught.value.code


async def test_the_first_that_decides_is_taken():
    """A source that may not decide is passed over, later ones are not asked."""
    last = Says("initech")
    resolver = FirstAnswer(Says(None), Says("acme", decides=False), Says("globex"), last)
    claim = await resolver.resolve(http_scope())

    assert claim is not None
    assert claim.tenant_id == "globex"
    assert last.asked == 0


async def test_a_bad_token_does_not_fall_through():
    """What speaks wrongly refuses, whoever could answer after it."""
    resolver = FirstAnswer(Says(CredentialsError(code="token_expired")), Says("acme"))

    assert await code_of(resolver) == "token_expired"


async def test_nobody_speaks():
    """Silence is None in both compositions."""
    assert await FirstAnswer(Says(None)).resolve(http_scope()) is None
    assert await Agreement(Says(None), Says(None)).resolve(http_scope()) is None


async def test_all_sources_are_asked_and_agree():
    """The one that decides speaks for the user; the path keeps its mount."""
    sources = [Says("acme", decides=False, root_path="/t/acme"), Says("acme", user_id="u1")]
    claim = await Agreement(*sources).resolve(http_scope())

    assert claim is not None
    assert (claim.tenant_id, claim.user_id, claim.root_path) == ("acme", "u1", "/t/acme")
    assert [source.asked for source in sources] == [1, 1]


@pytest.mark.parametrize("decides", [True, False])
async def test_a_conflict_refuses(decides):
    """Control: the first answer alone would have served acme."""
    sources = [Says("acme"), Says("globex", decides=decides)]
    first = await FirstAnswer(*sources).resolve(http_scope())

    assert first is not None
    assert first.tenant_id == "acme"
    assert await code_of(Agreement(*sources)) == "tenant_sources_disagree"


async def test_ids_that_differ_in_case_are_different():
    """Nothing is folded to make sources agree."""
    assert await code_of(Agreement(Says("acme"), Says("Acme"))) == "tenant_sources_disagree"


async def test_a_header_from_a_stranger_never_decides():
    """Where only sources that confirm have spoken, nobody is served."""
    stranger = Says("acme", decides=False)

    assert await code_of(Agreement(stranger, Says(None))) == "tenant_undecided"
    assert await code_of(Agreement(stranger, Says("globex", decides=False))) == "tenant_undecided"


async def test_complaints_about_credentials_come_first():
    """A stranger gets one answer, whatever else is wrong with the request."""
    bad_header = Says(TenantUnresolvedError(code="tenant_id_invalid"))
    bad_token = Says(CredentialsError(code="token_expired"))

    assert await code_of(Agreement(bad_header, bad_token)) == "token_expired"
    assert bad_token.asked == 1
    assert await code_of(Agreement(bad_header, Says("acme"))) == "tenant_id_invalid"


async def test_a_backend_that_is_down_is_not_a_refusal():
    """Not knowing is raised at once and is not taken for silence."""
    down = Says(BackendUnavailableError("no keys"))

    with pytest.raises(BackendUnavailableError):
        await Agreement(Says("acme"), down).resolve(http_scope())


MEMBERS = {("u1", "acme")}


def belongs(user_id, tenant_id):
    """A membership check that is a plain function."""
    return (user_id, tenant_id) in MEMBERS


async def belongs_later(user_id, tenant_id):
    """A membership check that is an async function."""
    return belongs(user_id, tenant_id)


@pytest.mark.parametrize("member", [belongs, belongs_later])
async def test_the_user_has_to_belong_to_the_tenant(member):
    """A member is served; another user, and a request without a user, are not."""
    claim = await Agreement(Says("acme", user_id="u1"), member=member).resolve(http_scope())

    assert claim is not None
    for source in (Says("acme", user_id="u2"), Says("globex", user_id="u1"), Says("acme")):
        assert await code_of(Agreement(source, member=member)) == "tenant_not_member"


async def test_a_truthy_answer_is_not_a_yes():
    """A membership check that returns anything but True refuses."""
    resolver = Agreement(Says("acme", user_id="u1"), member=lambda *_: "no")  # type: ignore[arg-type,return-value]

    with pytest.raises(TenantMismatchError):
        await resolver.resolve(http_scope())


@pytest.mark.parametrize("composition", [FirstAnswer, Agreement])
def test_a_composition_of_nothing_is_a_mistake(composition):
    """Without a source nobody could ever be served."""
    with pytest.raises(ConfigurationError, match="at least one resolver"):
        composition()
