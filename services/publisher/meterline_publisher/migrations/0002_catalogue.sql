-- A version takes effect at an instant or on a day, which begins at midnight in each tenant's own time zone.
-- The service before this one cannot read a version that takes effect on a day: rating and the catalogue fail
-- there rather than bill by the wrong version.
ALTER TABLE prices
    ALTER COLUMN effective_from DROP NOT NULL,
    ADD COLUMN effective_date date;
ALTER TABLE prices ADD CONSTRAINT prices_effect_is_one
    CHECK (num_nonnulls(effective_from, effective_date) = 1) NOT VALID;
ALTER TABLE prices VALIDATE CONSTRAINT prices_effect_is_one;
