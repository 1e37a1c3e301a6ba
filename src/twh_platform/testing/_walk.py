"""
A walk through a whole app as a tenant that must learn nothing of another.

1. The *other* tenant makes things and reads them, then the *first* one does:
   so what the first was shown and the other was not is the first one's.
2. As the other, every operation is asked for what the first has, one place of
   the request at a time, and for what nobody has.  Nothing of the first may be
   in an answer, and the two must be answered alike.
3. As the other, every operation is asked for what the other has itself: a
   refusal proves something only if the same request is good with its own ids.
4. The first reads again: what it has must be what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from .._asgi import ASGIApp
from ..errors import ConfigurationError
from ..tenancy import Tenant
from ._compare import Said, changes, otherwise
from ._document import declared_by, documented_steps, routed_operations
from ._harvest import Scalar, absent_like, is_identity
from ._http import AppAnswer, AppClient, AppRequest
from ._leaks import Needle, find_leaks, without_sent
from ._replay import Authorize, authorized
from ._report import Kind, WalkFinding, WalkOperation, WalkReport
from ._sides import NotHarvestedError, Read, Side
from ._steps import MADE, OWN, Slot, WalkStep

__all__ = ["walk"]

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "QUERY"})
_REFUSED = 400
_TOO_MANY = 429
_FAILED = 500
_FOUND_BUT_NOT_NOW = frozenset({409, 410, 412})
_ROUNDS = 3  # how often what failed for want of an id is tried again
_EACH = 3  # how many ids of a name are tried
_FINDINGS = 10  # of one operation: more of the same help nobody


async def walk(
    app: ASGIApp,
    *,
    tenants: tuple[Tenant, Tenant],
    authorize: Authorize,
    document: Mapping[str, Any] | None = None,
    routes: Iterable[Any] | None = None,
    steps: Sequence[WalkStep] = (),
    exceptions: Mapping[str, str] | None = None,
    markers: Collection[str] = (),
    ignore: Collection[str] = (),
    volatile: Collection[str] = (),
    work: Callable[[], int] | None = None,
    client: AppClient | None = None,
) -> WalkReport:
    """
    Walk through every operation of an app as another tenant.

    The time that an answer takes is not compared: it says nothing that holds.
    What can be compared is the amount of *work* behind it.

    Args:
        app: The app, running; for one that has a lifespan see `AppClient`.

        tenants: The one whose data must not be seen, and the one that looks.
            Both may be served, and neither id contains the other.

        authorize: Returns the request as one that the tenant sends.

        document: The app's OpenAPI 3 document; requests that *steps* do not
            give are made from it.  Without this and *routes*, what the app
            says of itself: FastAPI has both, Starlette its routes.

        routes: The app's route table: ``app.routes`` of Starlette and FastAPI,
            or strings such as ``GET /items/{id}``.

        steps: What each tenant does first, in this order, so that it has
            something; also how these operations are asked.

        exceptions: Operations that the walk may leave uncovered, with the
            reason; ``*`` stands for anything.  They are asked all the same.

        markers: Further texts that are the first tenant's alone.

        ignore: Names of JSON members whose values may be the same by chance.

        volatile: Names of headers, in lower case, and of JSON members whose
            values differ from answer to answer.

        work: A count that only goes up, of statements or round trips: what it
            grows by is the same for what is foreign and for what is nobody's.

        client: What sends the requests, if not an `AppClient` as it comes.

    Returns:
        What was found; `WalkReport.ensure_clean` judges it.

    Raises:
        AssertionError: If one of *steps* was not carried out.

        twh_platform.errors.ConfigurationError: If the arguments do not fit together.
    """
    if document is None and routes is None:
        document, routes = declared_by(app)
    made = documented_steps(document or {})
    names = [*made, *routed_operations(routes or ())]
    walker = _Walk(
        client=client or AppClient(app),
        tenants=tenants,
        authorize=authorize,
        steps=steps,
        made={name: made.get(name) or [] for name in dict.fromkeys(names)},
        exceptions=exceptions or {},
        markers=markers,
        ignore=ignore,
        volatile=frozenset(volatile),
        work=work or (lambda: 0),
    )
    await walker.run()
    return walker.report()


@dataclass(slots=True)
class _Trail:
    """
    What is known of one way to ask an operation.
    """

    step: WalkStep
    given: bool
    unfilled: list[str] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    control: str = "it was not asked for what is the tenant's own"


@dataclass(slots=True)
class _Sent:
    answer: AppAnswer
    work: int
    values: Mapping[Slot, Scalar]
    request: AppRequest


class _Walk:
    def __init__(
        self,
        *,
        client: AppClient,
        tenants: tuple[Tenant, Tenant],
        authorize: Authorize,
        steps: Sequence[WalkStep],
        made: Mapping[str, list[WalkStep]],
        exceptions: Mapping[str, str],
        markers: Collection[str],
        ignore: Collection[str],
        volatile: frozenset[str],
        work: Callable[[], int],
    ) -> None:
        _ensure_fit(tenants, steps, made, exceptions)
        self._client = client
        self._authorize = authorize
        self._steps = steps
        self._exceptions = exceptions
        self._volatile = volatile
        self._work = work
        self._operations = {name: WalkOperation(name=name) for name in made}
        self._trails = {name: _trails(name, steps, found) for name, found in made.items()}
        self._first, self._other = (Side(tenant, ignore=ignore) for tenant in tenants)
        self._markers = [Needle(one, "the marker") for one in markers]
        self._needles: list[Needle] = []
        self._failures: dict[str, str] = {}
        self._spent: set[str] = set()

    async def run(self) -> None:
        """
        Walk.
        """
        for side in (self._other, self._first):
            await self._settle(side)
            await self._read(side)
        await self._notice_volatile()
        self._needles = [
            *self._first.identity(),
            *self._markers,
            *self._first.harvest.needles(unlike=self._other.harvest),
        ]
        writing = sorted(
            (one for one in self._all_trails() if not one.step.safe),
            key=lambda one: _rank(one.step),
        )
        await self._look()
        for trail in writing:
            await self._ask(trail)
        await self._repeat()
        await self._look_again()
        for trail in writing:
            await self._control(trail)
        await self._ensure_unchanged()

    def report(self) -> WalkReport:
        """
        Say what was found.
        """
        for operation in self._operations.values():
            reason = self._gap(operation.name)
            operation.state, operation.reason = (
                ("not covered", reason) if reason else ("walked", "")
            )
        for pattern, why in self._exceptions.items():
            named = [one for one in self._operations.values() if fnmatchcase(one.name, pattern)]
            for operation in [one for one in named if one.state == "not covered"]:
                operation.state, operation.reason = "excepted", why
            if all(one.state == "walked" for one in named):
                needless = f"the exception {pattern!r} is needless: it was walked"
                for operation in named:
                    operation.state, operation.reason = "not covered", needless
        return WalkReport(operations=tuple(self._operations.values()))

    def _all_trails(self) -> list[_Trail]:
        return [trail for trails in self._trails.values() for trail in trails]

    def _reading(self) -> list[_Trail]:
        return [trail for trail in self._all_trails() if trail.step.safe]

    # 1. Each has something of its own.

    async def _settle(self, side: Side) -> None:
        for step in self._steps:
            await self._carry_out(side, step)
        given = {step.operation for step in self._steps}
        pending = [
            one.step
            for one in self._all_trails()
            if _creates(one.step) and one.step.operation not in given and not self._excepted(one)
        ]
        for _ in range(_ROUNDS):
            pending = [step for step in pending if not await self._made(side, step)]

    async def _carry_out(self, side: Side, step: WalkStep) -> None:
        try:
            request = step.fill(side.own(step))
        except NotHarvestedError as error:
            raise AssertionError(f"step {step} as {side.tenant.id}: {error}") from None
        answer = (await self._send(side, step, request)).answer
        if answer.status >= _REFUSED:
            said = f"{answer.status} {answer.text[:500]} {answer.error or ''}"
            raise AssertionError(f"step {step} as {side.tenant.id} was answered {said}")
        self._took(side, step, request, answer)

    async def _made(self, side: Side, step: WalkStep) -> bool:
        try:
            request = step.fill(side.own(step))
        except NotHarvestedError:
            return False
        answer = (await self._send(side, step, request)).answer
        if answer.status < _REFUSED:
            self._took(side, step, request, answer)
        return answer.status < _REFUSED

    def _took(self, side: Side, step: WalkStep, request: AppRequest, answer: AppAnswer) -> None:
        try:
            side.took(step, request, answer)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            message = f"step {step}: keep={dict(step.keep)} is not in {answer.text[:500]}"
            raise ConfigurationError(message) from error

    async def _read(self, side: Side) -> None:
        for _ in range(_ROUNDS):
            known = len(side.reads)
            for trail in self._reading():
                await self._read_step(side, trail.step)
            if len(side.reads) == known:
                break

    async def _read_step(self, side: Side, step: WalkStep) -> None:
        for index in range(_EACH):
            try:
                request = step.fill(side.own(step, index))
            except NotHarvestedError:
                return
            if str(request) in side.reads:
                continue
            answer = (await self._send(side, step, request)).answer
            side.answered.setdefault(step.spelled(), answer)
            if answer.status < _REFUSED:
                side.answered[step.spelled()] = answer
                side.reads[str(request)] = Read(step=step, request=request, answer=answer)
                side.harvest.take(step.operation, answer)

    async def _notice_volatile(self) -> None:
        for read in self._first.reads.values():
            again = await self._send(self._first, read.step, read.request)
            read.volatile = changes(read.answer, again.answer)

    # 2. The other asks for what the first has.

    async def _look(self) -> None:
        await self._look_again()
        for read in self._first.reads.values():
            await self._send(self._other, read.step, read.request)
        for trail in self._reading():
            await self._ask(trail)
            trail.control = self._read_control(trail)

    async def _look_again(self) -> None:
        for read in self._other.reads.values():
            await self._send(self._other, read.step, read.request)

    async def _repeat(self) -> None:
        """
        Send what the first sent, word for word.
        """
        for step, request in self._first.writes:
            await self._send(self._other, step, request)

    async def _ask(self, trail: _Trail) -> None:
        slots = [slot for slot in trail.step.slots() if slot.name != "uuid"]
        try:
            if not slots:
                await self._send_filled(trail, {})
                return
            foreign = {slot: self._foreign(trail, slot) for slot in slots}
            # A place for a mark that the first did not fill, or that was asked for, is no gap.
            trail.unfilled = [
                str(slot)
                for slot, values in foreign.items()
                if not values and slot.name not in MADE
            ]
            usable = {slot: values for slot, values in foreign.items() if values}
            for slot, values in usable.items():
                await self._ask_with(trail, {slot: values})
            shown = {slot: all_ for slot, all_ in usable.items() if slot.name not in MADE}
            if len(shown) > 1:
                await self._ask_with(trail, shown)
        except NotHarvestedError as error:
            trail.unfilled.append(str(error))

    def _foreign(self, trail: _Trail, slot: Slot) -> list[Scalar]:
        """
        What the first has for a place, and the other has not.
        """
        if slot.name in OWN:
            return [self._first.tenant.id]
        if slot.name in MADE:
            marks: list[Scalar] = [*self._first.marks_of(trail.step, slot)]
            return [mark for mark in marks if mark not in self._spent][:1]
        chosen = trail.given or slot.place.startswith("path ")
        own = self._other.harvest.named(slot.name)
        found = [
            one
            for one in self._first.harvest.named(slot.name)
            if one not in own and (chosen or is_identity(slot.name, one))
        ]
        return found[:_EACH]

    async def _ask_with(self, trail: _Trail, foreign: dict[Slot, list[Scalar]]) -> None:
        """
        Ask for what nobody has, for what the first has, and again for what nobody has.

        What is asked in between may change what the other has; so a foreign
        value has to be answered like one of its two neighbours.
        """
        before = await self._ask_for_nobodys(trail, foreign)
        theirs = []
        for index in range(max(map(len, foreign.values()))):
            chosen = {slot: all_[min(index, len(all_) - 1)] for slot, all_ in foreign.items()}
            theirs.append(await self._send_filled(trail, chosen))
            trail.statuses.add(theirs[-1].answer.status)
        after = await self._ask_for_nobodys(trail, foreign)
        if before is not None and after is not None:
            self._compare(trail.step, theirs, (before, after))

    async def _ask_for_nobodys(
        self, trail: _Trail, foreign: dict[Slot, list[Scalar]]
    ) -> _Sent | None:
        absent = {slot: self._absent(slot, values[0]) for slot, values in foreign.items()}
        made = {slot: value for slot, value in absent.items() if value is not None}
        return await self._send_filled(trail, made) if len(made) == len(absent) else None

    def _absent(self, slot: Slot, value: Scalar) -> Scalar | None:
        return self._other.new_mark() if slot.name in MADE else absent_like(value)

    async def _send_filled(self, trail: _Trail, chosen: Mapping[Slot, Scalar]) -> _Sent:
        own = self._other.own(trail.step)
        values: dict[Slot, Scalar] = {}

        def choose(slot: Slot) -> Scalar:
            values[slot] = chosen[slot] if slot in chosen else own(slot)
            return values[slot]

        request = trail.step.fill(choose)
        return await self._send(self._other, trail.step, request, values)

    def _compare(
        self, step: WalkStep, theirs: list[_Sent], neighbours: tuple[_Sent, _Sent]
    ) -> None:
        before, after = (self._said(one) for one in neighbours)
        for sent in theirs:
            self._operations[step.operation].compared += 1
            differs = otherwise(self._said(sent), (before, after), self._volatile)
            if differs:
                detail = f"what nobody has is answered otherwise: {differs}"
                self._found("existence", step, sent.request, detail)
            elif sent.work not in {one.work for one in neighbours}:
                counts = sorted({one.work for one in neighbours})
                detail = f"the work is {sent.work}, and {counts} for what nobody has"
                self._found("work", step, sent.request, detail)

    @staticmethod
    def _said(sent: _Sent) -> Said:
        return Said(sent.answer, tuple(sent.values.values()))

    # 3. The other asks for what is its own.

    async def _control(self, trail: _Trail) -> None:
        for index in range(_EACH):
            try:
                request = trail.step.fill(self._other.own(trail.step, index))
            except NotHarvestedError as error:
                trail.control = str(error)
                return
            answer = (await self._send(self._other, trail.step, request)).answer
            known = answer.status in _FOUND_BUT_NOT_NOW and answer.status not in trail.statuses
            if answer.status < _REFUSED or (known and trail.statuses):
                trail.control = ""
                return
            trail.control = _good_for_nobody(answer)
            if not trail.step.slots():
                return

    def _read_control(self, trail: _Trail) -> str:
        for side in (self._other, self._first):
            own = side.answered.get(trail.step.spelled())
            if own is None or own.status >= _REFUSED:
                return _good_for_nobody(own)
        reads = [one for one in self._first.reads.values() if one.step is trail.step]
        if any(self._shows_something(read) for read in reads):
            return ""
        if trail.statuses and min(trail.statuses) >= _REFUSED:
            return ""
        return "nothing in the first tenant's own answer is its alone"

    def _shows_something(self, read: Read) -> bool:
        numbers = self._first.harvest.numbers_in(
            read.step.operation, read.answer, unlike=self._other.harvest
        )
        needles = without_sent([*self._needles, *numbers], read.request)
        return bool(numbers) or bool(find_leaks(read.answer, needles))

    # 4. The first still has what it had.

    async def _ensure_unchanged(self) -> None:
        for read in self._first.reads.values():
            now = (await self._send(self._first, read.step, read.request)).answer
            places = changes(read.answer, now) - read.volatile
            if changed := {one for one in places if _member(one) not in self._volatile}:
                detail = f"changed by the other tenant: {', '.join(sorted(changed))}"
                self._found("change", read.step, read.request, detail)

    # What every request goes through.

    async def _send(
        self,
        side: Side,
        step: WalkStep,
        request: AppRequest,
        values: Mapping[Slot, Scalar] = MappingProxyType({}),
    ) -> _Sent:
        operation = self._operations[step.operation]
        operation.requests += 1
        sending = await authorized(self._authorize, request, side.tenant)
        before = self._work()
        answer = await self._client.send(sending)
        sent = _Sent(answer, self._work() - before, values, request)
        self._check(side, step, sent)
        return sent

    def _check(self, side: Side, step: WalkStep, sent: _Sent) -> None:
        if sent.answer.status >= _FAILED or sent.answer.status == _TOO_MANY:
            failure = f"{sent.request} was answered {_brief(sent.answer)}"
            self._failures.setdefault(step.operation, failure)
        needles = self._needles if side is self._other else self._other.identity()
        for leak in find_leaks(sent.answer, without_sent(needles, sent.request)):
            self._found("leak", step, sent.request, f"{side.tenant.id} is shown: {leak}")
        if side is self._other:
            self._check_numbers(step, sent)
            self._note_written(step, sent)

    def _check_numbers(self, step: WalkStep, sent: _Sent) -> None:
        if not self._needles:  # the first has not been read yet
            return
        said = {*map(str, sent.values.values()), *sent.request.path.split("/")}
        shown = self._first.harvest.numbers_in(
            step.operation, sent.answer, unlike=self._other.harvest
        )
        for number in shown:
            if number.text not in said:
                self._found("leak", step, sent.request, f"body: {number.what} {number.text}")

    def _note_written(self, step: WalkStep, sent: _Sent) -> None:
        if not step.safe and sent.answer.status < _REFUSED:
            # From now on the other has these texts too.
            self._spent |= {str(value) for value in sent.values.values()}
            self._needles = without_sent(self._needles, sent.request)

    def _found(self, kind: Kind, step: WalkStep, request: AppRequest, detail: str) -> None:
        findings = self._operations[step.operation].findings
        finding = WalkFinding(
            kind=kind, operation=step.operation, request=str(request), detail=detail
        )
        if finding not in findings and len(findings) < _FINDINGS:
            findings.append(finding)

    def _excepted(self, trail: _Trail) -> bool:
        return any(fnmatchcase(trail.step.operation, one) for one in self._exceptions)

    def _gap(self, name: str) -> str:
        """
        Why an operation is not covered; empty if it is.
        """
        trails = self._trails[name]
        if not trails:
            return "no request can be made for it: give a step, or an exception"
        reasons = [
            one.control or f"nothing of the first tenant fits {', '.join(one.unfilled)}"
            for one in trails
            if one.control or one.unfilled
        ]
        return self._failures.get(name, "") if len(reasons) < len(trails) else reasons[0]


def _good_for_nobody(answer: AppAnswer | None) -> str:
    if answer is None:
        return "the tenant has nothing to ask for"
    return f"what is the tenant's own is answered {_brief(answer)}"


def _brief(answer: AppAnswer) -> str:
    error = f" {answer.error!r}" if answer.error else ""
    return f"{answer.status}{error} {answer.text[:200]}".rstrip()


def _creates(step: WalkStep) -> bool:
    return step.method == "POST" and "{" not in step.path


def _rank(step: WalkStep) -> int:
    """
    The order in which what a request does leaves most to the next.
    """
    order = ("POST", "PUT", "PATCH")
    if step.method == "POST" and "{" in step.path:
        return len(order)
    return order.index(step.method) if step.method in order else len(order) + 1


def _trails(name: str, steps: Sequence[WalkStep], made: list[WalkStep]) -> list[_Trail]:
    given = [step for step in steps if step.operation == name]
    bare = [] if given or made else _bare(name)
    unique = {step.spelled(): _Trail(step, given=False) for step in [*made, *bare]}
    unique |= {step.spelled(): _Trail(step, given=True) for step in given}
    return list(unique.values())


def _bare(name: str) -> list[WalkStep]:
    # A websocket or a mounted app is no operation that a request can be made for.
    return [WalkStep(name)] if name.partition(" ")[0] in _METHODS else []


def _ensure_fit(
    tenants: tuple[Tenant, Tenant],
    steps: Sequence[WalkStep],
    made: Mapping[str, object],
    exceptions: Mapping[str, str],
) -> None:
    first, other = (tenant.id.lower() for tenant in tenants)
    if first in other or other in first:
        message = f"the ids {first!r} and {other!r} cannot be told apart in an answer"
        raise ConfigurationError(message)
    if not made:
        message = "there is no operation to walk: give a document or routes"
        raise ConfigurationError(message)
    if unknown := sorted({step.operation for step in steps} - made.keys()):
        message = f"steps={unknown} are no operations of the app; it has {sorted(made)}"
        raise ConfigurationError(message)
    for pattern, reason in exceptions.items():
        if not reason or not any(fnmatchcase(name, pattern) for name in made):
            message = f"the exception {pattern!r} needs an operation that it names, and a reason"
            raise ConfigurationError(message)


def _member(place: str) -> str:
    """
    The name of the member at a place such as ``body.rules[].used``.
    """
    return place.rpartition(".")[2].removesuffix("[]")
