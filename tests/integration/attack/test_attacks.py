"""
Each attack succeeds on a schema with its fault, and is refused on one without.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.support.attacked import APP, FACTS, FAULTS, SWITCHES, UNSEALED
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.tenancy.postgres.attack import ATTACKS
from twh_platform.tenancy.postgres.attack._attack import _facts
from twh_platform.tenancy.postgres.lint._psycopg_snapshot import read_catalog

ABSENT = {"TWHA07", "TWHA12", "TWHA13", "TWHA32", "TWHA44"}


def verdicts(report) -> dict[str, str]:
    """The verdict of each attack, by id."""
    return {one.attack.id: one.verdict for one in report.results}


def test_every_attack_has_a_control():
    """There is a fault for each attack, or it is one of the few that always succeed."""
    database = {one.id for one in ATTACKS if one.target == "database"}

    assert database == SWITCHES | set(FAULTS) | set(FACTS)


def test_a_sealed_schema_refuses_everything(service):
    """Nothing leaks from the good schema, nothing is left open, and something was to steal."""
    report = service(sealed=True).attack()

    report.ensure_safe()
    assert report.tables == {"public.items": 2, "public.lines": 2, "public.visits": 1}
    given = verdicts(report)
    assert {one for one in given if given[one] == "advice"} == set(FACTS)
    assert {one for one in given if given[one] == "absent"} == ABSENT


def test_an_unsealed_schema_says_so(service):
    """Whoever runs SQL switches an unsealed tenant, in all ways; nothing else leaks."""
    report = service().attack()

    assert {one.attack.id for one in report.leaked} == SWITCHES
    assert report.inconclusive == ()
    assert not report.is_safe(allow_inconclusive=True)
    for attack in SWITCHES:
        assert report.result(attack).rows == 5
    with pytest.raises(AssertionError, match="TWHA03 stacked-statements"):
        report.ensure_safe()


@pytest.mark.parametrize("attack", FAULTS)
def test_an_attack_succeeds_where_its_fault_is(attack, service):
    """Control: the planted fault lets it leak."""
    plain = {"settings": ["application_name"]} if attack == "TWHA05" else {}
    report = service(FAULTS[attack], sealed=attack not in UNSEALED).attack(attack, **plain)

    assert verdicts(report) == {attack: "leaked"}, report.text()
    with pytest.raises(AssertionError, match=attack):
        report.result(attack).ensure_refused(allow_inconclusive=True)
    assert report.changed == ()


def test_what_is_advice_can_be_closed(service):
    """Sessions are ended by whoever may call the function; revoked, it is refused."""
    closed = service("REVOKE EXECUTE ON FUNCTION pg_cancel_backend FROM PUBLIC")

    assert verdicts(closed.attack("end-sessions")) == {"TWHA42": "refused"}


def everything(database) -> list[str]:
    """All rows, the state of all sequences and the large objects."""
    tables = database.execute(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'S', 'm') AND n.nspname IN ('public', 'twh') ORDER BY 1"
    )
    found = [database.execute(f"SELECT * FROM {one} ORDER BY 1") for one in tables.split()]
    return [tables, *found, database.execute("SELECT oid FROM pg_largeobject_metadata")]


LEAKY = [FAULTS[one] for one in ("TWHA10", "TWHA11", "TWHA24", "TWHA26", "TWHA28", "TWHA32")]


@pytest.mark.parametrize("more", ["", FAULTS["TWHA02"], FAULTS["TWHA27"]])
def test_nothing_is_left_behind(more, service):
    """The catalog, all rows and all sequences are after the attacks what they were before."""
    leaky = service("; ".join(filter(None, [*LEAKY, more])))
    before = _facts(read_catalog(leaky.database.dsn())), everything(leaky.database)

    report = leaky.attack()

    assert len(report.leaked) >= len(LEAKY)
    assert report.changed == ()
    assert _facts(read_catalog(leaky.database.dsn())) == before[0]
    assert everything(leaky.database) == before[1]


def test_a_change_by_others_is_told(service):
    """Rows that came meanwhile, here by a trigger that reaches outside, are reported."""
    one = service(sealed=True)
    trigger = (
        "CREATE EXTENSION dblink; CREATE FUNCTION outside() RETURNS trigger LANGUAGE plpgsql"
        " SECURITY DEFINER AS $$ BEGIN PERFORM dblink_exec('{dsn}', 'SET session_replication_role"
        " = replica; INSERT INTO public.items VALUES (''globex'', gen_random_uuid()::text)');"
        " RETURN NEW; END $$; CREATE TRIGGER out BEFORE UPDATE ON lines FOR EACH ROW EXECUTE"
        " FUNCTION outside()"
    )
    one.plant(trigger.replace("{dsn}", one.database.dsn()))

    report = one.attack("TWHA21")

    assert report.changed == ("public.items of 'globex' had 2 rows and has 4",)
    assert not report.is_safe(allow_inconclusive=True)


def test_where_nothing_is_nothing_is_proved(service):
    """A table in which the other tenant has no row is inconclusive, never safe."""
    report = service("DELETE FROM visits WHERE tenant_id = 'globex'", sealed=True).attack()

    assert report.tables["public.visits"] == 0
    assert not report.is_safe()
    assert report.is_safe(allow_inconclusive=True)
    [outcome] = report.result("plain-read").at("inconclusive")
    assert outcome.name == "public.visits"


def test_a_table_that_may_not_be_read_is_refused(service):
    """What the login may not read it cannot steal; it is tried all the same."""
    report = service(f"REVOKE ALL ON visits FROM {APP}", sealed=True).attack("TWHA02", "TWHA20")

    assert report.tables["public.visits"] is None
    report.ensure_safe()


def test_a_lock_that_is_taken_is_not_waited_for(service):
    """What times out proves nothing, and the service's own work is not held up."""
    one = service(FAULTS["TWHA24"], sealed=True)
    with psycopg.connect(one.database.dsn()) as busy:
        busy.execute("LOCK TABLE lines IN ACCESS SHARE MODE")
        report = one.attack("truncate")

    [outcome] = report.result("truncate").at("inconclusive")
    assert outcome.name == "public.lines"
    assert "55P03" in outcome.detail


def test_tenants_that_cannot_be_bound_are_an_error(service):
    """A sealed database that is attacked without its seal would look safe."""
    sealed = service(sealed=True)

    with pytest.raises(ConfigurationError) as caught:
        sealed.attack(seal=None)
    assert caught.value.code == "attack_not_bound"
    with pytest.raises(ConfigurationError, match="twice"):
        sealed.attack(other="acme")
    with pytest.raises(ConfigurationError, match='role "nobody_at_all" does not exist'):
        sealed.attack(role="nobody_at_all")


def test_what_cannot_be_attacked_is_an_error(service, template):
    """No tables, no such attack, no server: an error each, without the password."""
    one = service(
        "DROP VIEW lines_of_items; DROP TABLE items, lines, visits; DROP SCHEMA twh CASCADE"
    )

    with pytest.raises(ConfigurationError) as caught:
        one.attack(settings=["app.tenant"])
    assert caught.value.code == "attack_no_tables"
    with pytest.raises(ConfigurationError, match="no attack 'TWHA99'"):
        one.attack("TWHA99")
    with pytest.raises(BackendUnavailableError) as away:
        type(one).attack(type(one)(database=_Nowhere(), seal=None))
    assert "hush" not in str(away.value)


class _Nowhere:
    """A database that is not there."""

    def dsn(self, **_):
        return "postgresql://u:hush@127.0.0.1:1/x"
