-- name: lock_limits
-- tenant: changes of any limit are made one after another
SELECT pg_advisory_xact_lock(hashtext('meterline.ingest.limits'))

-- name: last_limit_change
-- tenant: answers whether any limit changed
SELECT max(change) FROM limit_changes

-- name: plan_limits
-- tenant: plans are the operator's
SELECT plan, events_per_second, burst, weight, max_series, max_subjects, changed_by, changed_at FROM plan_limits ORDER BY plan

-- name: tenant_limits
SELECT tenant_id, events_per_second, burst, weight, max_series, max_subjects FROM tenant_limits

-- name: put_plan_limits
-- tenant: plans are the operator's
INSERT INTO plan_limits (plan, events_per_second, burst, weight, max_series, max_subjects, changed_by)
VALUES (%(plan)s, %(events_per_second)s, %(burst)s, %(weight)s, %(max_series)s, %(max_subjects)s,
        %(changed_by)s)
ON CONFLICT (plan) DO UPDATE SET
    events_per_second = excluded.events_per_second,
    burst = excluded.burst,
    weight = excluded.weight,
    max_series = excluded.max_series,
    max_subjects = excluded.max_subjects,
    changed_by = excluded.changed_by,
    changed_at = now()
RETURNING changed_at

-- name: put_tenant_limits
INSERT INTO tenant_limits (tenant_id, events_per_second, burst, weight, max_series, max_subjects, changed_by)
VALUES (%(tenant_id)s, %(events_per_second)s, %(burst)s, %(weight)s, %(max_series)s, %(max_subjects)s,
        %(changed_by)s)
ON CONFLICT (tenant_id) DO UPDATE SET
    events_per_second = excluded.events_per_second,
    burst = excluded.burst,
    weight = excluded.weight,
    max_series = excluded.max_series,
    max_subjects = excluded.max_subjects,
    changed_by = excluded.changed_by,
    changed_at = now()

-- name: delete_tenant_limits
DELETE FROM tenant_limits WHERE tenant_id = %(tenant_id)s

-- name: add_limit_change
INSERT INTO limit_changes (tenant_id, plan, events_per_second, burst, weight, max_series, max_subjects, changed_by)
VALUES (%(tenant_id)s, %(plan)s, %(events_per_second)s, %(burst)s, %(weight)s, %(max_series)s, %(max_subjects)s,
        %(changed_by)s)
