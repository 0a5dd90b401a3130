-- name: copy_events
-- tenant: the rows carry it
COPY events (
    event_id, batch_number, subject_id, occurred_at, quantity_1, quantity_2, quantity_3, quantity_4,
    tenant_id, series_id
) FROM STDIN (FORMAT BINARY)

-- name: insert_events
INSERT INTO events (
    event_id, tenant_id, batch_number, subject_id, occurred_at, series_id,
    quantity_1, quantity_2, quantity_3, quantity_4
)
SELECT * FROM unnest(
    %s::uuid[], %s::int4[], %s::int8[], %s::int8[], %s::timestamptz[], %s::int4[],
    %s::int8[], %s::int8[], %s::int8[], %s::int8[]
)
ON CONFLICT DO NOTHING
RETURNING event_id, tenant_id

-- name: known_events
SELECT event_id, tenant_id
FROM events
JOIN unnest(%s::uuid[], %s::int4[]) AS wanted (event_id, tenant_id) USING (event_id, tenant_id)

-- name: stored_events
SELECT event_id, tenant_id, subject_id, occurred_at, series_id,
       quantity_1, quantity_2, quantity_3, quantity_4
FROM events
JOIN unnest(%s::uuid[], %s::int4[]) AS wanted (event_id, tenant_id) USING (event_id, tenant_id)

-- name: insert_text_ids
INSERT INTO event_text_ids (event_id, tenant_id, text_id)
SELECT * FROM unnest(%s::uuid[], %s::int4[], %s::text[])
ON CONFLICT DO NOTHING

-- name: insert_batches
INSERT INTO batches (
    batch_id, tenant_id, batch_number, source, event_count, received_at, sent_at,
    trace_id, span_id, sampled, message_id
)
SELECT *, %s::uuid FROM unnest(
    %s::uuid[], %s::int4[], %s::int8[], %s::text[], %s::int4[], %s::timestamptz[], %s::timestamptz[],
    %s::uuid[], %s::int8[], %s::bool[]
)

-- name: next_batch_numbers
-- tenant: numbers are unique over all tenants
SELECT nextval('batch_numbers')

-- name: add_series
INSERT INTO series (tenant_id, series_key, event_type, dimensions)
SELECT * FROM unnest(%s::int4[], %s::uuid[], %s::text[], %s::text[]::jsonb[])
ON CONFLICT DO NOTHING

-- name: find_series
SELECT tenant_id, series_key, series_id
FROM series
JOIN unnest(%s::int4[], %s::uuid[]) AS wanted (tenant_id, series_key) USING (tenant_id, series_key)

-- name: add_subjects
INSERT INTO subjects (tenant_id, subject)
SELECT * FROM unnest(%s::int4[], %s::text[])
ON CONFLICT DO NOTHING

-- name: find_subjects
SELECT tenant_id, subject, subject_id
FROM subjects
JOIN unnest(%s::int4[], %s::text[]) AS wanted (tenant_id, subject) USING (tenant_id, subject)

-- name: event_types
-- tenant: types are the operator's, the same for all tenants
SELECT name, definition FROM event_types ORDER BY name

-- name: lock_event_types
-- tenant: types are the operator's, the same for all tenants
SELECT pg_advisory_xact_lock(hashtext('meterline.ingest.event_types'))

-- name: own_event_types
SELECT tenant_id, name, definition FROM tenant_event_types ORDER BY tenant_id, name

-- name: last_event_type_change
-- tenant: tells whether any tenant's types changed
SELECT max(change) FROM event_type_versions

-- name: put_event_type
-- tenant: types are the operator's, the same for all tenants
INSERT INTO event_types (name, definition, version) VALUES (%(name)s, %(definition)s, 1)
ON CONFLICT (name) DO UPDATE
SET definition = excluded.definition, version = event_types.version + 1, changed_at = now()
RETURNING version

-- name: put_own_event_type
INSERT INTO tenant_event_types (tenant_id, name, definition, version)
VALUES (%(tenant_id)s, %(name)s, %(definition)s, 1)
ON CONFLICT (tenant_id, name) DO UPDATE
SET definition = excluded.definition, version = tenant_event_types.version + 1, changed_at = now()
RETURNING version

-- name: add_event_type_version
INSERT INTO event_type_versions (tenant_id, name, version, definition, changed_by)
VALUES (%(tenant_id)s, %(name)s, %(version)s, %(definition)s, %(changed_by)s)

-- name: event_type_versions
SELECT version, definition, changed_by, changed_at
FROM event_type_versions
WHERE tenant_id = %s AND name = %s
ORDER BY version

-- name: find_event
SELECT e.event_id, e.occurred_at, e.quantity_1, e.quantity_2, e.quantity_3, e.quantity_4,
       s.subject, r.event_type, r.dimensions, t.text_id, b.batch_id
FROM events e
JOIN subjects s ON s.tenant_id = e.tenant_id AND s.subject_id = e.subject_id
JOIN series r ON r.tenant_id = e.tenant_id AND r.series_id = e.series_id
JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
LEFT JOIN event_text_ids t ON t.tenant_id = e.tenant_id AND t.event_id = e.event_id
WHERE e.tenant_id = %(tenant_id)s AND e.event_id = %(event_id)s

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
  AND (%(after_time)s::timestamptz IS NULL OR (e.occurred_at, e.event_id) > (%(after_time)s, %(after_id)s))
ORDER BY e.occurred_at, e.event_id
LIMIT %(limit)s

-- name: find_batches
SELECT batch_id, source, event_count, received_at, trace_id, span_id, sampled, message_id
FROM batches
WHERE tenant_id = %s AND batch_id = ANY(%s)
ORDER BY batch_id

-- name: totals
SELECT tenant_id, sum(event_count)::bigint
FROM batches
WHERE (%(tenant_id)s::int4 IS NULL OR tenant_id = %(tenant_id)s)
GROUP BY tenant_id
ORDER BY tenant_id
