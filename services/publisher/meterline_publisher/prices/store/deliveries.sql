-- name: of_plan
-- tenant: the catalogue belongs to no tenant
SELECT plan, meter, version, billing_event_name, billing_scale, put_by, put_at
FROM deliveries WHERE plan = %s
ORDER BY meter, version

-- name: insert
-- tenant: the catalogue belongs to no tenant
INSERT INTO deliveries (plan, meter, version, billing_event_name, billing_scale, put_by)
VALUES (%s, %s, %s, %s, %s, %s)
RETURNING plan, meter, version, billing_event_name, billing_scale, put_by, put_at
