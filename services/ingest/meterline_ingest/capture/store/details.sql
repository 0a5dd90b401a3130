-- name: insert_details
INSERT INTO event_details (
    event_id, tenant_id, body_digest, sent_time, properties, sealed, sealed_names, flags, sources
)
SELECT event_id, tenant_id, body_digest, sent_time, properties::jsonb, sealed,
       string_to_array(sealed_names, ' '), string_to_array(flags, ' '), string_to_array(sources, E'\x1f')
FROM unnest(
    %s::uuid[], %s::int4[], %s::uuid[], %s::timestamptz[], %s::text[], %s::bytea[], %s::text[], %s::text[],
    %s::text[]
) AS d (event_id, tenant_id, body_digest, sent_time, properties, sealed, sealed_names, flags, sources)

-- name: sealed_earlier
SELECT event_id, sealed FROM event_details
WHERE tenant_id = %s AND substring(sealed FROM 1 FOR 5) < %s AND sealed IS NOT NULL AND event_id > %s
ORDER BY event_id
LIMIT %s

-- name: replace_sealed
UPDATE event_details d SET sealed = r.after
FROM unnest(%s::uuid[], %s::bytea[], %s::bytea[]) AS r (event_id, before, after)
WHERE d.tenant_id = %s AND d.event_id = r.event_id AND d.sealed = r.before

-- name: stored_bodies
-- The stored bodies that repeated events are compared with. A batch that is being stored has no row yet. May
-- return pairs that were not asked for, if two of the tenants use one id.
SELECT e.event_id, e.tenant_id, e.batch_number, e.occurred_at, b.skew_us, e.subject_id, e.series_id,
       e.quantity_1, e.quantity_2, e.quantity_3, e.quantity_4, d.body_digest, d.sent_time,
       r.event_type, r.dimensions, s.subject
FROM events e
JOIN series r ON r.tenant_id = e.tenant_id AND r.series_id = e.series_id
JOIN subjects s ON s.tenant_id = e.tenant_id AND s.subject_id = e.subject_id
LEFT JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
LEFT JOIN event_details d ON d.event_id = e.event_id AND d.tenant_id = e.tenant_id
WHERE e.event_id = ANY(%s::uuid[]) AND e.tenant_id = ANY(%s::int4[])
