-- Corrections: what was done to events after they were accepted. A row of `events` never changes; what an
-- event says now is its row or, where it was corrected, `new` of its last correction.

-- Calls that correct events: who asked for it and why, and how far it got.
CREATE TABLE correction_requests (
    tenant_id      integer NOT NULL,
    correction_id  uuid NOT NULL,
    -- Of what was asked for: one id cannot stand for two things.
    request_digest uuid NOT NULL,
    requested_by   text NOT NULL,
    reason         text NOT NULL,
    at             timestamptz NOT NULL DEFAULT now(),
    -- Where it goes on; NULL once it is complete.
    position       jsonb,
    unchanged      bigint NOT NULL DEFAULT 0,
    failed         bigint NOT NULL DEFAULT 0,
    failures       jsonb NOT NULL DEFAULT '[]',
    PRIMARY KEY (tenant_id, correction_id)
);
SELECT protect_tenants('correction_requests');
SELECT take_rights('correction_requests', 'UPDATE', 'DELETE', 'TRUNCATE');
GRANT UPDATE (position, unchanged, failed, failures) ON correction_requests TO meterline_ingest;

-- One row for each correction of an event. The key lets one of those that correct an event at the same
-- time win, so that each knows what it takes away.
CREATE TABLE corrections (
    tenant_id     integer NOT NULL,
    event_id      uuid NOT NULL,
    -- Counts from 1.
    revision      integer NOT NULL,
    correction_id uuid NOT NULL,
    -- 1: amended, 2: retracted.
    kind          smallint NOT NULL,
    -- What was counted, and no longer is; names of sensitive properties, but not their values.
    old           jsonb NOT NULL,
    -- What counts instead; NULL when it was retracted.
    new           jsonb,
    -- Sensitive properties of `new`.
    sealed        bytea,
    -- The batch that carries the correction, and the one that brought what it takes away.
    batch_id      uuid NOT NULL,
    old_batch_id  uuid NOT NULL,
    -- Of the event, when it was imported.
    import_id     uuid,
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, event_id, revision)
);
-- A call corrects an event once, however often it is repeated.
CREATE UNIQUE INDEX corrections_request ON corrections (tenant_id, correction_id, event_id);
CREATE UNIQUE INDEX corrections_batch ON corrections (tenant_id, batch_id, event_id);
CREATE INDEX corrections_at ON corrections (tenant_id, at, event_id, revision);
CREATE INDEX corrections_import ON corrections (tenant_id, import_id, at, event_id, revision)
    WHERE import_id IS NOT NULL;
SELECT protect_tenants('corrections');
-- Only the key that a value is sealed under may change.
SELECT take_rights('corrections', 'UPDATE', 'DELETE', 'TRUNCATE');
GRANT UPDATE (sealed) ON corrections TO meterline_ingest;

-- Imports: who brought them and why. What they brought is what their batches are.
CREATE TABLE imports (
    tenant_id    integer NOT NULL,
    import_id    uuid NOT NULL,
    source       text NOT NULL,
    requested_by text NOT NULL,
    reason       text NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, import_id)
);
CREATE INDEX imports_at ON imports (tenant_id, at, import_id);
SELECT protect_tenants('imports');
SELECT take_rights('imports', 'UPDATE', 'DELETE', 'TRUNCATE');

ALTER TABLE batches ADD COLUMN import_id uuid;
-- A migration is one transaction; batches are a thousandth of the events.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX batches_import ON batches (tenant_id, import_id) WHERE import_id IS NOT NULL;
