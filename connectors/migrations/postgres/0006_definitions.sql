-- Definitions of machines, and the views that people read: a public surface, so columns are only added.

-- One row an event, and one a later effect of a stored event.
create view tidegate.events with (security_invoker = true, security_barrier = true) as
select t.name as tenant,
       p.stream,
       s.source as bus_source,
       s.partition as bus_partition,
       (r.entry ->> 'sequence')::int8 as sequence,
       format('%s:%s/%s:%s', p.stream, s.source, s.partition, r.entry ->> 'sequence') as position,
       (r.entry ->> 'offset')::int8 as bus_offset,
       (r.entry ->> 'admitted_at')::timestamptz as admitted_at,
       r.entry -> 'event' ->> 'id' as id,
       r.entry -> 'event' ->> 'source' as source,
       r.entry -> 'event' ->> 'type' as type,
       r.entry -> 'event' ->> 'subject' as subject,
       (r.entry -> 'event' ->> 'time')::timestamptz as time,
       r.entry -> 'event' ->> 'correlationid' as correlation_id,
       r.entry -> 'event' ->> 'causationid' as causation_id,
       r.entry -> 'event' ->> 'causedby' as caused_by,
       -- Of what a machine emitted: the position of the event that set it off.
       r.entry ->> 'cause' as cause,
       r.entry -> 'event' -> 'data' as data,
       r.entry -> 'effects' as effects,
       r.entry ->> 'of' as follow_up_of,
       r.entry ->> 'action' as follow_up_action,
       r.entry ->> 'by' as follow_up_by,
       r.entry -> 'event' as event,
       -- Of the segment that holds it: compare with these to read only a part of the log.
       g.first_sequence as segment_first_sequence,
       g.first_at as segment_first_at,
       g.last_at as segment_last_at,
       -- Read behind pg_snapshot_xmin(pg_current_snapshot()), and no late commit is ever skipped.
       g.committed_xid
  from tidegate.segments g
  join tidegate.tenants t on t.tenant_id = g.tenant_id
  join tidegate.stream_partitions p
    on p.tenant_id = g.tenant_id and p.stream_partition_id = g.stream_partition_id
  join tidegate.source_partitions s on s.source_partition_id = p.source_partition_id
 cross join lateral json_array_elements(g.body::json) as r(entry);
grant select on tidegate.events to tidegate_engine, tidegate_reader, tidegate_admin;

-- What needs a person.
create view tidegate.open_dead_letters with (security_invoker = true, security_barrier = true) as
select t.name as tenant, d.id, d.reason, d.detail, d.fingerprint, d.attempts, d.position, d.machine,
       d.key, d.source as bus_source, d.partition as bus_partition, d.source_offset as bus_offset,
       d.created_at, d.changed_at
  from tidegate.dead_letters d
  join tidegate.tenants t on t.tenant_id = d.tenant_id
 where d.state = 'open';
grant select on tidegate.open_dead_letters to tidegate_engine, tidegate_reader, tidegate_admin;

-- Where an event stands, by its id or its correlation id. Follows the log with a lag; what it does not
-- know yet is in tidegate.events.
create view tidegate.event_positions with (security_invoker = true, security_barrier = true) as
select t.name as tenant, x.event_id, x.correlation_id, p.stream, s.source as bus_source,
       s.partition as bus_partition, x.sequence,
       format('%s:%s/%s:%s', p.stream, s.source, s.partition, x.sequence) as position
  from tidegate.event_index x
  join tidegate.tenants t on t.tenant_id = x.tenant_id
  join tidegate.stream_partitions p
    on p.tenant_id = x.tenant_id and p.stream_partition_id = x.stream_partition_id
  join tidegate.source_partitions s on s.source_partition_id = p.source_partition_id;
grant select on tidegate.event_positions to tidegate_engine, tidegate_reader, tidegate_admin;

