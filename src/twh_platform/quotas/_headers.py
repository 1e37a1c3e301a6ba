"""
What a response says of its quotas: RateLimit fields in several versions, Retry-After.

The fields are Structured Fields (RFC 9651).  What does not change from
response to response is written once for each rule.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

from ..errors import ConfigurationError
from ._arithmetic import status
from ._decision import Decision, Part, RuleStatus
from ._rules import MICROSECONDS, Calendar, Mode, Period, Rate, Rule, Scope, SlidingWindow

__all__ = ["HeaderEmitter", "RateLimitHeaders", "RetryAfter"]

Fields = list[tuple[bytes, bytes]]
Version = Literal["draft-11", "draft-06", "x-ratelimit"]

# RFC 9651, section 3.3.1: fifteen digits.
_LARGEST = 999_999_999_999_999
_MOST_REMEMBERED = 4096
_MOST_JITTER = 60.0
_LEAST_KEY_BYTES = 16
_PARTITION_BYTES = 12
_SECONDS = {Period.HOUR: 3600, Period.DAY: 86_400, Period.WEEK: 604_800}


class HeaderEmitter(Protocol):
    """
    What writes the quota fields of a response.
    """

    def __call__(self, decision: Decision, /) -> Fields:
        """
        Names in lower case, and values, for the response to what was decided.
        """
        ...


class RetryAfter:
    """
    Seconds for which a refused client is told to wait.

    Whole seconds, rounded up, never before the wait is over, and spread out so
    that clients which were refused together do not come back together.

        >>> RetryAfter(jitter=0.0)(6.2)
        7

    Args:
        jitter: By how much of the wait it is at most prolonged: a second at
            least, a minute at most.  0 for not at all.

        draw: A number from 0 to 1, different each time.

    Raises:
        twh_platform.errors.ConfigurationError: If *jitter* is not from 0 to 1.
    """

    def __init__(self, *, jitter: float = 0.2, draw: Callable[[], float] = random.random) -> None:
        if not 0 <= jitter <= 1:
            message = f"jitter={jitter!r} is not from 0 to 1"
            raise ConfigurationError(message)
        self._jitter = jitter
        self._draw = draw

    def __call__(self, seconds: float) -> int:
        """
        The whole seconds for a wait of so many.
        """
        if self._jitter:
            seconds += self._draw() * min(max(1.0, self._jitter * seconds), _MOST_JITTER)
        return max(1, min(math.ceil(seconds), _LARGEST))


class RateLimitHeaders:
    """
    Write RateLimit fields for the rules of a decision.

    ``draft-11`` is `RateLimit-Policy` and `RateLimit` of
    draft-ietf-httpapi-ratelimit-headers-11 and lists every rule.  ``draft-06``
    (`RateLimit-Limit`, `-Remaining`, `-Reset`, and `RateLimit-Policy` unless
    ``draft-11`` writes it) and ``x-ratelimit`` (the same with ``X-`` before it)
    know one rule: that which refuses, else that with the fewest such requests
    left.  Rules in shadow mode are not shown, nor are global ones, which tell
    of other clients.

        >>> headers = RateLimitHeaders("draft-11", "x-ratelimit", reset="epoch")

    Args:
        versions: Which; ``draft-11`` if none is named.

        reset: How ``x-ratelimit`` says when everything is there again: as
            seconds from now (``delta``) or since 1970 (``epoch``).

        partition_key: If given, ``draft-11`` says with ``pk`` which counter it
            was: a keyed digest (HMAC-SHA256, 12 bytes) that tells counters
            apart and names nobody.  At least 16 bytes.

        clock: Seconds since 1970.

    Raises:
        twh_platform.errors.ConfigurationError: For another version or word, or
            a key that is too short.
    """

    def __init__(
        self,
        *versions: Version,
        reset: Literal["delta", "epoch"] = "delta",
        partition_key: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for version in versions:
            _require(version in get_args(Version), "version", version)
        _require(reset in {"delta", "epoch"}, "reset", reset)
        if partition_key is not None and len(partition_key) < _LEAST_KEY_BYTES:
            message = f"partition_key has {len(partition_key)} bytes, not at least 16"
            raise ConfigurationError(message)
        chosen = versions or ("draft-11",)
        self._all_rules = "draft-11" in chosen
        self._one_rule = tuple(
            write
            for version, write in (("draft-06", self._draft_06), ("x-ratelimit", self._x_ratelimit))
            if version in chosen
        )
        self._epoch = reset == "epoch"
        self._partition_key = partition_key
        self._clock = clock
        self._shown: dict[int, _Shown] = {}
        self._lines: dict[int, _Line] = {}

    def __call__(self, decision: Decision, /) -> Fields:
        """
        The fields for the response to what was decided.
        """
        fields: Fields = []
        if self._all_rules:
            plain = decision.allowed and self._partition_key is None
            fields = self._draft_11(decision) if plain else self._draft_11_in_full(decision)
        if self._one_rule:
            shown = [one for one in decision.statuses if self._of(one.rule).policy]
            if shown:
                tightest = min(shown, key=_tightness)
                for write in self._one_rule:
                    fields += write(tightest, shown)
        return fields

    def _draft_11(self, decision: Decision) -> Fields:
        # The path of every admitted request: what is in the states suffices.
        policies: list[bytes] = []
        items: list[str] = []
        for part in decision.parts:
            rules, _, outcome, _, _ = part
            line = self._lines.get(id(rules)) or self._line(rules)
            now, _, _, states, _, _, shares = outcome
            if line.items:
                policies.append(line.policies)
            for index, beginning, period, burst, soon in line.items:
                start, taken, _ = states[index]
                since = now - start
                # What `status` says of a busy `Rate`, in a quarter of the time.
                if 0 <= since < period and 0 < taken <= burst and not shares:
                    until = soon or f";t={-((since - period) // MICROSECONDS)}"
                    items.append(f"{beginning}{burst - taken}{until}")
                else:
                    items.append(_item_of(beginning, part, index))
        if not items:
            return []
        return [
            (b"ratelimit-policy", b", ".join(policies)),
            (b"ratelimit", ", ".join(items).encode()),
        ]

    def _draft_11_in_full(self, decision: Decision) -> Fields:
        keys = self._partitions(decision)
        policies: list[bytes] = []
        items: list[str] = []
        for index, (rule, fits, remaining, renew, _, retry) in enumerate(decision.statuses):
            _, policy, item = self._of(rule)
            if not policy:
                continue
            # Less than was asked for is left until retry, which may come before renew.
            window = renew if fits or retry is None else min(renew, retry)
            key = keys[index] if keys else ""
            policies.append(policy + key.encode())
            items.append(_item(item, remaining, math.ceil(window)) + key)
        if not items:
            return []
        fields = [(b"ratelimit-policy", b", ".join(policies))]
        # Of a cost that never fits, no store was asked how much is left.
        if decision.code != "quota_cost_too_large":
            fields.append((b"ratelimit", ", ".join(items).encode()))
        return fields

    def _draft_06(self, status: RuleStatus, shown: list[RuleStatus]) -> Fields:
        fields = self._three(b"ratelimit", status, status.reset_after)
        if not self._all_rules:
            policies = [self._of(one.rule).policy.partition(b";q=")[2] for one in shown]
            fields.append((b"ratelimit-policy", b", ".join(policies)))
        return fields

    def _x_ratelimit(self, status: RuleStatus, _shown: list[RuleStatus]) -> Fields:
        since = self._clock() if self._epoch else 0.0
        return self._three(b"x-ratelimit", status, since + status.reset_after)

    def _three(self, name: bytes, status: RuleStatus, reset: float) -> Fields:
        return [
            (name + b"-limit", b"%d" % min(status.rule.limit, _LARGEST)),
            (name + b"-remaining", b"%d" % min(status.remaining, _LARGEST)),
            (name + b"-reset", b"%d" % min(math.ceil(reset), _LARGEST)),
        ]

    def _of(self, rule: Rule) -> _Shown:
        # By identity, which costs less than the hash of a rule.  The rule is kept
        # with what was written, so that no other gets its place.
        found = self._shown.get(id(rule))
        if found is None:
            if len(self._shown) >= _MOST_REMEMBERED:
                self._shown.clear()
            found = self._shown[id(rule)] = _show(rule)
        return found

    def _line(self, rules: tuple[Rule, ...]) -> _Line:
        if len(self._lines) >= _MOST_REMEMBERED:
            self._lines.clear()
        shown = [(index, self._of(rule)) for index, rule in enumerate(rules)]
        policies = b", ".join(one.policy for _, one in shown if one.policy)
        items = [(index, one.item, *_pace(one.rule)) for index, one in shown if one.item]
        line = self._lines[id(rules)] = _Line(rules, policies, items)
        return line

    def _partitions(self, decision: Decision) -> list[str]:
        if self._partition_key is None:
            return []
        parts = decision.parts
        return [self._partition(one.bucket) for part in parts for one in part.take.charges]

    def _partition(self, bucket: str) -> str:
        digest = hmac.digest(self._partition_key or b"", bucket.encode(), hashlib.sha256)
        return f";pk=:{base64.b64encode(digest[:_PARTITION_BYTES]).decode()}:"


class _Shown(NamedTuple):
    """
    A rule as it is written: the policy, and the start of its item; empty if hidden.
    """

    rule: Rule
    policy: bytes
    item: str


@dataclass(frozen=True, slots=True)
class _Line:
    """
    Rules that are asked together, as they are written.

    Attributes:
        rules: The rules.

        policies: Of those that are shown.

        items: Of those that are shown, the place and the start of the item.
            For a `Rate` that gives back one unit at a time, how often in
            microseconds, its burst, and how the item ends if it is always
            within a second.
    """

    rules: tuple[Rule, ...]
    policies: bytes
    items: list[tuple[int, str, int, int, str]]


def _show(rule: Rule) -> _Shown:
    if rule.mode is Mode.SHADOW or rule.scope is Scope.GLOBAL:
        return _Shown(rule, b"", "")
    name = _string(rule.name)
    parameters = f";q={min(rule.limit, _LARGEST)}"
    unit = "concurrent-requests" if rule.kind == "l" else rule.unit
    if unit != "requests":
        parameters += f";qu={_string(unit)}"
    if window := _window(rule):
        parameters += f";w={window}"
    return _Shown(rule, f"{name}{parameters}".encode(), f"{name};r=")


def _item(beginning: str, remaining: int, seconds: int) -> str:
    until = f";t={seconds}" if seconds > 0 else ""
    return f"{beginning}{min(remaining, _LARGEST)}{until}"


def _item_of(beginning: str, part: Part, index: int) -> str:
    charge = (part.outcome.charges or part.take.charges)[index]
    state = part.outcome.states[index]
    found = status(charge.kind, state, part.outcome.now, charge.cost, charge.args)
    return _item(beginning, found.remaining, -(-found.renew_us // MICROSECONDS))


def _pace(rule: Rule) -> tuple[int, int, str]:
    """
    The numbers of a `Rate` for its items; zeros where they are not written from these.
    """
    if isinstance(rule, Rate) and rule.ratio[1] == 1 and rule.capacity <= _LARGEST:
        period, _ = rule.ratio
        return period, rule.capacity, ";t=1" if period <= MICROSECONDS else ""
    return 0, 0, ""


def _window(rule: Rule) -> int:
    """
    Whole seconds of the rule's window; 0 where that is no constant whole number.
    """
    if isinstance(rule, Calendar):
        return _SECONDS.get(rule.period, 0)
    if isinstance(rule, Rate | SlidingWindow):
        seconds, rest = divmod(rule.per_us, MICROSECONDS)
        return 0 if rest else seconds
    return 0


def _string(text: str) -> str:
    """
    As a String of RFC 9651, section 4.1.6; names and units are ASCII already.
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _tightness(status: RuleStatus) -> tuple[bool, int, float]:
    rule = status.rule
    return (not status.refuses, status.remaining // rule.cost, -status.reset_after)


def _require(fits: object, name: str, value: object) -> None:
    if not fits:
        message = f"{name}={value!r} is none that there is"
        raise ConfigurationError(message)
