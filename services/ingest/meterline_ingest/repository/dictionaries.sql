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