-- Lets a login read one tenant, or none any more when p_tenant is null. For administrators.
create function tidegate.let_read(p_login name, p_tenant text) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_tenant int4;
begin
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    delete from tidegate.reader_logins where login = p_login;
    if p_tenant is not null then
        select t.tenant_id into v_tenant from tidegate.tenants t where t.name = p_tenant;
        if v_tenant is null then
            raise exception 'there is no tenant of this name' using errcode = '22023';
        end if;
        insert into tidegate.reader_logins (login, tenant_id) values (p_login, v_tenant);
    end if;
    insert into tidegate.audit (tenant_id, at, actor, action, detail)
    values (v_tenant, now(), session_user, 'let_read', json_build_object('login', p_login));
end
$$;
revoke all on function tidegate.let_read from public;
grant execute on function tidegate.let_read to tidegate_admin;

-- Stores a definition whose hash is new, makes it the active one and its view `state_<machine>`.
-- Whether it may be is decided by the engine before, on what it read: what another process stored
-- meanwhile is refused here. Belongs to the owner and uses dynamic SQL, since a
-- view and its columns cannot be parameters: every identifier goes through %I, every literal through
-- %L, and types come from a list.
create function tidegate.activate_definition(
    p_machine text, p_version int8, p_hash uuid, p_text text,
    p_fields text[], p_types text[], p_at timestamptz
) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_machine int4;
    v_view text := 'state_' || p_machine;
    v_columns text;
    v_column text;
    v_names text[] := '{}';
    v_texts text[] := '{}';
    v_sql text;
