-- Reading a tenant's events in the order of their time, and making messages again.

-- How long the events of a batch span, in steps of eight. What lasts long has to be looked for far back, and
-- by class only what lasts long is: see `reading.sql`.
CREATE FUNCTION span_class(first_at timestamptz, last_at timestamptz) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN last_at - first_at <= interval '1 minute' THEN 0
        WHEN last_at - first_at <= interval '8 minutes' THEN 1
        WHEN last_at - first_at <= interval '64 minutes' THEN 2
        WHEN last_at - first_at <= interval '512 minutes' THEN 3
        WHEN last_at - first_at <= interval '4096 minutes' THEN 4
        WHEN last_at - first_at <= interval '32768 minutes' THEN 5
        WHEN last_at - first_at <= interval '262144 minutes' THEN 6
        ELSE 7
    END::smallint
$$;

-- A column and not an expression of the index: behind row-level security, only plain comparisons are looked up.
-- Writes the table anew; nothing is in it before the first release, and batches are a thousandth of the events.
ALTER TABLE batches
    -- squawk-ignore adding-field-with-default
    ADD COLUMN span_class smallint NOT NULL GENERATED ALWAYS AS (span_class(first_at, last_at)) STORED;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX batches_span ON batches (tenant_id, span_class, first_at, batch_number);

-- The batches that a message told of.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX batches_message ON batches (message_id);

-- Names of the sensitive properties that an event has: they are told without opening what is sealed.
ALTER TABLE event_details ADD COLUMN sealed_names text[];
