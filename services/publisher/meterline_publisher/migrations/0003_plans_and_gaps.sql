-- Which plan a tenant had when, since the plan at a period's start prices the period, whenever it is rated;
-- and what is used and not billed, with the reason.
SELECT set_config('meterline.tenant_ids', '*', true);

-- One row for each version of a tenant that was heard of, in whatever order they came. `changed_at` is NULL for
-- what was known before this table: it counts from ever.
CREATE TABLE tenant_plans (
    tenant_id  integer NOT NULL,
    version    bigint NOT NULL,
    plan       text NOT NULL,
    changed_at timestamptz,
    PRIMARY KEY (tenant_id, version)
);
INSERT INTO tenant_plans (tenant_id, version, plan) SELECT tenant_id, version, plan FROM tenants;
SELECT protect_tenants('tenant_plans');
SELECT grant_rights('tenant_plans', 'SELECT, INSERT');

-- The plan at an instant or, when the tenant had none by then, the first one that it got later; empty without
-- any. A later version wins over an earlier one, whatever their clocks said.
CREATE FUNCTION plan_at(tenant integer, at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        NULLIF((
            SELECT p.plan FROM tenant_plans p
            WHERE p.tenant_id = tenant AND (p.changed_at IS NULL OR p.changed_at <= at)
            ORDER BY p.version DESC LIMIT 1
        ), ''),
        (
            SELECT p.plan FROM tenant_plans p
            WHERE p.tenant_id = tenant AND p.changed_at > at AND p.plan <> ''
            ORDER BY p.version LIMIT 1
        ),
        ''
    )
$$;

-- The sender's second lane: at the provider rows are told apart by event name, and a meter may change its own.
-- It holds what is on its way: few rows, so that the sender waits for a moment only.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX publications_event_lane ON publications (tenant_id, event_name, seq)
    WHERE state IN ('pending', 'ambiguous');

-- What is used and not billed as it is used, by the reason. `meter` is empty for a whole period; `quantity` is NULL
-- where a reason has none. A row goes when its reason does.
CREATE TABLE billing_gaps (
    tenant_id    integer NOT NULL,
    period_start timestamptz NOT NULL,
    meter        text NOT NULL,
    reason       text NOT NULL,
    period_end   timestamptz NOT NULL,
    since        timestamptz NOT NULL,
    detail       text NOT NULL,
    quantity     numeric,
    PRIMARY KEY (tenant_id, period_start, meter, reason)
);
-- From now on this is found when usage comes, or an invoice becomes final.
INSERT INTO billing_gaps (tenant_id, period_start, meter, reason, period_end, since, detail, quantity)
SELECT u.tenant_id, u.period_start, u.meter, 'late_usage', u.period_end, now(), 'the invoice is final',
       u.value - l.usage_value
FROM invoices i
JOIN invoice_lines l ON l.tenant_id = i.tenant_id AND l.invoice_id = i.invoice_id
JOIN usage u ON u.tenant_id = i.tenant_id AND u.period_start = i.period_start AND u.meter = l.meter
WHERE i.state IN ('finalized', 'disputed') AND u.value <> l.usage_value;
SELECT protect_tenants('billing_gaps');

-- Until it is final, an invoice and its lines follow the plan and the prices, and lines go that are not priced any
-- more.
SELECT grant_rights(
    'invoices',
    'SELECT, INSERT, UPDATE (plan, state, total, version, rule_set_id, external_invoice_id, external_total, trace)'
);
SELECT grant_rights(
    'invoice_lines',
    'SELECT, INSERT, DELETE, UPDATE (description, quantity, amount, exact_amount, provider_amount, price_version, '
    'price_digest, steps, calculation_id, inputs_digest, usage_value, usage_revision, event_count, '
    'billing_event_name, billing_scale, billing_target, trace)'
);
SELECT grant_rights('billing_gaps', 'SELECT, INSERT, UPDATE (detail, quantity), DELETE');
