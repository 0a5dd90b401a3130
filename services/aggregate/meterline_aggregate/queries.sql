-- name: latest_meter
-- tenant: meters are the same for all tenants
-- Meters are added and deleted one at a time, so the greatest numbers tell whether anything has changed. Whoever reads
-- them keeps meters from being deleted until its transaction ends: `hold_meters` waits for all who have read.
SELECT (SELECT coalesce(max(meter_id), 0) FROM meters),
       (SELECT coalesce(max(deletion), 0) FROM meter_deletions)

-- name: latest_meter_and_scope
-- tenant: meters are the same for all tenants
-- As latest_meter, and sets whose rows the transaction may touch from now on: alone, each would be a round trip.
SELECT (SELECT coalesce(max(meter_id), 0) FROM meters),
       (SELECT coalesce(max(deletion), 0) FROM meter_deletions),
       set_config('meterline.tenant_ids', %s, true)

-- name: meters
-- tenant: meters are the same for all tenants
SELECT meter_id, name, event_type, aggregation, quantity, unique_dimension, group_by, filter
FROM meters ORDER BY name

-- name: meter_by_name
-- tenant: meters are the same for all tenants
SELECT meter_id, name, event_type, aggregation, quantity, unique_dimension, group_by, filter
FROM meters WHERE name = %s

-- name: lock_meters
-- tenant: meters are the same for all tenants
-- One writer at a time, so that numbers become visible in their order. A lock of the table would keep folding
-- transactions waiting, too.
SELECT pg_advisory_xact_lock(hashtext(current_schema() || '.meters'))

-- name: insert_meter
-- tenant: meters are the same for all tenants
INSERT INTO meters (name, event_type, aggregation, quantity, unique_dimension, group_by, filter)
VALUES (%s, %s, %s, %s, %s, %s, %s)
RETURNING meter_id

-- name: hold_meters
-- tenant: meters are the same for all tenants
-- Waits until every transaction that has read meters has ended, and keeps others from reading them.
LOCK TABLE meters IN ACCESS EXCLUSIVE MODE

-- name: refer_to_meter
-- tenant: meters are the same for all tenants
UPDATE meters SET referred_at = now() WHERE name = %s AND referred_at IS NULL

-- name: deletable_meter
-- Whether anything has ever referred to it, and whether it has counted anything. One look a tenant in an index: a month's
-- window is there as soon as anything is counted, and is never deleted.
SELECT m.meter_id, m.referred_at IS NOT NULL, EXISTS (
    SELECT FROM tenants t
    CROSS JOIN LATERAL (
        SELECT FROM windows w WHERE w.tenant_id = t.tenant_id AND w.meter_id = m.meter_id AND w.grain = 4 LIMIT 1
    ) AS used
)
FROM meters m WHERE m.name = %s

-- name: delete_meter
-- tenant: meters are the same for all tenants
WITH gone AS (DELETE FROM meters WHERE meter_id = %s RETURNING meter_id, name)
INSERT INTO meter_deletions (meter_id, name, deleted_by) SELECT meter_id, name, %s FROM gone

-- name: time_zones
SELECT tenant_id, time_zone FROM tenants WHERE tenant_id = ANY(%s)

-- name: slices_of_batches
-- Where batches contributed.
SELECT c.tenant_id, c.batch_id, c.meter_id, c.window_start
FROM unnest(%s::int4[], %s::uuid[]) AS k (tenant_id, batch_id)
JOIN contributions c ON c.tenant_id = k.tenant_id AND c.batch_id = k.batch_id

-- name: creation_of_meters
-- tenant: meters are the same for all tenants
SELECT meter_id, created_at FROM meters

-- name: register_applied
-- tenant: a message may carry many tenants
INSERT INTO applied_messages (batches)
SELECT unnest(%s::uuid[])
ON CONFLICT DO NOTHING
RETURNING batches

-- name: register_in_parts
-- tenant: a message may carry many tenants
INSERT INTO applied_messages (batches, in_parts)
SELECT unnest(%s::uuid[]), true
ON CONFLICT DO NOTHING

-- name: applied_in_parts
-- tenant: a message may carry many tenants
SELECT batches FROM applied_messages WHERE batches = ANY(%s::uuid[]) AND in_parts

-- name: add_members
-- Answers how many were new in each window.
WITH fresh AS (
    INSERT INTO window_members (grain, tenant_id, meter_id, window_start, group_id, member)
    SELECT * FROM unnest(%s::int2[], %s::int4[], %s::int4[], %s::timestamptz[], %s::int8[], %s::uuid[])
    ON CONFLICT DO NOTHING
    RETURNING grain, tenant_id, meter_id, window_start, group_id
)
SELECT grain, tenant_id, meter_id, window_start, group_id, count(*)
FROM fresh
GROUP BY grain, tenant_id, meter_id, window_start, group_id

