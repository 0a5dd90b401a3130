-- name: time_zones
SELECT tenant_id, time_zone FROM tenants WHERE tenant_id = ANY(%s)
