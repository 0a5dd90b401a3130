-- name: list_events
WITH wanted AS MATERIALIZED (
    SELECT batch_number, batch_id FROM batches
    WHERE tenant_id = %(tenant_id)s AND batch_id = ANY(%(batch_ids)s)
)
SELECT e.event_id, e.occurred_at, e.quantity_1, e.quantity_2, e.quantity_3, e.quantity_4,
       s.subject, r.event_type, r.dimensions, t.text_id, w.batch_id
FROM wanted w
JOIN events e ON e.batch_number = w.batch_number AND e.tenant_id = %(tenant_id)s
JOIN subjects s ON s.tenant_id = e.tenant_id AND s.subject_id = e.subject_id
JOIN series r ON r.tenant_id = e.tenant_id AND r.series_id = e.series_id
LEFT JOIN event_text_ids t ON t.tenant_id = e.tenant_id AND t.event_id = e.event_id
WHERE (%(event_type)s::text IS NULL OR r.event_type = %(event_type)s)
  AND (%(start)s::timestamptz IS NULL OR e.occurred_at >= %(start)s)
  AND (%(end)s::timestamptz IS NULL OR e.occurred_at < %(end)s)
  AND (%(after_time)s::timestamptz IS NULL
       OR (e.occurred_at, e.event_id, 0) > (%(after_time)s, %(after_id)s, %(after_step)s))
ORDER BY e.occurred_at, e.event_id
LIMIT %(limit)s

-- name: list_corrected
-- Both sides of corrections, as rows of the batches that carry them.
SELECT event_id, occurred_at, content, revision, retracted, batch_id, text_id FROM (
    SELECT c.event_id, c.batch_id, c.revision, retracted, content, t.text_id,
           timestamptz '1970-01-01 00:00Z' + (content ->> 'time_us')::int8 * interval '1 microsecond'
               AS occurred_at
    FROM corrections c
    CROSS JOIN LATERAL (VALUES (true, c.old), (false, c.new)) AS side (retracted, content)
    LEFT JOIN event_text_ids t ON t.tenant_id = c.tenant_id AND t.event_id = c.event_id
    WHERE c.tenant_id = %(tenant_id)s AND c.batch_id = ANY(%(batch_ids)s) AND content IS NOT NULL
) AS r
WHERE (%(event_type)s::text IS NULL OR content ->> 'type' = %(event_type)s)
  AND (%(start)s::timestamptz IS NULL OR occurred_at >= %(start)s)
  AND (%(end)s::timestamptz IS NULL OR occurred_at < %(end)s)
  AND (%(after_time)s::timestamptz IS NULL
       OR (occurred_at, event_id, 2 * revision - retracted::int) >
          (%(after_time)s, %(after_id)s, %(after_step)s))
ORDER BY occurred_at, event_id, 2 * revision - retracted::int
LIMIT %(limit)s

-- name: find_batches
SELECT batch_id, source, event_count, received_at, trace_id, span_id, sampled, message_id, retracted
FROM batches
WHERE tenant_id = %s AND batch_id = ANY(%s)
ORDER BY batch_id

-- name: totals
-- Corrections count what they add and take away what they do not: the same that aggregate counts.
SELECT tenant_id, sum(event_count - retracted)::bigint
FROM batches
WHERE (%(tenant_id)s::int4 IS NULL OR tenant_id = %(tenant_id)s)
GROUP BY tenant_id
ORDER BY tenant_id
