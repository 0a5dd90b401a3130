-- name: insert
-- What is known of a version stays: facts never change, and one from before the history counts from ever.
INSERT INTO tenant_plans (tenant_id, version, plan, changed_at)
SELECT * FROM unnest(%s::integer[], %s::bigint[], %s::text[], %s::timestamptz[])
ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: plan_at
SELECT plan_at(%(tenant_id)s, %(at)s)
