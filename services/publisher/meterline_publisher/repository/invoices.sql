-- name: lock_tenant
-- tenant: its number is the parameter
-- One rating of a tenant at a time, so that the order of the ledger is that of its commits. The lock ends
-- with the transaction; its first number only keeps it apart from other locks on tenant_id.
SELECT pg_advisory_xact_lock(4711, %s)

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
-- Their calculations stay.
DELETE FROM invoice_lines WHERE tenant_id = %s AND invoice_id = %s AND meter = ANY(%s)

-- name: latest_final
-- tenant: the catalogue is that of all tenants; answers a time and nothing of whose it is
SELECT max(i.period_start)
FROM invoices i
JOIN tenants t ON t.tenant_id = i.tenant_id
WHERE i.plan = %(plan)s AND i.state IN ('finalized', 'disputed')
  AND (i.period_start >= %(since)s::timestamptz
       OR (i.period_start AT TIME ZONE t.time_zone)::date >= %(day)s::date)

-- name: insert_calculation
INSERT INTO calculations (
    tenant_id, calculation_id, invoice_id, meter, period_start, period_end, priced_at, rule_set_id,
    rule_set_digest, rules, inputs, inputs_digest, output, code_version, trace
)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)

-- name: unsettled
-- tenant: the settling of all tenants; every row names its tenant_id
SELECT tenant_id, invoice_id, plan, currency, period_start, period_end, state, total, version, rule_set_id,
       external_invoice_id, external_total, trace
FROM invoices
WHERE state IN ('open', 'published') AND period_end > %s AND period_end <= %s
  AND (period_end, tenant_id) > (%s, %s)
ORDER BY period_end, tenant_id
LIMIT %s

-- name: closing_schedules
-- tenant: how many kinds of schedule all tenants have between them
SELECT DISTINCT time_zone, close_lead FROM tenants

-- name: to_close
-- Tenants of one schedule whose period is billed, is not final and may have to be rated, with what decides that:
-- the plan that prices it, the rules that rated it (NULL: not rated), whether it was used, whether usage differs
-- from what was billed or noted as a gap, whether a meter of which nothing is at the provider would go there in
-- another way now, and which meters did not exist. Without an invoice and usage only those who may owe a fee:
-- active, with a customer, and a plan before the period's end.
SELECT t.tenant_id, t.currency, plan_at(t.tenant_id, %(period_start)s) AS plan, i.plan AS rated_plan,
       i.rule_set_id AS rated_rules, used.any_use AS is_used, used.differs AS usage_differs,
       EXISTS (
           SELECT
           FROM invoice_lines l
           CROSS JOIN LATERAL (
               SELECT d.billing_event_name, d.billing_scale FROM deliveries d
               WHERE d.plan = i.plan AND d.meter = l.meter
               ORDER BY d.version DESC LIMIT 1
           ) now
           WHERE l.tenant_id = i.tenant_id AND l.invoice_id = i.invoice_id
             AND (l.billing_event_name, l.billing_scale) <> (now.billing_event_name, now.billing_scale)
             AND NOT EXISTS (
                 SELECT FROM publications p
                 WHERE p.tenant_id = l.tenant_id AND p.period_start = i.period_start AND p.meter = l.meter
                   AND p.state <> 'rejected'
             )
       ) AS delivery_differs,
       ARRAY(
           SELECT g.meter FROM billing_gaps g
           WHERE g.tenant_id = t.tenant_id AND g.period_start = %(period_start)s AND g.reason = 'meter_unknown'
       ) AS unknown_meters
FROM tenants t
LEFT JOIN invoices i ON i.tenant_id = t.tenant_id AND i.period_start = %(period_start)s
CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(u.value <> 0), false) AS any_use,
           coalesce(bool_or(
               CASE WHEN l.meter IS NOT NULL THEN u.revision <> l.usage_revision
                    ELSE u.value <> coalesce(g.quantity, 0) END
           ), false) AS differs
    FROM usage u
    LEFT JOIN invoice_lines l
        ON l.tenant_id = u.tenant_id AND l.invoice_id = i.invoice_id AND l.meter = u.meter
    LEFT JOIN billing_gaps g
        ON g.tenant_id = u.tenant_id AND g.period_start = u.period_start AND g.meter = u.meter
       AND g.reason IN ('meter_not_priced', 'price_not_in_force', 'currency_differs', 'meter_unknown')
    WHERE u.tenant_id = t.tenant_id AND u.period_start = %(period_start)s
) used
WHERE t.time_zone = %(time_zone)s AND t.close_lead = %(close_lead)s AND t.tenant_id > %(after)s
  AND is_billed(t.billed_from, t.time_zone, %(period_end)s)
  AND CASE
      WHEN i.invoice_id IS NOT NULL THEN i.state IN ('open', 'published')
      ELSE used.any_use OR (
          t.active AND t.external_customer_id <> '' AND EXISTS (
              SELECT FROM tenant_plans h
              WHERE h.tenant_id = t.tenant_id AND h.plan <> ''
                AND (h.changed_at IS NULL OR h.changed_at < %(period_end)s)
          )
      )
  END
ORDER BY t.tenant_id
LIMIT %(most)s
