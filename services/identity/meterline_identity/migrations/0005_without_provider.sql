-- Whoever is only measured, or billed later, has neither at the billing provider. Nobody relied on there being one: who
-- bills looks whether there is.
-- squawk-ignore ban-drop-constraint
ALTER TABLE tenant_accounts DROP CONSTRAINT tenant_accounts_external_customer_id_check;
-- squawk-ignore ban-drop-constraint
ALTER TABLE tenant_accounts DROP CONSTRAINT tenant_accounts_external_subscription_id_check;
