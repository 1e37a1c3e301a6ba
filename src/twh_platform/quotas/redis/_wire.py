"""
What goes to the script and comes back: keys, arguments, numbers.

The layout is drawn at the top of ``lua/take.lua``.
"""

from __future__ import annotations

import hashlib
from asyncio import Future
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from .._arithmetic import EMPTY, State
from .._exchange import Charge, Outcome, Settled, Settlement, Take

__all__ = ["SCRIPT", "SCRIPT_SHA", "Codec", "Operation", "StateError"]

SCRIPT = resources.files(__package__).joinpath("lua", "take.lua").read_text("utf-8")
# Redis names a script by this; nothing depends on its strength.
SCRIPT_SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

_SAME, _NEXT, _SLOTS = "012", "abc", "xyz"
_DONE, _STALE, _FAILED = "1", "-1", "-2"
# Of a moment in microseconds.
_DIGITS = 16
_MOST_LAYOUTS = 16_384

Answer = Outcome | Settled | bool


class StateError(Exception):
    """
    A key of ours holds something that is not ours.
    """


class _Layout(NamedTuple):
    """
    The charges of a take, laid out once for all takes that have them.

    Attributes:
        charges: They themselves: what they are known by is their identity.

        partition: The take's.

        keys: For the script, in its order.

        heads: To look, to take and to force.

        args: What follows the head.

        leases: Where in *args* the id of the lease belongs.

        order: For each charge, which of the reply's it is; None if in order.
    """

    charges: tuple[Charge, ...]
    partition: str
    keys: tuple[bytes, ...]
    heads: tuple[bytes, bytes, bytes]
    args: tuple[bytes, ...]
    leases: tuple[int, ...]
    order: tuple[int, ...] | None


class Operation:
    """
    One operation on its way: what the script is asked, and who waits for the answer.

    Attributes:
        partition: What all keys have in common.

        keys: In the order in which the script meets them.

        args: Likewise.

        request: What was asked; None to renew.

        order: As in `_Layout`.

        lasting: Whether it is to be carried out even if nobody waits any more.

        future: Who waits.

        deadline: Until when, by the loop's clock.
    """

    __slots__ = (
        "args",
        "deadline",
        "future",
        "keys",
        "lasting",
        "order",
        "partition",
        "request",
    )

    future: Future[Answer]
    deadline: float

    def __init__(
        self,
        partition: str,
        keys: Sequence[bytes],
        args: Sequence[bytes],
        *,
        request: Take | Settlement | None,
        order: tuple[int, ...] | None = None,
        lasting: bool = False,
    ) -> None:
        self.partition = partition
        self.keys = keys
        self.args = args
        self.request = request
        self.order = order
        self.lasting = lasting

    def read(self, now: int, words: list[str], position: int) -> tuple[Answer, int]:
        """
        Read this operation's part of a reply, and say where the next one begins.

        Args:
            now: The clock of the reply.

            words: The whole reply.

            position: Where this part begins.

        Raises:
            StateError: If a key holds something that is not ours.
        """
        first = words[position]
        position += 1
        if first == _FAILED:
            raise StateError(words[position])
        request = self.request
        if request is None:
            return first == _DONE, position
        if isinstance(request, Settlement):
            if first != _DONE:
                return Settled(now, done=False, stale=first == _STALE), position
            _, states, position = self._charges(request.charges, words, position)
            return Settled(now, done=True, states=states), position
        if first == _STALE:
            return Outcome(now, admitted=False, stale=True), position
        fits, states, position = self._charges(request.charges, words, position)
        return Outcome(now, first == _DONE or request.force, fits, states), position

    def skip(self, words: list[str], position: int) -> int:
        """
        Where the next operation's part begins, if this one's could not be read.
        """
        return position + 2 if words[position] == _FAILED else len(words)

    def _charges(
        self, charges: tuple[Charge, ...], words: list[str], position: int
    ) -> tuple[tuple[bool, ...], tuple[State, ...], int]:
        if len(charges) == 1:
            word = words[position]
            return (word[0] == "+",), (_state(word, charges[0].kind),), position + 1
        end = position + len(charges)
        part = words[position:end]
        if self.order is not None:
            part = [part[index] for index in self.order]
        fits = tuple([word[0] == "+" for word in part])
        states = tuple(
            [_state(word, charge.kind) for word, charge in zip(part, charges, strict=True)]
        )
        return fits, states, end


def _state(word: str, kind: str) -> State:
    if kind == "l":
        return 0, int(word[1:]), 0
    if len(word) <= _DIGITS:
        return EMPTY
    first, _, second = word[_DIGITS + 1 :].partition(".")
    return int(word[1 : _DIGITS + 1]), int(first), int(second or 0)


