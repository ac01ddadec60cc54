-- The tables of the embedded store: those of Postgres in SQLite's form. Times are microseconds since
-- 1970 in UTC, hashes are blobs of 16 bytes.

-- "TIDE": by this a file is known as ours, for `file` and for the next start.
PRAGMA application_id = 1414087749;

CREATE TABLE tenants (
    tenant_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    -- A closed one takes no new events; what it has stays and is read as before.
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
    created_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT;

-- Tokens: the hash of a secret, never the secret. By its id a token is found before anybody knows whose it
-- is. A row without tenant is of the whole installation.
CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY CHECK (length(token_id) = 16),
    tenant_id INTEGER,
    label TEXT NOT NULL,
    scopes TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER CHECK (expires_at > created_at),
    revoked_at INTEGER,
    -- Who publishes has a tenant: events take theirs from the token.
    CHECK (tenant_id IS NOT NULL OR scopes NOT LIKE '%publish%')
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_label ON tokens (tenant_id, label);

CREATE TABLE machines (
    machine_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- The checkpoint of every source partition.
CREATE TABLE source_partitions (
    source_partition_id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    partition INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0,
    incarnation TEXT NOT NULL,
    next_offset INTEGER NOT NULL,
    -- Settled beyond next_offset: ranges in the engine's own encoding, with a checksum. For the next
    -- owner alone; what people ask for is in columns.
    done_above BLOB NOT NULL,
    fingerprint_offset INTEGER,
    fingerprint BLOB,
    admitted INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    conflicts INTEGER NOT NULL DEFAULT 0,
    unreadable INTEGER NOT NULL DEFAULT 0,
    applied INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    ignored INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    unhandled INTEGER NOT NULL DEFAULT 0,
    emitted INTEGER NOT NULL DEFAULT 0,
    looped_back INTEGER NOT NULL DEFAULT 0,
    committed_at INTEGER,
    UNIQUE (source, partition),
    CHECK ((fingerprint IS NULL) = (fingerprint_offset IS NULL))
) STRICT;

-- A tenant's stream in one source partition, and where its log ends. The next sequence is checked
-- here, so a gap cannot be stored.
CREATE TABLE stream_partitions (
    stream_partition_id INTEGER PRIMARY KEY,
    tenant_id INTEGER NOT NULL,
    source_partition_id INTEGER NOT NULL,
    stream TEXT NOT NULL,
    next_sequence INTEGER NOT NULL DEFAULT 0,
    chain_head BLOB NOT NULL DEFAULT (zeroblob(32)) CHECK (length(chain_head) = 32),
    UNIQUE (tenant_id, source_partition_id, stream)
) STRICT;

-- The log. `body` is a JSON array with one entry a record. With a row number, since long rows stand
-- badly in a table that is its own index.
CREATE TABLE segments (
    segment_id INTEGER PRIMARY KEY,
    tenant_id INTEGER NOT NULL,
    stream_partition_id INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL CHECK (first_sequence >= 0),
    event_count INTEGER NOT NULL CHECK (event_count > 0),
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    chain_head BLOB NOT NULL CHECK (length(chain_head) = 32),
    body TEXT NOT NULL,
    UNIQUE (tenant_id, stream_partition_id, first_sequence)
) STRICT;

-- For retention, which asks for ages alone: without it every look would read a page of each body.
CREATE INDEX segments_by_age ON segments (last_at, stream_partition_id, first_sequence);

-- Where a log begins after retention. Rows are only added; the highest sequence counts.
CREATE TABLE chain_anchors (
    tenant_id INTEGER NOT NULL,
    stream_partition_id INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL,
    chain_head BLOB NOT NULL CHECK (length(chain_head) = 32),
    dropped_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, stream_partition_id, next_sequence)
) STRICT, WITHOUT ROWID;

-- Two tables, one current and one older; dedupe_state says which is which.
CREATE TABLE dedupe_0 (
    tenant_id INTEGER NOT NULL,
    key BLOB NOT NULL,
    conflict BLOB NOT NULL,
    source_partition_id INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE dedupe_1 (
    tenant_id INTEGER NOT NULL,
    key BLOB NOT NULL,
    conflict BLOB NOT NULL,
    source_partition_id INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE dedupe_state (
    only_row INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    current_table INTEGER NOT NULL DEFAULT 0 CHECK (current_table IN (0, 1)),
    -- One more with every rotation: a filter of the older table belongs to one generation.
    generation INTEGER NOT NULL DEFAULT 1,
    rotated_at INTEGER
) STRICT;
INSERT INTO dedupe_state DEFAULT VALUES;

-- An entity's row is never deleted, so its number is never used again.
CREATE TABLE entities (
    entity_id INTEGER PRIMARY KEY,
    tenant_id INTEGER NOT NULL,
    machine_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    status TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    data TEXT NOT NULL,
    UNIQUE (tenant_id, machine_id, key)
) STRICT;

CREATE TABLE open_work (
    tenant_id INTEGER NOT NULL,
    source_partition_id INTEGER NOT NULL,
    -- Its place: the revision of the commit that made it, and its number there. What is done is deleted.
    revision INTEGER NOT NULL,
    number INTEGER NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    kind TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    -- The record that caused it: stream:source/partition:sequence.
    cause TEXT NOT NULL,
    event_type TEXT NOT NULL,
    event BLOB NOT NULL,
    PRIMARY KEY (tenant_id, source_partition_id, revision, number)
) STRICT;

-- What a dead letter points to is either a stored event (position, machine, key) or the bytes of a
-- delivery that never became one (source, partition, source_offset, payload).
CREATE TABLE dead_letters (
    tenant_id INTEGER NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'retried', 'discarded')),
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    position TEXT,
    machine TEXT,
    key TEXT,
    source TEXT,
    partition INTEGER,
    source_offset INTEGER,
    payload BLOB,
    PRIMARY KEY (tenant_id, id),
    CHECK ((position IS NULL) = (payload IS NOT NULL))
) STRICT;

CREATE TABLE machine_definitions (
    machine_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    hash BLOB NOT NULL,
    text TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (machine_id, version)
) STRICT;

CREATE TABLE active_definitions (
    machine_id INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    activated_at INTEGER NOT NULL
) STRICT;

-- Event and correlation id → position: built by upkeep from the log, and re-buildable by emptying both
-- tables.
CREATE TABLE event_index (
    tenant_id INTEGER NOT NULL,
    stream_partition_id INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    correlation_id TEXT,
    PRIMARY KEY (tenant_id, stream_partition_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_index_by_event ON event_index (tenant_id, event_id);
CREATE INDEX event_index_by_correlation ON event_index (tenant_id, correlation_id)
    WHERE correlation_id IS NOT NULL;

CREATE TABLE event_index_progress (
    tenant_id INTEGER NOT NULL,
    stream_partition_id INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, stream_partition_id)
) STRICT, WITHOUT ROWID;
