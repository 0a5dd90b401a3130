-- Raw events that are older than an operator wants them are deleted: by month, and what has no month one by
-- one. Whatever was deleted is never accepted again, see docs/adr/0011-retention-and-deduplication.md.

-- While one is in force, no event of its tenant is deleted.
CREATE TABLE legal_holds (
    tenant_id    integer NOT NULL,
    name         text NOT NULL,
    reason       text NOT NULL,
    requested_by text NOT NULL,
    placed_at    timestamptz NOT NULL DEFAULT now(),
    released_at  timestamptz,
    PRIMARY KEY (tenant_id, name)
);
SELECT protect_tenants('legal_holds');

-- One row, once there is a retention. It is announced before anything is deleted, so that no process still
-- takes in what is about to be.
CREATE TABLE event_horizon (
    is_one_row     boolean PRIMARY KEY DEFAULT true CHECK (is_one_row),
    -- The beginning of the oldest month that is kept; only rises. What is older is not accepted.
    kept_since     timestamptz NOT NULL,
    announced_at   timestamptz NOT NULL DEFAULT now(),
    -- Batches up to this one were looked through for what has no month, since.
    swept_to       uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    sweep_began_at timestamptz NOT NULL DEFAULT now()
);
SELECT take_rights('event_horizon', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE');

-- The functions below run with the owner's rights, so that the application role needs none. Those that delete
-- are for transactions of all tenants: others would not see whose events are held. `grace` is how long somebody
-- may still work with an earlier horizon.

CREATE FUNCTION announce_event_horizon(keep interval) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    wanted timestamptz := date_trunc('month', now() - keep, 'UTC');
BEGIN
    IF keep < interval '62 days' THEN
        RAISE 'raw events are kept for at least 62 days';
    END IF;
    INSERT INTO event_horizon AS h (kept_since) VALUES (wanted)
    ON CONFLICT (is_one_row) DO UPDATE SET kept_since = excluded.kept_since, announced_at = now()
    WHERE h.kept_since < excluded.kept_since;
    RETURN (SELECT kept_since FROM event_horizon);
END $$;

-- Months that lie wholly before the horizon and are still there, the oldest first.
CREATE FUNCTION old_event_months() RETURNS SETOF date
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT DISTINCT m.month
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid AND c.relname ~ '_\d{6}$',
    LATERAL (SELECT to_date(right(c.relname, 6), 'YYYYMM') AS month) m
    WHERE i.inhparent IN ('events'::regclass, 'event_details'::regclass)
      AND (m.month + interval '1 month') AT TIME ZONE 'UTC' <= (SELECT kept_since FROM event_horizon)
    ORDER BY m.month
$$;

-- Whether all that was accepted before the horizon is published.
CREATE FUNCTION may_delete_events(grace interval) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT scope_is_everybody() THEN
        RAISE 'not a transaction of all tenants';
    END IF;
    RETURN coalesce((
        SELECT h.announced_at <= now() - grace AND NOT EXISTS (
            SELECT FROM outbox WHERE published_at IS NULL AND message_id < uuid_floor(h.announced_at + grace)
        )
        FROM event_horizon h
    ), false);
END $$;

-- Drops the oldest month that may go; answers which, or NULL. Events of held tenants, and ids that only look
-- as if they were of that month, move to the rest before. A constraint then keeps its ids out for ever.
CREATE FUNCTION drop_event_month(grace interval) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    month  date;
    held   integer[];
    beyond uuid;
    parent text;
    child  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.event_months'));
    IF NOT may_delete_events(grace) THEN
        RETURN NULL;
    END IF;
    month := (SELECT old_event_months() LIMIT 1);
    IF month IS NULL THEN
        RETURN NULL;
    END IF;
    -- A hold that comes now waits; it comes too late.
    LOCK TABLE legal_holds IN SHARE MODE;
    held := ARRAY(SELECT DISTINCT tenant_id FROM legal_holds WHERE released_at IS NULL);
    beyond := uuid_floor((month + interval '1 month') AT TIME ZONE 'UTC');
    FOREACH parent IN ARRAY ARRAY['events', 'event_details'] LOOP
        child := format('%s_%s', parent, to_char(month, 'YYYYMM'));
        CONTINUE WHEN to_regclass(child) IS NULL;
        -- What takes long comes first: only then must everybody wait.
        EXECUTE format('LOCK TABLE %I IN SHARE MODE', child);
        EXECUTE format('CREATE TABLE %I AS SELECT * FROM %I'
                       ' WHERE tenant_id = ANY($1) OR uuid_extract_version(event_id) IS DISTINCT FROM 7',
                       child || '_kept', child) USING held;
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, child);
        EXECUTE format('INSERT INTO %I SELECT * FROM %I', parent || '_rest', child || '_kept');
        EXECUTE format('DROP TABLE %I', child || '_kept');
        EXECUTE format('DROP TABLE %I', child);
    END LOOP;
    ALTER TABLE events_rest DROP CONSTRAINT IF EXISTS events_rest_deleted;
    EXECUTE format('ALTER TABLE events_rest ADD CONSTRAINT events_rest_deleted CHECK'
                   ' (uuid_extract_version(event_id) IS DISTINCT FROM 7 OR event_id >= %L) NOT VALID', beyond);
    RETURN month;