class Codec:
    """
    Lays operations out under keys with a prefix, and remembers the takes' layouts.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._layouts: dict[int, _Layout] = {}

    def take(self, take: Take) -> Operation:
        """
        Lay out a take.
        """
        layout = self._layouts.get(id(take.charges)) or self._laid_out(take)
        if layout.partition != take.partition:
            layout = self._laid_out(take)
        args = [layout.heads[0 if take.dry else 2 if take.force else 1], *layout.args]
        if layout.leases:
            lease = take.lease.encode()
            for index in layout.leases:
                args[index] = lease
        return Operation(take.partition, layout.keys, args, request=take, order=layout.order)

    def settlement(self, settlement: Settlement, *, marked: bool = True) -> Operation:
        """
        Lay out a settlement; unmarked, nothing keeps it from being carried out twice.

        Freeing slots twice does no harm, so where there is nothing else there
        is no marker.
        """
        charges = settlement.charges
        places = _places(charges)
        ordered = [charges[index] for index in places]
        keys, codes, args = self._groups(
            settlement.partition,
            ordered,
            lease=settlement.id,
            actual=[settlement.actual[index] for index in places],
        )
        letter = "u"
        if all(one.kind == "l" for one in charges):
            letter = "v"
        elif marked and settlement.id:
            letter = "s"
            keys.insert(0, self._key(settlement.partition, f":s.{settlement.id}"))
        head = [f"{letter}{codes}", settlement.at, settlement.expires]
        return Operation(
            settlement.partition,
            keys,
            [*_encoded(head), *args],
            request=settlement,
            order=_back(places),
            lasting=letter != "u" or not marked,
        )

    def renewal(self, take: Take, at: int) -> Operation:
        """
        Lay out the renewal of a take's slots.
        """
        held = [one for one in take.charges if one.kind == "l"]
        keys, codes, args = self._groups(take.partition, held, lease=take.lease)
        head = _encoded([f"r{codes}", at])
        return Operation(take.partition, keys, [*head, *args], request=None)

    def _laid_out(self, take: Take) -> _Layout:
        places = _places(take.charges)
        ordered = [take.charges[index] for index in places]
        keys, codes, args = self._groups(take.partition, ordered, lease="\0")
        layout = _Layout(
            take.charges,
            take.partition,
            tuple(keys),
            (f"d{codes}".encode(), f"t{codes}".encode(), f"f{codes}".encode()),
            tuple(args),
            tuple(index for index, one in enumerate(args, 1) if one == b"\0"),
            _back(places),
        )
        if len(self._layouts) >= _MOST_LAYOUTS:
            self._layouts.clear()
        # It keeps the charges alive, so that no others get their id.
        self._layouts[id(take.charges)] = layout
        return layout

    def _groups(
        self,
        partition: str,
        charges: Sequence[Charge],
        *,
        lease: str,
        actual: Sequence[int] | None = None,
    ) -> tuple[list[bytes], str, list[bytes]]:
        keys: list[bytes] = []
        codes = ""
        fields: list[object] = []
        args: list[object] = []
        numbers: list[object] = []
        bucket = None
        for index, one in enumerate(charges):
            suffix = one.bucket.removeprefix(partition)
            if one.kind == "l":
                keys.append(self._key(partition, f"{suffix}:{one.field}"))
                codes += _SLOTS[one.mode]
                args += [*fields, *numbers, lease, " ".join(map(str, one.args))]
                fields, numbers, bucket = [], [], None
                continue
            if one.bucket != bucket:
                args += [*fields, *numbers]
                fields, numbers, bucket = [], [], one.bucket
                keys.append(self._key(partition, suffix))
                codes += _NEXT[one.mode]
            else:
                codes += _SAME[one.mode]
            fields.append(one.field)
            numbers.append(" ".join(map(str, (one.cost, *one.args))))
            if actual is not None:
                numbers.append(actual[index] - one.cost)
        return keys, codes, _encoded([*args, *fields, *numbers])

    def _key(self, partition: str, suffix: str) -> bytes:
        return f"{self._prefix}:{{{partition}}}{suffix}".encode()


def _places(charges: Sequence[Charge]) -> list[int]:
    """
    In which order the script meets the charges: what shares a key stands together.
    """
    first: dict[str, int] = {}
    for index, one in enumerate(charges):
        first.setdefault(one.bucket, index)
    return sorted(
        range(len(charges)),
        key=lambda index: (charges[index].kind == "l", first[charges[index].bucket]),
    )


def _back(places: list[int]) -> tuple[int, ...] | None:
    if places == sorted(places):
        return None
    return tuple(sorted(range(len(places)), key=places.__getitem__))


def _encoded(values: Sequence[object]) -> list[bytes]:
    return [str(one).encode() for one in values]
