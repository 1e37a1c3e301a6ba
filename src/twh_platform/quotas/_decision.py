"""
What was decided: whether it may, what is left of every rule, and the receipt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, Self

from ..errors import (
    BackendUnavailableError,
    ConfigurationError,
    QuotaCostError,
    QuotaExceededError,
)
from ..tenancy._tenant import Tenant
from ._arithmetic import NEVER, State, is_capped, status
from ._exchange import OPEN, Charge, Outcome, QuotaStore, Settlement, Take, charged
from ._quoting import shown
from ._rules import LARGEST, LARGEST_LIMIT, Mode, Rule

__all__ = ["Cost", "Decision", "Part", "Receipt", "RuleStatus", "checked_amount", "checked_cost"]

Cost = int | Mapping[str, int]


def checked_cost(cost: object) -> Cost:
    """
    Return *cost* if it is one: units of requests, or units for each unit.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``cost_invalid``, for
            what is negative, no integer or too large.
    """
    if isinstance(cost, Mapping):
        return {unit: checked_amount(one) for unit, one in cost.items()}
    return checked_amount(cost)


def checked_amount(cost: object) -> int:
    """
    Return a number of units if it is one, as a plain integer.

    Raises:
        twh_platform.errors.ConfigurationError: As `checked_cost`.
    """
    if not isinstance(cost, int) or isinstance(cost, bool) or not 0 <= cost <= LARGEST_LIMIT:
        message = f"cost={shown(cost)} is no integer from 0 to {LARGEST_LIMIT}"
        raise ConfigurationError(message, code="cost_invalid")
    return int(cost)  # of an enumeration: its text, which goes to a store, is no number


class RuleStatus(NamedTuple):
    """
    One rule after a decision.

    Attributes:
        rule: The rule, with the tenant's own limits.

        fits: Whether the cost fitted.

        remaining: Units that are left.

        renew_after: Seconds until there are more, if nobody takes any.

        reset_after: Seconds until all are there again.

        retry_after: Seconds until the same cost fits; 0.0 if it does now; None
            if it never will.
    """

    rule: Rule
    fits: bool
    remaining: int
    renew_after: float
    reset_after: float
    retry_after: float | None

    @property
    def refuses(self) -> bool:
        """
        Whether the request was refused for this rule.
        """
        return not self.fits and self.rule.mode is Mode.HARD


class Part(NamedTuple):
    """
    The rules of one partition: what was asked for, and what came of it.

    Attributes:
        rules: The rules.

        take: For each of them a charge.

        outcome: What the store said.

        tenant: Whose they are; None for those that need no tenant.

        store: Who was asked.
    """

    rules: tuple[Rule, ...]
    take: Take
    outcome: Outcome
    tenant: Tenant | None
    store: QuotaStore

    @property
    def time_zone(self) -> str:
        """
        The tenant's; empty where there is none.
        """
        return "" if self.tenant is None else self.tenant.time_zone

    def statuses(self) -> list[RuleStatus]:
        """
        What is left of each rule.
        """
        now, _, fits, states, *_ = self.outcome
        charges = self.outcome.charges or self.take.charges
        return [
            _status(rule, charge, fit, state, now)
            for rule, charge, fit, state in zip(self.rules, charges, fits, states, strict=True)
        ]

    def charged(self) -> list[Charge]:
        """
        The charges that were made.
        """
        if self.outcome.origin == "open":
            return []
        made = charged(self.take, self.outcome)
        # Without the store, what fails open is not counted, whatever the others do.
        return [one for one in made if self.outcome.origin != "local" or one.on_failure != OPEN]

    def capped(self, charge: Charge) -> bool:
        """
        Whether a charge has met the ceiling of debt, so that nobody knows what of it counted.
        """
        place = self.take.charges.index(charge)
        args = (self.outcome.charges or self.take.charges)[place].args
        return is_capped(charge.kind, self.outcome.states[place], self.outcome.now, args)


def _status(
    rule: Rule,
    charge: Charge,
    fit: bool,  # noqa: FBT001 -- one of a row
    state: State,
    now: int,
) -> RuleStatus:
    found = status(charge.kind, state, now, charge.cost, charge.args)
    retry = 0 if fit else found.retry_us
    return RuleStatus(
        rule,
        fit,
        found.remaining,
        found.renew_us / 1e6,
        found.reset_us / 1e6,
        None if retry == NEVER else retry / 1e6,
    )


class Settler(Protocol):
    """
    Who carries out what a receipt says: the limiter.

    Attributes:
        receipt_seconds: For how long a receipt can be settled.
    """

    receipt_seconds: float

    def new_id(self) -> str:
        """
        An id that no other receipt has.
        """
        ...

    async def settle(self, part: Part, settlement: Settlement, /) -> bool:
        """
        Settle one part; whether this call did it.
        """
        ...

    async def renew(self, part: Part, /) -> bool:
        """
        Prolong the slots of one part.
        """
        ...


class Receipt:
    """
    What was taken; says later what of it was really used.

    It settles once: a second time does nothing, from this object or, after an
    answer that was lost, from another attempt.  After `expires` it is too
    late; slots of `Concurrency` rules are freed even then.  A receipt that is
    never settled keeps what was taken; its slots stay until their lease runs
    out.

    Attributes:
        expires: Seconds since 1970, by the store's clock.

        settled: Whether it has been.
    """

    __slots__ = ("_id", "_parts", "_settler", "expires", "settled")

    def __init__(self, settler: Settler, parts: tuple[Part, ...]) -> None:
        self.expires = (parts[-1].outcome.now if parts else 0) / 1e6 + settler.receipt_seconds
        self.settled = False
        self._id = ""
        self._parts = parts
        self._settler = settler

    @property
    def holds(self) -> bool:
        """
        Whether it holds slots, which are to be renewed and released.
        """
        return any(part.take.lease and part.charged() for part in self._parts)

    async def commit(self, cost: Cost) -> bool:
        """
        Bring the charges to what was really used, more or less than was taken.

        What is less goes back, as far as time has not given it back already,
        and unless it was charged to a debt that could not grow any more.  What
        is more is charged, even beyond a limit: it has been used.

        Args:
            cost: Units of requests, or units for each unit; what is not named
                stays as it was taken.  Where nothing was taken in requests, a
                number is of what was.

        Returns:
            Whether this call settled it; False if that was done before, or if
            the receipt has expired.

        Raises:
            twh_platform.errors.ConfigurationError: For a cost that is none.

            twh_platform.errors.BackendUnavailableError: If the store does not
                answer; it may be tried again.
        """
        cost = checked_cost(cost)
        if isinstance(cost, Mapping):
            return await self._bring_to(cost)
        units = {rule.unit for part in self._parts for rule in part.rules}
        meant = units & {"requests"} or units
        return await self._bring_to(dict.fromkeys(meant, cost))

    async def refund(self) -> bool:
        """
        Give everything back: as `commit` with nothing used.
        """
        return await self._bring_to(None)

    async def release(self) -> bool:
        """
        Keep the charges as they are and free the slots.
        """
        return await self._bring_to({})

    async def free(self) -> None:
        """
        Free the slots, however late; the charges can still be settled.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `commit`.
        """
        if self.settled:
            return
        for part in self._parts:
            if slots := self._settlement(part, {}):
                await self._settler.settle(part, slots)

    async def renew(self) -> bool:
        """
        Prolong the slots of `Concurrency` rules.

        Returns:
            Whether they are still held; False if they have run out, or have
            been held for the longest time that the rule allows.

        Raises:
            twh_platform.errors.BackendUnavailableError: If the store does not
                answer.
        """
        if self.settled:
            return False
        held = [part for part in self._parts if part.take.lease]
        return all([await self._settler.renew(part) for part in held])

    async def _bring_to(self, actual: Mapping[str, int] | None) -> bool:
        if self.settled:
            return False
        done = False
        for part in self._parts:
            settlement = self._settlement(part, actual)
            if settlement is None:
                continue
            mine = await self._settler.settle(part, settlement)
            done = done or mine
            if not mine and (slots := _slots_of(settlement)) is not None:
                await self._settler.settle(part, slots)
        self.settled = True
        return done

    def _settlement(self, part: Part, actual: Mapping[str, int] | None) -> Settlement | None:
        charges, amounts = [], []
        rules = dict(zip(part.take.charges, part.rules, strict=True))
        for charge in part.charged():
            amount = 0 if actual is None else actual.get(rules[charge].unit, charge.cost)
            if charge.kind != "l" and amount < charge.cost and part.capped(charge):
                continue
            if charge.kind == "l" or amount != charge.cost:
                charges.append(charge)
                amounts.append(amount)
        if not charges:
            return None
        alone = all(one.kind == "l" for one in charges)
        # One id for all attempts; slots are held under one of their own.
        self._id = self._id or self._settler.new_id()
        return Settlement(
            part.take.partition,
            part.take.lease or self._id,
            tuple(charges),
            tuple(amounts),
            part.outcome.now,
            LARGEST if alone else round(self.expires * 1e6),
            part.outcome.origin,
        )


def _slots_of(settlement: Settlement) -> Settlement | None:
    """
    The slots among what could not be settled any more: they are freed however late.
    """
    pairs = zip(settlement.charges, settlement.actual, strict=True)
    slots = [(one, actual) for one, actual in pairs if one.kind == "l"]
    if not slots or len(slots) == len(settlement.charges):
        return None
    charges, actual = zip(*slots, strict=True)
    return settlement._replace(charges=charges, actual=actual, expires=LARGEST)


class Decision:
    """
    Whether a request may, and what is left of every rule that it met.

    Attributes:
        allowed: Whether it may.

        code: Why not: ``quota_exceeded``, ``quota_cost_too_large`` or
            ``quota_store_unavailable``; empty if it may.

        parts: What each partition's rules were asked, and what came of it.

        holds: Whether a slot may be held, to be renewed and released.
    """

    __slots__ = ("_receipt", "_settler", "_statuses", "allowed", "code", "holds", "parts")

    def __init__(
        self, settler: Settler, parts: tuple[Part, ...], code: str = "", *, holds: bool = False
    ) -> None:
        self.allowed = not code
        self.code = code
        self.holds = holds
        self.parts = parts
        self._settler = settler
        self._receipt: Receipt | None = None
        self._statuses: tuple[RuleStatus, ...] | None = None

    @classmethod
    def too_large(cls, settler: Settler, rules: tuple[Rule, ...]) -> Self:
        """
        The refusal of a cost that these rules never admit.
        """
        decision = cls(settler, (), "quota_cost_too_large")
        decision._statuses = tuple(
            RuleStatus(
                one, fits=False, remaining=0, renew_after=0.0, reset_after=0.0, retry_after=None
            )
            for one in rules
        )
        return decision

    def __repr__(self) -> str:
        word = "allowed" if self.allowed else self.code
        return f"<Decision {word}: {', '.join(one.rule.name for one in self.statuses)}>"

    @property
    def receipt(self) -> Receipt:
        """
        What was taken; of a refusal nothing, for it has given back what it took.
        """
        if self._receipt is None:
            parts = self.parts if self.allowed else ()
            self._receipt = Receipt(self._settler, parts)
        return self._receipt

    @property
    def statuses(self) -> tuple[RuleStatus, ...]:
        """
        What is left of each rule, in the order of the plan.

        Of a cost that is too large no store was asked: only the rules that
        never admit it are here, with nothing left.
        """
        if self._statuses is None:
            self._statuses = tuple(one for part in self.parts for one in part.statuses())
        return self._statuses

    @property
    def origin(self) -> str:
        """
        Who decided: see `Outcome.origin`; ``limiter`` if no store was asked.
        """
        return self.parts[-1].outcome.origin if self.parts else "limiter"

    @property
    def violated(self) -> tuple[RuleStatus, ...]:
        """
        The rules that it was refused for.
        """
        return tuple(one for one in self.statuses if one.refuses) if not self.allowed else ()

    @property
    def exceeded(self) -> tuple[RuleStatus, ...]:
        """
        The soft and shadow rules that had not enough left.
        """
        if all(False not in part.outcome.fits for part in self.parts):
            return ()  # asked of every admission that somebody listens to: no status is needed
        return tuple(
            one for one in self.statuses if not one.fits and one.rule.mode is not Mode.HARD
        )

    @property
    def retry_after(self) -> float | None:
        """
        Seconds until the same could be admitted; 0.0 if it was; None if it never can.
        """
        if self.allowed:
            return 0.0
        waits = [one.retry_after for one in self.violated]
        if self.origin in {"local", "closed"}:
            # Nobody knows when the store is back; what a share never admits, it may.
            return max((1.0 if one is None else one for one in waits), default=0.0) or 1.0
        if any(one is None for one in waits):
            return None
        return max((one for one in waits if one is not None), default=1.0)

    def ensure(self) -> Decision:
        """
        Return the decision if it allows.

        Raises:
            twh_platform.errors.QuotaExceededError: If a rule has not enough
                left.

            twh_platform.errors.QuotaCostError: If it never will have.

            twh_platform.errors.BackendUnavailableError: With code
                ``quota_store_unavailable``, if a rule that fails closed could
                not be asked.
        """
        if self.allowed:
            return self
        if self.code == "quota_store_unavailable":
            raise BackendUnavailableError("the quotas cannot be asked", code=self.code)
        names = ", ".join(one.rule.name for one in self.violated)
        kind = QuotaCostError if self.code == "quota_cost_too_large" else QuotaExceededError
        raise kind(f"not enough left of {names}", decision=self)