begin
    if cardinality(p_fields) <> cardinality(p_types) then
        raise exception 'as many types as fields are expected' using errcode = '22023';
    end if;
    insert into tidegate.machines (name) values (p_machine) on conflict do nothing;
    select m.machine_id into v_machine from tidegate.machines m where m.name = p_machine for update;
    insert into tidegate.machine_definitions (machine_id, version, hash, text, created_at)
    values (v_machine, p_version, p_hash, p_text, p_at)
    on conflict (machine_id, version) do nothing;
    if not exists (select from tidegate.machine_definitions d
                    where d.machine_id = v_machine and d.version = p_version and d.hash = p_hash) then
        raise exception 'this version of the machine is stored with another text'
            using errcode = 'TG005';
    end if;
    -- Under the machine's lock: of two processes that start at once, the older version is refused
    -- whichever comes last.
    if exists (select from tidegate.machine_definitions d
                where d.machine_id = v_machine and d.version > p_version) then
        raise exception 'version % of the machine % is stored: version % may not become active again',
            (select max(d.version) from tidegate.machine_definitions d where d.machine_id = v_machine),
            p_machine, p_version using errcode = 'TG005';
    end if;
    insert into tidegate.active_definitions (machine_id, hash, activated_at)
    values (v_machine, p_hash, p_at)
    on conflict (machine_id) do update
        set hash = excluded.hash, activated_at = excluded.activated_at
        where active_definitions.hash <> excluded.hash;
    if found then
        insert into tidegate.audit (at, actor, action, detail)
        values (p_at, session_user, 'activate_definition', json_build_object(
            'machine', p_machine, 'version', p_version, 'hash', p_hash));
    end if;

    -- An identifier has 63 bytes: a longer machine's name is cut and told apart by its number.
    if octet_length(v_view) > 63 then
        v_view := left(v_view, 52) || '_' || v_machine;
    end if;
    for i in 1..cardinality(p_fields) loop
        v_column := p_fields[i];
        if v_column in ('tenant', 'key', 'status', 'version', 'created_at', 'changed_at', 'data') then
            v_column := 'field_' || v_column;
        end if;
        if octet_length(v_column) > 63 then
            raise exception 'a field''s name is longer than a column''s may be' using errcode = '22023';
        end if;
        v_names := v_names || v_column;
        v_texts := v_texts || case p_types[i]
            when 'int' then format(', (e.data::json ->> %L)::int8 as %I', p_fields[i], v_column)
            when 'double' then format(', (e.data::json ->> %L)::float8 as %I', p_fields[i], v_column)
            when 'decimal' then format(', (e.data::json ->> %L)::numeric as %I', p_fields[i], v_column)
            when 'bool' then format(', (e.data::json ->> %L)::bool as %I', p_fields[i], v_column)
            when 'timestamp' then
                format(', (e.data::json ->> %L)::timestamptz as %I', p_fields[i], v_column)
            when 'string' then format(', e.data::json ->> %L as %I', p_fields[i], v_column)
            else format(', e.data::json -> %L as %I', p_fields[i], v_column)
        end;
    end loop;
    -- What the view has keeps its place, so that adding a field anywhere only adds a column behind.
    select coalesce(string_agg(f.text, '' order by a.attnum nulls last, f.place), '') into v_columns
      from unnest(v_names, v_texts) with ordinality as f(name, text, place)
      left join pg_attribute a
        on a.attrelid = to_regclass(format('tidegate.%I', v_view)) and a.attname = f.name;
    v_sql := format('view tidegate.%I with (security_invoker = true, security_barrier = true) as
        select t.name as tenant, e.key, e.status, e.version, e.created_at, e.changed_at,
               e.data::json as data%s
          from tidegate.entities e
          join tidegate.tenants t on t.tenant_id = e.tenant_id
         where e.machine_id = %L::int4', v_view, v_columns, v_machine);
    begin
        -- Keeps what others built on the view, as long as columns are only added.
        execute 'create or replace ' || v_sql;
    exception when invalid_table_definition then
        -- A field was removed, renamed or got another type. Fails when somebody's view needs it.
        execute format('drop view tidegate.%I', v_view);
        execute 'create ' || v_sql;
    end;
    execute format('grant select on tidegate.%I to tidegate_engine, tidegate_reader, tidegate_admin',
        v_view);
end
$$;

revoke all on function tidegate.activate_definition from public;
grant execute on function tidegate.activate_definition to tidegate_engine;

grant create on schema tidegate to tidegate_writer;
set local role tidegate_writer;

-- Tenants with anything stored: a number alone, taken for a batch that then failed, is nothing.
create function tidegate.stored_tenants() returns table (name text)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    return query
        select t.name from tidegate.tenants t
         where exists (select from tidegate.stream_partitions p
                        where p.tenant_id = t.tenant_id and p.next_sequence > 0)
            or exists (select from tidegate.entities e where e.tenant_id = t.tenant_id)
            or exists (select from tidegate.dead_letters d where d.tenant_id = t.tenant_id)
            or exists (select from tidegate.open_work w where w.tenant_id = t.tenant_id)
         order by t.name;
end
$$;

-- Over all tenants: whose emitted events a new owner of a source partition brings up.
create function tidegate.tenants_with_open_work(p_source_partition int4, p_after text, p_limit int4)
    returns table (name text)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    return query
        select t.name from tidegate.tenants t
         where t.name > p_after
           and exists (select from tidegate.open_work w
                        where w.tenant_id = t.tenant_id and w.source_partition_id = p_source_partition)
         order by t.name limit p_limit;
end
$$;

-- Over all tenants: what a new definition must still know.
create function tidegate.entities_by_status(p_machine text)
    returns table (status text, entities int8)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    return query
        select e.status, count(*)
          from tidegate.entities e
         where e.machine_id = (select m.machine_id from tidegate.machines m where m.name = p_machine)
         group by e.status order by e.status collate "C";
end
$$;

revoke all on function tidegate.entities_by_status, tidegate.stored_tenants,
    tidegate.tenants_with_open_work from public;
grant execute on function tidegate.entities_by_status, tidegate.stored_tenants,
    tidegate.tenants_with_open_work to tidegate_engine;

set local role tidegate_owner;
revoke create on schema tidegate from tidegate_writer;
