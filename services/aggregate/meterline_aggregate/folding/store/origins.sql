-- name: slices_of_batches
-- Where batches contributed.
SELECT c.tenant_id, c.batch_id, c.meter_id, c.window_start
FROM unnest(%s::int4[], %s::uuid[]) AS k (tenant_id, batch_id)
JOIN contributions c ON c.tenant_id = k.tenant_id AND c.batch_id = k.batch_id

-- name: creation_of_meters
-- tenant: meters are the same for all tenants
SELECT meter_id, created_at FROM meters
