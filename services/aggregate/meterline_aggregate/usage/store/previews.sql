-- name: totals_at
SELECT w.grain, w.meter_id, w.window_start, w.event_count, w.value
FROM unnest(%(grains)s::int2[], %(meters)s::int4[], %(starts)s::timestamptz[])
    AS k (grain, meter_id, window_start)
JOIN windows w ON w.tenant_id = %(tenant_id)s AND w.meter_id = k.meter_id AND w.grain = k.grain
    AND w.window_start = k.window_start AND w.group_id = 0

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
