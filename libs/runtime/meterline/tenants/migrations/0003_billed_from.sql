-- The first day of a tenant that is billed. Null: all are, as of tenants that were there before.
ALTER TABLE tenants ADD COLUMN billed_from date;
SELECT grant_rights(
    'tenants',
    'SELECT, INSERT, UPDATE (version, plan, external_customer_id, external_subscription_id, active, close_lead, '
    'changed_at, billed_from)'
);
