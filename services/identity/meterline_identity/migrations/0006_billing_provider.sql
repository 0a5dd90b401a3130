-- The billing provider that a tenant chose. Empty: none, as of tenants that were there before, and the one that the
-- publisher's settings name bills it.
ALTER TABLE tenant_accounts ADD COLUMN billing_provider text NOT NULL DEFAULT ''
    CHECK (billing_provider ~ '^[a-z0-9-]{0,63}$');
SELECT grant_rights(
    'tenant_accounts',
    'SELECT, INSERT, UPDATE (display_name, plan, external_customer_id, external_subscription_id, '
    'close_lead_seconds, active, billed_from, billing_provider, version, updated_at)'
);
