"""Every metric there is: one closed, commented list. A name elsewhere is a fault (tests/architecture)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Capture
EVENTS = Counter("meterline_events_total", "Events that got an outcome at capture", ["outcome", "reason"])
BATCHES = Counter("meterline_batches_total", "Batches committed at capture")
CAPTURE_SECONDS = Histogram(
    "meterline_capture_seconds", "From a call's arrival to its durable answer", buckets=_LATENCY
)
CLOCK_SKEW_SECONDS = Gauge(
    "meterline_clock_skew_seconds",
    "How much later our clock is than a source's, of the most recent sources",
    ["tenant", "source"],
)
CAPTURE_QUEUE = Gauge(
    "meterline_capture_queue_events", "Events that wait for a commit, or their like in bytes"
)
CAPTURE_REFUSALS = Counter("meterline_capture_refusals_total", "Calls refused for a limit", ["reason"])
CAPTURE_SPLITS = Counter(
    "meterline_capture_splits_total",
    "Flushes that failed and were repeated in halves, to find who is at fault",
)
CAPTURE_FAULTS = Counter(
    "meterline_capture_faults_total", "Calls that failed for a fault of the service; must be zero"
)
TOKEN_EXCHANGES = Counter("meterline_token_exchanges_total", "Exchanges with the buckets of rate limits")

MONTHS_TO_DROP = Gauge(
    "meterline_months_to_drop", "Months of raw events past their retention that could not be dropped yet"
)
CORRECTIONS = Counter("meterline_corrections_total", "Events amended or retracted", ["kind"])

# Quarantine
QUARANTINED = Counter(
    "meterline_quarantined_total",
    "Rejected events that were kept; sources beyond the first thousand combinations are `other`",
    ["tenant", "source", "reason"],
)
QUARANTINE_REFUSED = Counter(
    "meterline_quarantine_refused_total",
    "Rejected events that were not kept: no room, too long, or the tenant's keys are destroyed",
    ["tenant", "source", "reason"],
)
QUARANTINE_WAITING = Gauge("meterline_quarantine_waiting", "Rejected events that wait for a fix")
QUARANTINE_EXPIRED = Counter(
    "meterline_quarantine_expired_total", "Rejected events that were deleted after waiting for too long"
)

# What is kept of one tenant's
QUOTA_FULLEST = Gauge(
    "meterline_quota_fullest_ratio",
    "The part of a quota that the tenant has used which has used most of it; 1 is full",
    ["quota"],
)
GROUP_SETS_CLOSED = Gauge(
    "meterline_group_sets_closed",
    "Sets of dimensions, each of a tenant, whose groups are all given out: what is new is the rest",
)

# Sensitive data
SEALED_VALUES = Counter("meterline_sealed_values_total", "Values sealed under keys of tenants")
RESEALED_VALUES = Counter("meterline_resealed_values_total", "Values that a newer key has sealed anew")
TAMPERED_VALUES = Counter(
    "meterline_tampered_values_total", "Values that do not open where they lie; must be zero", ["table"]
)
KEYS_NOT_REWRAPPED = Gauge(
    "meterline_keys_not_rewrapped", "Keys of earlier master keys that do not open; must be zero"
)

# Messages
OUTBOX_PUBLISHED = Counter("meterline_outbox_published_total", "Messages published by the relay")
OUTBOX_PENDING = Gauge("meterline_outbox_pending", "Messages not published yet")
OUTBOX_AGE_SECONDS = Gauge("meterline_outbox_age_seconds", "Age of the oldest message not published")
MESSAGES = Counter("meterline_messages_total", "Messages handled by a consumer", ["consumer", "outcome"])
BROKER_REFUSALS = Counter(
    "meterline_broker_refusals_total",
    "Times that the broker refused the service's login or permission; must be zero",
    ["kind"],
)
CONSUMER_LAG = Gauge("meterline_consumer_lag", "Messages that wait for a consumer", ["consumer"])
CONSUMER_BREAKER_OPEN = Gauge(
    "meterline_consumer_breaker_open",
    "1 while nearly all is poison and nothing is taken",
    ["consumer"],
)
DEAD_LETTERS = Gauge("meterline_dead_letters", "Messages that wait to be redriven", ["consumer"])

# Aggregation
EVENTS_AGGREGATED = Counter("meterline_events_aggregated_total", "Events folded into windows, or out of them")
FRESHNESS_SECONDS = Histogram(
    "meterline_freshness_seconds", "From a call's arrival to its events being visible", buckets=_LATENCY
)
CONSERVATION_GAP = Gauge(
    "meterline_conservation_gap",
    "Events accepted less events aggregated, once what was on its way has arrived; must read zero",
)
METERS_UNKNOWN = Gauge(
    "meterline_meters_unknown",
    "Meters of kinds that only a newer release knows: their events wait for it",
)
REBUILDS_PENDING = Gauge(
    "meterline_rebuilds_pending",
    "Months of maxima and unique counts that wait to be rebuilt and are not published before",
)

# Publishing
PUBLICATIONS = Gauge("meterline_publications", "Usage records of the ledger", ["state"])
BILLING_GAPS = Gauge(
    "meterline_billing_gaps", "Periods and meters that are used and not billed as they are used", ["reason"]
)
BILLING_PROVIDERS = Gauge("meterline_billing_providers", "Billing providers that are configured")
PROVIDER_CALLS = Counter(
    "meterline_provider_calls_total", "Calls to the billing provider", ["operation", "outcome"]
)

# Calls
RPC_SECONDS = Histogram("meterline_rpc_seconds", "Calls served", ["method", "code"], buckets=_LATENCY)
