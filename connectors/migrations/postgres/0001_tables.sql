-- The tables. The tenant is the first column of every key of a tenant's table. There are no foreign
-- keys: each would cost an index look-up and a row lock an event, and every writer is one of the
-- functions of this schema.

-- What a database keeps about itself. One row.
create table tidegate.settings (
    only_row bool primary key default true check (only_row),
    -- Days of the log in one partition: what retention drops at once.
    segment_period_days int4 not null default 7 check (segment_period_days between 1 and 366),
    -- What upkeep may destroy, whatever the engine asks for: the least retention (null: the log is never
    -- dropped), the least dedupe window, and how far the engine's clock may be ahead of the server's.
    -- `tidegate migrate` writes the first two from the configuration; the engine cannot.
    retention_min_micros int8 check (retention_min_micros >= 0),
    dedupe_window_min_micros int8 not null default 604800000000 check (dedupe_window_min_micros >= 0),
    clock_ahead_max_micros int8 not null default 300000000 check (clock_ahead_max_micros >= 0)
);
insert into tidegate.settings default values;

create table tidegate.tenants (
    tenant_id int4 generated always as identity primary key,
    name text collate "C" not null unique check (name ~ '^(_unassigned|[a-z0-9][a-z0-9_-]{0,62})$'),
    -- A closed one takes no new events; what it has stays and is read as before.
    state text not null default 'open' check (state in ('open', 'closed')),
    limits json,
    created_at timestamptz not null default now()
);

-- Which tenant a reader's login sees. A table, never a setting: a setting could be set by the reader.
create table tidegate.reader_logins (
    login name primary key,
    tenant_id int4 not null
);

-- The checkpoint. One row is rewritten by every commit of its source partition, so its page is kept
-- nearly empty: every version finds room beside the last one, and no index entry is ever added.
create table tidegate.source_partitions (
    source_partition_id int4 generated always as identity primary key,
    source text collate "C" not null,
    partition int8 not null,
    epoch int8 not null,
    owner text not null,
    revision int8 not null,
    incarnation text not null,
    next_offset int8 not null,
    -- Settled beyond next_offset: first and last offset of each range, one after the other.
    done_above int8[] not null default '{}',
    fingerprint_offset int8,
    fingerprint uuid,
    admitted int8 not null default 0,
    duplicates int8 not null default 0,
    conflicts int8 not null default 0,
    unreadable int8 not null default 0,
    applied int8 not null default 0,
    rejected int8 not null default 0,
    ignored int8 not null default 0,
    dead int8 not null default 0,
    unhandled int8 not null default 0,
    emitted int8 not null default 0,
    looped_back int8 not null default 0,
    claimed_at timestamptz not null,
    committed_at timestamptz,
    unique (source, partition)
) with (fillfactor = 10);

-- A tenant's stream in one source partition, and where its log ends: rewritten by a commit once for
-- each stream partition that it touches. The next sequence is checked there, so a gap cannot be stored.
create table tidegate.stream_partitions (
    tenant_id int4 not null,
    stream_partition_id int4 generated always as identity,
    source_partition_id int4 not null,
    stream text collate "C" not null,
    next_sequence int8 not null default 0,
    chain_head bytea not null default decode(repeat('00', 32), 'hex')
        check (octet_length(chain_head) = 32),
    -- The latest moment in its log, by which the next segment finds its partition of the table.
    logged_at timestamptz not null default '-infinity',
    primary key (tenant_id, stream_partition_id),
    unique (tenant_id, source_partition_id, stream)
) with (fillfactor = 40);

-- The log. A unique index would have to hold the partition's column, so it would not prove much:
-- stream_partitions.next_sequence does.
create table tidegate.segments (
    tenant_id int4 not null,
    stream_partition_id int4 not null,
    first_sequence int8 not null check (first_sequence >= 0),
    event_count int4 not null check (event_count > 0),
    first_at timestamptz not null,
    last_at timestamptz not null,
    -- last_at, but never before that of the segment before: a clock that stepped back moves no segment
    -- into a partition that is dropped before its predecessor's.
    logged_at timestamptz not null,
    -- The transaction that wrote it: feeds over several partitions read behind the oldest one in flight.
    committed_xid xid8 not null,
    chain_head bytea not null check (octet_length(chain_head) = 32),
    body text compression lz4 not null
) partition by range (logged_at);
create index segments_by_sequence
    on tidegate.segments (tenant_id, stream_partition_id, first_sequence desc);

-- The partitions of the log, with what their names do not say. Written by tidegate_maintain() alone.
create table tidegate.segment_partitions (
    name name primary key,
    from_at timestamptz not null unique,
    to_at timestamptz not null
);

create table tidegate.chain_anchors (
    tenant_id int4 not null,
    stream_partition_id int4 not null,
    next_sequence int8 not null,
    chain_head bytea not null check (octet_length(chain_head) = 32),
    dropped_at timestamptz not null,
    primary key (tenant_id, stream_partition_id)
);

