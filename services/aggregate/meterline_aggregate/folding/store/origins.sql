-- name: slices_of_batches
-- Where batches contributed, or will once the meter's kind is known.
SELECT c.tenant_id, c.batch_id, c.meter_id, c.window_start
FROM unnest(%s::int4[], %s::uuid[]) AS k (tenant_id, batch_id)
JOIN (
    SELECT tenant_id, batch_id, meter_id, window_start FROM contributions
    UNION ALL
    SELECT tenant_id, batch_id, meter_id, window_start FROM skipped
) AS c ON c.tenant_id = k.tenant_id AND c.batch_id = k.batch_id

-- name: creation_of_meters
-- tenant: meters are the same for all tenants
SELECT meter_id, created_at FROM meters
