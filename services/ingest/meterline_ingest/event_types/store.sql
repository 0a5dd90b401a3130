-- name: event_types
-- tenant: types are the operator's, the same for all tenants
SELECT name, definition, archived_at, since_version FROM event_types ORDER BY name

-- name: lock_event_types
-- tenant: types are the operator's, the same for all tenants
SELECT pg_advisory_xact_lock(hashtext('meterline.ingest.event_types'))

-- name: own_event_types
SELECT tenant_id, name, definition, archived_at, since_version
FROM tenant_event_types ORDER BY tenant_id, name

-- name: last_event_type_change
-- tenant: answers whether any tenant's types changed
SELECT max(change) FROM event_type_versions

-- name: put_event_type
-- tenant: types are the operator's, the same for all tenants
-- A deleted type that is made again continues its version numbers, so that none is used twice.
INSERT INTO event_types (name, definition, version, since_version)
SELECT %(name)s, %(definition)s, next.version, next.version
FROM (
    SELECT coalesce(max(version), 0) + 1 AS version FROM event_type_versions
    WHERE tenant_id = 0 AND name = %(name)s
) AS next
ON CONFLICT (name) DO UPDATE
SET definition = excluded.definition, version = event_types.version + 1, changed_at = now()
RETURNING version

-- name: put_own_event_type
INSERT INTO tenant_event_types (tenant_id, name, definition, version, since_version)
SELECT %(tenant_id)s, %(name)s, %(definition)s, next.version, next.version
FROM (
    SELECT coalesce(max(version), 0) + 1 AS version FROM event_type_versions
    WHERE tenant_id = %(tenant_id)s AND name = %(name)s
) AS next
ON CONFLICT (tenant_id, name) DO UPDATE
SET definition = excluded.definition, version = tenant_event_types.version + 1, changed_at = now()
RETURNING version

-- name: add_event_type_version
INSERT INTO event_type_versions (tenant_id, name, version, definition, changed_by, kind)
VALUES (%(tenant_id)s, %(name)s, %(version)s, %(definition)s, %(changed_by)s, %(kind)s)

-- name: archive_event_type
-- tenant: types are the operator's, the same for all tenants
UPDATE event_types SET
    archived_at = CASE WHEN %(archived)s THEN now() END, version = version + 1, changed_at = now()
WHERE name = %(name)s
RETURNING version, archived_at

-- name: archive_own_event_type
UPDATE tenant_event_types SET
    archived_at = CASE WHEN %(archived)s THEN now() END, version = version + 1, changed_at = now()
WHERE tenant_id = %(tenant_id)s AND name = %(name)s
RETURNING version, archived_at

-- name: delete_event_type
-- tenant: types are the operator's, the same for all tenants
DELETE FROM event_types WHERE name = %(name)s RETURNING version + 1

-- name: delete_own_event_type
DELETE FROM tenant_event_types WHERE tenant_id = %(tenant_id)s AND name = %(name)s RETURNING version + 1

-- name: needs_of_event_type
-- tenant: the operator's types belong to all tenants; 0 selects those
-- A separate statement after the deletion of the type: it sees what was added while that waited.
SELECT EXISTS (
           SELECT FROM series WHERE event_type = %(name)s AND %(tenant_id)s IN (0, tenant_id)
       ), EXISTS (
           SELECT FROM timers
           WHERE event_type = %(name)s AND state IN (1, 2) AND %(tenant_id)s IN (0, tenant_id)
       ), EXISTS (
           SELECT FROM quarantine
           WHERE event_type = %(name)s AND state = 'waiting' AND %(tenant_id)s IN (0, tenant_id)
       )

-- name: hold_event_types
-- tenant: types are the operator's, the same for all tenants
-- Locked against deletion until the transaction ends, and against nothing else.
SELECT 0, name, since_version FROM event_types WHERE name = ANY(%s::text[]) FOR KEY SHARE

-- name: hold_own_event_types
SELECT tenant_id, name, since_version FROM tenant_event_types
WHERE tenant_id = ANY(%s::int4[]) AND name = ANY(%s::text[])
FOR KEY SHARE

-- name: event_type_versions
SELECT version, definition, changed_by, changed_at, kind
FROM event_type_versions
WHERE tenant_id = %s AND name = %s
ORDER BY version
