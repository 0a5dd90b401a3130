-- name: totals_of_windows
-- Only months are published and rebuilt.
SELECT w.window_start, w.value, w.event_count, w.revision, coalesce(c.traceparent, ''), p.window_start IS NOT NULL
FROM windows w
LEFT JOIN changed_months c ON w.grain = 4 AND c.tenant_id = w.tenant_id AND c.meter_id = w.meter_id
    AND c.window_start = w.window_start
LEFT JOIN pending_rebuilds p ON w.grain = 4 AND p.tenant_id = w.tenant_id AND p.meter_id = w.meter_id
    AND p.window_start = w.window_start
WHERE w.tenant_id = %(tenant_id)s AND w.meter_id = %(meter_id)s AND w.grain = %(grain)s AND w.group_id = 0
  AND w.window_start >= %(start)s AND w.window_start < %(end)s AND w.window_start > %(after)s
ORDER BY w.window_start
LIMIT %(limit)s

-- name: groups_of_windows
SELECT w.window_start, w.group_id, g.dimensions, g.rest, w.value, w.event_count, w.revision
FROM windows w
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
WHERE c.tenant_id = %(tenant_id)s AND c.batch_id = %(batch_id)s AND m.aggregation = ANY(%(known)s::int2[])
ORDER BY m.name, c.window_start
