-- name: insert
-- Returns nothing when the name is taken. The condition is for repeated requests, each of which would use up
-- a number otherwise; the conflict clause is for concurrent ones, and waits until the other has ended.
INSERT INTO tenant_accounts (
    slug, display_name, time_zone, currency, plan, external_customer_id, external_subscription_id,
    close_lead_seconds, billed_from, billing_provider, onboarding, created_at, updated_at
)
SELECT
    %(slug)s, %(display_name)s, %(time_zone)s, %(currency)s, %(plan)s, %(external_customer_id)s,
    %(external_subscription_id)s, %(close_lead_seconds)s, %(billed_from)s, %(billing_provider)s,
    %(onboarding)s, %(now)s, %(now)s
WHERE NOT EXISTS (SELECT FROM tenant_accounts WHERE slug = %(slug)s)
ON CONFLICT (slug) DO NOTHING
RETURNING tenant_id, slug, display_name, time_zone, currency, plan, external_customer_id,
          external_subscription_id, close_lead_seconds, active, version, billed_from, billing_provider,
          created_at, updated_at

-- name: by_slug
-- tenant: the slug is the tenant's name
SELECT tenant_id, slug, display_name, time_zone, currency, plan, external_customer_id,
       external_subscription_id, close_lead_seconds, active, version, billed_from, billing_provider,
       created_at, updated_at
FROM tenant_accounts WHERE slug = %s

-- name: by_slugs
-- tenant: services look up names from events, before they know the tenants
SELECT tenant_id, slug, display_name, time_zone, currency, plan, external_customer_id,
       external_subscription_id, close_lead_seconds, active, version, billed_from, billing_provider,
       created_at, updated_at
FROM tenant_accounts WHERE slug = ANY(%s)
ORDER BY tenant_id

-- name: by_slug_for_update
-- tenant: the slug is the tenant's name
SELECT tenant_id, slug, display_name, time_zone, currency, plan, external_customer_id,
       external_subscription_id, close_lead_seconds, active, version, billed_from, billing_provider,
       created_at, updated_at
FROM tenant_accounts WHERE slug = %s
FOR UPDATE

-- name: statement_by_slug
-- tenant: the slug is the tenant's name
SELECT onboarding FROM tenant_accounts WHERE slug = %s

-- name: page
-- In the order of onboarding.
SELECT tenant_id, slug, display_name, time_zone, currency, plan, external_customer_id,
       external_subscription_id, close_lead_seconds, active, version, billed_from, billing_provider,
       created_at, updated_at
FROM tenant_accounts
WHERE tenant_id > %s
ORDER BY tenant_id
LIMIT %s

-- name: update
UPDATE tenant_accounts SET
    display_name = %(display_name)s,
    plan = %(plan)s,
    external_customer_id = %(external_customer_id)s,
    external_subscription_id = %(external_subscription_id)s,
    close_lead_seconds = %(close_lead_seconds)s,
    active = %(active)s,
    billed_from = %(billed_from)s,
    billing_provider = %(billing_provider)s,
    version = %(version)s,
    updated_at = %(updated_at)s
WHERE tenant_id = %(tenant_id)s

-- name: lock_customer
-- tenant: the lock is for the customer, whichever tenant has it
-- One transaction at a time sets this customer; the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('identity.customer:' || %s, 0))

-- name: is_customer_of_another
-- tenant: no two tenants have one customer
SELECT EXISTS (SELECT FROM tenant_accounts WHERE external_customer_id = %s AND slug <> %s)
