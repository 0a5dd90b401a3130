-- name: find_entries
SELECT tenant_id, namespace, key, version, attributes
FROM catalogue_entries
JOIN unnest(%s::int4[], %s::text[], %s::text[]) AS wanted (tenant_id, namespace, key)
    USING (tenant_id, namespace, key)

-- name: get_entry
SELECT namespace, key, version, attributes, changed_at
FROM catalogue_entries
WHERE tenant_id = %s AND namespace = %s AND key = %s

-- name: list_entries
SELECT namespace, key, version, attributes, changed_at
FROM catalogue_entries
WHERE tenant_id = %s AND namespace = %s AND key > %s
ORDER BY key
LIMIT %s

-- name: lock_catalogue
-- tenant: the tenant's own lock
-- New versions follow the existing ones, which no other transaction may add to meanwhile.
SELECT pg_advisory_xact_lock(hashtext('meterline.ingest.catalogue'), %(tenant_id)s)

-- name: put_entries
-- A deleted entry that is put again continues its versions. Rows are sorted, to avoid deadlocks.
WITH given AS (
    SELECT * FROM unnest(%(namespaces)s::text[], %(keys)s::text[], %(attributes)s::jsonb[])
        AS g (namespace, key, attributes)
),
put AS (
    INSERT INTO catalogue_entries AS e (tenant_id, namespace, key, version, attributes)
    SELECT %(tenant_id)s, namespace, key, 1 + coalesce((
        SELECT max(version) FROM catalogue_versions v
        WHERE v.tenant_id = %(tenant_id)s AND v.namespace = g.namespace AND v.key = g.key
    ), 0), attributes
    FROM given g
    ON CONFLICT (tenant_id, namespace, key) DO UPDATE
    SET version = e.version + 1, attributes = excluded.attributes, changed_at = now()
    WHERE e.attributes <> excluded.attributes
    RETURNING namespace, key, version, attributes
)
INSERT INTO catalogue_versions (tenant_id, namespace, key, version, attributes)
SELECT %(tenant_id)s, namespace, key, version, attributes FROM put

-- name: delete_entries
WITH gone AS (
    DELETE FROM catalogue_entries
    WHERE tenant_id = %(tenant_id)s AND namespace = %(namespace)s AND key = ANY(%(keys)s)
    RETURNING namespace, key, version
)
INSERT INTO catalogue_versions (tenant_id, namespace, key, version)
SELECT %(tenant_id)s, namespace, key, version + 1 FROM gone
