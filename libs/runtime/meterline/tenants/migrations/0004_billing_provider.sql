-- The billing provider that a tenant chose. Empty: none, as of tenants that were there before.
ALTER TABLE tenants ADD COLUMN billing_provider text NOT NULL DEFAULT '';
SELECT grant_rights(
    'tenants',
    'SELECT, INSERT, UPDATE (version, plan, external_customer_id, external_subscription_id, active, close_lead, '
    'changed_at, billed_from, billing_provider)'
);
