-- name: held
SELECT tenant_id, waiting, bytes FROM quarantine_counts WHERE tenant_id = ANY(%s::int4[])

-- name: known
SELECT tenant_id, quarantine_id
FROM quarantine
JOIN unnest(%s::int4[], %s::uuid[]) AS given (tenant_id, quarantine_id) USING (tenant_id, quarantine_id)
WHERE state <> 'discarded'

-- name: keep
-- An event that is rejected again waits again, unless a replay has accepted it. Its first receipt is kept.
-- Rows are sorted, so that concurrent statements cannot deadlock.
INSERT INTO quarantine AS q (
    tenant_id, quarantine_id, received_at, last_received_at, sent_at, trace_id, span_id, sampled, attempts,
    stage, source, event_id, event_type, reason, field, rule, payload
)
SELECT tenant_id, quarantine_id, received_at, received_at, sent_at, trace_id, span_id, sampled, attempts,
       stage, source, event_id, event_type, reason, field, rule, payload
FROM unnest(
    %s::int4[], %s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::uuid[], %s::int8[], %s::bool[], %s::int4[],
    %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[]
) AS given (
    tenant_id, quarantine_id, received_at, sent_at, trace_id, span_id, sampled, attempts,
    stage, source, event_id, event_type, reason, field, rule, payload
)
ON CONFLICT (tenant_id, quarantine_id) DO UPDATE SET
    attempts = q.attempts + excluded.attempts,
    last_received_at = greatest(q.last_received_at, excluded.last_received_at),
    stage = excluded.stage,
    reason = excluded.reason,
    field = excluded.field,
    rule = excluded.rule,
    state = CASE q.state WHEN 'replayed' THEN q.state ELSE 'waiting' END,
    settled_at = CASE q.state WHEN 'replayed' THEN q.settled_at END,
    settled_by = CASE q.state WHEN 'replayed' THEN q.settled_by ELSE '' END
