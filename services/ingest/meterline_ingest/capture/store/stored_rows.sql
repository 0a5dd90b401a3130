-- name: stored_rows
-- One row: for each event under these ids one record in binary form, all of one width, or NULL if there is none.
-- `flags` has a bit for each quantity that is NULL (1, 2, 4, 8), 16 if the batch has no row yet, and 32 if the
-- event has details. The bounds of the ids let the plan leave out other months. May return events that were not
-- asked for, if two of the tenants use one id.
SELECT string_agg(
    record_send(ROW(
        e.event_id, e.tenant_id, e.subject_id, e.series_id, e.occurred_at, coalesce(b.skew_us, 0),
        coalesce(e.quantity_1, 0), coalesce(e.quantity_2, 0), coalesce(e.quantity_3, 0), coalesce(e.quantity_4, 0),
        num_nulls(e.quantity_1) + 2 * num_nulls(e.quantity_2) + 4 * num_nulls(e.quantity_3)
            + 8 * num_nulls(e.quantity_4) + 16 * num_nulls(b.skew_us) + 32 * num_nonnulls(d.body_digest),
        coalesce(d.body_digest, e.event_id)
    )),
    ''::bytea
)
FROM events e
LEFT JOIN batches b ON b.tenant_id = e.tenant_id AND b.batch_number = e.batch_number
LEFT JOIN event_details d ON d.event_id = e.event_id AND d.tenant_id = e.tenant_id
WHERE e.event_id = ANY(%s::uuid[]) AND e.tenant_id = ANY(%s::int4[]) AND e.event_id BETWEEN %s::uuid AND %s::uuid
