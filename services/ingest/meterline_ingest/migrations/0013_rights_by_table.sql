-- Raw events, and all that tells what happened, are only ever added to.
SELECT grant_rights('events', 'SELECT, INSERT');
SELECT grant_rights('event_text_ids', 'SELECT, INSERT');
SELECT grant_rights('batches', 'SELECT, INSERT');
SELECT grant_rights('series', 'SELECT, INSERT');
SELECT grant_rights('subjects', 'SELECT, INSERT');
SELECT grant_rights('event_type_versions', 'SELECT, INSERT');
SELECT grant_rights('catalogue_versions', 'SELECT, INSERT');
SELECT grant_rights('limit_changes', 'SELECT, INSERT');
SELECT grant_rights('imports', 'SELECT, INSERT');
SELECT grant_rights('audit_log', 'SELECT, INSERT');

-- Of these, only the key that a value is sealed under may change.
SELECT grant_rights('event_details', 'SELECT, INSERT, UPDATE (sealed)');
SELECT grant_rights('corrections', 'SELECT, INSERT, UPDATE (sealed)');

SELECT grant_rights('correction_requests', 'SELECT, INSERT, UPDATE (position, unchanged, failed, failures)');
SELECT grant_rights('event_types', 'SELECT, INSERT, UPDATE (definition, version, changed_at)');
SELECT grant_rights('tenant_event_types', 'SELECT, INSERT, UPDATE (definition, version, changed_at)');
SELECT grant_rights('catalogue_entries', 'SELECT, INSERT, UPDATE (version, attributes, changed_at), DELETE');
SELECT grant_rights(
    'timers',
    'SELECT, INSERT, DELETE, UPDATE (last_heartbeat_at, state, stopped_at, flags, event_id, problem, attempts, '
    'due_at)'
);
SELECT grant_rights(
    'data_keys', 'SELECT, INSERT, UPDATE (wrapped, master_key_id, state, retired_at, resealed_at, sealed)'
);
SELECT grant_rights(
    'plan_limits', 'SELECT, INSERT, UPDATE (events_per_second, burst, weight, changed_by, changed_at)'
);
SELECT grant_rights(
    'tenant_limits', 'SELECT, INSERT, UPDATE (events_per_second, burst, weight, changed_by, changed_at), DELETE'
);
SELECT grant_rights('rate_buckets', 'SELECT, INSERT, UPDATE (level, filled_at)');
SELECT grant_rights(
    'quarantine',
    'SELECT, INSERT, DELETE, UPDATE (attempts, last_received_at, stage, reason, field, rule, state, settled_at, '
    'settled_by, payload)'
);
SELECT grant_rights('quarantine_counts', 'SELECT, INSERT, UPDATE (waiting)');
SELECT grant_rights('legal_holds', 'SELECT, INSERT, UPDATE (reason, requested_by, placed_at, released_at)');
SELECT grant_rights('event_horizon', 'SELECT');

REVOKE ALL ON ALL SEQUENCES IN SCHEMA ingest FROM meterline_ingest;
GRANT USAGE ON SEQUENCE series_ids, subject_ids, batch_numbers TO meterline_ingest;

REVOKE ALL ON FUNCTION count_quarantined(), change_quarantine_count(integer, bigint),
    span_class(timestamptz, timestamptz) FROM meterline_ingest;
GRANT EXECUTE ON FUNCTION make_event_months(), announce_event_horizon(interval), old_event_months(),
    may_delete_events(interval), drop_event_month(interval), sweep_old_events(interval, integer)
    TO meterline_ingest;

-- The application may append to a partition of `events` by its own name, which is how COPY gets around row-level
-- security (it refuses a table that has it). For all else it needs the name of the whole.
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
            IF parent = 'events' THEN
                PERFORM grant_rights(child::regclass, 'INSERT');
            END IF;
            made := child;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;

SELECT grant_rights(relid, 'INSERT') FROM pg_partition_tree('events') WHERE isleaf;
