-- Each row of the ledger names its provider, and only that one sends it. Until now there was one.
ALTER TABLE publications ADD COLUMN provider text NOT NULL DEFAULT 'stripe' CHECK (provider <> '');