-- Two tables, one current and one older; dedupe_state says which is which. Never updated, so full pages.
create table tidegate.dedupe_0 (
    tenant_id int4 not null,
    source_partition_id int4 not null,
    key uuid not null,
    conflict uuid not null,
    source_offset int8 not null,
    primary key (tenant_id, key)
);
create table tidegate.dedupe_1 (
    tenant_id int4 not null,
    source_partition_id int4 not null,
    key uuid not null,
    conflict uuid not null,
    source_offset int8 not null,
    primary key (tenant_id, key)
);
create table tidegate.dedupe_state (
    only_row bool primary key default true check (only_row),
    current_table int2 not null default 0 check (current_table in (0, 1)),
    -- One more with every rotation: a filter of the older table belongs to one generation.
    generation int8 not null default 1,
    -- By the engine's clock, and by the server's.
    rotated_at timestamptz,
    rotated_server_at timestamptz
);
insert into tidegate.dedupe_state default values;

create table tidegate.machines (
    machine_id int4 generated always as identity primary key,
    name text collate "C" not null unique check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);

create table tidegate.machine_definitions (
    machine_id int4 not null,
    version int8 not null,
    hash uuid not null,
    text text compression lz4 not null,
    created_at timestamptz not null,
    primary key (machine_id, version)
);

create table tidegate.active_definitions (
    machine_id int4 primary key,
    hash uuid not null,
    activated_at timestamptz not null
);

-- The state. Updated by entity_id in place: fillfactor leaves room for the next version on the page.
-- data is canonical JSON as text, never jsonb: two states are equal exactly when these bytes are.
create table tidegate.entities (
    entity_id int8 generated always as identity primary key,
    tenant_id int4 not null,
    machine_id int4 not null,
    version int8 not null,
    created_at timestamptz not null,
    changed_at timestamptz not null,
    key text collate "C" not null,
    status text not null,
    data text compression lz4 not null,
    unique (tenant_id, machine_id, key)
) with (fillfactor = 60);

create table tidegate.open_work (
    tenant_id int4 not null,
    source_partition_id int4 not null,
    -- Its place: the revision of the commit that made it, and its number there. What is done is deleted.
    revision int8 not null,
    number int4 not null,
    id uuid not null,
    due_at timestamptz not null,
    kind text not null,
    cause text not null,
    event_type text not null,
    event text compression lz4 not null,
    primary key (tenant_id, source_partition_id, revision, number)
);

create table tidegate.dead_letters (
    tenant_id int4 not null,
    id uuid not null,
    state text not null default 'open' check (state in ('open', 'retried', 'discarded')),
    attempts int4 not null default 1,
    reason text not null,
    detail text not null,
    fingerprint uuid not null,
    -- Of a stored event: its position, the machine, and the entity's key when it is known.
    position text,
    machine text,
    key text,
    -- Of a delivery that never became an event: where it came from, and its bytes. An emitted event has no
    -- offset.
    source text,
    partition int8,
    source_offset int8,
    payload bytea compression lz4,
    created_at timestamptz not null,
    changed_at timestamptz not null,
    primary key (tenant_id, id),
    check ((position is not null and machine is not null and payload is null)
        or (position is null and source is not null and partition is not null
            and payload is not null))
);
create index dead_letters_by_state on tidegate.dead_letters (tenant_id, state, id);

-- Tokens: the hash of a secret, never the secret. By its id a token is found before anybody knows whose it
-- is. A row without tenant is of the whole installation.
create table tidegate.tokens (
    token_id text collate "C" primary key check (token_id ~ '^[0-9a-f]{16}$'),
    tenant_id int4,
    label text collate "C" not null check (label ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    scopes text[] not null check (cardinality(scopes) > 0 and scopes <@ array[
        'publish:intent', 'publish:fact', 'read', 'operate', 'observe', 'admin']),
    hash bytea not null check (octet_length(hash) = 32),
    created_at timestamptz not null,
    expires_at timestamptz check (expires_at > created_at),
    revoked_at timestamptz,
    -- Who publishes has a tenant: events take theirs from the token.
    check (tenant_id is not null or not scopes && array['publish:intent', 'publish:fact'])
);
create index tokens_by_label on tidegate.tokens (tenant_id, label);

-- Who tries to own a source partition that no consumer group assigns. Only that: its checkpoint's epoch and
-- revision say who does. Rewritten by every renewal, and small.
create table tidegate.leases (
    source text collate "C" not null,
    partition int8 not null,
    holder text not null check (octet_length(holder) between 1 and 256),
    acquired_at timestamptz not null,
    expires_at timestamptz not null,
    primary key (source, partition)
) with (fillfactor = 10);

-- What people and nodes did. A row without tenant is about the installation.
create table tidegate.audit (
    audit_id int8 generated always as identity primary key,
    tenant_id int4,
    at timestamptz not null,
    actor name not null default session_user,
    action text not null,
    detail json not null
);

-- Event and correlation id → position. Built off the hot path from the log, and re-buildable.
create table tidegate.event_index (
    tenant_id int4 not null,
    stream_partition_id int4 not null,
    sequence int8 not null,
    event_id text not null,
    correlation_id text,
    primary key (tenant_id, stream_partition_id, sequence)
);
create index event_index_by_event on tidegate.event_index (tenant_id, event_id);
create index event_index_by_correlation on tidegate.event_index (tenant_id, correlation_id)
    where correlation_id is not null;
create table tidegate.event_index_progress (
    tenant_id int4 not null,
    stream_partition_id int4 not null,
    next_sequence int8 not null,
    -- Whose turn it is: the one longest ago.
    indexed_at timestamptz not null,
    primary key (tenant_id, stream_partition_id)
);
