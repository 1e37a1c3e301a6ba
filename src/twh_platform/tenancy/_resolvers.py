"""
Sources that anyone can speak through: header, host name, path, your own.

None of them decides alone unless you say so: what a stranger can write proves
nothing.  Each takes one spelling.  What could be read in two ways is refused,
not cleaned up, because a proxy or the app may clean it up differently.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from functools import lru_cache
from inspect import isawaitable
from urllib.parse import unquote

from .._asgi import Scope, header_values, route_path
from ..errors import ConfigurationError, TenantUnresolvedError
from ._claim import TenantClaim
from ._tenant import valid_tenant_id

__all__ = ["FunctionResolver", "HeaderResolver", "HostResolver", "PathResolver"]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_HOST = re.compile(  # RFC 9110, section 7.2, without percent-encoded names
    rb"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?::[0-9]{0,5})?"
)
_HOST_TEMPLATE = re.compile(r"\{tenant\}((?:\.[a-z0-9-]+)+)")
_PATH_TEMPLATE = re.compile(r"((?:/[A-Za-z0-9._~-]+)*/)\{tenant\}")
_PUNYCODE = "xn--"
_MAX_HOST_BYTES = 260  # RFC 1035, section 2.3.4, a trailing dot and a port
_MEMORY = 1024


def _memo(source: str, *, decides: bool) -> Callable[[str], TenantClaim]:
    # A claim is immutable, and checking and building one costs more than
    # finding it.  Only ids that are valid are kept: at most 64 characters each.
    @lru_cache(maxsize=_MEMORY)
    def claim(tenant_id: str) -> TenantClaim:
        return TenantClaim(tenant_id=tenant_id, source=source, decides=decides)

    return claim


def _only(scope: Scope, name: bytes) -> bytes | None:
    values = header_values(scope, name)
    if len(values) > 1:
        message = f"{name.decode()} is repeated {len(values)} times"
        raise TenantUnresolvedError(message, code="tenant_header_repeated")
    return values[0] if values else None


class HeaderResolver:
    """
    The tenant that a request header names.

    A bare header is any stranger's word: it confirms, and does not decide.
    A repeated, empty or malformed header is refused, not ignored.

    Args:
        name: The header.

        decides: Set it only where every request passes through a gateway that
            proves the tenant and overwrites this header.

        source: The stable name of this source.
    """

    def __init__(
        self, name: str = "X-Tenant-ID", *, decides: bool = False, source: str = "header"
    ) -> None:
        if not _TOKEN.fullmatch(name):
            message = f"name={name!r} is not a header name"
            raise ConfigurationError(message)
        self._name = name.lower().encode("ascii")
        self._claim = _memo(source, decides=decides)

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        The claim of the header, or None if there is no such header.

        Raises:
            twh_platform.errors.TenantUnresolvedError: With code
                ``tenant_header_repeated`` or ``tenant_id_invalid``.
        """
        value = _only(scope, self._name)
        if value is None:
            return None
        # Latin-1 maps every byte to itself, so nothing becomes a valid id.
        return self._claim(value.decode("latin-1"))


