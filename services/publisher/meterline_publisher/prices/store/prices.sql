-- name: lock
-- tenant: the catalogue belongs to no tenant
-- Prices of one plan are put one after another; the lock ends with the transaction.
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
-- What the request that put a version said of its delivery.
SELECT billing_event_name, billing_scale FROM prices WHERE plan = %s AND meter = %s AND version = %s

-- name: lock_shared
-- tenant: the catalogue belongs to no tenant
-- Whoever rates by a plan holds this until its calculations are stored, so that none is by a version that is
-- withdrawn meanwhile.
SELECT pg_advisory_xact_lock_shared(hashtextextended('publisher.plan:' || %s, 0))

-- name: numbers
-- tenant: the catalogue belongs to no tenant
-- All versions that were ever put, and whether each was withdrawn.
SELECT p.version, w.version IS NOT NULL
FROM prices p LEFT JOIN price_withdrawals w USING (plan, meter, version)
WHERE plan = %s AND meter = %s
ORDER BY version

-- name: is_used
-- tenant: the catalogue belongs to no tenant
-- A calculation stores the rules that it was made by, so their sets tell what was ever used.
SELECT EXISTS (SELECT FROM rule_sets WHERE rules @> %s)

-- name: withdraw
-- tenant: the catalogue belongs to no tenant
INSERT INTO price_withdrawals (plan, meter, version, withdrawn_by) VALUES (%s, %s, %s, %s)
