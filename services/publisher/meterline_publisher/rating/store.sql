-- name: insert_calculation
INSERT INTO calculations (
    tenant_id, calculation_id, invoice_id, meter, period_start, period_end, priced_at, rule_set_id,
    rule_set_digest, rules, inputs, inputs_digest, output, code_version, trace
)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
