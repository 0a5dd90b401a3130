-- name: request
-- A month that waits already keeps waiting. The update locks the row: it waits for a rebuild that is finishing, and
-- then inserts the month again.
INSERT INTO pending_rebuilds AS p (tenant_id, meter_id, window_start)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[])
ON CONFLICT (tenant_id, meter_id, window_start) DO UPDATE SET attempts = p.attempts

-- name: add_retractions
INSERT INTO retractions (tenant_id, meter_id, window_start, batch_id)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::uuid[])
