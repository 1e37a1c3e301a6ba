"""
What is true about a webhook whose signature holds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import WebhookError

__all__ = ["MISMATCH", "Verified", "mismatch", "new_error"]

MISMATCH: Final = "no signature is of these bytes and one of our keys"
new_error: Final = Exception.__new__


class Verified(NamedTuple):
    """
    What is true about a webhook whose signature holds.

    Attributes:
        id: The event's id, which stays the same over all attempts; "" if the
            sender signs none.

        timestamp: Unix seconds of this attempt; 0 if the sender signs none.

        age: Seconds by our clock, below zero if the sender's is ahead.

        key_id: Which key it was signed with.

        scheme: Which of the profile's schemes.

        profile: The profile's name.
    """

    id: str
    timestamp: int
    age: int
    key_id: str
    scheme: str
    profile: str


def mismatch() -> WebhookError:
    """
    The error of a webhook that none of our keys has signed.
    """
    # As calling the class, in half of the time: to refuse is not to cost more.
    error = new_error(WebhookError, MISMATCH)
    error.code = "signature_mismatch"
    return error
