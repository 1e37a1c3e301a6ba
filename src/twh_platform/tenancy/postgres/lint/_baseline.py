"""
A baseline: findings that are known, so that only new ones count.

The file is JSON::

    {"version": 1,
     "findings": [{"fingerprint": "...", "rule": "TWH201", "object": "table public.notes"}]}

Only the fingerprints are compared; the rest is for whoever reads a diff.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ....errors import ConfigurationError
from ._findings import Finding

__all__ = ["read_baseline", "write_baseline"]

_VERSION = 1
_LARGEST_BYTES = 64 * 2**20


def write_baseline(path: Path, findings: Iterable[Finding]) -> None:
    """
    Write the fingerprints of findings, sorted, so that a diff shows what changed.

    Raises:
        twh_platform.errors.ConfigurationError: If the file cannot be written.
    """
    entries = sorted(
        (
            {
                "fingerprint": one.fingerprint,
                "rule": one.rule.id,
                "object": f"{one.kind} {one.object}",
            }
            for one in findings
        ),
        key=lambda entry: (entry["rule"], entry["object"], entry["fingerprint"]),
    )
    text = json.dumps({"version": _VERSION, "findings": entries}, indent=2)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {str(path)!r}: {error.strerror}", code="lint_output_invalid"
        ) from error


def read_baseline(path: Path) -> frozenset[str]:
    """
    Read the fingerprints of a baseline.

    Raises:
        twh_platform.errors.ConfigurationError: If there is no such file, or it is not one.
    """
    try:
        fingerprints = _fingerprints(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{str(path)!r} is not a baseline: {error}", code="lint_baseline_invalid"
        ) from error
    return frozenset(fingerprints)


def _fingerprints(path: Path) -> list[str]:
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError("it is too large")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["version"] != _VERSION:
        raise ValueError(f"version {content['version']!r} is not known")
    fingerprints = [entry["fingerprint"] for entry in content["findings"]]
    if not all(isinstance(one, str) for one in fingerprints):
        raise TypeError("a fingerprint is not text")
    return fingerprints
