-- Raw events by month, so that old months are dropped whole.
--
-- The key of an event stays (event_id, tenant_id): the month is that at the front of its UUIDv7, so the
-- same id always comes to the same partition and is found there. Other ids are spread over some nine
-- thousand years, so that they are in `events_rest`, as are months that have no partition.
-- Callers see the same name and columns before and after.
-- squawk-ignore renaming-table
ALTER TABLE events RENAME TO events_rest;
-- squawk-ignore renaming-object
ALTER TABLE events_rest RENAME CONSTRAINT events_pkey TO events_rest_pkey;
-- squawk-ignore renaming-object
ALTER INDEX events_batch RENAME TO events_rest_batch;

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
) PARTITION BY RANGE (event_id);
CREATE INDEX events_batch ON events USING brin (batch_number)
    WITH (pages_per_range = 32, autosummarize = on);
ALTER TABLE events ATTACH PARTITION events_rest DEFAULT;

-- What an event has beside its row: only events that have any of it have a row here.
CREATE TABLE event_details (
    event_id     uuid NOT NULL,
    tenant_id    integer NOT NULL,
    -- Of the event as it was sent: its row tells the same only where nothing was added or corrected.
    body_digest  uuid NOT NULL,
    -- The time as it was sent, where it is not the row's less the skew of the batch.
    sent_time    timestamptz,
    -- Properties that are no dimensions, by name.
    properties   jsonb,
    -- Sensitive properties, sealed under a key of the tenant.
    sealed       bytea,
    flags        text[],
    -- Entries of the catalogue that were used: `<namespace>/<key>@<version>`.
    sources      text[],
    PRIMARY KEY (event_id, tenant_id)
) PARTITION BY RANGE (event_id);
-- A sealed value begins with its version and key: so those of keys before the current one are found.
CREATE INDEX event_details_sealed ON event_details (tenant_id, substring(sealed FROM 1 FOR 5))
    WHERE sealed IS NOT NULL;
CREATE TABLE event_details_rest PARTITION OF event_details DEFAULT;

-- Times are corrected by the skew of the source's clock, in microseconds: stored = sent + skew. The span
-- of event times finds the batches that may hold an event of some time. `reported` (0) are calls of
-- capture; see `meterline_ingest.domain.batches` for others.
ALTER TABLE batches
    ADD COLUMN skew_us bigint NOT NULL DEFAULT 0,
    ADD COLUMN origin smallint NOT NULL DEFAULT 0,
    -- Rows at the front of the batch that take away what was accepted before.
    ADD COLUMN retracted integer NOT NULL DEFAULT 0,
    ADD COLUMN first_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN last_at timestamptz NOT NULL DEFAULT 'infinity';

-- Most batches span seconds, and are found by their end alone. Those that span more than an hour are few.
-- A migration is one transaction; batches are a thousandth of the events.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX batches_narrow ON batches (tenant_id, last_at) WHERE last_at - first_at <= interval '1 hour';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX batches_wide ON batches (tenant_id, first_at) WHERE last_at - first_at > interval '1 hour';

-- Makes the partitions of the month before, of this one and of the two after. Runs with the owner's
-- rights, so that the application role needs none.
--
-- The application may append to a partition by its own name, which is how COPY gets around row-level
-- security (it refuses a table that has it), and may read or change rows by the name of the whole alone.
CREATE FUNCTION make_event_months() RETURNS TABLE (made text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    parent text;
    child  text;
    month  timestamp;
    first  uuid;
    beyond uuid;
    found  boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.event_months'));
    FOREACH parent IN ARRAY ARRAY['events', 'event_details'] LOOP
        FOR month IN
            SELECT generate_series(
                date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month',
                date_trunc('month', now() AT TIME ZONE 'UTC') + interval '2 months', interval '1 month')
        LOOP
            child := format('%s_%s', parent, to_char(month, 'YYYYMM'));
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            first := uuid_floor(month AT TIME ZONE 'UTC');
            beyond := uuid_floor((month + interval '1 month') AT TIME ZONE 'UTC');
            -- Events may have come before their partition: they, and their month, stay in the rest.
            EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE event_id >= $1 AND event_id < $2)',
                           parent || '_rest') INTO found USING first, beyond;
            CONTINUE WHEN found;
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                           child, parent, first, beyond);
            PERFORM take_rights(child::regclass, 'SELECT', 'UPDATE', 'DELETE', 'TRUNCATE');
            made := child;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION make_event_months() FROM PUBLIC;
SELECT take_rights('events_rest', 'SELECT', 'UPDATE', 'DELETE', 'TRUNCATE');
SELECT take_rights('event_details_rest', 'SELECT', 'UPDATE', 'DELETE', 'TRUNCATE');
SELECT make_event_months();

SELECT protect_tenants('events');
SELECT protect_tenants('event_details');
SELECT protect_tenants('event_text_ids');
SELECT protect_tenants('batches');
SELECT protect_tenants('series');
SELECT protect_tenants('subjects');
SELECT protect_tenants('tenant_event_types');
SELECT protect_tenants('event_type_versions');
