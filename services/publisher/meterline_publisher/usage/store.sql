-- name: upsert
-- A window from an answer may lack the trace, which the message with the same revision adds.
INSERT INTO usage (
    tenant_id, period_start, meter, period_end, value, event_count, revision, aggregation, trace
)
SELECT * FROM unnest(
    %s::integer[], %s::timestamptz[], %s::text[], %s::timestamptz[], %s::numeric[], %s::bigint[],
    %s::bigint[], %s::text[], %s::text[]
)
ON CONFLICT (tenant_id, period_start, meter) DO UPDATE SET
    period_end = excluded.period_end,
    value = excluded.value,
    event_count = excluded.event_count,
    revision = excluded.revision,
    aggregation = excluded.aggregation,
    trace = excluded.trace
WHERE usage.revision < excluded.revision
   OR (usage.revision = excluded.revision AND usage.trace = '' AND excluded.trace <> '')

-- name: of_period
SELECT meter, value, event_count, revision, aggregation, trace
FROM usage WHERE tenant_id = %s AND period_start = %s
