-- Vacuum rows soon after they are inserted, and freeze them at once.
--
-- A vacuum changes each page of new rows once. If that page was written since the last checkpoint, this costs
-- 4 bytes of WAL a row; after a checkpoint Postgres logs the whole page again, which costs 97. The default waits
-- until a table has grown by a fifth, which for a month of events takes many checkpoints, and a second vacuum
-- freezes the same pages later. A vacuum reads only pages with new rows, so the size of the table does not matter.
CREATE FUNCTION vacuum_early(child regclass) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s SET (autovacuum_vacuum_insert_scale_factor = 0,'
                   ' autovacuum_vacuum_insert_threshold = 100000, autovacuum_freeze_min_age = 0)', child);
END $$;
REVOKE ALL ON FUNCTION vacuum_early(regclass) FROM PUBLIC;

CREATE OR REPLACE FUNCTION make_event_months() RETURNS TABLE (made text)
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
            PERFORM vacuum_early(child::regclass);
            IF parent = 'events' THEN
                PERFORM grant_rights(child::regclass, 'INSERT');
            END IF;
            made := child;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;

SELECT vacuum_early(relid) FROM pg_partition_tree('events') WHERE isleaf;
SELECT vacuum_early(relid) FROM pg_partition_tree('event_details') WHERE isleaf;
SELECT vacuum_early('batches');
