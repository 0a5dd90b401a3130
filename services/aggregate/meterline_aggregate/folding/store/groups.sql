-- name: find_groups
-- One statement, so that a set seen as closed is seen with all its groups: those were committed before.
SELECT k.tenant_id, k.digest, coalesce(g.group_id, s.rest_group_id), g.group_id IS NULL
FROM unnest(%s::int4[], %s::uuid[], %s::text[]) AS k (tenant_id, digest, names)
LEFT JOIN dimension_groups g ON g.tenant_id = k.tenant_id AND g.digest = k.digest
LEFT JOIN group_sets s ON s.tenant_id = k.tenant_id AND s.names = k.names
WHERE g.group_id IS NOT NULL OR s.rest_group_id IS NOT NULL

-- name: begin_sets
-- Sorted and inserted before any row is locked, so that transactions cannot deadlock.
INSERT INTO group_sets (tenant_id, names, held)
SELECT k.tenant_id, k.names, 0 FROM unnest(%s::int4[], %s::text[]) AS k (tenant_id, names)
ORDER BY k.tenant_id, k.names COLLATE "C"
ON CONFLICT DO NOTHING

-- name: hold_sets
SELECT s.tenant_id, s.names, s.held
FROM group_sets s
JOIN unnest(%s::int4[], %s::text[]) AS k (tenant_id, names) ON k.tenant_id = s.tenant_id AND k.names = s.names
ORDER BY s.tenant_id, s.names COLLATE "C"
FOR UPDATE OF s

-- name: add_groups
INSERT INTO dimension_groups (tenant_id, digest, dimensions, rest)
SELECT * FROM unnest(%s::int4[], %s::uuid[], %s::text[]::json[], %s::bool[])

-- name: close_sets
UPDATE group_sets s SET rest_group_id = g.group_id
FROM unnest(%s::int4[], %s::text[], %s::uuid[]) AS k (tenant_id, names, digest)
JOIN dimension_groups g ON g.tenant_id = k.tenant_id AND g.digest = k.digest
WHERE s.tenant_id = k.tenant_id AND s.names = k.names

-- name: fullness
-- tenant: a metric of the whole service
SELECT coalesce(max(CASE WHEN rest_group_id IS NULL THEN least(1, held / %s::numeric) ELSE 1 END), 0),
       count(rest_group_id)
FROM group_sets
