-- Ownership of source partitions, the numbers behind names, and what a claim loads.
grant create on schema tidegate to tidegate_writer;
set local role tidegate_writer;

-- Epoch + 1, and the checkpoint as it stands. Waits for a commit in flight, which then is in it. While
-- nothing was ever committed the checkpoint says nothing about the source: it goes over to the incarnation
-- that is there now, and then begins where the claim says.
create function tidegate.claim(
    p_source text, p_partition int8, p_owner text, p_incarnation text, p_start int8
) returns setof tidegate.source_partitions
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '800ms'
as $$
    insert into tidegate.source_partitions as s
        (source, partition, epoch, owner, revision, incarnation, next_offset, claimed_at)
    values (p_source, p_partition, 1, p_owner, 0, p_incarnation, p_start, now())
    on conflict (source, partition)
        do update set epoch = s.epoch + 1, owner = excluded.owner, claimed_at = excluded.claimed_at,
            incarnation = case when s.revision = 0 then excluded.incarnation else s.incarnation end,
            next_offset = case when s.revision = 0 and s.incarnation <> excluded.incarnation
                               then excluded.next_offset else s.next_offset end
    returning s.*
$$;

-- Numbers of tenants, made for names that have none. Two statements and not one upsert: known names,
-- the rule, take no lock and burn no number.
create function tidegate.tenant_ids(p_names text[])
    returns table (name text, tenant_id int4)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into tidegate.tenants (name)
    select n.name from unnest(p_names) as n(name)
     where not exists (select from tidegate.tenants t where t.name = n.name)
     order by n.name
    on conflict do nothing;
    return query select t.name, t.tenant_id from tidegate.tenants t where t.name = any (p_names);
end
$$;

create function tidegate.machine_ids(p_names text[])
    returns table (name text, machine_id int4)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into tidegate.machines (name)
    select n.name from unnest(p_names) as n(name)
     where not exists (select from tidegate.machines m where m.name = n.name)
     order by n.name
    on conflict do nothing;
    return query select m.name, m.machine_id from tidegate.machines m where m.name = any (p_names);
end
$$;

-- Numbers of stream partitions of one source partition: (tenant, stream), sorted.
create function tidegate.stream_partition_ids(
    p_source_partition int4, p_tenants int4[], p_streams text[]
) returns table (tenant_id int4, stream text, stream_partition_id int4)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('tidegate.tenants', array_to_string(p_tenants, ','), true);
    insert into tidegate.stream_partitions (tenant_id, source_partition_id, stream)
    select n.tenant_id, p_source_partition, n.stream
      from unnest(p_tenants, p_streams) as n(tenant_id, stream)
     where not exists (select from tidegate.stream_partitions s
                        where s.tenant_id = n.tenant_id
                          and s.source_partition_id = p_source_partition and s.stream = n.stream)
    on conflict do nothing;
    return query
        select s.tenant_id, s.stream, s.stream_partition_id
          from unnest(p_tenants, p_streams) as n(tenant_id, stream)
          join tidegate.stream_partitions s
            on s.tenant_id = n.tenant_id and s.source_partition_id = p_source_partition
               and s.stream = n.stream;
end
$$;

-- The named entities of one tenant. `offset 0` keeps the look-up apart from the list: one question of the
-- index for each name. Joined, a plan of before the first row reads all entities once for each name.
create function tidegate.load_entities(p_tenant int4, p_machines int4[], p_keys text[])
    returns table (ordinal int4, entity_id int8, version int8, status text, data text)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
    set enable_bitmapscan = off
    set jit = off
    set plan_cache_mode = force_generic_plan
as $$
begin
    perform set_config('tidegate.tenants', p_tenant::text, true);
    return query
        select w.ordinal::int4, f.entity_id, f.version, f.status, f.data
          from unnest(p_machines, p_keys) with ordinality as w(machine_id, key, ordinal),
               lateral (select e.entity_id, e.version, e.status, e.data
                          from tidegate.entities e
                         where e.tenant_id = p_tenant and e.machine_id = w.machine_id and e.key = w.key
                        offset 0) f;
end
$$;

-- Where a tenant's logs end in one source partition.
create function tidegate.stream_heads(p_tenant int4, p_source text, p_partition int8)
    returns table (stream text, next_sequence int8, chain_head bytea)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('tidegate.tenants', p_tenant::text, true);
    return query
        select h.stream, h.next_sequence, h.chain_head
          from tidegate.source_partitions s
          join tidegate.stream_partitions h
            on h.tenant_id = p_tenant and h.source_partition_id = s.source_partition_id
         where s.source = p_source and s.partition = p_partition and h.next_sequence > 0
         order by h.stream collate "C";
end
$$;

revoke all on function tidegate.claim, tidegate.tenant_ids, tidegate.machine_ids,
    tidegate.stream_partition_ids, tidegate.load_entities, tidegate.stream_heads from public;
grant execute on function tidegate.claim, tidegate.tenant_ids, tidegate.machine_ids,
    tidegate.stream_partition_ids, tidegate.load_entities, tidegate.stream_heads to tidegate_engine;

set local role tidegate_owner;
revoke create on schema tidegate from tidegate_writer;
