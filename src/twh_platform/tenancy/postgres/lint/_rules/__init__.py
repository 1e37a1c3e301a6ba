"""
The rules, one module per subject.
"""

from .._findings import Rule
from . import _functions, _grants, _indexes, _keys, _policies, _roles, _seal, _server, _tables

__all__ = ["RULES"]

_MODULES = (_roles, _tables, _policies, _functions, _grants, _keys, _indexes, _server, _seal)

RULES: tuple[Rule, ...] = tuple(
    sorted((rule for module in _MODULES for rule in module.RULES), key=lambda rule: rule.id)
)
"""All rules, by their ids."""
