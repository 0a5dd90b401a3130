-- name: lock
-- tenant: the catalogue belongs to no tenant
-- Prices of one plan are put one at a time; the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('publisher.plan:' || %s, 0))

-- name: of_plan
-- tenant: the catalogue belongs to no tenant
SELECT plan, meter, version, effective_from, effective_date, body, description, billing_event_name, billing_scale
FROM catalogue WHERE plan = %s
ORDER BY meter, version

-- name: everything
-- tenant: the catalogue belongs to no tenant
SELECT plan, meter, version, effective_from, effective_date, body, description, billing_event_name, billing_scale
FROM catalogue
ORDER BY plan, meter, version

-- name: insert
-- tenant: the catalogue belongs to no tenant
INSERT INTO prices (
    plan, meter, version, effective_from, effective_date, body, digest, description, billing_event_name,
    billing_scale
)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)

-- name: insert_rule_set
-- tenant: the catalogue belongs to no tenant
INSERT INTO rule_sets (rule_set_id, digest, rules) VALUES (%s, %s, %s)
ON CONFLICT DO NOTHING

-- name: stated_delivery
-- tenant: the catalogue belongs to no tenant
-- The delivery settings in the request that put this version.
SELECT billing_event_name, billing_scale FROM prices WHERE plan = %s AND meter = %s AND version = %s

-- name: lock_shared
-- tenant: the catalogue belongs to no tenant
-- A rating holds this lock until its calculations are stored, so that the versions that it uses are not withdrawn
-- in the meantime.
SELECT pg_advisory_xact_lock_shared(hashtextextended('publisher.plan:' || %s, 0))

-- name: numbers
-- tenant: the catalogue belongs to no tenant
-- The numbers of all versions ever put, and whether each was withdrawn.
SELECT p.version, w.version IS NOT NULL
FROM prices p LEFT JOIN price_withdrawals w USING (plan, meter, version)
WHERE plan = %s AND meter = %s
ORDER BY version

-- name: is_used
-- tenant: the catalogue belongs to no tenant
-- Calculations are stored with their rule sets, so the rule sets list all versions ever used.
SELECT EXISTS (SELECT FROM rule_sets WHERE rules @> %s)

-- name: withdraw
-- tenant: the catalogue belongs to no tenant
INSERT INTO price_withdrawals (plan, meter, version, withdrawn_by) VALUES (%s, %s, %s, %s)
