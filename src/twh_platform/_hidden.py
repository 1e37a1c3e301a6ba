"""
Bytes that are not shown, for keys and secrets on their way through our code.
"""

from __future__ import annotations

from typing import NoReturn, Self, SupportsIndex, final

from .errors import SecretError

__all__ = ["HiddenBytes", "not_pickled"]


@final
class HiddenBytes(bytes):
    """
    Bytes that are not shown: by no `repr`, `str`, format or pickle.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "HiddenBytes(hidden)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_pickled()


def not_pickled() -> SecretError:
    """
    The error of whoever tries to pickle a secret.
    """
    return SecretError("a secret is not pickled: it would be readable", code="secret_pickled")
