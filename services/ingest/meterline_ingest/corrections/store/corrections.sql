-- name: add_request
INSERT INTO correction_requests (tenant_id, correction_id, request_digest, requested_by, reason, position)
VALUES (%(tenant_id)s, %(correction_id)s, %(digest)s, %(requested_by)s, %(reason)s, %(position)s)
ON CONFLICT DO NOTHING

-- name: find_request
SELECT request_digest, at, position, unchanged, failed, failures
FROM correction_requests
WHERE tenant_id = %s AND correction_id = %s

-- name: lock_request
SELECT position
FROM correction_requests
WHERE tenant_id = %s AND correction_id = %s
FOR UPDATE

-- name: move_request
UPDATE correction_requests
SET position = %(position)s, unchanged = unchanged + %(unchanged)s, failed = failed + %(failed)s,
    failures = failures || %(failures)s
WHERE tenant_id = %(tenant_id)s AND correction_id = %(correction_id)s

-- name: add_corrections
-- Sorted, so that concurrent corrections of the same events cannot deadlock.
INSERT INTO corrections (
    tenant_id, event_id, revision, correction_id, kind, old, new, sealed, batch_id, old_batch_id, import_id
)
SELECT %(tenant_id)s, event_id, revision, %(correction_id)s, %(kind)s, old, new, sealed, %(batch_id)s,
       old_batch_id, import_id
FROM jsonb_to_recordset(%(rows)s) AS c (
    event_id uuid, revision integer, old jsonb, new jsonb, sealed bytea, old_batch_id uuid, import_id uuid
)
ORDER BY event_id
ON CONFLICT (tenant_id, event_id, revision) DO NOTHING

-- name: count_corrected
SELECT count(*) FROM corrections WHERE tenant_id = %s AND correction_id = %s

-- name: already_corrected
SELECT event_id FROM corrections
WHERE tenant_id = %s AND correction_id = %s AND event_id = ANY(%s)

-- name: signed_rows
SELECT event_id, revision, old, new, old_batch_id
FROM corrections
WHERE tenant_id = %s AND batch_id = %s
ORDER BY event_id

-- name: list_corrections
-- The lists are separate queries, since each finds its rows by another index whatever the parameters.
SELECT c.event_id, c.revision, c.correction_id, c.kind, c.old, c.new, c.batch_id, c.old_batch_id, c.at,
       q.requested_by, q.reason, t.text_id
FROM corrections c
JOIN correction_requests q ON q.tenant_id = c.tenant_id AND q.correction_id = c.correction_id
LEFT JOIN event_text_ids t ON t.tenant_id = c.tenant_id AND t.event_id = c.event_id
WHERE c.tenant_id = %(tenant_id)s
  AND c.at >= %(start)s AND c.at < %(end)s
  AND (c.at, c.event_id, c.revision) < (%(before)s, %(before_id)s, %(before_revision)s)
ORDER BY c.at DESC, c.event_id DESC, c.revision DESC
LIMIT %(limit)s

-- name: list_of_event
SELECT c.event_id, c.revision, c.correction_id, c.kind, c.old, c.new, c.batch_id, c.old_batch_id, c.at,
       q.requested_by, q.reason, t.text_id
FROM corrections c
JOIN correction_requests q ON q.tenant_id = c.tenant_id AND q.correction_id = c.correction_id
LEFT JOIN event_text_ids t ON t.tenant_id = c.tenant_id AND t.event_id = c.event_id
WHERE c.tenant_id = %(tenant_id)s AND c.event_id = %(event_id)s
  AND c.at >= %(start)s AND c.at < %(end)s
  AND (c.at, c.event_id, c.revision) < (%(before)s, %(before_id)s, %(before_revision)s)
ORDER BY c.at DESC, c.event_id DESC, c.revision DESC
LIMIT %(limit)s

-- name: list_of_request
SELECT c.event_id, c.revision, c.correction_id, c.kind, c.old, c.new, c.batch_id, c.old_batch_id, c.at,
       q.requested_by, q.reason, t.text_id
FROM corrections c
JOIN correction_requests q ON q.tenant_id = c.tenant_id AND q.correction_id = c.correction_id
LEFT JOIN event_text_ids t ON t.tenant_id = c.tenant_id AND t.event_id = c.event_id
WHERE c.tenant_id = %(tenant_id)s AND c.correction_id = %(correction_id)s
  AND c.at >= %(start)s AND c.at < %(end)s
  AND (c.at, c.event_id, c.revision) < (%(before)s, %(before_id)s, %(before_revision)s)
ORDER BY c.at DESC, c.event_id DESC, c.revision DESC
LIMIT %(limit)s

-- name: list_of_import
SELECT c.event_id, c.revision, c.correction_id, c.kind, c.old, c.new, c.batch_id, c.old_batch_id, c.at,
       q.requested_by, q.reason, t.text_id
FROM corrections c
JOIN correction_requests q ON q.tenant_id = c.tenant_id AND q.correction_id = c.correction_id
LEFT JOIN event_text_ids t ON t.tenant_id = c.tenant_id AND t.event_id = c.event_id
WHERE c.tenant_id = %(tenant_id)s AND c.import_id = %(import_id)s
  AND c.at >= %(start)s AND c.at < %(end)s
  AND (c.at, c.event_id, c.revision) < (%(before)s, %(before_id)s, %(before_revision)s)
ORDER BY c.at DESC, c.event_id DESC, c.revision DESC
LIMIT %(limit)s

-- name: corrections_of_event
SELECT c.event_id, c.revision, c.correction_id, c.kind, c.old, c.new, c.batch_id, c.old_batch_id, c.at,
       q.requested_by, q.reason, t.text_id
FROM corrections c
JOIN correction_requests q ON q.tenant_id = c.tenant_id AND q.correction_id = c.correction_id
LEFT JOIN event_text_ids t ON t.tenant_id = c.tenant_id AND t.event_id = c.event_id
WHERE c.tenant_id = %s AND c.event_id = %s
ORDER BY c.revision
