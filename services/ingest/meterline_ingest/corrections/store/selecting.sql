-- name: batches_in_time
-- Batches that may hold events of [start, end), narrow ones first, after the position of the search. A batch
-- of corrections has no source of its own.
WITH here AS (
    SELECT first_at, last_at FROM batches
    WHERE tenant_id = %(tenant_id)s AND batch_number = %(number)s
)
SELECT phase, batch_number, event_count FROM ((
    SELECT 0 AS phase, last_at AS at, batch_number, event_count FROM batches
    WHERE tenant_id = %(tenant_id)s AND last_at - first_at <= interval '1 hour' AND %(phase)s = 0
      AND last_at >= greatest(%(start)s, (SELECT last_at FROM here))
      AND last_at < %(end)s + interval '1 hour' AND first_at < %(end)s
      AND (%(number)s < 0 OR (last_at, batch_number) > ((SELECT last_at FROM here), %(number)s))
      AND (%(source)s = '' OR source = %(source)s OR origin = 2) AND received_at <= %(asked_at)s
    ORDER BY last_at, batch_number
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT 1 AS phase, first_at AS at, batch_number, event_count FROM batches
    WHERE tenant_id = %(tenant_id)s AND last_at - first_at > interval '1 hour'
      AND first_at < %(end)s AND last_at >= %(start)s
      AND (%(phase)s = 0 OR (first_at, batch_number) > ((SELECT first_at FROM here), %(number)s))
      AND (%(source)s = '' OR source = %(source)s OR origin = 2) AND received_at <= %(asked_at)s
    ORDER BY first_at, batch_number
    LIMIT %(limit)s
)) AS b
ORDER BY phase, at, batch_number
LIMIT %(limit)s

-- name: named_batches
SELECT 0 AS phase, batch_number, event_count FROM batches
WHERE tenant_id = %(tenant_id)s AND batch_id = ANY(%(batch_ids)s) AND batch_number > %(number)s
  AND (%(source)s = '' OR source = %(source)s OR origin = 2)
ORDER BY batch_number
LIMIT %(limit)s

-- name: events_in_batches
-- Events that may match type, subject and time. A corrected event is found in the batch of its last
-- correction; if batches are named, in the batch in which it was accepted.
WITH wanted AS MATERIALIZED (
    SELECT batch_number, batch_id, origin FROM batches
    WHERE tenant_id = %(tenant_id)s AND batch_number = ANY(%(numbers)s)
),
-- Materialized, so that events are found by their batches and not by the order of their ids.
found AS MATERIALIZED (
    SELECT e.event_id
    FROM wanted w
    JOIN events e ON e.batch_number = w.batch_number AND e.tenant_id = %(tenant_id)s
    JOIN series r ON r.tenant_id = e.tenant_id AND r.series_id = e.series_id
    JOIN subjects s ON s.tenant_id = e.tenant_id AND s.subject_id = e.subject_id
    WHERE w.origin <> 2 AND (%(event_type)s = '' OR r.event_type = %(event_type)s)
      AND CASE
          WHEN EXISTS (SELECT FROM corrections c WHERE c.tenant_id = e.tenant_id AND c.event_id = e.event_id)
          THEN %(named)s
          ELSE (%(subject)s::text IS NULL OR s.subject = %(subject)s)
               AND e.occurred_at >= %(start)s AND e.occurred_at < %(end)s
      END
    UNION ALL
    SELECT c.event_id
    FROM wanted w
    JOIN corrections c ON c.tenant_id = %(tenant_id)s AND c.batch_id = w.batch_id
    JOIN events e ON e.event_id = c.event_id AND e.tenant_id = c.tenant_id
    JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
    WHERE w.origin = 2 AND c.new IS NOT NULL AND (%(source)s = '' OR b.source = %(source)s)
      AND CASE
          WHEN %(named)s THEN b.batch_id <> ALL(%(batch_ids)s)
          ELSE NOT EXISTS (
              SELECT FROM corrections n
              WHERE n.tenant_id = c.tenant_id AND n.event_id = c.event_id AND n.revision > c.revision
          )
      END
)
SELECT event_id FROM found
WHERE event_id > %(after)s
ORDER BY event_id
LIMIT %(limit)s
