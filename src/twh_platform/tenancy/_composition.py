"""
Several sources made one: the first that answers, or all in agreement.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from inspect import isawaitable

from .._asgi import Scope
from ..errors import (
    ConfigurationError,
    CredentialsError,
    TenantError,
    TenantMismatchError,
)
from ._claim import TenantClaim, TenantResolver

__all__ = ["Agreement", "FirstAnswer", "Membership"]

Membership = Callable[[str, str], bool | Awaitable[bool]]
"""
A function of user id and tenant id: does this user belong to this tenant?
"""


class FirstAnswer:
    """
    The first source that may decide and answers; the others are not compared.

    A source that speaks wrongly refuses the request: a forged token does not
    fall through to the next source.  Where only sources that may not decide
    have spoken, the first of them is returned and `TenantMiddleware` refuses.

    Args:
        resolvers: The sources, the most trusted first.
    """

    def __init__(self, *resolvers: TenantResolver) -> None:
        self._resolvers = _some(resolvers)

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        The first claim that decides, else the first claim, else None.
        """
        undecided: TenantClaim | None = None
        for resolver in self._resolvers:
            claim = await resolver.resolve(scope)
            if claim is not None and claim.decides:
                return claim
            undecided = undecided or claim
        return undecided


class Agreement:
    """
    Every source is asked, and all that speak must name the same tenant.

    At least one of them must be able to decide.  Where *member* is given, the
    user that this one has proved must belong to the tenant.

        >>> from twh_platform.tenancy import HeaderResolver, HostResolver
        >>> resolver = Agreement(
        ...     HostResolver("{tenant}.example.com", decides=True), HeaderResolver()
        ... )

    Args:
        resolvers: The sources; of those that decide, the first speaks for the
            user and the claims.

        member: Does this user belong to this tenant?  A plain or an async
            function of user id and tenant id; a plain one must not block.
    """

    def __init__(self, *resolvers: TenantResolver, member: Membership | None = None) -> None:
        self._resolvers = _some(resolvers)
        self._member = member

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        The claim that all sources agree on, or None if none of them speaks.

        Raises:
            twh_platform.errors.CredentialsError: With code
                ``tenant_undecided`` if no source that spoke may decide.

            twh_platform.errors.TenantMismatchError: With code
                ``tenant_sources_disagree`` or ``tenant_not_member``.

            twh_platform.errors.TenantError: What a source raised.  A complaint
                about credentials comes before any other, so a stranger always
                gets the same answer.
        """
        claims = await self._ask_all(scope)
        if not claims:
            return None
        agreed = _agreed(claims)
        if self._member is not None:
            await self._ensure_member(self._member, agreed)
        return agreed

    async def _ask_all(self, scope: Scope) -> list[TenantClaim]:
        claims: list[TenantClaim] = []
        errors: list[TenantError] = []
        for resolver in self._resolvers:
            try:
                claim = await resolver.resolve(scope)
            except TenantError as error:
                errors.append(error)
            else:
                if claim is not None:
                    claims.append(claim)
        if errors:
            # min() is stable: of the rest, the first in the order given.
            raise min(errors, key=lambda one: not isinstance(one, CredentialsError))
        return claims

    async def _ensure_member(self, member: Membership, claim: TenantClaim) -> None:
        if claim.user_id is not None:
            belongs = member(claim.user_id, claim.tenant_id)
            if isawaitable(belongs):
                belongs = await belongs
            if belongs is True:
                return
        message = f"user {claim.user_id!r} does not belong to tenant {claim.tenant_id!r}"
        raise TenantMismatchError(message, code="tenant_not_member")


def _some(resolvers: tuple[TenantResolver, ...]) -> tuple[TenantResolver, ...]:
    if not resolvers:
        message = "at least one resolver is needed"
        raise ConfigurationError(message)
    return resolvers


def _agreed(claims: list[TenantClaim]) -> TenantClaim:
    decider = next((claim for claim in claims if claim.decides), None)
    if decider is None:
        message = f"no source that may decide has spoken, only {claims[0].source}"
        raise CredentialsError(message, code="tenant_undecided")
    root_path = decider.root_path
    for claim in claims:
        if claim.tenant_id != decider.tenant_id:
            raise _disagreement(claims)
        root_path = root_path or claim.root_path
    return decider if decider.root_path == root_path else replace(decider, root_path=root_path)


def _disagreement(claims: list[TenantClaim]) -> TenantMismatchError:
    said = ", ".join(f"{claim.source} says {claim.tenant_id!r}" for claim in claims)
    return TenantMismatchError(f"sources disagree: {said}", code="tenant_sources_disagree")
