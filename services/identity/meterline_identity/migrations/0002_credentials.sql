-- What callers prove themselves with. Keys of the API: a digest of each secret, and no secret.
CREATE TABLE api_keys (
    key_id        text PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{16}$'),
    -- Null: for all tenants.
    tenant_id     integer REFERENCES tenant_accounts (tenant_id),
    name          text NOT NULL,
    permissions   text[] NOT NULL CHECK (cardinality(permissions) > 0),
    secret_digest bytea NOT NULL CHECK (octet_length(secret_digest) = 32),
    created_at    timestamptz NOT NULL,
    created_by    text NOT NULL,
    revoked_at    timestamptz,
    revoked_by    text NOT NULL DEFAULT '',
    CHECK ((revoked_at IS NULL) = (revoked_by = ''))
);

CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id, created_at, key_id);

SELECT protect_tenants('api_keys');

-- Keys that capture configurations are issued under.
CREATE TABLE signing_keys (
    tenant_id  integer NOT NULL REFERENCES tenant_accounts (tenant_id),
    -- Rises by one: the greatest is the newest, whatever clocks say.
    generation integer NOT NULL CHECK (generation > 0),
    key_id     text NOT NULL CHECK (key_id ~ '^[0-9a-f]{16}$'),
    -- Sealed with a master key; gone once the key is revoked.
    secret     bytea,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    revoked_by text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, generation),
    UNIQUE (tenant_id, key_id),
    CHECK ((revoked_at IS NULL) = (revoked_by = '')),
    CHECK ((revoked_at IS NULL) = (secret IS NOT NULL))
);

SELECT protect_tenants('signing_keys');
