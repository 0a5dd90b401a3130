-- name: request
-- What is waiting already, waits on.
INSERT INTO pending_rebuilds (tenant_id, meter_id, window_start)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[])
ON CONFLICT DO NOTHING

-- name: add_retractions
INSERT INTO retractions (tenant_id, meter_id, window_start, batch_id)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::uuid[])
