"""
The field types that bodies share.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

__all__ = ["Body", "Email", "Line", "Minor", "Name", "Quantity", "View"]

# Nothing that a log line, a terminal or PostgreSQL (NUL) would read as more than text.
_VISIBLE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True, pattern=_VISIBLE)
]
Email = Annotated[
    str,
    StringConstraints(
        min_length=3, max_length=254, to_lower=True, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$"
    ),
]
Minor = Annotated[int, Field(ge=0, le=10**12, description="Minor units of the currency.")]
Quantity = Annotated[int, Field(ge=1, le=10**9)]
Line = Annotated[int, Field(ge=1, le=100, description="The number of a line, from 1.")]


class Body(BaseModel):
    """
    What a client sends: no field that is not known, no value of another type.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class View(BaseModel):
    """
    What a client is shown of a record.
    """

    model_config = ConfigDict(from_attributes=True)
