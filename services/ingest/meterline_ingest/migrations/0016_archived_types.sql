-- Event types that take no more events, and types that are deleted because none was ever taken in.
--
-- since_version: the version by which the type came to be; another one for a type that was deleted and made again.
ALTER TABLE event_types
    ADD COLUMN archived_at   timestamptz,
    ADD COLUMN since_version integer NOT NULL DEFAULT 1;
ALTER TABLE tenant_event_types
    ADD COLUMN archived_at   timestamptz,
    ADD COLUMN since_version integer NOT NULL DEFAULT 1;
SELECT grant_rights(
    'event_types', 'SELECT, INSERT, DELETE, UPDATE (definition, version, changed_at, archived_at)'
);
SELECT grant_rights(
    'tenant_event_types', 'SELECT, INSERT, DELETE, UPDATE (definition, version, changed_at, archived_at)'
);

-- 1: put, 2: archived, 3: restored, 4: deleted.
ALTER TABLE event_type_versions ADD COLUMN kind smallint NOT NULL DEFAULT 1;

-- Whether a type has any. A migration is one transaction; series are few beside their events.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX series_of_types ON series (event_type, tenant_id);
