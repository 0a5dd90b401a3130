-- name: count_pending
-- tenant: a metric of the whole service
SELECT count(*) FROM pending_rebuilds

-- name: claim
-- tenant: rebuilds of all tenants wait together
-- Skips months of meters whose kind is unknown here; replicas of a newer release claim them.
WITH due AS (
    SELECT p.tenant_id, p.meter_id, p.window_start, p.rebuild_id, t.slug, t.time_zone
    FROM pending_rebuilds p
    JOIN tenants t ON t.tenant_id = p.tenant_id
    JOIN meters m ON m.meter_id = p.meter_id
    WHERE p.next_attempt_at <= now() AND m.aggregation = ANY(%(known)s::int2[])
    ORDER BY p.next_attempt_at
    LIMIT 1
    FOR UPDATE OF p SKIP LOCKED
)
UPDATE pending_rebuilds p
SET rebuild_id = %(rebuild_id)s, attempts = p.attempts + 1, next_attempt_at = now() + %(lease)s
FROM due
WHERE (p.tenant_id, p.meter_id, p.window_start) = (due.tenant_id, due.meter_id, due.window_start)
RETURNING p.tenant_id, due.slug, due.time_zone, p.meter_id, p.window_start, p.attempts, due.rebuild_id

-- name: renew
UPDATE pending_rebuilds SET next_attempt_at = now() + %(lease)s
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s AND window_start = %(start)s
  AND rebuild_id = %(rebuild_id)s
RETURNING true

-- name: postpone
UPDATE pending_rebuilds SET next_attempt_at = now() + %(pause)s
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s AND window_start = %(start)s
  AND rebuild_id = %(rebuild_id)s

-- name: finish
DELETE FROM pending_rebuilds
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s AND window_start = %(start)s
  AND rebuild_id = %(rebuild_id)s
RETURNING true

-- name: clear
WITH w AS (
    DELETE FROM rebuilt_windows WHERE tenant_id = %(tenant_id)s AND rebuild_id = %(rebuild_id)s
), m AS (
    DELETE FROM rebuilt_members WHERE tenant_id = %(tenant_id)s AND rebuild_id = %(rebuild_id)s
)
DELETE FROM rebuilt_batches WHERE tenant_id = %(tenant_id)s AND rebuild_id = %(rebuild_id)s

-- name: gather
-- Adds only batches that are not listed yet. A batch's contributions are all committed together.
INSERT INTO rebuilt_batches (tenant_id, rebuild_id, batch_id)
SELECT DISTINCT tenant_id, %(rebuild_id)s::uuid, batch_id
FROM contributions
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
  AND window_start >= %(first)s AND window_start < %(last)s
ON CONFLICT DO NOTHING

-- name: unstaged
SELECT batch_id FROM rebuilt_batches
WHERE tenant_id = %(tenant_id)s AND rebuild_id = %(rebuild_id)s AND NOT staged AND batch_id > %(after)s
ORDER BY batch_id
LIMIT %(limit)s

-- name: mark_staged
UPDATE rebuilt_batches SET staged = true
WHERE tenant_id = %(tenant_id)s AND rebuild_id = %(rebuild_id)s AND batch_id = ANY(%(batch_ids)s)

-- name: batches_of
SELECT DISTINCT batch_id FROM contributions
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
  AND window_start >= %(first)s AND window_start < %(last)s
ORDER BY batch_id

-- name: retracting
SELECT DISTINCT batch_id FROM retractions
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
  AND window_start >= %(first)s AND window_start < %(last)s
ORDER BY batch_id

-- name: skipped_batches
-- By id, with a lower bound of each batch's number of events.
SELECT batch_id, sum(abs(event_count))::bigint FROM skipped
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
  AND window_start >= %(first)s AND window_start < %(last)s
GROUP BY batch_id
ORDER BY batch_id
LIMIT %(limit)s

-- name: take_skipped
DELETE FROM skipped
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
  AND window_start >= %(first)s AND window_start < %(last)s AND batch_id = ANY(%(batch_ids)s)
RETURNING window_start, batch_id, taken

-- name: any_skipped
SELECT EXISTS (
    SELECT FROM skipped
    WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
      AND window_start >= %(first)s AND window_start < %(last)s
)

-- name: stage_windows
-- {merge} is the merge expression of the slot.
INSERT INTO rebuilt_windows AS w (
    tenant_id, rebuild_id, grain, window_start, group_id, event_count, value
)
SELECT %s, %s, u.* FROM unnest(%s::int2[], %s::timestamptz[], %s::int8[], %s::int8[], %s::numeric[]) AS u
ON CONFLICT (tenant_id, rebuild_id, grain, window_start, group_id) DO UPDATE SET
    event_count = w.event_count + excluded.event_count,
    value = {merge}

