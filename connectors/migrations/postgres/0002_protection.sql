-- What nobody may do, said by the database itself: grants, row-level security and immutability.

-- Stored events never change. The trigger stops the owner too; only dropping a whole partition, which
-- retention does, is no change of a row. It is the statement that is refused, so also one that finds no
-- row because a policy hides them; a partition gets a trigger of its own when it is made.
create function tidegate.refuse_change() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'rows of %.% never change', tg_table_schema, tg_table_name
        using errcode = 'TG008';
end
$$;
revoke all on function tidegate.refuse_change() from public;

create trigger no_change before update or delete or truncate on tidegate.segments
    for each statement execute function tidegate.refuse_change();
create trigger no_change before update or delete or truncate on tidegate.machine_definitions
    for each statement execute function tidegate.refuse_change();
create trigger no_change before update or delete or truncate on tidegate.audit
    for each statement execute function tidegate.refuse_change();

-- The tenant that a reader's login sees; NULL, so nothing, for any other login. session_user is who
-- logged in, whatever function or SET ROLE is in between.
create function tidegate.reader_tenant() returns int4
    language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select tenant_id from tidegate.reader_logins where login = session_user
$$;
revoke all on function tidegate.reader_tenant() from public;
grant execute on function tidegate.reader_tenant() to tidegate_reader;

-- Each tenant table: forced row-level security with two policies. The list of named tenants is hashed
-- once a statement; `= any(list)` would be scanned once a row.
do $$
declare
    t text;
begin
    foreach t in array array['stream_partitions', 'segments', 'chain_anchors', 'dedupe_0', 'dedupe_1',
        'entities', 'open_work', 'dead_letters', 'tokens', 'event_index', 'event_index_progress', 'audit',
        'reader_logins']
    loop
        execute format('alter table tidegate.%I enable row level security', t);
        execute format('alter table tidegate.%I force row level security', t);
        execute format($f$
            create policy named_tenants on tidegate.%I
                to tidegate_owner, tidegate_writer, tidegate_engine, tidegate_admin
                using (tenant_id in (select unnest(string_to_array(
                    nullif(current_setting('tidegate.tenants', true), ''), ',')::int4[])))
            $f$, t);
        if t not in ('tokens', 'dedupe_0', 'dedupe_1', 'event_index_progress', 'audit', 'reader_logins') then
            execute format($f$
                create policy own_tenant on tidegate.%I for select to tidegate_reader
                    using (tenant_id = (select tidegate.reader_tenant()))
                $f$, t);
        end if;
    end loop;
end
$$;

-- reader_tenant() asks as the owner, for the login alone.
create policy own_login on tidegate.reader_logins for select to tidegate_owner
    using (login = session_user);

-- Actions of the installation itself have no tenant.
create policy installation on tidegate.audit to tidegate_owner, tidegate_writer, tidegate_admin
    using (tenant_id is null);

-- Tokens of the installation have no tenant either; the one whose id is presented is named like a tenant.
create policy installation on tidegate.tokens to tidegate_owner, tidegate_writer, tidegate_admin
    using (tenant_id is null);
create policy presented on tidegate.tokens for select to tidegate_writer
    using (token_id = (select nullif(current_setting('tidegate.token', true), '')));

-- Leases are nobody's, but names of sources may tell of tenants: readers see none.
alter table tidegate.leases enable row level security;
alter table tidegate.leases force row level security;
create policy registry on tidegate.leases
    to tidegate_owner, tidegate_writer, tidegate_engine, tidegate_admin using (true);

-- The register of tenants: those who serve all tenants see all names, a reader its own.
alter table tidegate.tenants enable row level security;
alter table tidegate.tenants force row level security;
create policy registry on tidegate.tenants
    to tidegate_owner, tidegate_writer, tidegate_engine, tidegate_admin using (true);
create policy own_tenant on tidegate.tenants for select to tidegate_reader
    using (tenant_id = (select tidegate.reader_tenant()));

-- Source partitions are nobody's, but their names may tell of tenants: a reader sees those that its own
-- events came from.
alter table tidegate.source_partitions enable row level security;
alter table tidegate.source_partitions force row level security;
create policy registry on tidegate.source_partitions
    to tidegate_owner, tidegate_writer, tidegate_engine, tidegate_admin using (true);
create policy own_tenant on tidegate.source_partitions for select to tidegate_reader
    using (exists (select from tidegate.stream_partitions s
                    where s.source_partition_id = source_partitions.source_partition_id));

grant usage on schema tidegate to tidegate_writer, tidegate_engine, tidegate_reader, tidegate_admin;

-- The writer: what its functions need, column by column where rows may change.
grant select, insert on tidegate.tenants, tidegate.machines, tidegate.machine_definitions,
    tidegate.segments, tidegate.dedupe_0, tidegate.dedupe_1, tidegate.audit to tidegate_writer;
grant select, insert, update on tidegate.source_partitions, tidegate.active_definitions,
    tidegate.event_index_progress to tidegate_writer;
grant select, insert on tidegate.stream_partitions, tidegate.entities, tidegate.open_work,
    tidegate.dead_letters, tidegate.event_index to tidegate_writer;
-- The index is derived from the log and may lose what the log has lost; open work is deleted by the
-- commit that does it.
grant delete on tidegate.event_index, tidegate.open_work to tidegate_writer;
grant update (next_sequence, chain_head, logged_at) on tidegate.stream_partitions to tidegate_writer;
grant update (version, changed_at, status, data) on tidegate.entities to tidegate_writer;
grant update (state, attempts, changed_at) on tidegate.dead_letters to tidegate_writer;
grant select on tidegate.dedupe_state, tidegate.settings, tidegate.segment_partitions,
    tidegate.chain_anchors, tidegate.tokens to tidegate_writer;
grant select, insert on tidegate.leases to tidegate_writer;
grant update (holder, acquired_at, expires_at) on tidegate.leases to tidegate_writer;

-- The engine reads, and executes functions. It has no INSERT, UPDATE, DELETE or TRUNCATE anywhere.
grant select on tidegate.settings, tidegate.tenants, tidegate.source_partitions,
    tidegate.stream_partitions, tidegate.segments, tidegate.segment_partitions, tidegate.chain_anchors,
    tidegate.dedupe_state, tidegate.machines, tidegate.machine_definitions, tidegate.active_definitions,
    tidegate.entities, tidegate.open_work, tidegate.dead_letters, tidegate.event_index,
    tidegate.event_index_progress, tidegate.leases, tidegate.migrations to tidegate_engine;

-- People who operate see the same, and the register of tokens and readers. Of tokens not the hash: it is
-- nobody's business but that of the function that looks one up.
grant select on all tables in schema tidegate to tidegate_admin;
revoke select on tidegate.tokens from tidegate_admin;
grant select (token_id, tenant_id, label, scopes, created_at, expires_at, revoked_at)
    on tidegate.tokens to tidegate_admin;

-- Readers see what the views over these show them: one tenant.
grant select on tidegate.tenants, tidegate.stream_partitions,
    tidegate.segments, tidegate.chain_anchors, tidegate.machines, tidegate.machine_definitions,
    tidegate.active_definitions, tidegate.entities, tidegate.dead_letters, tidegate.event_index
    to tidegate_reader;
-- Of source partitions only the names that events carry.
grant select (source_partition_id, source, partition) on tidegate.source_partitions to tidegate_reader;
