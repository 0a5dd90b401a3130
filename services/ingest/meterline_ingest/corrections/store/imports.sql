-- name: add_import
INSERT INTO imports (tenant_id, import_id, source, requested_by, reason)
VALUES (%(tenant_id)s, %(import_id)s, %(source)s, %(requested_by)s, %(reason)s)
ON CONFLICT DO NOTHING

-- name: find_import
SELECT source, requested_by, reason FROM imports WHERE tenant_id = %s AND import_id = %s

-- name: list_imports
SELECT i.import_id, i.source, i.requested_by, i.reason, i.at, b.batches, b.events
FROM imports i
CROSS JOIN LATERAL (
    SELECT count(*) AS batches, coalesce(sum(event_count), 0)::int8 AS events FROM batches
    WHERE tenant_id = i.tenant_id AND import_id = i.import_id
) b
WHERE i.tenant_id = %(tenant_id)s AND (i.at, i.import_id) < (%(before)s, %(before_id)s)
ORDER BY i.at DESC, i.import_id DESC
LIMIT %(limit)s