class HostResolver:
    """
    The tenant that the host name begins with.

    Exactly one label is the tenant, read in lower case, so tenants that live
    on hosts need lower-case ids.  A port and one trailing dot are passed over.
    A host outside the template, or with more labels, says nothing; a repeated
    or malformed Host header and an encoded (``xn--``) label are refused.

    `X-Forwarded-Host` is never read.  Let the proxy pass `Host` on.

        >>> resolver = HostResolver("{tenant}.example.com", reserved={"www"})

    Args:
        template: ``{tenant}`` and the fixed rest of the name, in lower case.

        reserved: Labels that are not tenants: ``www``, ``api``.

        decides: Whether the host name alone may decide, as for a public shop.

        source: The stable name of this source.
    """

    def __init__(
        self,
        template: str,
        *,
        reserved: Collection[str] = (),
        decides: bool = False,
        source: str = "host",
    ) -> None:
        match = _HOST_TEMPLATE.fullmatch(template)
        if match is None:
            message = f"template={template!r} is not like '{{tenant}}.example.com'"
            raise ConfigurationError(message)
        self._zone = match[1]
        self._reserved = frozenset(label.lower() for label in reserved)
        self._decides = decides
        self._source = source
        self._read = lru_cache(maxsize=_MEMORY)(self._parse)

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        The claim of the host name, or None if it is not of our zone.

        Raises:
            twh_platform.errors.TenantUnresolvedError: With code
                ``tenant_header_repeated``, ``tenant_host_invalid`` or
                ``tenant_id_invalid``.
        """
        value = _only(scope, b"host")
        if value is None:
            return None
        if len(value) > _MAX_HOST_BYTES:
            message = f"a host of {len(value)} bytes"
            raise TenantUnresolvedError(message, code="tenant_host_invalid")
        return self._read(value)

    def _parse(self, value: bytes) -> TenantClaim | None:
        match = _HOST.fullmatch(value)
        if match is None:
            message = f"malformed host {value!r}"
            raise TenantUnresolvedError(message, code="tenant_host_invalid")
        name = match["name"].decode("ascii").lower().removesuffix(".")
        if not name.endswith(self._zone):
            return None
        label = name.removesuffix(self._zone)
        if "." in label or label in self._reserved:
            return None
        if label.startswith(_PUNYCODE):
            message = f"internationalised host label {label!r}"
            raise TenantUnresolvedError(message, code="tenant_host_invalid")
        return TenantClaim(tenant_id=label, source=self._source, decides=self._decides)


class PathResolver:
    """
    The tenant that the path begins with.

    The part up to the tenant is moved to `root_path`, the ASGI way, so the app
    inside routes on the rest, and the URLs it builds keep the tenant.

    The tenant must be written plainly: percent-encoding up to and including
    it, and ``.``, ``..`` or an empty segment behind it, are refused.  A path
    that does not begin with the template, ``//t/acme`` too, says nothing.

        >>> resolver = PathResolver("/t/{tenant}")

    Args:
        template: Fixed segments, then ``{tenant}``.

        rewrite: Whether to move the tenant to `root_path`.

        decides: Whether the path alone may decide.

        source: The stable name of this source.
    """

    def __init__(
        self,
        template: str,
        *,
        rewrite: bool = True,
        decides: bool = False,
        source: str = "path",
    ) -> None:
        match = _PATH_TEMPLATE.fullmatch(template)
        if match is None:
            message = f"template={template!r} is not like '/t/{{tenant}}'"
            raise ConfigurationError(message)
        self._prefix = match[1]
        self._rewrite = rewrite
        self._decides = decides
        self._source = source

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        The claim of the path, or None if it does not begin as the template.

        Raises:
            twh_platform.errors.TenantUnresolvedError: With code
                ``tenant_path_invalid`` or ``tenant_id_invalid``.
        """
        inside = route_path(scope)
        if not inside.startswith(self._prefix):
            return None
        tenant, *rest = inside.removeprefix(self._prefix).split("/")
        valid_tenant_id(tenant)
        mount = self._prefix + tenant
        if not (_plainly_written(scope, inside, mount) and _tidy(rest)):
            message = f"ambiguous path {scope['path'][:120]!r}"
            raise TenantUnresolvedError(message, code="tenant_path_invalid")
        root = scope.get("root_path", "") + mount if self._rewrite else None
        return TenantClaim(
            tenant_id=tenant, source=self._source, decides=self._decides, root_path=root
        )


def _tidy(segments: list[str]) -> bool:
    if segments and segments[0] == "" and len(segments) > 1:
        return False
    return not any(segment in {".", ".."} for segment in segments)


def _plainly_written(scope: Scope, inside: str, mount: str) -> bool:
    # The decoded path hides %2f and its like; the raw one, which servers may
    # leave out, shows them.
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return True
    root = scope["path"].removesuffix(inside)
    depth = root.count("/") + 1
    segments = raw.partition(b"?")[0].split(b"/")
    before, named = segments[:depth], segments[depth : depth + mount.count("/")]
    return (
        b"/" + b"/".join(named) == mount.encode("ascii")
        and unquote(b"/".join(before).decode("latin-1")) == root
    )


class FunctionResolver:
    """
    A source of your own, as a function from the scope to a tenant id or None.

        >>> resolver = FunctionResolver(
        ...     lambda scope: scope.get("client_certificate_tenant"),
        ...     source="certificate",
        ...     decides=True,
        ... )

    Args:
        call: A plain or an async function; a plain one must not block.

        source: The stable name of this source.

        decides: Whether its word suffices.
    """

    def __init__(
        self,
        call: Callable[[Scope], str | Awaitable[str | None] | None],
        *,
        source: str,
        decides: bool = False,
    ) -> None:
        self._call = call
        self._claim = _memo(source, decides=decides)

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        The claim that the function makes, or None.

        Raises:
            twh_platform.errors.TenantUnresolvedError: With code
                ``tenant_id_invalid``.
        """
        found = self._call(scope)
        if isawaitable(found):
            found = await found
        return None if found is None else self._claim(found)