-- name: add_to_windows
-- Counts, sums and unique counts: what is new comes on top.
INSERT INTO windows AS w (
    grain, tenant_id, meter_id, window_start, group_id, event_count, value, revision
)
SELECT u.*, 1
FROM unnest(
    %s::int2[], %s::int4[], %s::int4[], %s::timestamptz[], %s::int8[], %s::int8[], %s::numeric[]
) AS u
ON CONFLICT (tenant_id, meter_id, window_start, group_id, grain) DO UPDATE SET
    event_count = w.event_count + excluded.event_count,
    value = w.value + excluded.value,
    revision = w.revision + 1

-- name: raise_windows
-- Maxima: the greater one stays.
INSERT INTO windows AS w (
    grain, tenant_id, meter_id, window_start, group_id, event_count, value, revision
)
SELECT u.*, 1
FROM unnest(
    %s::int2[], %s::int4[], %s::int4[], %s::timestamptz[], %s::int8[], %s::int8[], %s::numeric[]
) AS u
ON CONFLICT (tenant_id, meter_id, window_start, group_id, grain) DO UPDATE SET
    event_count = w.event_count + excluded.event_count,
    value = greatest(w.value, excluded.value),
    revision = w.revision + 1

-- name: add_contributions
INSERT INTO contributions (tenant_id, meter_id, window_start, batch_id, event_count, value)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::uuid[], %s::int8[], %s::numeric[])

-- name: add_totals
INSERT INTO tenant_totals AS t (tenant_id, aggregated)
SELECT * FROM unnest(%s::int4[], %s::int8[])
ON CONFLICT (tenant_id) DO UPDATE SET aggregated = t.aggregated + excluded.aggregated

-- name: mark_months
INSERT INTO changed_months (tenant_id, meter_id, window_start, traceparent)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::text[])
ON CONFLICT (tenant_id, meter_id, window_start) DO UPDATE SET traceparent = excluded.traceparent

-- name: claim_months
-- tenant: months of all tenants are published together
-- Only claims: the windows are read by a statement of their own. In this one they would be seen as they
-- were when it began, while the claim may already be of a later change. What waits for a rebuild is left.
WITH claimed AS (
    SELECT tenant_id, meter_id, window_start
    FROM changed_months o
    WHERE NOT EXISTS (
        SELECT FROM pending_rebuilds p
        WHERE p.tenant_id = o.tenant_id AND p.meter_id = o.meter_id AND p.window_start = o.window_start
    )
    ORDER BY tenant_id, meter_id, window_start
    LIMIT %s
    FOR UPDATE OF o SKIP LOCKED
)
DELETE FROM changed_months c USING claimed
WHERE (c.tenant_id, c.meter_id, c.window_start)
    = (claimed.tenant_id, claimed.meter_id, claimed.window_start)
RETURNING c.tenant_id, c.meter_id, c.window_start, c.traceparent

-- name: claim_busy_months
-- tenant: months of all tenants are published together
-- As claim_months, but waits for rows that are being changed, in the order in which they are locked.
WITH claimed AS (
    SELECT tenant_id, meter_id, window_start
    FROM changed_months o
    WHERE NOT EXISTS (
        SELECT FROM pending_rebuilds p
        WHERE p.tenant_id = o.tenant_id AND p.meter_id = o.meter_id AND p.window_start = o.window_start
    )
    ORDER BY tenant_id, meter_id, window_start
    LIMIT %s
    FOR UPDATE OF o
)
DELETE FROM changed_months c USING claimed
WHERE (c.tenant_id, c.meter_id, c.window_start)
    = (claimed.tenant_id, claimed.meter_id, claimed.window_start)
RETURNING c.tenant_id, c.meter_id, c.window_start, c.traceparent

-- name: limit_waiting
-- tenant: touches no row
SET LOCAL lock_timeout = '2s'

-- name: read_months
-- A month may have got a rebuild since it was claimed; that one has it published.
SELECT w.tenant_id, m.name, m.aggregation, t.time_zone, w.window_start,
       coalesce(w.value, CASE m.aggregation WHEN 1 THEN w.event_count ELSE 0 END), w.event_count, w.revision,
       k.traceparent
FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::text[])
    AS k (tenant_id, meter_id, window_start, traceparent)
JOIN windows w ON w.tenant_id = k.tenant_id AND w.meter_id = k.meter_id
    AND w.window_start = k.window_start AND w.group_id = 0 AND w.grain = 4
