-- What one tenant can make us keep has a bound in bytes, see docs/adr/0015-quotas-of-what-is-kept.md.

-- Rejected events: bytes of all of a tenant's, settled ones too, since those are on the disk as well. Nobody adds
-- or settles one between the count and the commit. In this order, which is that of who keeps one.
SELECT set_config('meterline.tenant_ids', '*', true);
LOCK TABLE quarantine IN SHARE ROW EXCLUSIVE MODE;
ALTER TABLE quarantine_counts ADD COLUMN bytes bigint NOT NULL DEFAULT 0;
SELECT grant_rights('quarantine_counts', 'SELECT, INSERT, UPDATE (waiting, bytes)');

-- What an entry counts: its payload, and 512 for its row and its places in the indexes.
-- `meterline_ingest.domain.quarantine` says the same.
CREATE FUNCTION quarantine_bytes(payload bytea) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT octet_length(payload)::bigint + 512
$$;

-- As before, and bytes with it.
CREATE OR REPLACE FUNCTION count_quarantined() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO quarantine_counts AS c (tenant_id, waiting, bytes)
        SELECT tenant_id, count(*) FILTER (WHERE state = 'waiting'), sum(quarantine_bytes(payload))
        FROM after_change GROUP BY tenant_id ORDER BY tenant_id
        ON CONFLICT (tenant_id) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, bytes = c.bytes + excluded.bytes;
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        PERFORM change_quarantine_count(tenant_id, sum(change)::bigint, sum(bytes)::bigint) FROM (
            SELECT tenant_id, (state = 'waiting')::integer AS change, quarantine_bytes(payload) AS bytes
            FROM after_change
            UNION ALL
            SELECT tenant_id, -(state = 'waiting')::integer, -quarantine_bytes(payload) FROM before_change
        ) AS changes GROUP BY tenant_id HAVING sum(change) <> 0 OR sum(bytes) <> 0 ORDER BY tenant_id;
    ELSE
        PERFORM change_quarantine_count(
            tenant_id, -count(*) FILTER (WHERE state = 'waiting'), -sum(quarantine_bytes(payload))::bigint
        ) FROM before_change GROUP BY tenant_id ORDER BY tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION change_quarantine_count(changed integer, change bigint, more bigint) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT AS $$
    UPDATE quarantine_counts SET waiting = waiting + change, bytes = bytes + more WHERE tenant_id = changed
$$;
-- That of before stays: a transaction that began before this one may still call it.

UPDATE quarantine_counts c SET bytes = counted.bytes FROM (
    SELECT tenant_id, sum(quarantine_bytes(payload))::bigint AS bytes FROM quarantine GROUP BY tenant_id
) AS counted WHERE c.tenant_id = counted.tenant_id;
-- A row a tenant: read in no time.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE quarantine_counts ADD CONSTRAINT quarantine_counts_bytes CHECK (bytes >= 0);

-- Series and subjects: how many of each a tenant has, so that nobody has to count them. Whoever adds some holds the
-- row, so that no two go beyond a quota together.
CREATE TABLE dictionary_counts (
    tenant_id integer PRIMARY KEY,
    series    bigint NOT NULL DEFAULT 0 CHECK (series >= 0),
    subjects  bigint NOT NULL DEFAULT 0 CHECK (subjects >= 0)
);
SELECT protect_tenants('dictionary_counts');
SELECT grant_rights('dictionary_counts', 'SELECT, INSERT, UPDATE (series, subjects)');

-- Counts with the change itself, whatever makes it. Rows are only ever added.
CREATE FUNCTION count_dictionaries() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_TABLE_NAME = 'series' THEN
        INSERT INTO dictionary_counts AS c (tenant_id, series)
        SELECT tenant_id, count(*) FROM after_change GROUP BY tenant_id ORDER BY tenant_id
        ON CONFLICT (tenant_id) DO UPDATE SET series = c.series + excluded.series;
    ELSE
        INSERT INTO dictionary_counts AS c (tenant_id, subjects)
        SELECT tenant_id, count(*) FROM after_change GROUP BY tenant_id ORDER BY tenant_id
        ON CONFLICT (tenant_id) DO UPDATE SET subjects = c.subjects + excluded.subjects;
    END IF;
    RETURN NULL;
END $$;

-- These wait for who adds entries, and hold the others up until the end: so nothing is added that is not counted.
CREATE TRIGGER series_counted AFTER INSERT ON series REFERENCING NEW TABLE AS after_change
    FOR EACH STATEMENT EXECUTE FUNCTION count_dictionaries();
CREATE TRIGGER subjects_counted AFTER INSERT ON subjects REFERENCING NEW TABLE AS after_change
    FOR EACH STATEMENT EXECUTE FUNCTION count_dictionaries();
INSERT INTO dictionary_counts (tenant_id, series)
SELECT tenant_id, count(*) FROM series GROUP BY tenant_id;
INSERT INTO dictionary_counts AS c (tenant_id, subjects)
SELECT tenant_id, count(*) FROM subjects GROUP BY tenant_id
ON CONFLICT (tenant_id) DO UPDATE SET subjects = excluded.subjects;

-- 0: as many as the service allows a tenant.
ALTER TABLE plan_limits
    ADD COLUMN max_series   bigint NOT NULL DEFAULT 0,
    ADD COLUMN max_subjects bigint NOT NULL DEFAULT 0;
ALTER TABLE tenant_limits
    ADD COLUMN max_series   bigint NOT NULL DEFAULT 0,
    ADD COLUMN max_subjects bigint NOT NULL DEFAULT 0;
ALTER TABLE limit_changes
    ADD COLUMN max_series   bigint,
    ADD COLUMN max_subjects bigint;
SELECT grant_rights(
    'plan_limits',
    'SELECT, INSERT, UPDATE (events_per_second, burst, weight, max_series, max_subjects, changed_by, changed_at)'
);
SELECT grant_rights(
    'tenant_limits',
    'SELECT, INSERT, DELETE, '
    'UPDATE (events_per_second, burst, weight, max_series, max_subjects, changed_by, changed_at)'
);
