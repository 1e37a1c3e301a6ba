"""
Binding a tenant; where it travels is in `tests/integration/tenancy/test_context.py`.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextvars import copy_context
from multiprocessing import get_context

import pytest

from twh_platform.errors import NoCurrentTenantError
from twh_platform.tenancy import (
    Tenant,
    TenantExecutor,
    bind_tenant,
    carry_tenant,
    current_tenant,
    require_tenant,
    unbind_tenant,
)

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")


def test_without_a_tenant_asking_is_none_and_requiring_raises():
    """Code that needs a tenant fails loudly."""
    assert current_tenant() is None
    with pytest.raises(NoCurrentTenantError, match="bind_tenant"):
        require_tenant()


def test_a_tenant_is_bound_inside_and_restored_outside():
    """Also when nested, and when none is bound inside."""
    with bind_tenant(ACME):
        with bind_tenant(GLOBEX):
            assert require_tenant() is GLOBEX
        with unbind_tenant():
            assert current_tenant() is None
        assert require_tenant() is ACME
    assert current_tenant() is None


@pytest.mark.parametrize("value", ["acme", {"id": "acme"}, 7])
def test_only_a_tenant_can_be_bound(value):
    """An id is not a tenant."""
    with pytest.raises(TypeError, match="takes a Tenant"):
        bind_tenant(value)


def test_a_binding_is_entered_once():
    """Entered twice it could not tell what to restore; left twice it does nothing."""
    binding = bind_tenant(ACME)
    with binding:
        with pytest.raises(RuntimeError, match="entered already"):
            binding.__enter__()
        assert current_tenant() is ACME
    with bind_tenant(GLOBEX):
        binding.__exit__(None, None, None)
        assert current_tenant() is GLOBEX


def test_binds_left_out_of_order_leave_the_first_tenant_bound():
    """As its docstring warns; control: in the reverse order all is restored."""

    def hold(tenant):
        with bind_tenant(tenant):
            yield

    def left_after(order):
        holding = [hold(ACME), hold(GLOBEX)]
        for one in holding:
            next(one)
        for position in order:
            holding[position].close()
        return current_tenant()

    assert copy_context().run(left_after, [1, 0]) is None
    assert copy_context().run(left_after, [0, 1]) is ACME
    assert current_tenant() is None


def test_a_carried_call_is_tied_to_the_tenant_of_its_making():
    """Arguments, result and name pass through; its caller's tenant is restored."""

    def name(prefix, *, suffix):
        return f"{prefix}{require_tenant().id}{suffix}"

    with bind_tenant(ACME):
        carried = carry_tenant(name)
    with bind_tenant(GLOBEX):
        assert carried("<", suffix=">") == "<acme>"
        assert require_tenant() is GLOBEX
    assert carried.__name__ == "name"


def current_id() -> str:
    """What another process sees."""
    return require_tenant().id


def test_other_processes_run_as_the_tenant_that_submitted():
    """A process pool pickles call and tenant."""
    inner = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with TenantExecutor(inner) as pool, bind_tenant(ACME):
        assert pool.submit(current_id).result(60) == "acme"
