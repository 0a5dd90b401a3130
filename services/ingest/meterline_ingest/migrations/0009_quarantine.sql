-- Events that capture rejected, until they are replayed or discarded.
CREATE TABLE quarantine (
    tenant_id        integer NOT NULL,
    -- Fingerprint of source and content under a key of the tenant: what is rejected again is the same row.
    quarantine_id    uuid NOT NULL,
    received_at      timestamptz NOT NULL,
    last_received_at timestamptz NOT NULL,
    sent_at          timestamptz,
    settled_at       timestamptz,
    trace_id         uuid,
    span_id          bigint,
    attempts         integer NOT NULL,
    sampled          boolean NOT NULL,
    -- `meterline_ingest.domain.quarantine` names stages and states.
    stage            text NOT NULL,
    state            text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'replayed', 'discarded')),
    source           text NOT NULL,
    -- As sent, cut.
    event_id         text NOT NULL,
    event_type       text NOT NULL,
    reason           text NOT NULL,
    field            text NOT NULL,
    rule             text NOT NULL,
    settled_by       text NOT NULL DEFAULT '',
    -- A serialised Event of capture.proto, sealed under a key of the tenant: it may hold anything.
    payload          bytea NOT NULL,
    PRIMARY KEY (tenant_id, quarantine_id)
);
-- What is sealed cannot be compressed.
ALTER TABLE quarantine ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX quarantine_by_state ON quarantine (tenant_id, state, received_at, quarantine_id);
-- What upkeep looks for.
CREATE INDEX quarantine_settled_at ON quarantine (settled_at) WHERE state <> 'waiting';

-- How many wait, so that nobody has to count them.
CREATE TABLE quarantine_counts (
    tenant_id integer PRIMARY KEY,
    waiting   bigint NOT NULL CHECK (waiting >= 0)
);

-- Counts with the change itself, whatever makes it. Tenants come sorted, and always after the rows, so that
-- no two transactions wait for each other.
CREATE FUNCTION count_quarantined() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO quarantine_counts AS c (tenant_id, waiting)
        SELECT tenant_id, count(*) FROM after_change WHERE state = 'waiting'
        GROUP BY tenant_id ORDER BY tenant_id
        ON CONFLICT (tenant_id) DO UPDATE SET waiting = c.waiting + excluded.waiting;
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        PERFORM change_quarantine_count(tenant_id, sum(change)) FROM (
            SELECT tenant_id, 1 AS change FROM after_change WHERE state = 'waiting'
            UNION ALL
            SELECT tenant_id, -1 FROM before_change WHERE state = 'waiting'
        ) AS changes GROUP BY tenant_id HAVING sum(change) <> 0 ORDER BY tenant_id;
    ELSE
        PERFORM change_quarantine_count(tenant_id, -count(*)) FROM before_change WHERE state = 'waiting'
        GROUP BY tenant_id ORDER BY tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION change_quarantine_count(changed integer, change bigint) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT AS $$
    UPDATE quarantine_counts SET waiting = waiting + change WHERE tenant_id = changed
$$;

CREATE TRIGGER quarantine_inserted AFTER INSERT ON quarantine REFERENCING NEW TABLE AS after_change
    FOR EACH STATEMENT EXECUTE FUNCTION count_quarantined();
CREATE TRIGGER quarantine_updated AFTER UPDATE ON quarantine
    REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
    FOR EACH STATEMENT EXECUTE FUNCTION count_quarantined();
CREATE TRIGGER quarantine_deleted AFTER DELETE ON quarantine REFERENCING OLD TABLE AS before_change
    FOR EACH STATEMENT EXECUTE FUNCTION count_quarantined();

SELECT protect_tenants('quarantine');
SELECT protect_tenants('quarantine_counts');
