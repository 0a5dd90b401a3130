-- Keys of tenants, wrapped by a master key that is never in the database.
CREATE TABLE data_keys (
    tenant_id     integer NOT NULL,
    -- Counted up for each tenant. 0 is the key of fingerprints.
    key_id        integer NOT NULL,
    purpose       text NOT NULL CHECK (purpose IN ('fingerprints', 'sealing')),
    wrapped       bytea,
    master_key_id text NOT NULL,
    state         text NOT NULL CHECK (state IN ('current', 'retired', 'shredded')),
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at    timestamptz,
    -- Since when no sealed value needs it any more.
    resealed_at   timestamptz,
    sealed        bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, key_id),
    -- Rows of shredded keys stay, without the key: their numbers are never given again.
    CHECK ((state = 'shredded') = (wrapped IS NULL))
);
CREATE UNIQUE INDEX data_keys_current ON data_keys (tenant_id, purpose) WHERE state = 'current';
-- What upkeep looks for.
CREATE INDEX data_keys_age ON data_keys (created_at) WHERE state = 'current' AND purpose = 'sealing';
CREATE INDEX data_keys_master ON data_keys (master_key_id) WHERE state <> 'shredded';
CREATE INDEX data_keys_reseal ON data_keys (retired_at) WHERE state = 'retired' AND resealed_at IS NULL;
SELECT protect_tenants('data_keys');
