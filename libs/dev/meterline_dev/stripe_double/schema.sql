-- One row an API object. `body` is the object as answered; the other columns are what it is found by.
-- `due_at` is the instant (unix seconds) at which something happens to it without a call: a period ends,
-- a draft is finalised.
CREATE TABLE IF NOT EXISTS objects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    created INTEGER NOT NULL,
    customer TEXT,
    subscription TEXT,
    status TEXT,
    test_clock TEXT,
    lookup TEXT,
    due_at INTEGER,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS objects_kind ON objects (kind, seq);
CREATE INDEX IF NOT EXISTS objects_lookup ON objects (kind, lookup) WHERE lookup IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_customer ON objects (customer, kind, seq) WHERE customer IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_due ON objects (test_clock, due_at) WHERE due_at IS NOT NULL;

-- status: accepted, canceled, rejected (refused after the answer; `error_code` says why).
-- `received_ms` is on the double's own clock, `at` and `created` are unix seconds on the customer's clock.
CREATE TABLE IF NOT EXISTS meter_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    identifier TEXT NOT NULL,
    event_name TEXT NOT NULL,
    meter TEXT NOT NULL,
    customer TEXT NOT NULL,
    value INTEGER NOT NULL,
    at INTEGER NOT NULL,
    created INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    payload TEXT NOT NULL,
    idempotency_key TEXT,
    status TEXT NOT NULL,
    error_code TEXT,
    reported INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS meter_events_identifier ON meter_events (identifier, received_ms);
CREATE INDEX IF NOT EXISTS meter_events_usage ON meter_events (meter, customer, at);
CREATE INDEX IF NOT EXISTS meter_events_errors ON meter_events (seq) WHERE status = 'rejected' AND reported = 0;

CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    received_ms INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL
);

-- `next_ms` is real time, in milliseconds. state: pending, delivered, failed, dropped.
CREATE TABLE IF NOT EXISTS deliveries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint TEXT NOT NULL,
    event TEXT NOT NULL,
    payload TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_ms INTEGER NOT NULL,
    state TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS deliveries_pending ON deliveries (next_ms) WHERE state = 'pending';

CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value INTEGER);
