"""
All plans of a service, and which of them a tenant has.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Self

from ..errors import ConfigurationError
from ..tenancy._tenant import Tenant
from ._plan import Plan
from ._plan_file import INVALID, LARGEST_BYTES, read_plan_file
from ._rules import COMMON_SCOPES, Rule

__all__ = ["Plan", "Plans"]


class Plans(Mapping[str, Plan]):
    """
    Plans by name; a tenant has the one that its tier names.

        >>> from twh_platform import Tenant
        >>> from twh_platform.quotas import Plans
        >>> plans = Plans.example()
        >>> list(plans)
        ['FREE', 'DEVELOPER', 'STARTUP', 'GROWTH', 'SCALE', 'ENTERPRISE']
        >>> plans.for_tenant(Tenant(id="acme", tier="GROWTH")).rule("minute").limit
        800

    Args:
        plans: Each name once.

        default: The name of the plan of a tenant whose tier is no plan; if
            None, such a tenant is refused.

        common: The rules that need no tenant, of scope ``client`` or
            ``global``: give them to the `Limiter`.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``plan_invalid``.
    """

    def __init__(
        self, plans: Iterable[Plan], *, default: str | None = None, common: Iterable[Rule] = ()
    ) -> None:
        given = tuple(plans)
        self._plans = {plan.name: plan for plan in given}
        self.common = tuple(common)
        """The rules that need no tenant."""
        if not given:
            _refuse("there is no plan")
        if len(self._plans) < len(given):
            _refuse("there are two plans with one name")
        if default is not None and default not in self._plans:
            _refuse(f"default={default[:80]!r} is none of {', '.join(self._plans)}")
        self._default = None if default is None else self._plans[default]
        self._check_common()

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """
        Read plans from a file.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``plan_invalid``;
                the message names the file, the table and the key.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(LARGEST_BYTES + 1)
            text = content.decode()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8"
            message = f"{os.fspath(path)}: it cannot be read: {why}"
            raise ConfigurationError(message, code=INVALID) from error
        return cls.from_text(text, source=os.fspath(path))

    @classmethod
    def from_text(cls, text: str, *, source: str = "plans") -> Self:
        """
        Read plans from TOML that is at hand already.

        Args:
            text: As in a file.

            source: What errors call it.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``plan_invalid``.
        """
        found = read_plan_file(text, source=source)
        try:
            return cls(found.plans, default=found.default, common=found.common)
        except ConfigurationError as error:
            raise ConfigurationError(f"{source}: {error}", code=INVALID) from error

    @classmethod
    def example(cls) -> Self:
        """
        The six tiers of a warehouse service, as they come with the package.
        """
        name = "warehouse.toml"
        file = files("twh_platform.quotas").joinpath("plans", name)
        return cls.from_text(file.read_text(encoding="utf-8"), source=name)

    def __getitem__(self, name: str) -> Plan:
        return self._plans[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)

    def __repr__(self) -> str:
        return f"Plans({', '.join(self._plans)})"

    @property
    def default(self) -> Plan | None:
        """
        The plan of a tenant whose tier is no plan.
        """
        return self._default

    def for_tenant(self, tenant: Tenant, /) -> Plan:
        """
        Return the plan that the tenant's tier names, or else the default.

        A tenant without a plan is never unlimited.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``plan_unknown``,
                if there is neither.
        """
        plan = self._plans.get(tenant.tier, self._default)
        if plan is None:
            message = (
                f"tenant {tenant.id!r}: tier={tenant.tier[:80]!r} is none of the plans "
                f"{', '.join(self._plans)}, and there is no default"
            )
            raise ConfigurationError(message, code="plan_unknown")
        return plan

    def _check_common(self) -> None:
        names = [rule.name for rule in self.common]
        for rule in self.common:
            if rule.scope not in COMMON_SCOPES:
                _refuse(f"[common] rule {rule.name!r}: scope={rule.scope} is inside a tenant")
            if names.count(rule.name) > 1:
                _refuse(f"[common] rule {rule.name!r}: there are two with this name")
            if taken := [plan.name for plan in self._plans.values() if rule.name in plan]:
                _refuse(f"[common] rule {rule.name!r}: plan {taken[0]!r} has one of this name")


def _refuse(what: str) -> None:
    raise ConfigurationError(what, code=INVALID)
