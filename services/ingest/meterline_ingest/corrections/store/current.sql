-- name: current_events
SELECT e.event_id, e.occurred_at, e.quantity_1, e.quantity_2, e.quantity_3, e.quantity_4,
       s.subject, r.event_type, r.dimensions, d.properties, d.sealed, d.flags, d.sources, d.sealed_names,
       t.text_id, b.batch_id, b.import_id, c.revision, c.batch_id, c.old, c.new, c.sealed
FROM events e
JOIN subjects s ON s.tenant_id = e.tenant_id AND s.subject_id = e.subject_id
JOIN series r ON r.tenant_id = e.tenant_id AND r.series_id = e.series_id
JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
LEFT JOIN event_details d ON d.event_id = e.event_id AND d.tenant_id = e.tenant_id
LEFT JOIN event_text_ids t ON t.event_id = e.event_id AND t.tenant_id = e.tenant_id
LEFT JOIN LATERAL (
    SELECT revision, batch_id, old, new, sealed FROM corrections
    WHERE tenant_id = e.tenant_id AND event_id = e.event_id
    ORDER BY revision DESC
    LIMIT 1
) c ON true
WHERE e.tenant_id = %(tenant_id)s AND e.event_id = ANY(%(event_ids)s)
ORDER BY e.event_id
