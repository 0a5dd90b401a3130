"""All metrics of the services. Metrics must not be defined elsewhere (tests/architecture)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Capture
EVENTS = Counter(
    "meterline_events_total", "Events processed at capture, by outcome and reason", ["outcome", "reason"]
)
BATCHES = Counter("meterline_batches_total", "Batches committed at capture")
CAPTURE_SECONDS = Histogram(
    "meterline_capture_seconds",
    "Time from a call's arrival until its events are stored and it is answered",
    buckets=_LATENCY,
)
CLOCK_SKEW_SECONDS = Gauge(
    "meterline_clock_skew_seconds",
    "Our clock minus a source's clock, for the most recent sources",
    ["tenant", "source"],
)
CAPTURE_QUEUE = Gauge(
    "meterline_capture_queue_events", "Events waiting for a commit; large events count as several"
)
CAPTURE_REFUSALS = Counter("meterline_capture_refusals_total", "Calls refused because of a limit", ["reason"])
CAPTURE_SPLITS = Counter(
    "meterline_capture_splits_total",
    "Failed flushes that were retried in halves, to isolate the call at fault",
)
CAPTURE_FAULTS = Counter(
    "meterline_capture_faults_total", "Calls that failed because of a fault of the service; must be zero"
)
TOKEN_EXCHANGES = Counter(
    "meterline_token_exchanges_total", "Transactions that exchanged tokens with the buckets of rate limits"
)

MONTHS_TO_DROP = Gauge(
    "meterline_months_to_drop", "Months of raw events past their retention that are not deleted yet"
)
CORRECTIONS = Counter("meterline_corrections_total", "Events amended or retracted", ["kind"])

# Quarantine
QUARANTINED = Counter(
    "meterline_quarantined_total",
    "Rejected events that were stored; beyond 1,000 combinations of labels the source is `other`",
    ["tenant", "source", "reason"],
)
QUARANTINE_REFUSED = Counter(
    "meterline_quarantine_refused_total",
    "Rejected events that were not stored: no room, too long, or the tenant's keys are destroyed",
    ["tenant", "source", "reason"],
)
QUARANTINE_WAITING = Gauge(
    "meterline_quarantine_waiting", "Stored rejected events that are not replayed or discarded yet"
)
QUARANTINE_EXPIRED = Counter(
    "meterline_quarantine_expired_total", "Rejected events that were deleted after their maximum age"
)

# Quotas of stored data per tenant
QUOTA_FULLEST = Gauge(
    "meterline_quota_fullest_ratio",
    "Used part of a quota, for the tenant that has used most of it; 1 is full",
    ["quota"],
)
GROUP_SETS_CLOSED = Gauge(
    "meterline_group_sets_closed",
    "Tenants' sets of dimensions that have all allowed groups; new combinations count as the rest",
)

# Sensitive data
SEALED_VALUES = Counter("meterline_sealed_values_total", "Values encrypted with keys of tenants")
RESEALED_VALUES = Counter("meterline_resealed_values_total", "Values encrypted again with a newer key")
TAMPERED_VALUES = Counter(
    "meterline_tampered_values_total", "Stored values that could not be decrypted; must be zero", ["table"]
)
KEYS_NOT_REWRAPPED = Gauge(
    "meterline_keys_not_rewrapped", "Tenants' keys that no configured master key can unwrap; must be zero"
)

# Messages
OUTBOX_PUBLISHED = Counter("meterline_outbox_published_total", "Messages published by the relay")
OUTBOX_PENDING = Gauge("meterline_outbox_pending", "Messages in the outbox that are not published yet")
OUTBOX_AGE_SECONDS = Gauge("meterline_outbox_age_seconds", "Age of the oldest message that is not published")
MESSAGES = Counter("meterline_messages_total", "Messages handled by a consumer", ["consumer", "outcome"])
BROKER_REFUSALS = Counter(
    "meterline_broker_refusals_total",
    "Refusals of the service's login or permission by the broker; must be zero",
    ["kind"],
)
CONSUMER_LAG = Gauge("meterline_consumer_lag", "Messages waiting for a consumer", ["consumer"])
CONSUMER_BREAKER_OPEN = Gauge(
    "meterline_consumer_breaker_open",
    "1 while the consumer is stopped because too many of its messages are poison",
    ["consumer"],
)
DEAD_LETTERS = Gauge(
    "meterline_dead_letters", "Dead letters that are not redriven or discarded", ["consumer"]
)

# Aggregation
EVENTS_AGGREGATED = Counter(
    "meterline_events_aggregated_total", "Events folded into windows, including retracted ones"
)
FRESHNESS_SECONDS = Histogram(
    "meterline_freshness_seconds",
    "Time from a call's arrival until its events are visible in windows",
    buckets=_LATENCY,
)
CONSERVATION_GAP = Gauge(
    "meterline_conservation_gap",
    "Events lost or counted twice: differences between accepted and aggregated; must be zero",
)
METERS_UNKNOWN = Gauge(
    "meterline_meters_unknown",
    "Meters of kinds that only a newer release knows; their events are counted after the upgrade",
)
REBUILDS_PENDING = Gauge(
    "meterline_rebuilds_pending",
    "Months waiting for a rebuild; they are published after it",
)

# Publishing
PUBLICATIONS = Gauge("meterline_publications", "Rows of the ledger that are not sent, by state", ["state"])
BILLING_GAPS = Gauge("meterline_billing_gaps", "Periods and meters with usage that is not billed", ["reason"])
BILLING_PROVIDERS = Gauge("meterline_billing_providers", "Billing providers that are configured")
PROVIDER_CALLS = Counter(
    "meterline_provider_calls_total", "Calls to the billing provider", ["operation", "outcome"]
)

# Calls
RPC_SECONDS = Histogram("meterline_rpc_seconds", "Time to serve a call", ["method", "code"], buckets=_LATENCY)
