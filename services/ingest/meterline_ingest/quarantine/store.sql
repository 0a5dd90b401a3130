-- name: all_waiting
-- tenant: a metric over all tenants
SELECT coalesce(sum(waiting), 0)::bigint FROM quarantine_counts

-- name: most_held
-- tenant: a metric over all tenants
SELECT coalesce(max(waiting), 0)::bigint, coalesce(max(bytes), 0)::bigint FROM quarantine_counts

-- name: larger_than
SELECT tenant_id, bytes FROM quarantine_counts WHERE bytes > %s ORDER BY tenant_id

-- name: find
SELECT trace_id, span_id, sampled, state, stage, quarantine_id, source, event_id, event_type, reason, field,
       rule, received_at, last_received_at, sent_at, attempts, settled_at, settled_by, octet_length(payload)
FROM quarantine
WHERE tenant_id = %s AND quarantine_id = %s

-- name: page
SELECT trace_id, span_id, sampled, state, stage, quarantine_id, source, event_id, event_type, reason, field,
       rule, received_at, last_received_at, sent_at, attempts, settled_at, settled_by, octet_length(payload)
FROM quarantine
WHERE tenant_id = %(tenant_id)s AND state = %(state)s
  AND (received_at, quarantine_id) > (%(after_time)s, %(after_id)s)
  AND received_at >= coalesce(%(start)s::timestamptz, '-infinity')
  AND received_at < coalesce(%(end)s::timestamptz, 'infinity')
  AND (%(ids)s::uuid[] IS NULL OR quarantine_id = ANY(%(ids)s::uuid[]))
  AND (%(event_type)s::text = '' OR event_type = %(event_type)s)
  AND (%(reason)s::text = '' OR reason = %(reason)s)
  AND (%(field)s::text = '' OR field = %(field)s)
  AND (%(source)s::text = '' OR source = %(source)s)
  AND (%(stage)s::text = '' OR stage = %(stage)s)
ORDER BY received_at, quarantine_id
LIMIT %(limit)s

-- name: payloads
SELECT quarantine_id, payload FROM quarantine WHERE tenant_id = %s AND quarantine_id = ANY(%s::uuid[])

-- name: mark_replayed
-- Also marks entries that were discarded meanwhile: their events were accepted.
WITH locked AS (
    SELECT quarantine_id FROM quarantine
    WHERE tenant_id = %(tenant_id)s AND quarantine_id = ANY(%(ids)s) AND state <> 'replayed'
    ORDER BY quarantine_id FOR UPDATE
)
UPDATE quarantine q SET state = 'replayed', settled_at = now(), settled_by = %(by)s
FROM locked
WHERE q.tenant_id = %(tenant_id)s AND q.quarantine_id = locked.quarantine_id

-- name: judge_again
WITH locked AS (
    SELECT quarantine_id, given.stage, given.reason, given.field, given.rule
    FROM quarantine
    JOIN unnest(%(ids)s::uuid[], %(stages)s::text[], %(reasons)s::text[], %(fields)s::text[], %(rules)s::text[])
        AS given (quarantine_id, stage, reason, field, rule) USING (quarantine_id)
    WHERE tenant_id = %(tenant_id)s AND state = 'waiting'
    ORDER BY quarantine_id FOR UPDATE OF quarantine
)
UPDATE quarantine q
SET stage = locked.stage, reason = locked.reason, field = locked.field, rule = locked.rule
FROM locked
WHERE q.tenant_id = %(tenant_id)s AND q.quarantine_id = locked.quarantine_id

-- name: discard
WITH locked AS (
    SELECT quarantine_id FROM quarantine
    WHERE tenant_id = %(tenant_id)s AND quarantine_id = ANY(%(ids)s) AND state = 'waiting'
    ORDER BY quarantine_id FOR UPDATE
)
UPDATE quarantine q SET state = 'discarded', settled_at = now(), settled_by = %(by)s
FROM locked
WHERE q.tenant_id = %(tenant_id)s AND q.quarantine_id = locked.quarantine_id

-- name: forget_settled
-- tenant: upkeep for all tenants
WITH old AS (
    SELECT tenant_id, quarantine_id FROM quarantine
    WHERE state <> 'waiting' AND settled_at < now() - %(age)s
    ORDER BY settled_at LIMIT %(limit)s
), locked AS (
    SELECT tenant_id, quarantine_id FROM quarantine JOIN old USING (tenant_id, quarantine_id)
    WHERE state <> 'waiting'
    ORDER BY tenant_id, quarantine_id FOR UPDATE OF quarantine
)
DELETE FROM quarantine q USING locked
WHERE q.tenant_id = locked.tenant_id AND q.quarantine_id = locked.quarantine_id

-- name: forget_oldest
WITH old AS (
    SELECT quarantine_id, quarantine_bytes(payload) AS bytes,
           sum(quarantine_bytes(payload)) OVER (ORDER BY settled_at, quarantine_id) AS total
    FROM quarantine
    WHERE tenant_id = %(tenant_id)s AND state <> 'waiting'
    ORDER BY settled_at, quarantine_id LIMIT %(limit)s
), locked AS (
    SELECT quarantine_id FROM quarantine JOIN old USING (quarantine_id)
    WHERE tenant_id = %(tenant_id)s AND state <> 'waiting' AND old.total - old.bytes < %(excess)s
    ORDER BY quarantine_id FOR UPDATE OF quarantine
)
DELETE FROM quarantine q USING locked
WHERE q.tenant_id = %(tenant_id)s AND q.quarantine_id = locked.quarantine_id

-- name: tenants_waiting
-- tenant: upkeep for all tenants
SELECT tenant_id FROM quarantine_counts WHERE waiting > 0 ORDER BY tenant_id

-- name: forget_waiting
WITH old AS (
    SELECT quarantine_id FROM quarantine
    WHERE tenant_id = %(tenant_id)s AND state = 'waiting' AND received_at < now() - %(age)s
    ORDER BY received_at, quarantine_id LIMIT %(limit)s
), locked AS (
    SELECT quarantine_id FROM quarantine JOIN old USING (quarantine_id)
    WHERE tenant_id = %(tenant_id)s AND state = 'waiting'
    ORDER BY quarantine_id FOR UPDATE OF quarantine
)
DELETE FROM quarantine q USING locked
WHERE q.tenant_id = %(tenant_id)s AND q.quarantine_id = locked.quarantine_id

-- name: earlier_payloads
SELECT quarantine_id, payload FROM quarantine
WHERE tenant_id = %s AND payload < %s AND quarantine_id > %s
ORDER BY quarantine_id
LIMIT %s

-- name: replace_payloads
WITH locked AS (
    SELECT quarantine_id, given.after
    FROM quarantine JOIN unnest(%(ids)s::uuid[], %(before)s::bytea[], %(after)s::bytea[])
        AS given (quarantine_id, before, after) USING (quarantine_id)
    WHERE tenant_id = %(tenant_id)s AND payload = given.before
    ORDER BY quarantine_id FOR UPDATE OF quarantine
)
UPDATE quarantine q SET payload = locked.after
FROM locked
WHERE q.tenant_id = %(tenant_id)s AND q.quarantine_id = locked.quarantine_id
