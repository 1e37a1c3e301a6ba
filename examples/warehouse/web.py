"""
What handlers share: a declaration that says everything, and what follows from it.

A handler is declared once::

    @operation("PATCH", "/items/{id:uuid}", access=Role.MANAGER)
    async def change_item(call: Call, body: ItemChange) -> ItemView:
        ...

Its signature says what is read and what is answered.  The role, the limits of
the body, the transaction, the precondition, the idempotency key and the entry
in the OpenAPI document all follow from it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.base import ExecutableOption
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twh_platform.quotas import QUOTA_PROBLEM_TYPES, announce_capacity_notices
from twh_platform.quotas.postgres import CapacityTaken
from twh_platform.telemetry import BoundCounter
from twh_platform.tenancy import finish_within

from . import ledger
from .auth import Caller, Role
from .idempotency import Rendered, answer_once, key_of
from .models import Record, StockMovement, Versioned
from .problems import Refusal
from .services import Services

__all__ = ["Call", "Operation", "operation", "routes"]

_logger = logging.getLogger("warehouse.operations")

R = TypeVar("R", bound=Record)
T = TypeVar("T")

Handler = Callable[..., Awaitable[BaseModel]]
Access = Literal["public", "administrator"] | Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """
    One request, as a handler sees it.

    Attributes:
        request: The request itself.

        services: What handlers stand on.

        db: A session in a transaction that commits when the handler returns.
            It is the tenant's, or the administrator's.

        caller: The user.

        administrator: The address of the administrator.
    """

    request: Request
    services: Services
    _db: AsyncSession | None = None
    _counted: list[tuple[BoundCounter, int]] = field(default_factory=list)
    _taken: list[CapacityTaken] = field(default_factory=list)
    _caller: Caller | None = None
    _administrator: str | None = None

    @property
    def db(self) -> AsyncSession:
        """
        The session; public routes have none.
        """
        assert self._db is not None  # noqa: S101 -- a mistake of ours
        return self._db

    @property
    def caller(self) -> Caller:
        """
        The user; public routes and the administrator's have none.
        """
        assert self._caller is not None  # noqa: S101 -- a mistake of ours
        return self._caller

    @property
    def administrator(self) -> str:
        """
        Who looks after the tenants; on other routes there is nobody.
        """
        assert self._administrator is not None  # noqa: S101 -- a mistake of ours
        return self._administrator

    async def in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """
        The result of work on the database, if it comes in `database_seconds`.
        """
        return await finish_within(self.services.settings.database_seconds, work)

    async def take(self, rule: str) -> None:
        """
        Take one unit of a capacity of the tenant, in this transaction.

        Before what it is for is written: then nothing is written in vain, and
        whatever undoes that undoes this.

        Raises:
            QuotaExceededError: If there is none left.
        """
        self._taken.append(await self.services.quotas.capacity.take(self.db, rule))

    async def give_back(self, rule: str) -> None:
        """
        Give one unit back, in this transaction.
        """
        self._taken.append(await self.services.quotas.capacity.give_back(self.db, rule))

    def count(self, counter: BoundCounter, amount: int = 1) -> None:
        """
        Count what is done, once it has been committed.
        """
        self._counted.append((counter, amount))

    async def move(self, movements: Sequence[ledger.Movement]) -> list[StockMovement]:
        """
        Change the stock in this transaction, as `ledger.record`, and count it.
        """
        for one in movements:
            self.count(self.services.telemetry.movements.labels(one.kind))
        return await ledger.record(self.db, self.caller.id, movements)

    @asynccontextmanager
    async def transaction(self, *, sealed: bool) -> AsyncIterator[Call]:
        """
        This call in a transaction, inside an `async with`.

        Args:
            sealed: Whether it seals or opens what is the tenant's.
        """
        services = self.services
        sessions = services.administrator if self._caller is None else services.app
        if sealed:
            await services.keys.warm()
        with services.keys.sealing():
            async with sessions.begin() as db:
                yield replace(self, _db=db)

    async def find(self, kind: type[R], *options: ExecutableOption, lock: bool = False) -> R:
        """
        The record that the path names.

        Args:
            kind: Its class.

            options: What is loaded with it, other than usually.

            lock: Keep others from changing it until the transaction ends.

        Raises:
            Refusal: If the tenant has none with this id.
        """
        query = select(kind).where(kind.id == self.request.path_params["id"]).options(*options)
        # "For no key update": foreign keys to the row may still be checked.
        found = await self.db.scalar(query.with_for_update(key_share=True) if lock else query)
        if found is None:
            raise Refusal("not_found")
        return found

    async def change(self, record: Versioned, body: BaseModel) -> None:
        """
        Set the fields that *body* gives, if `If-Match` names the record's version.

        Check first whether the record may be changed at all: a request that
        fails without its precondition fails for that (RFC 9110, section 13.2.1).

        Raises:
            Refusal: If it has changed since.
        """
        self._ensure_match(record.version)
        for name, value in body.model_dump(exclude_none=True).items():
            setattr(record, name, value)
        await self.db.flush()

    def _ensure_match(self, version: int) -> None:
        # RFC 9110, section 13.1.1
        given = self.request.headers.get("if-match", "")
        if etag(version) not in (one.strip() for one in given.split(",")) and given != "*":
            raise Refusal("precondition_failed", headers={"etag": etag(version)})


def etag(version: int) -> str:
    """
    The entity tag of a version.
    """
    return f'"{version}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    A method on a path: what it takes, answers and refuses.

    Attributes:
        path: `{id:uuid}` stands for the id of a record, and `{id}` for a
            tenant's.  An id that is no UUID is no path of ours, and refused
            like any other.

        access: The lowest role that may; or nobody in particular; or the
            administrator.

        idempotent: Whether an `Idempotency-Key` is honoured.

        sealed: Whether it seals or opens what is the tenant's.

        waits: Whether it waits for others than the database: then it says itself
            what is in a transaction, and what is the database's time.

        business: What the business calls it; it is timed, and logged, under this name.

        problems: Codes that are particular to it, for the OpenAPI document.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    status: int = 200
    idempotent: bool = False
    sealed: bool = False
    waits: bool = False
    business: str = ""
    problems: tuple[str, ...] = ()
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    answer: type[BaseModel] = field(default=BaseModel)

    @property
    def for_user(self) -> bool:
        """
        Whether a tenant's user asks.
        """
        return isinstance(self.access, Role)

    @property
    def conditional(self) -> bool:
        """
        Whether an `If-Match` header is required: a tenant's record is changed.
        """
        return self.method == "PATCH" and self.for_user

    @property
    def creates(self) -> bool:
        """
        Whether it adds a record that can then be read below this path.
        """
        return self.method == "POST" and self.for_user and self.path.count("/") == 1

    def all_problems(self) -> set[str]:
        """
        Every code that this operation may refuse with.
        """
        codes = {"internal_error", *self.problems}
        if self.access != "public":
            codes |= {"credentials_invalid", "backend_unavailable"}
        if self.for_user:
            codes |= {"tenant_refused", "role_insufficient", *QUOTA_PROBLEM_TYPES}
        if "{" in self.path:
            codes.add("not_found")
        if self.body is not None:
            codes |= {
                "body_malformed",
                "body_too_large",
                "content_type_unsupported",
                "validation_failed",
            }
        if self.query is not None:
            codes |= {"cursor_invalid", "validation_failed"}
        if self.idempotent:
            codes |= {"idempotency_conflict", "idempotency_key_invalid"}
        if self.sealed:
            codes |= {"tenant_shredded", "sealed_unreadable"}
        if self.conditional:
            codes |= {"precondition_failed", "precondition_required"}
        return codes

    async def __call__(self, request: Request) -> Response:
        """
        Serve one request.
        """
        services: Services = request.app.state.services
        if not self.business:
            return await self._serve(request, services)
        with services.telemetry.operation(self.business):
            response = await self._serve(request, services)
        _logger.info("%s", self.business)
        return response

    async def _serve(self, request: Request, services: Services) -> Response:
        caller: Caller | None = None
        administrator: str | None = None
        if self.access == "administrator":
            administrator = await services.tokens.administrator_of(request.scope)
        elif isinstance(self.access, Role):
            caller = Caller.of(request)
            caller.ensure(self.access)
        call = Call(
            request=request, services=services, _caller=caller, _administrator=administrator
        )
        given = await self._given(call)
        rendered = await self._answer_in_time(call, given)
        for counter, amount in call._counted:  # noqa: SLF001 -- shared with the copy
            counter.inc(amount)
        return Response(
            rendered.body, rendered.status, {"cache-control": "no-store", **rendered.headers}
        )

    async def _given(self, call: Call) -> dict[str, BaseModel]:
        if self.conditional and "if-match" not in call.request.headers:
            raise Refusal("precondition_required")
        if self.body is not None:
            return {"body": await _read_body(call, self.body)}
        if self.query is not None:
            return {"query": _read_query(call.request, self.query)}
        return {}

    async def _answer_in_time(self, call: Call, given: dict[str, BaseModel]) -> Rendered:
        if self.waits or self.access == "public":
            return await self._run(call, given)
        return await call.in_time(self._answer(call, given))

    async def _answer(self, call: Call, given: dict[str, BaseModel]) -> Rendered:
        async with call.transaction(sealed=self.sealed) as within:
            rendered = await self._answer_in(within, given)
        for taken in call._taken:  # noqa: SLF001 -- shared with the copy
            announce_capacity_notices(taken)
        return rendered

    async def _answer_in(self, call: Call, given: dict[str, BaseModel]) -> Rendered:
        run = partial(self._run, call, given)
        key = key_of(call.request) if self.idempotent else None
        if key is None:
            return await run()
        body = given["body"].model_dump_json() if given else ""
        asked = f"{self.method} {call.request.url.path}\n{body}"
        return await answer_once(call.db, call.caller.id, key, asked, run)

    async def _run(self, call: Call, given: dict[str, BaseModel]) -> Rendered:
        answer = await self.handler(call, **given)
        headers = {"content-type": "application/json"}
        version, identity = getattr(answer, "version", None), getattr(answer, "id", None)
        if version is not None and self.for_user:
            headers["etag"] = etag(version)
        if self.creates and identity is not None:
            headers["location"] = f"{self.path}/{identity}"
        return Rendered(status=self.status, headers=headers, body=answer.model_dump_json().encode())


def operation(
    method: str,
    path: str,
    *,
    access: Access,
    status: int = 200,
    idempotent: bool = False,
    sealed: bool = False,
    waits: bool = False,
    business: str = "",
    problems: tuple[str, ...] = (),
) -> Callable[[Handler], Operation]:
    """
    Declare a handler; its parameters `body` or `query` and its return type are models.
    """

    def declare(handler: Handler) -> Operation:
        hints = get_type_hints(handler)
        return Operation(
            method=method,
            path=path,
            handler=handler,
            access=access,
            status=status,
            idempotent=idempotent,
            sealed=sealed,
            waits=waits,
            business=business,
            problems=problems,
            body=hints.get("body"),
            query=hints.get("query"),
            answer=hints["return"],
        )

    return declare


def routes(operations: Iterable[Operation]) -> list[Route]:
    """
    One route per path, so that a wrong method is told all the right ones.
    """
    paths: dict[str, dict[str, Operation]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method] = one
    return [_route(path, methods) for path, methods in paths.items()]


def _route(path: str, methods: dict[str, Operation]) -> Route:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await methods[method](request)

    return Route(path, endpoint, methods=list(methods))


async def _read_body(call: Call, model: type[BaseModel]) -> BaseModel:
    content_type = call.request.headers.get("content-type", "").partition(";")[0].strip()
    if content_type.lower() != "application/json":
        raise Refusal("content_type_unsupported")
    limit, read = call.services.settings.max_body_bytes, bytearray()
    async for chunk in call.request.stream():
        read += chunk
        if len(read) > limit:
            raise Refusal("body_too_large", headers={"connection": "close"})
    try:
        return model.model_validate_json(bytes(read))
    except ValidationError as error:
        raise _rejected(error) from None


def _read_query(request: Request, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(dict(request.query_params), strict=False)
    except ValidationError as error:
        raise _rejected(error) from None


def _rejected(error: ValidationError) -> Refusal:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if any(fault["type"] == "json_invalid" for fault in faults):
        return Refusal("body_malformed")
    fields = [
        {"field": ".".join(map(str, fault["loc"])), "message": fault["msg"]} for fault in faults
    ]
    return Refusal("validation_failed", fields=fields)