-- name: stage_members
INSERT INTO rebuilt_members (tenant_id, rebuild_id, grain, window_start, group_id, member)
SELECT %s, %s, u.* FROM unnest(%s::int2[], %s::timestamptz[], %s::int8[], %s::uuid[]) AS u
ON CONFLICT DO NOTHING

-- name: count_members
UPDATE rebuilt_windows w SET value = m.members
FROM (
    SELECT grain, window_start, group_id, count(*) AS members
    FROM rebuilt_members
    WHERE tenant_id = %(tenant_id)s AND rebuild_id = %(rebuild_id)s
    GROUP BY grain, window_start, group_id
) m
WHERE w.tenant_id = %(tenant_id)s AND w.rebuild_id = %(rebuild_id)s
  AND w.grain = m.grain AND w.window_start = m.window_start AND w.group_id = m.group_id

-- name: limit_waiting
-- tenant: touches no row
SET LOCAL lock_timeout = '5s'

-- name: lock_members
-- Folding stores members first and then counts them. No folding transaction of this tenant's meter may be between the
-- two while members are deleted. Row locks would not prevent it from finding a member that is about to be deleted.
SELECT pg_advisory_xact_lock((%(tenant_id)s::bigint << 32) | %(meter_id)s)

-- name: lock_windows
-- In the order in which folding transactions lock.
SELECT count(*) FROM (
    SELECT FROM windows
    WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
      AND window_start >= CASE WHEN grain < 3 THEN %(first)s ELSE %(start)s END
      AND window_start < CASE WHEN grain < 3 THEN %(last)s ELSE %(end)s END
    ORDER BY grain, window_start, group_id
    FOR UPDATE
) AS locked

-- name: count_differing
-- Windows whose number of events differs from the number that was read.
SELECT count(*)
FROM (
    SELECT grain, window_start, group_id, event_count FROM windows
    WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
      AND window_start >= CASE WHEN grain < 3 THEN %(first)s ELSE %(start)s END
      AND window_start < CASE WHEN grain < 3 THEN %(last)s ELSE %(end)s END
) w
FULL JOIN (
    SELECT grain, window_start, group_id, event_count FROM rebuilt_windows
    WHERE tenant_id = %(tenant_id)s AND rebuild_id = %(rebuild_id)s
      AND window_start >= CASE WHEN grain < 3 THEN %(first)s ELSE %(start)s END
      AND window_start < CASE WHEN grain < 3 THEN %(last)s ELSE %(end)s END
) r USING (grain, window_start, group_id)
WHERE coalesce(w.event_count, 0) <> coalesce(r.event_count, 0)

-- name: replace_windows
-- A window without events gets its slot's empty number: 0, to which others add, or NULL, which any maximum replaces.
-- The month's revision rises in any case, since it is published again.
UPDATE windows w
SET value = n.value, revision = w.revision + 1
FROM (
    SELECT o.grain, o.window_start, o.group_id, coalesce(r.value, %(empty)s::numeric) AS value
    FROM windows o
    LEFT JOIN rebuilt_windows r ON r.tenant_id = o.tenant_id AND r.rebuild_id = %(rebuild_id)s
        AND r.grain = o.grain AND r.window_start = o.window_start AND r.group_id = o.group_id
    WHERE o.tenant_id = %(tenant_id)s AND o.meter_id = %(meter_id)s
      AND o.window_start >= CASE WHEN o.grain < 3 THEN %(first)s ELSE %(start)s END
      AND o.window_start < CASE WHEN o.grain < 3 THEN %(last)s ELSE %(end)s END
      AND (o.value IS DISTINCT FROM coalesce(r.value, %(empty)s::numeric) OR (o.grain = 4 AND o.group_id = 0))
) n
WHERE w.tenant_id = %(tenant_id)s AND w.meter_id = %(meter_id)s
  AND w.grain = n.grain AND w.window_start = n.window_start AND w.group_id = n.group_id

-- name: drop_members
DELETE FROM window_members m
WHERE m.tenant_id = %(tenant_id)s AND m.meter_id = %(meter_id)s
  AND m.window_start >= CASE WHEN m.grain < 3 THEN %(first)s ELSE %(start)s END
  AND m.window_start < CASE WHEN m.grain < 3 THEN %(last)s ELSE %(end)s END
  AND NOT EXISTS (
      SELECT FROM rebuilt_members r
      WHERE r.tenant_id = m.tenant_id AND r.rebuild_id = %(rebuild_id)s AND r.grain = m.grain
        AND r.window_start = m.window_start AND r.group_id = m.group_id AND r.member = m.member
  )

-- name: mark_month
-- An existing mark has the trace of the last change and is kept.
INSERT INTO changed_months (tenant_id, meter_id, window_start, traceparent)
VALUES (%(tenant_id)s, %(meter_id)s, %(start)s, '')
ON CONFLICT DO NOTHING
