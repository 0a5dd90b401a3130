-- name: upsert
INSERT INTO tenants (
    tenant_id, slug, version, time_zone, currency, plan, external_customer_id, external_subscription_id,
    active, close_lead, changed_at
)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id) DO UPDATE SET
    version = excluded.version,
    plan = excluded.plan,
    external_customer_id = excluded.external_customer_id,
    external_subscription_id = excluded.external_subscription_id,
    active = excluded.active,
    close_lead = excluded.close_lead,
    changed_at = excluded.changed_at
WHERE tenants.version < excluded.version

-- name: by_slug
-- tenant: the slug is the tenant's name
SELECT tenant_id, slug, version, time_zone, currency, plan, external_customer_id,
       external_subscription_id, active, close_lead
FROM tenants WHERE slug = %s

-- name: by_slugs
-- tenant: slugs are the tenants' names
SELECT tenant_id, slug, version, time_zone, currency, plan, external_customer_id,
       external_subscription_id, active, close_lead
FROM tenants WHERE slug = ANY(%s)

-- name: by_id
SELECT tenant_id, slug, version, time_zone, currency, plan, external_customer_id,
       external_subscription_id, active, close_lead
FROM tenants WHERE tenant_id = %s

-- name: everything
SELECT tenant_id, slug, version, time_zone, currency, plan, external_customer_id,
       external_subscription_id, active, close_lead
FROM tenants ORDER BY tenant_id