END $$;

-- Looks through the next `most` batches that were received before the horizon, and deletes their events that
-- lie before it: of UUIDv7 by their ids, others by their times, corrected and as they were sent. Answers how
-- many batches there were. Once a hold is released, it begins anew.
CREATE FUNCTION sweep_old_events(grace interval, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    h     event_horizon;
    held  integer[];
    last  uuid;
    found integer;
BEGIN
    SELECT * INTO h FROM event_horizon FOR UPDATE;
    IF NOT may_delete_events(grace) OR EXISTS (SELECT FROM old_event_months()) THEN
        RETURN 0;
    END IF;
    LOCK TABLE legal_holds IN SHARE MODE;
    held := ARRAY(SELECT DISTINCT tenant_id FROM legal_holds WHERE released_at IS NULL);
    IF EXISTS (SELECT FROM legal_holds WHERE released_at >= h.sweep_began_at) THEN
        h.swept_to := '00000000-0000-0000-0000-000000000000';
        h.sweep_began_at := clock_timestamp();
    END IF;
    SELECT count(*), max(batch_id::text)::uuid INTO found, last FROM (
        SELECT batch_id FROM batches
        WHERE batch_id > h.swept_to AND batch_id < uuid_floor(h.kept_since)
        ORDER BY batch_id LIMIT most
    ) AS next;
    WITH gone AS (
        DELETE FROM events e USING batches b
        WHERE b.batch_id > h.swept_to AND b.batch_id <= last
          AND NOT b.tenant_id = ANY(held)
          AND e.batch_number = b.batch_number AND e.tenant_id + 0 = b.tenant_id
          AND CASE WHEN uuid_extract_version(e.event_id) = 7 THEN e.event_id < uuid_floor(h.kept_since)
              ELSE e.occurred_at < h.kept_since AND coalesce(
                  (SELECT d.sent_time FROM event_details d
                   WHERE d.event_id = e.event_id AND d.tenant_id = e.tenant_id),
                  e.occurred_at - b.skew_us * interval '1 microsecond'
              ) < h.kept_since END
        RETURNING e.event_id, e.tenant_id
    ), details AS (
        DELETE FROM event_details d USING gone
        WHERE d.event_id = gone.event_id AND d.tenant_id = gone.tenant_id
    )
    DELETE FROM event_text_ids t USING gone WHERE t.event_id = gone.event_id AND t.tenant_id = gone.tenant_id;
    UPDATE event_horizon
    SET swept_to = coalesce(last, h.swept_to), sweep_began_at = h.sweep_began_at;
    RETURN found;
END $$;

REVOKE ALL ON FUNCTION announce_event_horizon(interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION old_event_months() FROM PUBLIC;
REVOKE ALL ON FUNCTION may_delete_events(interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION drop_event_month(interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION sweep_old_events(interval, integer) FROM PUBLIC;
