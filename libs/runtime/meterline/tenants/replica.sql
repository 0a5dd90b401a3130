-- name: upsert
-- One after another for each tenant: of two that put a new one at the same time, the second would otherwise
-- find its name taken, which is no conflict of the key that it looks at.
INSERT INTO tenants (
    tenant_id, slug, version, time_zone, currency, plan, external_customer_id, external_subscription_id,
    active, close_lead, changed_at, billed_from
)
SELECT %(tenant_id)s, %(slug)s, %(version)s, %(time_zone)s, %(currency)s, %(plan)s, %(external_customer_id)s,
       %(external_subscription_id)s, %(active)s, %(close_lead)s, %(changed_at)s, %(billed_from)s
FROM pg_advisory_xact_lock(hashtext(current_schema() || '.tenants'), %(tenant_id)s::integer)
ON CONFLICT (tenant_id) DO UPDATE SET
    version = excluded.version,
    plan = excluded.plan,
    external_customer_id = excluded.external_customer_id,
    external_subscription_id = excluded.external_subscription_id,
    active = excluded.active,
    close_lead = excluded.close_lead,
    changed_at = excluded.changed_at,
    billed_from = excluded.billed_from
WHERE tenants.version < excluded.version

-- name: by_slug
-- tenant: the slug is the tenant's name
SELECT tenant_id, slug, version, time_zone, currency, plan, external_customer_id,
       external_subscription_id, active, close_lead, billed_from
FROM tenants WHERE slug = %s

-- name: by_slugs
-- tenant: slugs are the tenants' names
SELECT tenant_id, slug, version, time_zone, currency, plan, external_customer_id,
       external_subscription_id, active, close_lead, billed_from
FROM tenants WHERE slug = ANY(%s)

-- name: by_id
SELECT tenant_id, slug, version, time_zone, currency, plan, external_customer_id,
       external_subscription_id, active, close_lead, billed_from
FROM tenants WHERE tenant_id = %s

-- name: everything
SELECT tenant_id, slug, version, time_zone, currency, plan, external_customer_id,
       external_subscription_id, active, close_lead, billed_from
FROM tenants ORDER BY tenant_id
