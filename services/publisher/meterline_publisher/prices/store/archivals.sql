-- name: of_plan
-- tenant: the catalogue belongs to no tenant
-- The latest version of a plan.
SELECT version, archived, changed_by, changed_at
FROM plan_archivals WHERE plan = %s
ORDER BY version DESC LIMIT 1

-- name: archived
-- tenant: the catalogue belongs to no tenant
SELECT plan, changed_by, changed_at
FROM (
    SELECT DISTINCT ON (plan) plan, archived, changed_by, changed_at
    FROM plan_archivals WHERE plan = ANY(%s)
    ORDER BY plan, version DESC
) last
WHERE archived

-- name: insert
-- tenant: the catalogue belongs to no tenant
INSERT INTO plan_archivals (plan, version, archived, changed_by, changed_at) VALUES (%s, %s, %s, %s, %s)
