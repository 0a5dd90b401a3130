-- name: skip
INSERT INTO skipped (tenant_id, meter_id, window_start, batch_id, event_count, taken)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::uuid[], %s::int8[], %s::bytea[])
