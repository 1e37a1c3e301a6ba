"""
The platform's own secrets: for the administrator, who is shown no value.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from twh_platform.kms import platform_owner
from twh_platform.kms.secrets import SecretVersion

from ..problems import Refusal
from ..shapes import Body, View
from ..vault import Vault
from ..web import Call, operation

__all__ = ["list_secrets", "revoke_secret", "rotate_platform_secret"]


class SecretVersionView(View):
    """
    A version of a secret: when it came, and until when it is accepted.
    """

    version: int
    stage: str | None
    created_at: datetime
    expires_at: datetime | None
    retires_at: datetime | None = Field(description="When its overlap ends.")
    revoked_at: datetime | None


class SecretView(View):
    """
    What is known of a secret, without its value.
    """

    name: str
    rotates: bool = Field(description="Whether it is given a new value in time.")
    versions: list[SecretVersionView]


class Secrets(View):
    """
    All secrets of the platform.
    """

    data: list[SecretView]


class Revocation(Body):
    """
    The version to refuse from now on.
    """

    version: Annotated[int, Field(ge=1, le=10**9)]


@operation("GET", "/admin/secrets", access="administrator")
async def list_secrets(call: Call) -> Secrets:
    """
    List the platform's own secrets, without values.
    """
    vault = call.services.vault
    with platform_owner():
        names = await vault.store.names()
        return Secrets(data=[await _view(vault, name) for name in names])


@operation(
    "POST",
    "/admin/secrets/{name}/rotate",
    access="administrator",
    business="secret.rotate",
    problems=("secret_changed", "secret_not_rotated"),
)
async def rotate_platform_secret(call: Call) -> SecretView:
    """
    Give a secret its next value now.

    The one before is accepted until its overlap ends, or it is revoked.
    """
    vault, name = call.services.vault, call.request.path_params["name"]
    with platform_owner():
        await _ensure_rotates(vault, name)
        await vault.rotate(name)
        return await _view(vault, name)


@operation(
    "POST",
    "/admin/secrets/{name}/revoke",
    access="administrator",
    business="secret.revoke",
    problems=("secret_changed", "secret_in_use", "secret_not_rotated"),
)
async def revoke_secret(call: Call, body: Revocation) -> SecretView:
    """
    Refuse a version of a secret from now on, and erase its value.

    The current one is rotated first: without one, nobody could log in.
    """
    vault, name = call.services.vault, call.request.path_params["name"]
    with platform_owner():
        await _ensure_rotates(vault, name)
        known = [one for one in await vault.store.versions(name) if one.version == body.version]
        if not known:
            raise Refusal("not_found")
        if known[0].stage == "current":
            raise Refusal("secret_in_use")
        await vault.store.revoke(name, body.version)
        return await _view(vault, name)


async def _ensure_rotates(vault: Vault, name: str) -> None:
    # By the list: what is in the path need not be a name at all.
    if name not in await vault.store.names():
        raise Refusal("not_found")
    if await vault.store.policy(name) is None:
        raise Refusal("secret_not_rotated")


async def _view(vault: Vault, name: str) -> SecretView:
    versions: list[SecretVersion] = await vault.store.versions(name)
    return SecretView(
        name=name,
        rotates=await vault.store.policy(name) is not None,
        versions=[SecretVersionView.model_validate(one) for one in versions],
    )
