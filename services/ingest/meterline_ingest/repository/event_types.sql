-- name: event_types
-- tenant: types are the operator's, the same for all tenants
SELECT name, definition FROM event_types ORDER BY name

-- name: lock_event_types
-- tenant: types are the operator's, the same for all tenants
SELECT pg_advisory_xact_lock(hashtext('meterline.ingest.event_types'))

-- name: own_event_types
SELECT tenant_id, name, definition FROM tenant_event_types ORDER BY tenant_id, name

-- name: last_event_type_change
-- tenant: tells whether any tenant's types changed
SELECT max(change) FROM event_type_versions

-- name: put_event_type
-- tenant: types are the operator's, the same for all tenants
INSERT INTO event_types (name, definition, version) VALUES (%(name)s, %(definition)s, 1)
ON CONFLICT (name) DO UPDATE
SET definition = excluded.definition, version = event_types.version + 1, changed_at = now()
RETURNING version

-- name: put_own_event_type
INSERT INTO tenant_event_types (tenant_id, name, definition, version)
VALUES (%(tenant_id)s, %(name)s, %(definition)s, 1)
ON CONFLICT (tenant_id, name) DO UPDATE
SET definition = excluded.definition, version = tenant_event_types.version + 1, changed_at = now()
RETURNING version

-- name: add_event_type_version
INSERT INTO event_type_versions (tenant_id, name, version, definition, changed_by)
VALUES (%(tenant_id)s, %(name)s, %(version)s, %(definition)s, %(changed_by)s)

-- name: event_type_versions
SELECT version, definition, changed_by, changed_at
FROM event_type_versions
WHERE tenant_id = %s AND name = %s
ORDER BY version
