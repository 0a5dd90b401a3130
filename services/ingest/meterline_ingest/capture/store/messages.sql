-- name: messages_of_events
SELECT DISTINCT b.message_id
FROM events e
JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
WHERE e.tenant_id = %s AND e.event_id = ANY(%s::uuid[])

-- name: messages_of_batches
SELECT DISTINCT message_id FROM batches WHERE tenant_id = %s AND batch_id = ANY(%s::uuid[])

-- name: messages_of_time
-- tenant: operators replay ranges of time
-- Messages that are in the outbox, and those whose batches are kept longer.
SELECT message_id FROM (
    (
        SELECT message_id FROM outbox
        WHERE message_id > %(after)s::uuid AND message_id < uuid_floor(%(end)s::timestamptz)
        ORDER BY message_id
        LIMIT %(limit)s
    )
    UNION
    (
        SELECT DISTINCT message_id FROM batches
        WHERE message_id > %(after)s::uuid AND message_id < uuid_floor(%(end)s::timestamptz)
        ORDER BY message_id
        LIMIT %(limit)s
    )
) AS found
ORDER BY message_id
LIMIT %(limit)s

-- name: batches_of_message
-- One row a batch and tenant, in the order that the message has them.
SELECT batch_id, tenant_id, batch_number, origin, event_count, received_at, trace_id, span_id, sampled
FROM batches
WHERE message_id = %s
ORDER BY batch_number, tenant_id

-- name: rows_of_batches
SELECT e.batch_number, e.tenant_id, e.event_id, e.occurred_at,
       e.quantity_1, e.quantity_2, e.quantity_3, e.quantity_4,
       s.subject, r.event_type, r.dimensions, d.properties
FROM unnest(%s::int8[], %s::int4[]) AS w (batch_number, tenant_id)
-- The sum with 0 keeps the planner from reading all of the primary key for a tenant.
JOIN events e ON e.batch_number = w.batch_number AND e.tenant_id + 0 = w.tenant_id
JOIN subjects s ON s.tenant_id = w.tenant_id AND s.subject_id = e.subject_id
JOIN series r ON r.tenant_id = w.tenant_id AND r.series_id = e.series_id
LEFT JOIN event_details d ON d.event_id = e.event_id AND d.tenant_id = w.tenant_id
ORDER BY e.batch_number, e.tenant_id, e.event_id
