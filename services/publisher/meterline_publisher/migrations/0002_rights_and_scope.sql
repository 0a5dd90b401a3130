-- Invoices and the ledger are shown by tenant. The sender, and who looks for what is to be closed or settled, are
-- for all tenants at once.
SELECT protect_tenants('usage');
SELECT protect_tenants('invoices');
SELECT protect_tenants('invoice_lines');
SELECT protect_tenants('calculations');
SELECT protect_tenants('publications');

-- What was put or calculated never changes. Calculations and their rules are written for auditors.
SELECT grant_rights('prices', 'SELECT, INSERT');
SELECT grant_rights('rule_sets', 'INSERT');
SELECT grant_rights('calculations', 'INSERT');

SELECT grant_rights(
    'usage', 'SELECT, INSERT, UPDATE (period_end, value, event_count, revision, aggregation, trace)'
);
SELECT grant_rights(
    'invoices',
    'SELECT, INSERT, UPDATE (state, total, version, rule_set_id, external_invoice_id, external_total, trace)'
);
SELECT grant_rights(
    'invoice_lines',
    'SELECT, INSERT, UPDATE (quantity, amount, exact_amount, provider_amount, steps, calculation_id, '
    'inputs_digest, usage_value, usage_revision, event_count, billing_target, trace)'
);
-- What is to be sent stays as it was written; how far it got changes.
SELECT grant_rights(
    'publications',
    'SELECT, INSERT, UPDATE (state, attempts, first_attempt_at, next_attempt_at, sent_at, error_code, '
    'key_generation)'
);

-- Identities are counted by the database itself.
REVOKE ALL ON ALL SEQUENCES IN SCHEMA publisher FROM meterline_publisher;
REVOKE ALL ON FUNCTION refuse_change() FROM meterline_publisher;
