-- Names are looked up by transactions of all tenants: what a name means is not known before it is read.
SELECT protect_tenants('tenant_accounts');

-- What a tenant was onboarded with, and what a key is and may do, never changes.
SELECT grant_rights(
    'tenant_accounts',
    'SELECT, INSERT, UPDATE (display_name, plan, external_customer_id, external_subscription_id, '
    'close_lead_seconds, active, version, updated_at)'
);
SELECT grant_rights('api_keys', 'SELECT, INSERT, UPDATE (revoked_at, revoked_by)');
-- The secret goes when the key is revoked.
SELECT grant_rights('signing_keys', 'SELECT, INSERT, UPDATE (secret, expires_at, revoked_at, revoked_by)');

-- Identities are counted by the database itself.
REVOKE ALL ON ALL SEQUENCES IN SCHEMA identity FROM meterline_identity;
