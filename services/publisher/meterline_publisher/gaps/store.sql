-- name: drop_resolved
-- Deletes gaps of a period with one of these reasons that were not found again.
DELETE FROM billing_gaps g
WHERE g.tenant_id = %(tenant_id)s AND g.period_start = %(period_start)s AND g.reason = ANY(%(looked_for)s)
  AND NOT EXISTS (
      SELECT FROM unnest(%(meters)s::text[], %(reasons)s::text[]) AS f (meter, reason)
      WHERE f.meter = g.meter AND f.reason = g.reason
  )

-- name: put
-- Returns which gaps are new. Reasons in `need_usage` are gaps only if the period has usage.
INSERT INTO billing_gaps AS g (tenant_id, period_start, meter, reason, period_end, since, detail, quantity)
SELECT %(tenant_id)s, %(period_start)s, f.meter, f.reason, %(period_end)s, %(now)s, f.detail, f.quantity
FROM unnest(%(meters)s::text[], %(reasons)s::text[], %(details)s::text[], %(quantities)s::numeric[])
    AS f (meter, reason, detail, quantity)
WHERE f.reason <> ALL(%(need_usage)s) OR EXISTS (
    SELECT FROM usage u
    WHERE u.tenant_id = %(tenant_id)s AND u.period_start = %(period_start)s AND u.value <> 0
)
ORDER BY f.meter, f.reason
ON CONFLICT (tenant_id, period_start, meter, reason) DO UPDATE SET
    detail = excluded.detail,
    quantity = excluded.quantity
WHERE (g.detail, g.quantity) IS DISTINCT FROM (excluded.detail, excluded.quantity)
RETURNING g.meter, g.reason, xmax = 0

-- name: note_late
-- Of these windows, those that closing will not bill any more: the invoice is final, or the time for closing is over. A
-- meter without a line on the final invoice keeps its recorded reason, or else has no price. A window that equals its
-- line resolves its gap.
WITH k AS (
    SELECT DISTINCT * FROM unnest(%(tenants)s::integer[], %(starts)s::timestamptz[], %(meters)s::text[])
        AS k (tenant_id, period_start, meter)
), seen AS (
    SELECT u.tenant_id, u.period_start, u.meter, u.period_end, u.value,
           i.state IN ('finalized', 'disputed') AS final,
           u.value - coalesce(l.usage_value, 0) AS missing,
           CASE WHEN i.invoice_id IS NOT NULL AND l.meter IS NULL THEN coalesce(
               (
                   SELECT g.reason FROM billing_gaps g
                   WHERE g.tenant_id = u.tenant_id AND g.period_start = u.period_start AND g.meter = u.meter
                     AND g.reason IN ('price_not_in_force', 'currency_differs', 'meter_unknown')
                   LIMIT 1
               ),
               'meter_not_priced'
           ) WHEN i.state IN ('finalized', 'disputed') THEN 'late_usage'
           WHEN coalesce(t.billing_provider, '') = ANY(%(billed)s::text[]) THEN 'late_usage'
           ELSE 'no_billing_provider' END AS reason,
           coalesce(t.billing_provider, '') AS billing_provider
    FROM k
    JOIN usage u ON u.tenant_id = k.tenant_id AND u.period_start = k.period_start AND u.meter = k.meter
    LEFT JOIN tenants t ON t.tenant_id = u.tenant_id
    LEFT JOIN invoices i ON i.tenant_id = u.tenant_id AND i.period_start = u.period_start
    LEFT JOIN invoice_lines l
        ON l.tenant_id = u.tenant_id AND l.invoice_id = i.invoice_id AND l.meter = u.meter
), late AS (
    SELECT * FROM seen WHERE (final OR period_end < %(closed_before)s) AND missing <> 0
), resolved AS (
    DELETE FROM billing_gaps g
    USING seen s
    WHERE g.tenant_id = s.tenant_id AND g.period_start = s.period_start AND g.meter = s.meter
      AND (g.reason IN ('late_usage', 'no_billing_provider', 'meter_not_priced') OR (s.final AND g.reason = s.reason))
      AND s.missing = 0
)
INSERT INTO billing_gaps AS g (tenant_id, period_start, meter, reason, period_end, since, detail, quantity)
SELECT tenant_id, period_start, meter, reason, period_end, %(now)s,
       CASE WHEN reason = 'no_billing_provider' AND billing_provider <> ''
                THEN 'billing provider ' || billing_provider || ' is not configured here'
            WHEN reason = 'no_billing_provider' THEN 'no billing provider is configured'
            WHEN reason <> 'late_usage' THEN 'the final invoice has no line for it'
            WHEN final THEN 'the invoice is final'
            ELSE 'the time for closing is over' END,
       missing
FROM late
ORDER BY tenant_id, period_start, meter
ON CONFLICT (tenant_id, period_start, meter, reason) DO UPDATE SET
    detail = excluded.detail,
    quantity = excluded.quantity
WHERE (g.detail, g.quantity) IS DISTINCT FROM (excluded.detail, excluded.quantity)

-- name: page
-- tenant: an operator may list all tenants' gaps; otherwise tenant_id is given
-- In key order, with reason and meter as one text; the bound is exclusive. Hides periods before a tenant's first billed
-- day without deleting them: that day may move back.
SELECT g.tenant_id, t.slug, g.period_start, g.period_end, g.meter, g.reason, g.since, g.detail, g.quantity
FROM billing_gaps g
JOIN tenants t ON t.tenant_id = g.tenant_id
WHERE (%(tenant_id)s::integer IS NULL OR g.tenant_id = %(tenant_id)s)
  AND (g.tenant_id, g.period_start, g.reason || '/' || g.meter)
      > (%(after_tenant)s, %(after_start)s, %(after_rest)s::text)
  AND is_billed(t.billed_from, t.time_zone, g.period_end)
ORDER BY g.tenant_id, g.period_start, g.reason || '/' || g.meter
LIMIT %(limit)s

-- name: reason_of
-- Prefers the meter's reason to the whole period's. Late usage is the reason for a meter that has a line.
SELECT reason FROM billing_gaps
WHERE tenant_id = %(tenant_id)s AND period_start = %(period_start)s AND meter IN (%(meter)s, '')
ORDER BY meter = '', reason
LIMIT 1

-- name: held
-- tenant: held periods of all tenants; every row names its tenant_id
-- Ordered by tenant and period. The bound is exclusive.
SELECT DISTINCT g.tenant_id, g.period_start, g.period_end
FROM billing_gaps g
JOIN tenants t ON t.tenant_id = g.tenant_id
WHERE g.reason = %(reason)s AND g.period_end <= %(ended_by)s AND t.billing_provider = ANY(%(billed)s::text[])
  AND (g.tenant_id, g.period_start) > (%(after_tenant)s, %(after_start)s)
  AND is_billed(t.billed_from, t.time_zone, g.period_end)
ORDER BY g.tenant_id, g.period_start
LIMIT %(limit)s

-- name: count_by_reason
-- tenant: a metric of the whole service
SELECT g.reason, count(*)
FROM billing_gaps g
JOIN tenants t ON t.tenant_id = g.tenant_id
WHERE is_billed(t.billed_from, t.time_zone, g.period_end)
GROUP BY g.reason
