-- name: request
-- What is waiting already, waits on; what is being finished is waited for, and waits anew.
INSERT INTO pending_rebuilds AS p (tenant_id, meter_id, window_start)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[])
ON CONFLICT (tenant_id, meter_id, window_start) DO UPDATE SET attempts = p.attempts

-- name: add_retractions
INSERT INTO retractions (tenant_id, meter_id, window_start, batch_id)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::uuid[])
