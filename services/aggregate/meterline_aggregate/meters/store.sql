-- name: latest_meter
-- tenant: meters are the same for all tenants
-- Meters are added and deleted one at a time, so the greatest numbers show whether anything has changed. Reading them also
-- locks: until the transaction ends, no meter is deleted, since `hold_meters` waits for all readers.
SELECT (SELECT coalesce(max(meter_id), 0) FROM meters),
       (SELECT coalesce(max(deletion), 0) FROM meter_deletions)

-- name: latest_meter_and_scope
-- tenant: meters are the same for all tenants
-- As latest_meter, and sets the tenants whose rows the transaction may access. One statement saves a round trip.
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
-- One writer at a time, so that numbers become visible in order. A lock of the table would block folding transactions, too.
SELECT pg_advisory_xact_lock(hashtext(current_schema() || '.meters'))

-- name: insert_meter
-- tenant: meters are the same for all tenants
INSERT INTO meters (name, event_type, aggregation, quantity, unique_dimension, group_by, filter)
VALUES (%s, %s, %s, %s, %s, %s, %s)
RETURNING meter_id

-- name: limit_waiting
-- tenant: touches no row
SET LOCAL lock_timeout = '2s'

-- name: hold_meters
-- tenant: meters are the same for all tenants
-- Waits until every transaction that has read meters has ended, and blocks new readers.
LOCK TABLE meters IN ACCESS EXCLUSIVE MODE

-- name: refer_to_meter
-- tenant: meters are the same for all tenants
UPDATE meters SET referred_at = now() WHERE name = %s AND referred_at IS NULL

-- name: deletable_meter
-- Whether anything ever referred to the meter, and whether it has counted anything: one index lookup per tenant. A month
-- window exists as soon as anything is counted, and is never deleted.
SELECT m.meter_id, m.referred_at IS NOT NULL, EXISTS (
    SELECT FROM tenants t
    CROSS JOIN LATERAL (
        SELECT FROM windows w WHERE w.tenant_id = t.tenant_id AND w.meter_id = m.meter_id AND w.grain = 4 LIMIT 1
    ) AS used
) OR EXISTS (
    SELECT FROM tenants t
    CROSS JOIN LATERAL (
        SELECT FROM skipped s WHERE s.tenant_id = t.tenant_id AND s.meter_id = m.meter_id LIMIT 1
    ) AS to_be_counted
)
FROM meters m WHERE m.name = %s

-- name: delete_meter
-- tenant: meters are the same for all tenants
WITH gone AS (DELETE FROM meters WHERE meter_id = %s RETURNING meter_id, name)
INSERT INTO meter_deletions (meter_id, name, deleted_by) SELECT meter_id, name, %s FROM gone
