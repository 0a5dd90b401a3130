-- name: event_months
-- tenant: partitions hold rows of all tenants
SELECT right(c.relname, 6)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'events'::regclass AND c.relname ~ '_\d{6}$'
ORDER BY c.relname

-- name: make_event_months
-- tenant: partitions hold rows of all tenants
SELECT made FROM make_event_months()
