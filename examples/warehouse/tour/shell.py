"""
Writes the tour as lines for a shell: curl, and variables for what answers bring.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping

from .step import Aside, Step

__all__ = ["shell_lines"]

_VARIABLE = re.compile(r"\{(\w+)\}")

_PICK = """pick() { python3 -c '
import json, sys
value = json.load(sys.stdin)
for part in sys.argv[1].split("."):
    value = value[int(part)] if part.isdigit() else value[part]
print(value)' "$1"; }"""


def shell_lines(
    url: str, tours: Iterable[tuple[Iterable[Step | Aside], Mapping[str, str]]]
) -> list[str]:
    """
    The steps that are to be shown, and those that they need, for bash with curl and python3.

    No aside is among them: what they keep, no request that is shown may read.

    Args:
        url: Where the warehouse is.

        tours: For each tour its steps, and what they may read before any of
            them, or of an earlier tour, has kept it.
    """
    lines, kept = [_PICK, f"URL={url}"], set[str]()
    for steps, variables in tours:
        chosen = _with_what_they_need([one for one in steps if isinstance(one, Step)])
        kept |= {step.keep[0] for step in chosen if step.keep}
        read = set().union(*map(_variables, chosen)) - kept
        lines += ["", *(f"{name.upper()}={shlex.quote(variables[name])}" for name in sorted(read))]
        for step in chosen:
            lines += ["", f"# {step.title} ({_promise(step)})", _command(step)]
    return lines


def _with_what_they_need(steps: list[Step]) -> list[Step]:
    needed: set[str] = set()
    chosen: list[Step] = []
    for step in reversed(steps):
        if step.shown or (step.keep and step.keep[0] in needed):
            chosen.append(step)
            needed |= _variables(step)
    return chosen[::-1]


def _variables(step: Step) -> set[str]:
    text = json.dumps([step.request, step.headers, step.body])
    return {*_VARIABLE.findall(text), *filter(None, [step.bearer])} - {"n"}


def _promise(step: Step) -> str:
    return str(step.status) if step.times == 1 else f"{step.status}, {step.times} times"


def _command(step: Step) -> str:
    command = _line(step)
    return command if step.times == 1 else f"for N in {{1..{step.times}}}; do {command}; done"


def _line(step: Step) -> str:
    parts = ["curl -s"]
    if step.method != ("GET" if step.body is None else "POST"):
        parts.append(f"-X {step.method}")
    if step.bearer:
        parts.append(f'-H "Authorization: Bearer ${step.bearer.upper()}"')
    parts += [f"-H {_quoted(f'{name}: {value}')}" for name, value in step.headers]
    if step.body is not None:
        parts.append("-H 'Content-Type: application/json'")
        body = step.body if isinstance(step.body, str) else json.dumps(step.body)
        parts.append(f"-d {_quoted(body)}")
    parts.append(f'"$URL"{_quoted(step.path)}')
    command = " ".join(parts)
    if step.keep is None:
        return f"{command}; echo"
    name, place = step.keep
    return f"{name.upper()}=$({command} | pick {place}); echo ${name.upper()}"


def _quoted(text: str) -> str:
    """
    Quote for the shell, with the variables left open.
    """
    pieces = _VARIABLE.split(text)
    # Every second piece is the name of a variable.
    return "".join(
        f'"${{{piece.upper()}}}"' if number % 2 else (f"'{piece}'" if piece else "")
        for number, piece in enumerate(pieces)
    )
