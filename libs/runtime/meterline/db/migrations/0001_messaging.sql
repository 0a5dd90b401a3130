-- Outbox, inbox and dead letters: the same in every schema.
--
-- Keys are UUIDv7, which begin with their time, so that tables partition by time on their primary key
-- alone: old days are dropped whole, and no vacuum has to keep up with deletes.

CREATE TABLE outbox (
    message_id   uuid PRIMARY KEY,
    subject      text NOT NULL,
    headers      jsonb NOT NULL,
    payload      bytea NOT NULL,
    published_at timestamptz
) PARTITION BY RANGE (message_id);

-- Payloads are packed numbers already: compressing them costs more than it saves.
ALTER TABLE outbox ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE INDEX outbox_pending ON outbox (message_id) WHERE published_at IS NULL;

CREATE TABLE inbox (
    message_id  uuid NOT NULL,
    consumer    text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (message_id, consumer)
) PARTITION BY RANGE (message_id);

CREATE TABLE outbox_rest PARTITION OF outbox DEFAULT;
CREATE TABLE inbox_rest PARTITION OF inbox DEFAULT;

CREATE TABLE dead_letters (
    message_id  uuid NOT NULL,
    consumer    text NOT NULL,
    subject     text NOT NULL,
    headers     jsonb NOT NULL,
    payload     bytea NOT NULL,
    error       text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (message_id, consumer)
);

-- The least UUIDv7 of a moment.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the partitions of today and the two days after, and drops days of the outbox that are older than
-- `keep` and hold nothing unpublished, and days of the inbox twice as old: whatever can still be published
-- again must still be known where it was handled. Runs with the owner's rights, so that the application
-- role needs none; gives up rather than make everybody wait behind a long transaction.
CREATE FUNCTION maintain_messaging(keep interval) RETURNS TABLE (dropped text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    today   date := (now() AT TIME ZONE 'UTC')::date;
    parent  text;
    oldest  date;
    day     date;
    first   uuid;
    beyond  uuid;
    child   text;
    found   boolean;
BEGIN
    -- Several replicas may call this at once.
    PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.maintain_messaging'));
    FOREACH parent IN ARRAY ARRAY['outbox', 'inbox'] LOOP
        FOR day IN SELECT generate_series(today, today + 2, interval '1 day')::date LOOP
            child := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            first := uuid_floor(day::timestamp AT TIME ZONE 'UTC');
            beyond := uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
            -- After a long stop, rows of a day may have come before its partition: they stay in the rest.
            EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE message_id >= $1 AND message_id < $2)',
                           parent || '_rest') INTO found USING first, beyond;
            CONTINUE WHEN found;
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                           child, parent, first, beyond);
        END LOOP;
        oldest := ((now() - keep * CASE parent WHEN 'inbox' THEN 2 ELSE 1 END) AT TIME ZONE 'UTC')::date;
        FOR child IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = to_regclass(parent) AND c.relname ~ '_\d{8}$'
              AND to_date(right(c.relname, 8), 'YYYYMMDD') < oldest
        LOOP
            found := false;
            IF parent = 'outbox' THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE published_at IS NULL)', child)
                    INTO found;
            END IF;
            CONTINUE WHEN found;
            EXECUTE format('DROP TABLE %I', child);
            dropped := child;
            RETURN NEXT;
        END LOOP;
    END LOOP;
    DELETE FROM outbox_rest WHERE published_at < now() - keep;
    DELETE FROM inbox_rest WHERE received_at < now() - keep * 2;
END $$;

REVOKE ALL ON FUNCTION maintain_messaging(interval) FROM PUBLIC;
SELECT maintain_messaging(interval '30 days');
