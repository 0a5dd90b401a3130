-- name: insert
-- Known versions stay unchanged: facts never change. One without a time is from before the history and counts from the
-- start.
INSERT INTO tenant_plans (tenant_id, version, plan, changed_at)
SELECT * FROM unnest(%s::integer[], %s::bigint[], %s::text[], %s::timestamptz[])
ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: plan_at
SELECT plan_at(%(tenant_id)s, %(at)s)
