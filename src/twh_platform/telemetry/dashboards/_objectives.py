"""
What the service promises, and which targets of Prometheus it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import ConfigurationError
from .._names import REQUEST_DURATION

__all__ = ["FASTEST_BURN", "Objectives"]

FASTEST_BURN = 14.4
"""
How many times as fast as allowed the budget goes where the first page is sent.
"""

_LEAST = 1 - 1 / FASTEST_BURN
_job = re.compile(r"[A-Za-z0-9_./-]{1,100}").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """
    What alerts are measured by.

        >>> Objectives(jobs=("shop",), availability=0.9995).jobs
        ('shop',)

    Args:
        jobs: The names of its scrape jobs in Prometheus.

        availability: Which share of requests does not end in an error of the service.

        latency: Which share of the requests without an error is fast enough.

        latency_seconds: What is fast enough: an upper bound of the histogram of durations.

        least_requests:
            Below this many requests in an hour no burn rate alerts; one alert
            without burn rates stays for those.

        runbooks: Where the runbooks are, for the links of alerts.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``objectives_invalid``.
    """

    jobs: tuple[str, ...] = ("twh-platform",)
    availability: float = 0.999
    latency: float = 0.99
    latency_seconds: float = 0.5
    least_requests: int = 100
    runbooks: str = "docs/runbooks"

    def __post_init__(self) -> None:
        for name in ("availability", "latency"):
            share = getattr(self, name)
            if not _LEAST < share < 1:
                raise _invalid(f"{name}={share!r} is not above {_LEAST:.3f} and below 1")
        if self.latency_seconds not in REQUEST_DURATION.buckets:
            bounds = ", ".join(f"{bound:g}" for bound in REQUEST_DURATION.buckets)
            raise _invalid(f"latency_seconds={self.latency_seconds!r} is none of {bounds}")
        if not self.jobs or not all(_job(one) for one in self.jobs):
            raise _invalid(f"jobs={self.jobs!r} are no names of jobs")
        if self.least_requests < 1:
            raise _invalid(f"least_requests={self.least_requests!r} is not positive")
        if not self.runbooks.isprintable() or set('"\\{') & set(self.runbooks):
            raise _invalid(f"runbooks={self.runbooks!r} is no address")

    @property
    def job_matcher(self) -> str:
        """
        What picks its targets, to stand between braces.
        """
        names = "|".join(one.replace(".", r"\\.") for one in self.jobs)
        return f'job=~"{names}"'

    @property
    def budgets(self) -> dict[str, float]:
        """
        Which share may fail, by objective, to ten digits.
        """
        shares = {"availability": self.availability, "latency": self.latency}
        return {name: round(1 - share, 10) for name, share in shares.items()}


def _invalid(message: str) -> ConfigurationError:
    return ConfigurationError(message, code="objectives_invalid")
