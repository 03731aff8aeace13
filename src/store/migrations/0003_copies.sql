-- `marked`: how far the lab has come is also written beside the database.
-- `copy`: this is a copy of a lab's database, and how far that lab had come
-- when it was made. Whoever leads from here must not believe it: the machines
-- have gone on without it. NULL: it is the lab's own.
ALTER TABLE meta ADD COLUMN marked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN copy TEXT;
