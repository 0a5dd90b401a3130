-- name: now
-- tenant: touches no row
SELECT clock_timestamp()

-- name: count_running
-- Counts no further than the limit: it only matters whether that is reached.
SELECT count(*) FROM (
    SELECT FROM timers WHERE tenant_id = %(tenant_id)s AND state IN (1, 2) LIMIT %(most)s
) AS running

-- name: insert_timer
INSERT INTO timers (
    tenant_id, timer_id, event_type, subject, content, started_by_caller, started_at, last_heartbeat_at,
    has_heartbeat, state, due_at
)
VALUES (
    %(tenant_id)s, %(timer_id)s, %(event_type)s, %(subject)s, %(content)s, %(started_by_caller)s,
    %(started_at)s, %(last_heartbeat_at)s, %(has_heartbeat)s, %(state)s, %(due_at)s
)
ON CONFLICT DO NOTHING

-- name: find_timer
SELECT tenant_id, timer_id, content, started_by_caller, started_at, last_heartbeat_at, state, stopped_at,
       flags, event_id, problem, attempts, due_at, has_heartbeat
FROM timers WHERE tenant_id = %s AND timer_id = %s

-- name: lock_timer
SELECT tenant_id, timer_id, content, started_by_caller, started_at, last_heartbeat_at, state, stopped_at,
       flags, event_id, problem, attempts, due_at, has_heartbeat
FROM timers WHERE tenant_id = %s AND timer_id = %s
FOR UPDATE

-- name: update_timer
UPDATE timers SET
    last_heartbeat_at = %(last_heartbeat_at)s, has_heartbeat = %(has_heartbeat)s, state = %(state)s, stopped_at = %(stopped_at)s,
    flags = %(flags)s, event_id = %(event_id)s, problem = %(problem)s, attempts = %(attempts)s,
    due_at = %(due_at)s
WHERE tenant_id = %(tenant_id)s AND timer_id = %(timer_id)s

-- name: delete_timer
DELETE FROM timers WHERE tenant_id = %s AND timer_id = %s

-- name: list_timers
SELECT tenant_id, timer_id, content, started_by_caller, started_at, last_heartbeat_at, state, stopped_at,
       flags, event_id, problem, attempts, due_at, has_heartbeat
FROM timers
WHERE tenant_id = %(tenant_id)s AND timer_id > %(after)s
  AND (%(state)s::int2 IS NULL OR state = %(state)s)
  AND (%(event_type)s::text IS NULL OR event_type = %(event_type)s)
  AND (%(subject)s::text IS NULL OR subject = %(subject)s)
ORDER BY timer_id
LIMIT %(limit)s

-- name: claim_due
-- tenant: replicas process the timers of all tenants
-- Claimed for a while rather than locked: their processing takes separate transactions.
WITH due AS (
    SELECT tenant_id, timer_id FROM timers
    WHERE due_at <= clock_timestamp()
    ORDER BY due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE timers t SET due_at = clock_timestamp() + %(hold)s::interval
FROM due WHERE t.tenant_id = due.tenant_id AND t.timer_id = due.timer_id
RETURNING t.tenant_id, t.timer_id

-- name: seconds_to_next
-- tenant: replicas process the timers of all tenants
SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8 FROM timers WHERE due_at IS NOT NULL
