-- name: held
SELECT tenant_id, series, subjects FROM dictionary_counts WHERE tenant_id = ANY(%s::int4[])

-- name: hold_counts
-- In the order of tenants, and before anything is added, so that two transactions cannot deadlock.
SELECT tenant_id, series, subjects FROM dictionary_counts
WHERE tenant_id = ANY(%s::int4[])
ORDER BY tenant_id FOR UPDATE

-- name: begin_counts
INSERT INTO dictionary_counts (tenant_id)
SELECT unnest(%s::int4[]) AS tenant_id ORDER BY tenant_id
ON CONFLICT DO NOTHING

-- name: add_series
WITH given AS (
    SELECT * FROM unnest(%s::int4[], %s::uuid[], %s::text[], %s::text[]::jsonb[])
        AS g (tenant_id, series_key, event_type, dimensions)
), fresh AS (
    SELECT given.*, row_number() OVER (PARTITION BY tenant_id ORDER BY series_key) AS place
    FROM given
    WHERE NOT EXISTS (
        SELECT FROM series s WHERE s.tenant_id = given.tenant_id AND s.series_key = given.series_key)
)
INSERT INTO series (tenant_id, series_key, event_type, dimensions)
SELECT tenant_id, series_key, event_type, dimensions
FROM fresh JOIN unnest(%s::int4[], %s::int8[]) AS room (tenant_id, entries) USING (tenant_id)
WHERE place <= entries
ORDER BY tenant_id, series_key
ON CONFLICT DO NOTHING

-- name: find_series
SELECT tenant_id, series_key, series_id
FROM series
JOIN unnest(%s::int4[], %s::uuid[]) AS wanted (tenant_id, series_key) USING (tenant_id, series_key)

-- name: add_subjects
WITH fresh AS (
    SELECT given.*, row_number() OVER (PARTITION BY tenant_id ORDER BY subject) AS place
    FROM unnest(%s::int4[], %s::text[]) AS given (tenant_id, subject)
    WHERE NOT EXISTS (
        SELECT FROM subjects s WHERE s.tenant_id = given.tenant_id AND s.subject = given.subject)
)
INSERT INTO subjects (tenant_id, subject)
SELECT tenant_id, subject
FROM fresh JOIN unnest(%s::int4[], %s::int8[]) AS room (tenant_id, entries) USING (tenant_id)
WHERE place <= entries
ORDER BY tenant_id, subject
ON CONFLICT DO NOTHING

-- name: find_subjects
SELECT tenant_id, subject, subject_id
FROM subjects
JOIN unnest(%s::int4[], %s::text[]) AS wanted (tenant_id, subject) USING (tenant_id, subject)

-- name: fullest
-- A tenant's own quota has precedence over its plan's, as in `LimitBook`.
SELECT coalesce(max(series::float8 / max_series), 0), coalesce(max(subjects::float8 / max_subjects), 0)
FROM (
    SELECT c.series, c.subjects,
           coalesce(nullif(coalesce(own.max_series, of_plan.max_series), 0), %(series)s) AS max_series,
           coalesce(nullif(coalesce(own.max_subjects, of_plan.max_subjects), 0), %(subjects)s) AS max_subjects
    FROM dictionary_counts c
    LEFT JOIN tenants t ON t.tenant_id = c.tenant_id
    LEFT JOIN tenant_limits own ON own.tenant_id = c.tenant_id
    LEFT JOIN plan_limits of_plan ON of_plan.plan = t.plan
) AS counted
