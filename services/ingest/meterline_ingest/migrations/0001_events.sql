-- Raw events are the source of truth: everything else can be rebuilt from them.

-- What capture accepts. Operators' data, the same for all tenants.
CREATE TABLE event_types (
    name       text PRIMARY KEY,
    definition jsonb NOT NULL,
    version    integer NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- Dictionaries keep event rows narrow and of fixed width. Rows are only ever added.
CREATE SEQUENCE series_ids AS integer;
CREATE TABLE series (
    tenant_id  integer NOT NULL,
    -- 128-bit digest of (event type, dimensions): values may be longer than an index entry can be.
    series_key uuid NOT NULL,
    series_id  integer NOT NULL DEFAULT nextval('series_ids'),
    event_type text NOT NULL,
    dimensions jsonb NOT NULL,
    PRIMARY KEY (tenant_id, series_key),
    UNIQUE (tenant_id, series_id)
);

CREATE SEQUENCE subject_ids AS bigint;
CREATE TABLE subjects (
    tenant_id  integer NOT NULL,
    subject    text NOT NULL,
    subject_id bigint NOT NULL DEFAULT nextval('subject_ids'),
    PRIMARY KEY (tenant_id, subject),
    UNIQUE (tenant_id, subject_id)
);

-- What one call brought and one transaction committed, one row a tenant.
-- Processes take batch numbers in blocks, hence the increment.
CREATE SEQUENCE batch_numbers AS bigint INCREMENT BY 1024;
CREATE TABLE batches (
    batch_id     uuid NOT NULL,
    tenant_id    integer NOT NULL,
    batch_number bigint NOT NULL,
    source       text NOT NULL,
    event_count  integer NOT NULL,
    received_at  timestamptz NOT NULL,
    sent_at      timestamptz,
    trace_id     uuid,
    span_id      bigint,
    sampled      boolean NOT NULL,
    message_id   uuid NOT NULL,
    PRIMARY KEY (batch_id, tenant_id)
);
CREATE INDEX batches_number ON batches (batch_number, tenant_id);

-- Wide columns first: no padding. The key begins with the event id, which with UUIDv7 keeps the index
-- flat however deep the table is. Quantities are fixed point; their scales stand with the event type.
CREATE TABLE events (
    event_id     uuid NOT NULL,
    batch_number bigint NOT NULL,
    subject_id   bigint NOT NULL,
    occurred_at  timestamptz NOT NULL,
    quantity_1   bigint,
    quantity_2   bigint,
    quantity_3   bigint,
    quantity_4   bigint,
    tenant_id    integer NOT NULL,
    series_id    integer NOT NULL,
    PRIMARY KEY (event_id, tenant_id)
);
-- The events of a batch are neighbours on disk, so that a block range index finds them.
CREATE INDEX events_batch ON events USING brin (batch_number)
    WITH (pages_per_range = 32, autosummarize = on);

-- Ids that are no UUIDs, as they were sent. `events.event_id` is their digest.
CREATE TABLE event_text_ids (
    event_id  uuid NOT NULL,
    tenant_id integer NOT NULL,
    text_id   text NOT NULL,
    PRIMARY KEY (event_id, tenant_id)
);
