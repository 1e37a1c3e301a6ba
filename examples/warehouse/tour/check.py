"""
Drives the tour over HTTP and compares every answer.

What a step has to tell is indented below its line.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx
import psycopg

from twh_platform.errors import PlatformError

from . import Tour
from .step import ABSENT, ANY, Aside, Contains, Holds, Lacks, Matches, Members, Step

__all__ = ["Fault", "drive", "mismatch"]

_MARGIN = " " * 20
_VARIABLE = re.compile(r"\{(\w+)\}")


class Fault(Exception):  # noqa: N818 -- ours is a report, not an error
    """
    An answer that is not the right one.
    """


async def drive(
    url: str,
    planned: Iterable[Tour],
    say: Callable[[str], None] = print,
    transport: httpx.AsyncBaseTransport | None = None,
) -> bool:
    """
    Take every step of every tour, and say how each went.

    Args:
        url: Where the warehouse is.

        planned: The tours.

        say: Takes one line per step, and those that it tells.

        transport: Instead of the network, for an app in the same process.

    Returns:
        Whether every answer was right.
    """
    done = failed = 0
    async with httpx.AsyncClient(base_url=url, timeout=30, transport=transport) as client:
        for tour in planned:
            variables = dict(tour.variables)
            for step in tour.steps:
                done += 1
                try:
                    told = await _go(client, step, variables)
                except (Fault, httpx.HTTPError) as fault:
                    failed += 1
                    say(f"FAILED  {tour.name:8}  {step.title}: {fault!s:.600}")
                else:
                    say(f"ok      {tour.name:8}  {step.title}")
                    for line in told:
                        say(f"{_MARGIN}{line}")
    say(f"{done} steps, {failed} failed")
    return not failed and done > 0


async def _go(
    client: httpx.AsyncClient, step: Step | Aside, variables: dict[str, str]
) -> list[str]:
    """
    Take the step, as often as it says, and return what it tells.
    """
    body: Any = None
    if isinstance(step, Aside):
        body = await _aside(step, variables)
    else:
        for number in range(1, step.times + 1):
            variables["n"] = str(number)
            answer = await _take(client, step, variables)
            body = _body(answer)
            variables.update(_named(step, answer))
    if step.keep:
        name, place = step.keep
        found = _dig(body, place)
        variables[name] = json.dumps(found) if isinstance(found, dict) else str(found)
    return list(step.tells(body))


async def _aside(step: Aside, variables: Mapping[str, str]) -> Any:
    try:
        found = await asyncio.to_thread(step.does, variables)
    except (KeyError, PlatformError, psycopg.Error) as error:
        raise Fault(f"{type(error).__name__}: {error}") from error
    wrong = mismatch(found, _fill(step.expect, variables))
    if wrong:
        raise Fault(wrong)
    return found


async def _take(client: httpx.AsyncClient, step: Step, variables: dict[str, str]) -> httpx.Response:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + step.within
    while True:
        answer = await _send(client, step, variables)
        try:
            _compare(step, answer, variables)
            break
        except Fault:
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(0.05)
    if step.twin:
        nothing = {**variables, step.twin: variables["nothing"]}
        other = await _send(client, step, nothing)
        if _indistinct(answer, variables[step.twin]) != _indistinct(other, variables["nothing"]):
            raise Fault(
                f"answers differently for an id of nothing: {other.status_code} {other.text}"
            )
    return answer


async def _send(
    client: httpx.AsyncClient, step: Step, variables: Mapping[str, str]
) -> httpx.Response:
    headers = [(name, _fill(value, variables)) for name, value in step.headers]
    if step.bearer:
        headers.append(("Authorization", f"Bearer {_fill('{' + step.bearer + '}', variables)}"))
    content = None
    if step.body is not None:
        headers.append(("Content-Type", "application/json"))
        body = _fill(step.body, variables)
        content = body if isinstance(body, str) else json.dumps(body)
    path = _fill(step.path, variables)
    return await client.request(step.method, path, headers=headers, content=content)


def _compare(step: Step, answer: httpx.Response, variables: Mapping[str, str]) -> None:
    if answer.status_code != step.status:
        raise Fault(f"{answer.status_code} instead of {step.status}: {answer.text}")
    usual = "application/problem+json" if answer.is_error else "application/json"
    if _kind(answer) != (step.kind or usual):
        raise Fault(f"content-type is {answer.headers.get('content-type')!r}")
    wrong = mismatch(_body(answer), _fill(step.expect, variables))
    if wrong:
        raise Fault(f"{wrong} in {answer.text}")
    for name, value in step.expect_headers.items():
        wrong = mismatch(answer.headers.get(name), _fill(value, variables), name)
        if wrong:
            raise Fault(wrong)


def _named(step: Step, answer: httpx.Response) -> dict[str, str]:
    """
    What the named groups of its headers have matched.
    """
    return {
        name: text
        for header, value in step.expect_headers.items()
        if isinstance(value, Matches)
        and (match := re.fullmatch(value.pattern, answer.headers.get(header, "")))
        for name, text in match.groupdict().items()
    }


def _kind(answer: httpx.Response) -> str:
    kind: str = answer.headers.get("content-type", "")
    return kind.partition(";")[0]


def _body(answer: httpx.Response) -> Any:
    if _kind(answer) == "text/csv":
        return list(csv.DictReader(answer.text.splitlines()))
    if _kind(answer) == "application/openmetrics-text":
        return answer.text.splitlines()
    try:
        if _kind(answer) == "application/x-ndjson":
            return [json.loads(line) for line in answer.text.splitlines()]
        return answer.json()
    except ValueError:
        raise Fault(f"no JSON: {answer.text}") from None


def mismatch(found: Any, expected: Any, place: str = "body") -> str:
    """
    Say where *found* is not what was expected; an empty string if it is.
    """
    if expected is ANY:
        return f"{place} is null" if found is None else ""
    if isinstance(expected, Contains | Lacks | Members):
        return _mismatch_in_all(found, expected, place)
    if isinstance(expected, dict) and isinstance(found, dict):
        members = (
            _mismatch_of_member(found, key, value, f"{place}.{key}")
            for key, value in expected.items()
        )
        return next(filter(None, members), "")
    if isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            return f"{place} has {len(found)} elements instead of {len(expected)}"
        pairs = enumerate(zip(found, expected, strict=True))
        return next(filter(None, (mismatch(a, b, f"{place}.{n}") for n, (a, b) in pairs)), "")
    if isinstance(expected, Holds):
        same = isinstance(found, str) and all(part in found for part in expected.parts)
    elif isinstance(expected, Matches):
        same = isinstance(found, str) and bool(re.fullmatch(expected.pattern, found))
    else:
        same = type(found) is type(expected) and found == expected
    return "" if same else f"{place} is {found!r} instead of {expected!r}"


def _mismatch_of_member(found: Mapping[str, Any], key: str, expected: Any, place: str) -> str:
    if expected is ABSENT:
        return f"{place} is there" if key in found else ""
    return mismatch(found[key], expected, place) if key in found else f"{place} is missing"


def _mismatch_in_all(found: Any, expected: Contains | Lacks | Members, place: str) -> str:
    if isinstance(expected, Members):
        others = sorted(_names(found) - expected.names)
        return f"{place} has the members {others}" if others else ""
    if not isinstance(found, list):
        return f"{place} is no list"
    present = any(not mismatch(one, expected.element) for one in found)
    if present is isinstance(expected, Contains):
        return ""
    return f"{place} {'has' if present else 'lacks'} {expected.element!r}"


def _variable(variables: Mapping[str, str], name: str) -> str:
    try:
        return variables[name]
    except KeyError:
        raise Fault(f"there is no {name}: the step that keeps it has failed") from None


def _names(found: Any) -> set[str]:
    if isinstance(found, dict):
        return set(found).union(*map(_names, found.values()))
    return set[str]().union(*map(_names, found)) if isinstance(found, list) else set()


def _fill(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(variables, match[1]), value)
    if isinstance(value, dict):
        return {key: _fill(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [_fill(one, variables) for one in value]
    if isinstance(value, Holds):
        return Holds(tuple(_fill(part, variables) for part in value.parts))
    if isinstance(value, Contains | Lacks):
        return type(value)(_fill(value.element, variables))
    return value


def _indistinct(answer: httpx.Response, identity: str) -> tuple[int, str, list[str]]:
    """
    An answer without what differs between any two.
    """
    text = answer.text.replace(identity, "-")
    if request_id := answer.headers.get("x-request-id"):
        text = text.replace(request_id, "-")
    return answer.status_code, text, sorted(set(answer.headers))


def _dig(body: Any, place: str) -> Any:
    for part in place.split("."):
        body = body[int(part)] if isinstance(body, list) else body[part]
    return body
