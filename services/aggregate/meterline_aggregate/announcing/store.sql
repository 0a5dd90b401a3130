-- name: claim_months
-- tenant: months of all tenants are published together
-- Only claims; `read_months` reads the windows. This statement would read them as of its own start, and could so publish an
-- older value than the change that it claims. Skips months that wait for a rebuild, and meters of kinds unknown here.
WITH claimed AS (
    SELECT tenant_id, meter_id, window_start
    FROM changed_months o
    WHERE EXISTS (
        SELECT FROM meters m WHERE m.meter_id = o.meter_id AND m.aggregation = ANY(%(known)s::int2[])
    ) AND NOT EXISTS (
        SELECT FROM pending_rebuilds p
        WHERE p.tenant_id = o.tenant_id AND p.meter_id = o.meter_id AND p.window_start = o.window_start
    )
    ORDER BY tenant_id, meter_id, window_start
    LIMIT %(limit)s
    FOR UPDATE OF o SKIP LOCKED
)
DELETE FROM changed_months c USING claimed
WHERE (c.tenant_id, c.meter_id, c.window_start)
    = (claimed.tenant_id, claimed.meter_id, claimed.window_start)
RETURNING c.tenant_id, c.meter_id, c.window_start, c.traceparent

-- name: claim_busy_months
-- tenant: months of all tenants are published together
-- As claim_months, but waits for locked rows, in key order.
WITH claimed AS (
    SELECT tenant_id, meter_id, window_start
    FROM changed_months o
    WHERE EXISTS (
        SELECT FROM meters m WHERE m.meter_id = o.meter_id AND m.aggregation = ANY(%(known)s::int2[])
    ) AND NOT EXISTS (
        SELECT FROM pending_rebuilds p
        WHERE p.tenant_id = o.tenant_id AND p.meter_id = o.meter_id AND p.window_start = o.window_start
    )
    ORDER BY tenant_id, meter_id, window_start
    LIMIT %(limit)s
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
-- Skips months for which a rebuild was requested since the claim: the rebuild marks them as changed again.
SELECT w.tenant_id, m.name, m.aggregation, t.time_zone, w.window_start,
       w.value, w.event_count, w.revision, k.traceparent
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
