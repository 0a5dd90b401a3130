-- name: of_period
SELECT tenant_id, identifier, seq, invoice_id, calculation_id, meter, period_start, period_end, revision,
       value, event_name, customer_id, event_at, key_generation, state, attempts, first_attempt_at,
       next_attempt_at, sent_at, error_code, trace, provider
FROM publications WHERE tenant_id = %s AND period_start = %s
ORDER BY seq

-- name: page
-- Newest first. The bound is exclusive.
SELECT tenant_id, identifier, seq, invoice_id, calculation_id, meter, period_start, period_end, revision,
       value, event_name, customer_id, event_at, key_generation, state, attempts, first_attempt_at,
       next_attempt_at, sent_at, error_code, trace, provider
FROM publications WHERE tenant_id = %s AND seq < %s
ORDER BY seq DESC LIMIT %s

-- name: insert
INSERT INTO publications (
    tenant_id, identifier, invoice_id, calculation_id, meter, period_start, period_end, revision, value,
    event_name, customer_id, event_at, state, next_attempt_at, error_code, trace,
    provider
)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)

-- name: claim
-- tenant: one sender serves all tenants; the provider's limits apply to the account
-- Claims only the first unfinished row of a (tenant_id, meter), and of a (tenant_id, event_name): the provider takes
-- one call at a time for each customer and event name, and two uncertain rows could not be distinguished in a sum. The
-- claim is a lease: nobody else takes the row until it ends. The row is stored as ambiguous before the call is made, in
-- case the caller dies; the result has the state from before.
WITH due AS (
    SELECT p.tenant_id, p.identifier, p.state
    FROM publications p
    WHERE p.state IN ('pending', 'ambiguous') AND p.next_attempt_at <= %(now)s AND p.provider = %(provider)s
      AND NOT EXISTS (
          SELECT FROM publications q
          WHERE q.tenant_id = p.tenant_id AND q.meter = p.meter AND q.seq < p.seq
            AND q.provider = p.provider AND q.state IN ('pending', 'ambiguous')
      )
      AND NOT EXISTS (
          SELECT FROM publications q
          WHERE q.tenant_id = p.tenant_id AND q.event_name = p.event_name AND q.seq < p.seq
            AND q.provider = p.provider AND q.state IN ('pending', 'ambiguous')
      )
    ORDER BY p.next_attempt_at
    LIMIT %(most)s
    FOR UPDATE OF p SKIP LOCKED
)
UPDATE publications p
SET state = 'ambiguous', attempts = p.attempts + 1, next_attempt_at = %(until)s,
    first_attempt_at = coalesce(p.first_attempt_at, %(now)s)
FROM due
WHERE p.tenant_id = due.tenant_id AND p.identifier = due.identifier
RETURNING p.tenant_id, p.identifier, p.seq, p.invoice_id, p.calculation_id, p.meter, p.period_start,
          p.period_end, p.revision, p.value, p.event_name, p.customer_id, p.event_at, p.key_generation,
          due.state, p.attempts, p.first_attempt_at, p.next_attempt_at, p.sent_at, p.error_code, p.trace,
          p.provider

-- name: next_due
-- tenant: one sender serves all tenants
SELECT min(next_attempt_at) FROM publications WHERE state IN ('pending', 'ambiguous') AND provider = %s

-- name: mark_sent
-- True whichever process reports it, so one whose lease has ended may mark the row too.
UPDATE publications SET state = 'sent', sent_at = %(now)s, error_code = ''
WHERE tenant_id = %(tenant_id)s AND identifier = %(identifier)s AND state IN ('pending', 'ambiguous')

-- name: mark_rejected
UPDATE publications SET state = 'rejected', error_code = %(code)s
WHERE tenant_id = %(tenant_id)s AND identifier = %(identifier)s AND attempts = %(attempts)s
  AND state IN ('pending', 'ambiguous')

-- name: mark_refused
-- The provider did not process the call. A row that was pending is pending again, as if never tried; one that was
-- ambiguous stays ambiguous.
UPDATE publications SET state = %(state)s, error_code = %(code)s, next_attempt_at = %(next)s,
       first_attempt_at = CASE WHEN %(state)s = 'pending' THEN NULL ELSE first_attempt_at END
WHERE tenant_id = %(tenant_id)s AND identifier = %(identifier)s AND attempts = %(attempts)s
  AND state IN ('pending', 'ambiguous')

-- name: mark_unclear
UPDATE publications SET state = 'ambiguous', error_code = %(code)s, next_attempt_at = %(next)s,
       key_generation = %(key_generation)s
WHERE tenant_id = %(tenant_id)s AND identifier = %(identifier)s AND attempts = %(attempts)s
  AND state IN ('pending', 'ambiguous')

-- name: mark_absent
-- The provider's sums do not include the row: it may be sent as if for the first time. It gets another idempotency key,
-- since the provider could otherwise repeat its answer to the first call.
UPDATE publications SET state = 'pending', error_code = '', first_attempt_at = NULL,
       next_attempt_at = %(now)s, key_generation = key_generation + 1
WHERE tenant_id = %(tenant_id)s AND identifier = %(identifier)s AND attempts = %(attempts)s
  AND state IN ('pending', 'ambiguous')

-- name: sent_total
SELECT coalesce(sum(value), 0) FROM publications
WHERE tenant_id = %s AND event_name = %s AND period_start = %s AND provider = %s
  AND state = 'sent'

-- name: is_complete
-- Whether all values that an invoice's lines require were sent, nothing was sent under a name that no line has, and no
-- row is unfinished.
SELECT NOT EXISTS (
    SELECT FROM publications p
    WHERE p.tenant_id = i.tenant_id AND p.period_start = i.period_start
      AND p.state IN ('pending', 'ambiguous')
) AND NOT EXISTS (
    SELECT
    FROM (
        SELECT l.meter, l.billing_event_name AS event_name, l.billing_target AS target
        FROM invoice_lines l
        WHERE l.tenant_id = i.tenant_id AND l.invoice_id = i.invoice_id AND l.billing_target IS NOT NULL
    ) wanted
    FULL JOIN (
        SELECT p.meter, p.event_name, sum(p.value) AS sent
        FROM publications p
        WHERE p.tenant_id = i.tenant_id AND p.period_start = i.period_start AND p.state = 'sent'
        GROUP BY p.meter, p.event_name
    ) there USING (meter, event_name)
    WHERE coalesce(wanted.target, 0) <> coalesce(there.sent, 0)
)
FROM invoices i WHERE i.tenant_id = %s AND i.invoice_id = %s

-- name: waiting_by_state
-- tenant: a metric of the whole service
SELECT state, count(*) FROM publications WHERE state IN ('pending', 'ambiguous') GROUP BY state
UNION ALL
SELECT 'rejected', count(*) FROM publications WHERE state = 'rejected'
