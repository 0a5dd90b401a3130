-- name: find_event
SELECT e.event_id, e.occurred_at, e.quantity_1, e.quantity_2, e.quantity_3, e.quantity_4,
       s.subject, r.event_type, r.dimensions, t.text_id, b.batch_id, b.received_at, b.skew_us,
       d.sent_time, d.properties, d.sealed, d.sealed_names, d.flags
FROM events e
JOIN subjects s ON s.tenant_id = e.tenant_id AND s.subject_id = e.subject_id
JOIN series r ON r.tenant_id = e.tenant_id AND r.series_id = e.series_id
JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
LEFT JOIN event_details d ON d.tenant_id = e.tenant_id AND d.event_id = e.event_id
LEFT JOIN event_text_ids t ON t.tenant_id = e.tenant_id AND t.event_id = e.event_id
WHERE e.tenant_id = %(tenant_id)s AND e.event_id = %(event_id)s

-- name: events_of_batches
-- The first events after (after_time, after_id) of the batches with these numbers. Names are looked up only
-- for returned rows; filters by type and dimensions cost a lookup an event. The sum with 0 keeps the planner
-- from reading all of the primary key for the tenant, which is not at its front. If only the present state is
-- wanted, corrected events are found in the batches of their corrections.
SELECT e.event_id, e.occurred_at, e.quantity_1, e.quantity_2, e.quantity_3, e.quantity_4,
       s.subject, r.event_type, r.dimensions, t.text_id, b.batch_id, b.received_at, b.skew_us,
       d.sent_time, d.properties, d.sealed, d.sealed_names, d.flags
FROM (
    SELECT e.*
    FROM unnest(%(batch_numbers)s::int8[]) AS w (batch_number)
    JOIN events e ON e.batch_number = w.batch_number AND e.tenant_id + 0 = %(tenant_id)s
    WHERE (e.occurred_at, e.event_id) > (%(after_time)s::timestamptz, %(after_id)s::uuid)
      AND (%(end)s::timestamptz IS NULL OR e.occurred_at < %(end)s)
      AND (%(subject)s::text IS NULL OR e.subject_id = (
          SELECT subject_id FROM subjects WHERE tenant_id = %(tenant_id)s AND subject = %(subject)s
      ))
      AND (%(event_type)s::text IS NULL AND %(dimensions)s::jsonb IS NULL OR (
          SELECT (%(event_type)s::text IS NULL OR event_type = %(event_type)s)
             AND (%(dimensions)s::jsonb IS NULL OR dimensions @> %(dimensions)s::jsonb)
          FROM series
          WHERE tenant_id = %(tenant_id)s AND series_id = e.series_id
      ))
      AND NOT (%(standing)s AND EXISTS (
          SELECT FROM corrections c WHERE c.tenant_id = e.tenant_id AND c.event_id = e.event_id
      ))
    ORDER BY e.occurred_at, e.event_id
    LIMIT %(limit)s
) e
JOIN subjects s ON s.tenant_id = e.tenant_id AND s.subject_id = e.subject_id
JOIN series r ON r.tenant_id = e.tenant_id AND r.series_id = e.series_id
JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
LEFT JOIN event_details d ON d.tenant_id = e.tenant_id AND d.event_id = e.event_id
LEFT JOIN event_text_ids t ON t.tenant_id = e.tenant_id AND t.event_id = e.event_id
ORDER BY e.occurred_at, e.event_id

-- name: corrected_of_batches
-- Both rows of the corrections in these batches, after (after_time, after_id, after_step); if only the
-- present state is wanted, the new row of each event's last correction. The retracted row of a correction
-- comes first, then the row that it adds.
SELECT e.event_id, e.occurred_at, e.quantity_1, e.quantity_2, e.quantity_3, e.quantity_4,
       s.subject, r.event_type, r.dimensions, t.text_id, b.batch_id, b.received_at, b.skew_us,
       d.sent_time, d.properties, d.sealed, d.sealed_names, d.flags,
       c.batch_id, c.revision, c.retracted, c.content, c.sealed,
       c.old_batch_id
