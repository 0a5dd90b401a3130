-- name: kept_since
-- tenant: the horizon is one for all tenants
SELECT kept_since FROM event_horizon

-- name: announce
-- tenant: the horizon is one for all tenants
SELECT announce_event_horizon(%s)

-- name: old_months
-- tenant: months hold rows of all tenants
SELECT old_event_months()

-- name: drop_month
-- tenant: months hold rows of all tenants; those of tenants under a legal hold are kept
SELECT drop_event_month(%s)

-- name: sweep
-- tenant: goes through the batches of all tenants; those of tenants under a legal hold are kept
SELECT sweep_old_events(%s, %s)

-- name: has_more
-- tenant: answers whether a sweep of all tenants has anything to do
SELECT EXISTS (SELECT FROM old_event_months())
    OR EXISTS (SELECT FROM batches b WHERE b.batch_id > h.swept_to AND b.batch_id < uuid_floor(h.kept_since))
    OR EXISTS (SELECT FROM legal_holds WHERE released_at >= h.sweep_began_at)
FROM event_horizon h
