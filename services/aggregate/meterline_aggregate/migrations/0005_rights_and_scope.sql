-- Usage is shown by tenant. Folding, announcing and the claims of rebuilds are for all tenants at once.
SELECT protect_tenants('windows');
SELECT protect_tenants('windows_minute');
SELECT protect_tenants('windows_hour');
SELECT protect_tenants('windows_day');
SELECT protect_tenants('windows_month');
SELECT protect_tenants('window_members');
SELECT protect_tenants('window_members_minute');
SELECT protect_tenants('window_members_hour');
SELECT protect_tenants('window_members_day');
SELECT protect_tenants('window_members_month');
SELECT protect_tenants('contributions');
SELECT protect_tenants('dimension_groups');
SELECT protect_tenants('tenant_totals');
SELECT protect_tenants('changed_months');

-- Meters and what batches contributed never change.
SELECT grant_rights('meters', 'SELECT, INSERT');
SELECT grant_rights('dimension_groups', 'SELECT, INSERT');
SELECT grant_rights('contributions', 'SELECT, INSERT');
SELECT grant_rights('retractions', 'SELECT, INSERT');
SELECT grant_rights('applied_messages', 'SELECT, INSERT');

SELECT grant_rights('windows', 'SELECT, INSERT, UPDATE (event_count, value, revision)');
SELECT grant_rights('window_members', 'SELECT, INSERT, DELETE');
SELECT grant_rights('tenant_totals', 'SELECT, INSERT, UPDATE (aggregated)');
SELECT grant_rights('changed_months', 'SELECT, INSERT, UPDATE (traceparent), DELETE');
SELECT grant_rights(
    'pending_rebuilds', 'SELECT, INSERT, UPDATE (rebuild_id, attempts, next_attempt_at), DELETE'
);
SELECT grant_rights('rebuilt_batches', 'SELECT, INSERT, UPDATE (staged), DELETE');
SELECT grant_rights('rebuilt_windows', 'SELECT, INSERT, UPDATE (event_count, value), DELETE');
SELECT grant_rights('rebuilt_members', 'SELECT, INSERT, DELETE');

-- Identities are counted by the database itself.
REVOKE ALL ON ALL SEQUENCES IN SCHEMA aggregate FROM meterline_aggregate;
