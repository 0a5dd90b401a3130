-- name: closing_schedules
-- tenant: the distinct schedules of all tenants
SELECT DISTINCT time_zone, close_lead FROM tenants

-- name: to_close
-- Tenants of one schedule whose period is billed, not final, and may have to be rated; with the facts that decide it:
-- the plan that prices it now, the rules that rated it (NULL: not rated), whether it has usage, whether usage differs
-- from what was billed or recorded as a gap, whether delivery settings changed for a meter of which the provider has
-- nothing, and which meters were unknown. A tenant without invoice and usage is included only if it may owe a fee: it
-- is active, has a customer, and had a plan before the period's end.
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
