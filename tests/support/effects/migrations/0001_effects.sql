-- What handlers of tests have done. No key would hide that they did it twice.
CREATE TABLE effects (message_id uuid NOT NULL, note text NOT NULL);
SELECT grant_rights('effects', 'SELECT, INSERT, UPDATE, DELETE');
