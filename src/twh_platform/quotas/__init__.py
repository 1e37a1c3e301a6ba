"""
How much a tenant may use: rules, plans, and the limiter that asks them all at once.
"""

from ._announcements import (
    CapacityDrift,
    QuotaDecided,
    QuotaExceeded,
    QuotaNotice,
    QuotaOverrideChanged,
    QuotaOverridesStale,
    QuotaRefused,
    QuotaStoreDegraded,
    QuotaStoreRestored,
    UsageLedgerDegraded,
    UsageLedgerRestored,
)
from ._api import QuotaApp
from ._client_address import ClientAddress
from ._decision import Decision, Part, Receipt, RuleStatus
from ._exchange import Charge, Outcome, QuotaStore, Settled, Settlement, Take
from ._fallback import FallbackQuotaStore, FallbackStats
from ._headers import HeaderEmitter, RateLimitHeaders, RetryAfter
from ._leasing import LeasingQuotaStore, LeasingStats
from ._limiter import Limiter, Meter, PlanSource
from ._limits import Limit, Override
from ._middleware import QuotaMiddleware, charge_actual, quota_receipt
from ._notices import NoticeLedger, announce_capacity_notices, capacity_notices, thresholds_crossed
from ._overridden_plans import OverriddenPlans
from ._overrides import MemoryOverrideStore, OverrideChange, OverrideStore
from ._plan import Plan
from ._plans import Plans
from ._problems import QUOTA_PROBLEM_TYPES, quota_problem
from ._routes import RouteTable
from ._rules import (
    Calendar,
    Capacity,
    Concurrency,
    Mode,
    OnFailure,
    Period,
    Rate,
    Rule,
    Scope,
    SlidingWindow,
)
from ._store import MemoryQuotaStore
from ._usage import UsageMeter
from ._usage_ledger import MemoryUsageLedger, UsageCounter, UsageLedger, UsageQuery, UsageRow

__all__ = [
    "QUOTA_PROBLEM_TYPES",
    "Calendar",
    "Capacity",
    "CapacityDrift",
    "Charge",
    "ClientAddress",
    "Concurrency",
    "Decision",
    "FallbackQuotaStore",
    "FallbackStats",
    "HeaderEmitter",
    "LeasingQuotaStore",
    "LeasingStats",
    "Limit",
    "Limiter",
    "MemoryOverrideStore",
    "MemoryQuotaStore",
    "MemoryUsageLedger",
    "Meter",
    "Mode",
    "NoticeLedger",
    "OnFailure",
    "Outcome",
    "OverriddenPlans",
    "Override",
    "OverrideChange",
    "OverrideStore",
    "Part",
    "Period",
    "Plan",
    "PlanSource",
    "Plans",
    "QuotaApp",
    "QuotaDecided",
    "QuotaExceeded",
    "QuotaMiddleware",
    "QuotaNotice",
    "QuotaOverrideChanged",
    "QuotaOverridesStale",
    "QuotaRefused",
    "QuotaStore",
    "QuotaStoreDegraded",
    "QuotaStoreRestored",
    "Rate",
    "RateLimitHeaders",
    "Receipt",
    "RetryAfter",
    "RouteTable",
    "Rule",
    "RuleStatus",
    "Scope",
    "Settled",
    "Settlement",
    "SlidingWindow",
    "Take",
    "UsageCounter",
    "UsageLedger",
    "UsageLedgerDegraded",
    "UsageLedgerRestored",
    "UsageMeter",
    "UsageQuery",
    "UsageRow",
    "announce_capacity_notices",
    "capacity_notices",
    "charge_actual",
    "quota_problem",
    "quota_receipt",
    "thresholds_crossed",
]
