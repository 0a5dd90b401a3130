-- The first day that is billed, in the tenant's time zone. Null: all are, as of tenants that were there before.
ALTER TABLE tenant_accounts ADD COLUMN billed_from date;
SELECT grant_rights(
    'tenant_accounts',
    'SELECT, INSERT, UPDATE (display_name, plan, external_customer_id, external_subscription_id, '
    'close_lead_seconds, active, billed_from, version, updated_at)'
);

-- Two tenants are not billed as one customer. There may be such pairs already, so no index forbids it: who sets a
-- customer looks for others first, under a lock. There are thousands of tenants at the most, so the index is made in no
-- time.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX tenant_accounts_by_customer ON tenant_accounts (external_customer_id);
