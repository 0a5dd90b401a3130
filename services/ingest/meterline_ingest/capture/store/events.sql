-- name: copy_events
-- tenant: the rows carry it
COPY {partition} (
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

-- name: insert_text_ids
INSERT INTO event_text_ids (event_id, tenant_id, text_id)
SELECT * FROM unnest(%s::uuid[], %s::int4[], %s::text[])
ON CONFLICT DO NOTHING

-- name: insert_batches
INSERT INTO batches (
    message_id, batch_id, tenant_id, batch_number, source, event_count, received_at, sent_at, skew_us, origin,
    first_at, last_at, trace_id, span_id, sampled, retracted, import_id
)
SELECT %s::uuid, b.* FROM unnest(
    %s::uuid[], %s::int4[], %s::int8[], %s::text[], %s::int4[], %s::timestamptz[], %s::timestamptz[],
    %s::int8[], %s::int2[], %s::timestamptz[], %s::timestamptz[], %s::uuid[], %s::int8[], %s::bool[],
    %s::int4[], %s::uuid[]
) AS b

-- name: next_batch_numbers
-- tenant: numbers are unique over all tenants
SELECT nextval('batch_numbers')
