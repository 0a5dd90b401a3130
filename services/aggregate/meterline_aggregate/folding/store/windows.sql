-- name: add_members
-- Returns how many members were new in each window. The shared lock, by key and before the first member is inserted,
-- keeps rebuilds from deleting members of these tenants' meters until the transaction ends, without deadlocks.
WITH held AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(key), set_config('meterline.members_held', 'on', true)
    FROM unnest(%s::int8[]) AS key
), fresh AS (
    INSERT INTO window_members (grain, tenant_id, meter_id, window_start, group_id, member)
    SELECT * FROM unnest(%s::int2[], %s::int4[], %s::int4[], %s::timestamptz[], %s::int8[], %s::uuid[])
    WHERE (SELECT count(*) FROM held) > 0
    ON CONFLICT DO NOTHING
    RETURNING grain, tenant_id, meter_id, window_start, group_id
)
SELECT grain, tenant_id, meter_id, window_start, group_id, count(*)
FROM fresh
GROUP BY grain, tenant_id, meter_id, window_start, group_id

-- name: merge_windows
-- {merge} is the merge expression of the rows' slots.
INSERT INTO windows AS w (
    grain, tenant_id, meter_id, window_start, group_id, event_count, value, revision
)
SELECT u.*, 1
FROM unnest(
    %s::int2[], %s::int4[], %s::int4[], %s::timestamptz[], %s::int8[], %s::int8[], %s::numeric[]
) AS u
ON CONFLICT (tenant_id, meter_id, window_start, group_id, grain) DO UPDATE SET
    event_count = w.event_count + excluded.event_count,
    value = {merge},
    revision = w.revision + 1

-- name: add_contributions
INSERT INTO contributions (tenant_id, meter_id, window_start, batch_id, event_count, value)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::uuid[], %s::int8[], %s::numeric[])

-- name: add_totals
INSERT INTO tenant_totals AS t (tenant_id, aggregated)
SELECT * FROM unnest(%s::int4[], %s::int8[])
ON CONFLICT (tenant_id) DO UPDATE SET aggregated = t.aggregated + excluded.aggregated

-- name: mark_months
INSERT INTO changed_months (tenant_id, meter_id, window_start, traceparent)
SELECT * FROM unnest(%s::int4[], %s::int4[], %s::timestamptz[], %s::text[])
ON CONFLICT (tenant_id, meter_id, window_start) DO UPDATE SET traceparent = excluded.traceparent