JOIN meters m ON m.meter_id = k.meter_id
JOIN tenants t ON t.tenant_id = k.tenant_id
WHERE NOT EXISTS (
    SELECT FROM pending_rebuilds p
    WHERE p.tenant_id = k.tenant_id AND p.meter_id = k.meter_id AND p.window_start = k.window_start
)
ORDER BY k.tenant_id, k.meter_id, k.window_start

-- name: totals_of_windows
-- A maximum has no value of its own before its first event: what is taken away may come first.
-- Only months are published and rebuilt.
SELECT w.window_start, coalesce(w.value, CASE m.aggregation WHEN 1 THEN w.event_count ELSE 0 END),
       w.event_count, w.revision, m.aggregation, coalesce(c.traceparent, ''), p.window_start IS NOT NULL
FROM windows w
JOIN meters m ON m.meter_id = w.meter_id
LEFT JOIN changed_months c ON w.grain = 4 AND c.tenant_id = w.tenant_id AND c.meter_id = w.meter_id
    AND c.window_start = w.window_start
LEFT JOIN pending_rebuilds p ON w.grain = 4 AND p.tenant_id = w.tenant_id AND p.meter_id = w.meter_id
    AND p.window_start = w.window_start
WHERE w.tenant_id = %(tenant_id)s AND w.meter_id = %(meter_id)s AND w.grain = %(grain)s AND w.group_id = 0
  AND w.window_start >= %(start)s AND w.window_start < %(end)s AND w.window_start > %(after)s
ORDER BY w.window_start
LIMIT %(limit)s

-- name: groups_of_windows
SELECT w.window_start, w.group_id, g.dimensions, g.rest,
       coalesce(w.value, CASE m.aggregation WHEN 1 THEN w.event_count ELSE 0 END), w.event_count, w.revision,
       m.aggregation
FROM windows w
JOIN meters m ON m.meter_id = w.meter_id
JOIN dimension_groups g ON g.tenant_id = w.tenant_id AND g.group_id = w.group_id
WHERE w.tenant_id = %(tenant_id)s AND w.meter_id = %(meter_id)s AND w.grain = %(grain)s AND w.group_id > 0
  AND w.window_start >= %(start)s AND w.window_start < %(end)s
  AND (w.window_start, w.group_id) > (%(after)s, %(after_group)s)
ORDER BY w.window_start, w.group_id
LIMIT %(limit)s

-- name: contributions_of_meter
SELECT window_start, batch_id, event_count, value
FROM contributions
WHERE tenant_id = %(tenant_id)s AND meter_id = %(meter_id)s
  AND window_start >= %(start)s AND window_start < %(end)s
  AND (window_start, batch_id) > (%(after)s, %(after_batch)s)
ORDER BY window_start, batch_id
LIMIT %(limit)s

-- name: contributions_of_batch
SELECT m.name, m.aggregation, c.window_start, c.batch_id, c.event_count, c.value
FROM contributions c
JOIN meters m ON m.meter_id = c.meter_id
WHERE c.tenant_id = %s AND c.batch_id = %s
ORDER BY m.name, c.window_start

-- name: totals
SELECT t.slug, coalesce(a.aggregated, 0)
FROM tenants t LEFT JOIN tenant_totals a ON a.tenant_id = t.tenant_id

-- name: total_of_tenant
SELECT coalesce(sum(aggregated), 0)::bigint FROM tenant_totals WHERE tenant_id = %s

-- name: totals_at
SELECT w.grain, w.meter_id, w.window_start,
       coalesce(w.value, CASE m.aggregation WHEN 1 THEN w.event_count ELSE 0 END), w.event_count
FROM unnest(%(grains)s::int2[], %(meters)s::int4[], %(starts)s::timestamptz[])
    AS k (grain, meter_id, window_start)
JOIN windows w ON w.tenant_id = %(tenant_id)s AND w.meter_id = k.meter_id AND w.grain = k.grain
    AND w.window_start = k.window_start AND w.group_id = 0
JOIN meters m ON m.meter_id = w.meter_id

-- name: count_new_members
SELECT k.grain, k.meter_id, k.window_start, count(*)
FROM unnest(%(grains)s::int2[], %(meters)s::int4[], %(starts)s::timestamptz[], %(members)s::uuid[])
    AS k (grain, meter_id, window_start, member)
WHERE NOT EXISTS (
    SELECT FROM window_members m
    WHERE m.tenant_id = %(tenant_id)s AND m.meter_id = k.meter_id AND m.grain = k.grain
      AND m.window_start = k.window_start AND m.group_id = 0 AND m.member = k.member
)
GROUP BY k.grain, k.meter_id, k.window_start
