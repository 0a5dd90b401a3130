-- name: bury
-- tenant: a message may carry many tenants
INSERT INTO dead_letters (message_id, consumer, subject, headers, payload, error)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING

-- name: open_of
-- tenant: a message may carry many tenants
SELECT message_id, headers ->> 'Meterline-Part-Of'
FROM dead_letters
WHERE consumer = %s AND state = 'open'
  AND (message_id = ANY(%s) OR headers ->> 'Meterline-Part-Of' = ANY(%s::text[]))
ORDER BY message_id

-- name: claim
-- tenant: a message may carry many tenants
SELECT subject, headers, payload
FROM dead_letters
WHERE message_id = %s AND consumer = %s AND state = 'open'
FOR UPDATE SKIP LOCKED

-- name: mark_redriven
-- tenant: a message may carry many tenants
UPDATE dead_letters
SET state = 'redriven', attempts = attempts + 1, redriven_at = now(), redriven_by = %s, reason = %s
WHERE message_id = %s AND consumer = %s

-- name: note_failure
-- tenant: a message may carry many tenants
UPDATE dead_letters
SET error = %s, attempts = attempts + 1, failed_at = now()
WHERE message_id = %s AND consumer = %s AND state = 'open'

-- name: page
-- tenant: operators look at all that a consumer could not apply
SELECT message_id, consumer, subject, headers, error, state, attempts, received_at, failed_at,
       redriven_at, redriven_by, reason, octet_length(payload),
       CASE WHEN %(with_payload)s THEN payload END
FROM dead_letters
WHERE consumer = ANY(%(consumers)s)
  AND state = ANY(%(states)s)
  AND starts_with(error, %(error_prefix)s)
  AND received_at >= %(since)s AND received_at < %(until)s
  AND (received_at, message_id, consumer) > (%(after_time)s, %(after_id)s, %(after_consumer)s)
ORDER BY received_at, message_id, consumer
LIMIT %(limit)s

-- name: choose
-- tenant: operators redrive what a consumer could not apply
-- Those that were tried longest ago come first, so that calls in a row get to all of them.
SELECT message_id, consumer, count(*) OVER ()
FROM dead_letters
WHERE consumer = ANY(%(consumers)s)
  AND state = 'open'
  AND starts_with(error, %(error_prefix)s)
  AND received_at >= %(since)s AND received_at < %(until)s
ORDER BY failed_at, message_id, consumer
LIMIT %(limit)s

-- name: choose_by_id
-- tenant: operators redrive what a consumer could not apply
SELECT message_id, consumer
FROM dead_letters
WHERE message_id = ANY(%s) AND consumer = ANY(%s) AND state = 'open'
ORDER BY message_id, consumer

-- name: count_open
-- tenant: a metric of the whole service
SELECT consumer, count(*) FROM dead_letters WHERE state = 'open' GROUP BY consumer
