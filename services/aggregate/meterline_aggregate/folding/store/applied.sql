-- name: register_applied
-- tenant: a message may carry many tenants
INSERT INTO applied_messages (batches)
SELECT unnest(%s::uuid[])
ON CONFLICT DO NOTHING
RETURNING batches

-- name: register_in_parts
-- tenant: a message may carry many tenants
INSERT INTO applied_messages (batches, in_parts)
SELECT unnest(%s::uuid[]), true
ON CONFLICT DO NOTHING

-- name: applied_in_parts
-- tenant: a message may carry many tenants
SELECT batches FROM applied_messages WHERE batches = ANY(%s::uuid[]) AND in_parts
