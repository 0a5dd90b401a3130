-- name: sealed_corrections
SELECT event_id, revision, sealed FROM corrections
WHERE tenant_id = %(tenant_id)s AND sealed < %(before)s
  AND (event_id, revision) > (%(event_id)s, %(revision)s)
ORDER BY event_id, revision
LIMIT %(limit)s

-- name: reseal_correction
UPDATE corrections SET sealed = %(after)s
WHERE tenant_id = %(tenant_id)s AND event_id = %(event_id)s AND revision = %(revision)s
  AND sealed = %(before)s
