-- Names are looked up by transactions of all tenants: what a name means is not known before it is read.
SELECT protect_tenants('tenants');
SELECT grant_rights(
    'tenants',
    'SELECT, INSERT, UPDATE (version, plan, external_customer_id, external_subscription_id, active, close_lead, '
    'changed_at)'
);
