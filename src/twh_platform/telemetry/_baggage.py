"""
W3C Baggage: names and values that travel with a request.

    baggage: name=value;property;property=value, name=value

Whoever sends it chooses it, so nothing of it proves anything; above all it never
says which tenant a request is for.  Source: W3C Candidate Recommendation
"Propagation format for distributed context: Baggage", sections 3.3.1 and 3.3.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import quote, unquote

__all__ = ["Baggage", "parse_baggage"]

_LONGEST = 8192
_MOST_MEMBERS = 64

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
# Section 3.3.1: visible ASCII without quotation mark, comma, semicolon and backslash.
_VALUE = rb"[!#-+\--:<-\[\]-~]*+"
# No quantifier gives back what it has taken, so that nothing is read twice.
_MEMBER = re.compile(
    rb"(" + _TOKEN + rb")[ \t]*+=[ \t]*+(" + _VALUE + rb")[ \t]*+"
    rb"((?:;[ \t]*+" + _TOKEN + rb"[ \t]*+(?:=[ \t]*+" + _VALUE + rb"[ \t]*+)?+)*+)"
)
_NAME = re.compile(_TOKEN.decode())
# What the grammar allows in a value, without the percent sign that escapes the rest.
_KEPT = "!#$&'()*+-./:<=>?@[]^_`{|}~"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baggage:
    """
    Names and values that travel with a request.

        >>> Baggage(values={"flag": "new checkout"}).header
        'flag=new%20checkout'

    Args:
        values: Names to values, decoded; copied.  They are what a client may
            have chosen: anything.

        properties: What follows the semicolon of a member, by name and as it
            was sent; copied.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "properties", MappingProxyType(dict(self.properties)))

    @property
    def header(self) -> str:
        """
        The value of a `baggage` header, at most 64 members and 8192 bytes of it.

        Members that are too many, too long or have no name of the grammar's
        are left out, the others stay in their order.
        """
        members: list[str] = []
        left = _LONGEST
        for name, value in self.values.items():
            member = self._member(name, value)
            if member and len(members) < _MOST_MEMBERS and len(member) <= left:
                members.append(member)
                left -= len(member) + 1
        return ",".join(members)

    def without(self, names: Iterable[str]) -> Baggage:
        """
        The same without the members of these names, in whatever case.
        """
        dropped = {name.lower() for name in names}
        if not any(name.lower() in dropped for name in self.values):
            return self
        return Baggage(
            values={name: one for name, one in self.values.items() if name.lower() not in dropped},
            properties=self.properties,
        )

    def _member(self, name: str, value: str) -> str:
        if len(name) + len(value) > _LONGEST or not _NAME.fullmatch(name):
            return ""
        properties = self.properties.get(name, "")
        end = f";{properties}" if properties else ""
        member = f"{name}={quote(value, safe=_KEPT, errors='replace')}{end}"
        if end and (not member.isascii() or not _MEMBER.fullmatch(member.encode())):
            return ""
        return member


def parse_baggage(values: Iterable[bytes]) -> Baggage | None:
    """
    Read all `baggage` headers of a request as one; None unless they are good.

    More than 64 members or 8192 bytes, or one malformed member, and there is
    none.  Of a name given twice the last value holds.  Bytes that are no
    UTF-8 become U+FFFD.

        >>> parse_baggage([b"flag=new%20checkout;ttl=5, region=eu"]).values["flag"]
        'new checkout'
    """
    joined = b",".join(values)
    if len(joined) > _LONGEST:
        return None
    found: dict[str, str] = {}
    properties: dict[str, str] = {}
    count = 0
    for part in joined.split(b","):
        member = part.strip(b" \t")
        if not member:
            continue
        count += 1
        parts = _MEMBER.fullmatch(member)
        if parts is None or count > _MOST_MEMBERS:
            return None
        name = parts[1].decode()
        found[name] = unquote(parts[2].decode(), errors="replace")
        properties.pop(name, None)
        if parts[3]:
            properties[name] = parts[3][1:].strip(b" \t").decode()
    return Baggage(values=found, properties=properties) if found else None
