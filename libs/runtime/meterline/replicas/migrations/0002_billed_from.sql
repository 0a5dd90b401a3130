-- The first day of a tenant that is billed. Null: all are, as of tenants that were there before.
ALTER TABLE tenants ADD COLUMN billed_from date;
