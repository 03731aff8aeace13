-- One row: who leads, how far the history goes, and the clock.
CREATE TABLE meta (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    store        TEXT    NOT NULL,
    epoch        INTEGER NOT NULL,
    records      INTEGER NOT NULL,
    reservations INTEGER NOT NULL,
    now          INTEGER NOT NULL,
    wall         INTEGER NOT NULL
) STRICT;

CREATE TABLE machine (
    name TEXT PRIMARY KEY,
    row  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE reservation (
    id  INTEGER PRIMARY KEY,
    row TEXT NOT NULL
) STRICT;

CREATE TABLE image (
    name TEXT PRIMARY KEY,
    row  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE key (
    owner TEXT NOT NULL,
    key   TEXT NOT NULL,
    row   TEXT NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;

-- History: only ever appended to.
CREATE TABLE record (
    number      INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    wall        INTEGER NOT NULL,
    machine     TEXT,
    reservation INTEGER,
    json        TEXT    NOT NULL
) STRICT;
CREATE INDEX record_of_machine     ON record (machine, number)     WHERE machine IS NOT NULL;
CREATE INDEX record_of_reservation ON record (reservation, number) WHERE reservation IS NOT NULL;
