-- name: totals
SELECT t.slug, coalesce(a.aggregated, 0)
FROM tenants t LEFT JOIN tenant_totals a ON a.tenant_id = t.tenant_id

-- name: total_of_tenant
SELECT coalesce(sum(aggregated), 0)::bigint FROM tenant_totals WHERE tenant_id = %s