FROM (
    SELECT c.event_id, c.batch_id, c.revision, side.*,
           timestamptz '1970-01-01 00:00Z' + (side.content ->> 'time_us')::int8 * interval '1 microsecond'
               AS occurred_at
    FROM batches w
    JOIN corrections c ON c.tenant_id = w.tenant_id AND c.batch_id = w.batch_id
    CROSS JOIN LATERAL (
        VALUES (true, c.old, NULL, c.old_batch_id), (false, c.new, c.sealed, NULL)
    ) AS side (retracted, content, sealed, old_batch_id)
    WHERE w.tenant_id = %(tenant_id)s AND w.batch_number = ANY(%(batch_numbers)s::int8[]) AND w.origin = 2
      AND side.content IS NOT NULL
      AND NOT (%(standing)s AND (side.retracted OR EXISTS (
          SELECT FROM corrections n
          WHERE n.tenant_id = c.tenant_id AND n.event_id = c.event_id AND n.revision > c.revision
      )))
) c
JOIN events e ON e.tenant_id = %(tenant_id)s AND e.event_id = c.event_id
JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
JOIN subjects s ON s.tenant_id = e.tenant_id AND s.subject_id = e.subject_id
JOIN series r ON r.tenant_id = e.tenant_id AND r.series_id = e.series_id
LEFT JOIN event_details d ON d.tenant_id = e.tenant_id AND d.event_id = e.event_id
LEFT JOIN event_text_ids t ON t.tenant_id = e.tenant_id AND t.event_id = e.event_id
WHERE (c.occurred_at, c.event_id, 2 * c.revision - c.retracted::int)
      > (%(after_time)s::timestamptz, %(after_id)s::uuid, %(after_step)s::int)
  AND (%(end)s::timestamptz IS NULL OR c.occurred_at < %(end)s)
  AND (%(event_type)s::text IS NULL OR c.content ->> 'type' = %(event_type)s)
  AND (%(subject)s::text IS NULL OR c.content ->> 'subject' = %(subject)s)
  AND (%(dimensions)s::jsonb IS NULL OR c.content -> 'dimensions' @> %(dimensions)s::jsonb)
  AND (%(source)s::text IS NULL OR b.source = %(source)s)
ORDER BY c.occurred_at, c.event_id, 2 * c.revision - c.retracted::int
LIMIT %(limit)s

-- name: spans_of_time
-- Batches with events from `start` on, in the order of their first events: after (after_first, after_number)
-- and before `end`. In each class of `span_class`, batches that may reach `start` began at most the
-- longest span of the class before it; every batch of a class spans at least an eighth of that, so most
-- batches that are read match.
SELECT b.first_at, b.batch_number, b.event_count, b.source, b.origin
FROM (VALUES
    (0::smallint, %(start)s::timestamptz - interval '1 minute'),
    (1::smallint, %(start)s::timestamptz - interval '8 minutes'),
    (2::smallint, %(start)s::timestamptz - interval '64 minutes'),
    (3::smallint, %(start)s::timestamptz - interval '512 minutes'),
    (4::smallint, %(start)s::timestamptz - interval '4096 minutes'),
    (5::smallint, %(start)s::timestamptz - interval '32768 minutes'),
    (6::smallint, %(start)s::timestamptz - interval '262144 minutes'),
    (7::smallint, '-infinity'::timestamptz)
) AS c (span_class, earliest)
CROSS JOIN LATERAL (
    SELECT first_at, batch_number, event_count + retracted AS event_count, source, origin
    FROM batches
    WHERE tenant_id = %(tenant_id)s AND span_class = c.span_class
      AND first_at >= c.earliest AND first_at < %(end)s AND last_at >= %(start)s
      AND (first_at, batch_number) > (%(after_first)s::timestamptz, %(after_number)s::int8)
    ORDER BY first_at, batch_number
    LIMIT %(limit)s
) b
ORDER BY b.first_at, b.batch_number
LIMIT %(limit)s

-- name: spans_of_batches
SELECT first_at, batch_number, event_count + retracted, source, origin
FROM batches
WHERE tenant_id = %(tenant_id)s AND batch_id = ANY(%(batch_ids)s::uuid[]) AND last_at >= %(start)s
  AND (first_at, batch_number) > (%(after_first)s::timestamptz, %(after_number)s::int8)
ORDER BY first_at, batch_number
LIMIT %(limit)s

-- name: find_batches
SELECT batch_id, source, event_count, received_at, trace_id, span_id, sampled, message_id, retracted
FROM batches
WHERE tenant_id = %s AND batch_id = ANY(%s)
ORDER BY batch_id

-- name: totals
-- Corrections add the events that they count and subtract those that they retract, as aggregate does.
SELECT tenant_id, sum(event_count - retracted)::bigint
FROM batches
WHERE (%(tenant_id)s::int4 IS NULL OR tenant_id = %(tenant_id)s)
GROUP BY tenant_id
ORDER BY tenant_id
