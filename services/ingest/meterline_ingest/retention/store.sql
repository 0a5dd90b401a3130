-- name: put_hold
-- A hold that was released before is placed again.
INSERT INTO legal_holds AS h (tenant_id, name, reason, requested_by)
VALUES (%(tenant_id)s, %(name)s, %(reason)s, %(requested_by)s)
ON CONFLICT (tenant_id, name) DO UPDATE
SET reason = excluded.reason, requested_by = excluded.requested_by, placed_at = now(), released_at = NULL
WHERE h.released_at IS NOT NULL
RETURNING name, reason, requested_by, placed_at, released_at

-- name: release_hold
-- The time is read after waiting for the lock of a running sweep, so that the next sweep starts over.
UPDATE legal_holds SET released_at = clock_timestamp()
WHERE tenant_id = %s AND name = %s AND released_at IS NULL
RETURNING name, reason, requested_by, placed_at, released_at

-- name: holds
SELECT name, reason, requested_by, placed_at, released_at
FROM legal_holds
WHERE tenant_id = %s AND (%s OR released_at IS NULL)
ORDER BY name
