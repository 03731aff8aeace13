-- Idempotency keys by the record that remembered them. The keys themselves are
-- random: kept in their order, each new and each forgotten one was a page of
-- its own to write.
CREATE TABLE key_by_age (
    number INTEGER PRIMARY KEY,
    row    TEXT NOT NULL
) STRICT;
INSERT INTO key_by_age SELECT json_extract(row, '$.number'), row FROM key;
DROP TABLE key;
ALTER TABLE key_by_age RENAME TO key;
