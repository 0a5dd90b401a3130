-- name: lock_tenant
-- One rating per tenant at a time, so that the ledger's order is the order of commits. The lock ends with the
-- transaction.
SELECT pg_advisory_xact_lock(%(rating_lock)s::integer, %(tenant_id)s::integer)

-- name: by_period
SELECT tenant_id, invoice_id, plan, currency, period_start, period_end, state, total, version, rule_set_id,
       external_invoice_id, external_total, trace
FROM invoices WHERE tenant_id = %s AND period_start = %s

-- name: by_id
SELECT tenant_id, invoice_id, plan, currency, period_start, period_end, state, total, version, rule_set_id,
       external_invoice_id, external_total, trace
FROM invoices WHERE tenant_id = %s AND invoice_id = %s

-- name: by_id_for_update
SELECT tenant_id, invoice_id, plan, currency, period_start, period_end, state, total, version, rule_set_id,
       external_invoice_id, external_total, trace
FROM invoices WHERE tenant_id = %s AND invoice_id = %s
FOR UPDATE

-- name: page
-- Newest first. The bound is exclusive.
SELECT tenant_id, invoice_id, plan, currency, period_start, period_end, state, total, version, rule_set_id,
       external_invoice_id, external_total, trace
FROM invoices WHERE tenant_id = %s AND period_start < %s
ORDER BY period_start DESC LIMIT %s

-- name: upsert
INSERT INTO invoices (
    tenant_id, invoice_id, plan, currency, period_start, period_end, state, total, version, rule_set_id,
    external_invoice_id, external_total, trace
)
VALUES (
    %(tenant_id)s, %(invoice_id)s, %(plan)s, %(currency)s, %(period_start)s, %(period_end)s, %(state)s,
    %(total)s, %(version)s, %(rule_set_id)s, %(external_invoice_id)s, %(external_total)s, %(trace)s
)
ON CONFLICT (tenant_id, invoice_id) DO UPDATE SET
    plan = excluded.plan,
    state = excluded.state,
    total = excluded.total,
    version = excluded.version,
    rule_set_id = excluded.rule_set_id,
    external_invoice_id = excluded.external_invoice_id,
    external_total = excluded.external_total,
    trace = excluded.trace

-- name: lines
SELECT tenant_id, invoice_id, line_id, meter, description, quantity, amount, exact_amount, provider_amount,
       price_version, price_digest, steps, calculation_id, inputs_digest, usage_value, usage_revision,
       event_count, billing_event_name, billing_scale, billing_target, trace
FROM invoice_lines WHERE tenant_id = %s AND invoice_id = ANY(%s)
ORDER BY invoice_id, meter

-- name: line
SELECT tenant_id, invoice_id, line_id, meter, description, quantity, amount, exact_amount, provider_amount,
       price_version, price_digest, steps, calculation_id, inputs_digest, usage_value, usage_revision,
       event_count, billing_event_name, billing_scale, billing_target, trace
FROM invoice_lines WHERE tenant_id = %s AND line_id = %s

-- name: upsert_line
INSERT INTO invoice_lines (
    tenant_id, invoice_id, line_id, meter, description, quantity, amount, exact_amount, provider_amount,
    price_version, price_digest, steps, calculation_id, inputs_digest, usage_value, usage_revision,
    event_count, billing_event_name, billing_scale, billing_target, trace
)
VALUES (
    %(tenant_id)s, %(invoice_id)s, %(line_id)s, %(meter)s, %(description)s, %(quantity)s, %(amount)s,
    %(exact_amount)s, %(provider_amount)s, %(price_version)s, %(price_digest)s, %(steps)s,
    %(calculation_id)s, %(inputs_digest)s, %(usage_value)s, %(usage_revision)s, %(event_count)s,
    %(billing_event_name)s, %(billing_scale)s, %(billing_target)s, %(trace)s
)
ON CONFLICT (tenant_id, invoice_id, meter) DO UPDATE SET
    description = excluded.description,
    quantity = excluded.quantity,
    amount = excluded.amount,
    exact_amount = excluded.exact_amount,
    provider_amount = excluded.provider_amount,
    price_version = excluded.price_version,
    price_digest = excluded.price_digest,
    steps = excluded.steps,
    calculation_id = excluded.calculation_id,
    inputs_digest = excluded.inputs_digest,
    usage_value = excluded.usage_value,
    usage_revision = excluded.usage_revision,
    event_count = excluded.event_count,
    billing_event_name = excluded.billing_event_name,
    billing_scale = excluded.billing_scale,
    billing_target = excluded.billing_target,
    trace = excluded.trace

-- name: delete_lines
-- Keeps the calculations of deleted lines.
DELETE FROM invoice_lines WHERE tenant_id = %s AND invoice_id = %s AND meter = ANY(%s)

-- name: latest_final
-- tenant: the catalogue is shared by all tenants; returns a time only, not whose it is
SELECT max(i.period_start)
FROM invoices i
JOIN tenants t ON t.tenant_id = i.tenant_id
WHERE i.plan = %(plan)s AND i.state IN ('finalized', 'disputed')
  AND (i.period_start >= %(since)s::timestamptz
       OR (i.period_start AT TIME ZONE t.time_zone)::date >= %(day)s::date)

-- name: unsettled
-- tenant: settling covers all tenants; every row names its tenant_id
SELECT tenant_id, invoice_id, plan, currency, period_start, period_end, state, total, version, rule_set_id,
       external_invoice_id, external_total, trace
FROM invoices
WHERE state IN ('open', 'published') AND period_end > %s AND period_end <= %s
  AND (period_end, tenant_id) > (%s, %s)
ORDER BY period_end, tenant_id
LIMIT %s
