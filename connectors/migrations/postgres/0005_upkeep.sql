-- Upkeep: the only functions that create, drop or truncate. They belong to the owner, since nobody
-- else may; the engine executes them, with nothing of its own in them but moments and lengths of time,
-- and what it says is held against tidegate.settings and the server's own clock before anything is lost.

-- Refuses to lose what is younger than the installation keeps at least, and by a clock that is ahead.
create function tidegate.check_loss(p_what text, p_now timestamptz, p_keep_micros int8, p_least_micros int8)
    returns void
    language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_ahead_micros int8;
begin
    if p_keep_micros is null or p_least_micros is null or p_keep_micros < p_least_micros then
        raise exception '% of % hours is less than this database allows (%): run `tidegate migrate` with the configuration that is meant',
            p_what, coalesce(round(p_keep_micros / 3.6e9)::text, 'no'),
            coalesce('at least ' || round(p_least_micros / 3.6e9) || ' hours', 'none at all')
            using errcode = 'TG010';
    end if;
    select s.clock_ahead_max_micros into v_ahead_micros from tidegate.settings s;
    if p_now is null or p_now > now() + make_interval(secs => v_ahead_micros / 1e6) then
        raise exception 'the engine''s clock is ahead of the server''s: % is refused until they agree', p_what
            using errcode = 'TG010';
    end if;
end
$$;

-- Creates the partitions of the log for p_now and two periods ahead, and drops what is older than
-- p_retention_micros (null keeps all). Dynamic SQL, here and in the function that makes a machine's
-- view and nowhere else: a partition's name cannot be a parameter. It is made of digits only.
--
-- What an open dead letter points to is held, and every partition from there on with it: a partition
-- goes whole, and of a log only the beginning may go. segments_held counts what is past retention and
-- stays. Both figures are estimates for partitions above 64 MiB: counting would read all of them.
create function tidegate.tidegate_maintain(p_now timestamptz, p_retention_micros int8)
    returns table (segments_dropped int8, segments_held int8)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    v_period int4;
    v_day int4;
    v_from timestamptz;
    v_to timestamptz;
    v_name text;
    v_horizon timestamptz;
    v_held_from timestamptz;
    v_old record;
    v_table regclass;
    v_segments int8;
begin
    segments_dropped := 0;
    segments_held := 0;
    -- One at a time; whoever comes second has nothing to do.
    if not pg_try_advisory_xact_lock(7482001, 2) then
        return next;
        return;
    end if;
    select s.segment_period_days into v_period from tidegate.settings s;
    -- Periods are counted from a Monday.
    v_day := floor((extract(epoch from p_now) / 86400 - 4) / v_period)::int4 * v_period + 4;
    for ahead in 0..2 loop
        v_from := timestamptz 'epoch' + make_interval(secs => (v_day + ahead * v_period) * 86400.0);
        v_to := v_from + make_interval(secs => v_period * 86400.0);
        if not exists (select from tidegate.segment_partitions p
                        where p.from_at < v_to and p.to_at > v_from) then
            v_name := 'segments_' || to_char(v_from at time zone 'UTC', 'YYYYMMDD');
            -- Created whole and attached then: attaching does not stop anybody who writes.
            execute format('create table tidegate.%I (like tidegate.segments including all)', v_name);
            execute format('alter table tidegate.%I enable row level security', v_name);
            execute format('alter table tidegate.%I force row level security', v_name);
            execute format('create trigger no_change before update or delete or truncate on tidegate.%I
                for each statement execute function tidegate.refuse_change()', v_name);
            execute format('alter table tidegate.segments attach partition tidegate.%I
                for values from (%L) to (%L)', v_name, v_from, v_to);
            insert into tidegate.segment_partitions (name, from_at, to_at)
            values (v_name, v_from, v_to);
        end if;
    end loop;

    if p_retention_micros is null then
        return next;
        return;
    end if;
    perform tidegate.check_loss('retention', p_now, p_retention_micros,
        (select s.retention_min_micros from tidegate.settings s));
    v_horizon := p_now - make_interval(secs => p_retention_micros / 1e6);
    if not exists (select from tidegate.segment_partitions p where p.to_at <= v_horizon) then
        return next;
        return;
    end if;
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    -- A position reads stream:source/partition:sequence, and no name has any of these signs in it.
    select min(g.logged_at) into v_held_from
      from (select d.tenant_id, split_part(d.position, ':', 1) as stream,
                   split_part(d.position, ':', 2) as place,
                   min(split_part(d.position, ':', 3)::int8) as sequence
              from tidegate.dead_letters d
             where d.state = 'open' and d.position is not null
             group by 1, 2, 3) l
      join tidegate.source_partitions o
        on o.source = split_part(l.place, '/', 1) and o.partition = split_part(l.place, '/', 2)::int8
      join tidegate.stream_partitions p
        on p.tenant_id = l.tenant_id and p.source_partition_id = o.source_partition_id
           and p.stream = l.stream
     cross join lateral (
           select s.logged_at from tidegate.segments s
            where s.tenant_id = p.tenant_id and s.stream_partition_id = p.stream_partition_id
              and s.first_sequence <= l.sequence
            order by s.first_sequence desc limit 1) g;
    for v_old in
        select p.name, p.from_at, p.to_at, coalesce(p.to_at > v_held_from, false) as held
          from tidegate.segment_partitions p where p.to_at <= v_horizon order by p.from_at
    loop
        if not v_old.held then
            -- From here on nobody writes what is about to go: a clock far behind could.
            execute format('lock table tidegate.%I in access exclusive mode', v_old.name);
        end if;
        v_table := format('tidegate.%I', v_old.name)::regclass;
        if pg_relation_size(v_table) <= 64 * 1024 * 1024 then
            select count(*) into v_segments from tidegate.segments s
             where s.logged_at >= v_old.from_at and s.logged_at < v_old.to_at;
        else
            select greatest(c.reltuples, 0)::int8 into v_segments from pg_class c where c.oid = v_table;
        end if;
        if v_old.held then
            segments_held := segments_held + v_segments;
            continue;
        end if;
        segments_dropped := segments_dropped + v_segments;
        -- What is dropped leaves its last sequence and head behind, in the same transaction. One look into
        -- the partition's index for each log that reaches into it or beyond: sorting the partition would
        -- take longer than a statement may.
        insert into tidegate.chain_anchors as a
            (tenant_id, stream_partition_id, next_sequence, chain_head, dropped_at)
        select p.tenant_id, p.stream_partition_id, g.next_sequence, g.chain_head, p_now
          from tidegate.stream_partitions p
         cross join lateral (
               select s.first_sequence + s.event_count as next_sequence, s.chain_head
                 from tidegate.segments s
                where s.tenant_id = p.tenant_id and s.stream_partition_id = p.stream_partition_id
                  and s.logged_at >= v_old.from_at and s.logged_at < v_old.to_at
                order by s.first_sequence desc limit 1) g
         where p.logged_at >= v_old.from_at
        on conflict (tenant_id, stream_partition_id) do update
            set next_sequence = excluded.next_sequence, chain_head = excluded.chain_head,
                dropped_at = excluded.dropped_at
            where excluded.next_sequence > a.next_sequence;
        -- A log that is gone whole may go on in any partition.
        update tidegate.stream_partitions s set logged_at = '-infinity'
         where s.logged_at >= v_old.from_at and s.logged_at < v_old.to_at;
        execute format('drop table tidegate.%I', v_old.name);
        delete from tidegate.segment_partitions p where p.name = v_old.name;
        insert into tidegate.audit (at, actor, action, detail)
        values (now(), session_user, 'drop_segments', json_build_object(
            'from', v_old.from_at, 'to', v_old.to_at, 'segments', v_segments,
            'retention_micros', p_retention_micros));
    end loop;
    return next;
end
$$;

-- Empties the older dedupe table and makes it the current one, when the current one is older than the
-- window: so a key lives between one window and two. The exclusive lock lets no commit be in between.
-- The least window has to have passed on the server's clock too: the engine's may stand anywhere before it.
create function tidegate.rotate_dedupe(p_now timestamptz, p_window_micros int8) returns bool
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    v_state record;
    v_window interval := make_interval(secs => p_window_micros / 1e6);
    v_settings record;
    v_due_at timestamptz;
begin
    select s.* into v_settings from tidegate.settings s;
    perform tidegate.check_loss('a dedupe window', p_now, p_window_micros,
        v_settings.dedupe_window_min_micros);
    v_due_at := now() - make_interval(secs => greatest(
        v_settings.dedupe_window_min_micros - v_settings.clock_ahead_max_micros, 0) / 1e6);
    update tidegate.dedupe_state set rotated_at = p_now, rotated_server_at = now()
     where rotated_at is null;
    -- Asked before the lock as well: the rule is that nothing is due, and it should stop nobody.
    if exists (select from tidegate.dedupe_state s
                where s.rotated_at + v_window >= p_now or s.rotated_server_at > v_due_at) then
        return false;
    end if;
    perform pg_advisory_xact_lock(7482001, 1);
    select s.* into v_state from tidegate.dedupe_state s for update;
    if v_state.rotated_at + v_window >= p_now or v_state.rotated_server_at > v_due_at then
        return false;
    end if;
    if v_state.current_table = 0 then
        truncate tidegate.dedupe_1;
    else
        truncate tidegate.dedupe_0;
    end if;
    update tidegate.dedupe_state
       set current_table = 1 - current_table, generation = generation + 1, rotated_at = p_now,
           rotated_server_at = now();
    insert into tidegate.audit (at, actor, action, detail)
    values (now(), session_user, 'rotate_dedupe', json_build_object(
        'generation', v_state.generation + 1, 'window_micros', p_window_micros));
    return true;
end
$$;

-- Empties the index of events; upkeep builds it anew from the log. For administrators.
create function tidegate.forget_event_index() returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '5s'
as $$
begin
    -- Whoever goes on with the index ends first.
    perform pg_advisory_xact_lock(7482001, 3);
    truncate tidegate.event_index, tidegate.event_index_progress;
    insert into tidegate.audit (at, actor, action, detail)
    values (now(), session_user, 'forget_event_index', '{}');
end
$$;

revoke all on function tidegate.check_loss, tidegate.tidegate_maintain, tidegate.rotate_dedupe,
    tidegate.forget_event_index from public;
grant execute on function tidegate.tidegate_maintain, tidegate.rotate_dedupe to tidegate_engine;
grant execute on function tidegate.forget_event_index to tidegate_admin;

grant create on schema tidegate to tidegate_writer;
set local role tidegate_writer;

-- The generation that stands, and at most how many keys its older table holds: by its size, since
-- counting would read it all. 76 bytes a row with its line pointer.
create function tidegate.older_keys_estimate() returns table (generation int8, keys int8)
    language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    select s.generation,
           case s.current_table
               when 0 then pg_relation_size('tidegate.dedupe_1')
               else pg_relation_size('tidegate.dedupe_0')
           end / 76
      from tidegate.dedupe_state s
$$;

-- A page of the older table's keys, behind one key. Nothing when the generation has passed.
create function tidegate.older_keys(
    p_generation int8, p_after_tenant int4, p_after_key uuid, p_limit int4
) returns table (tenant_id int4, key uuid)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
    set jit = off
as $$
declare
    v_current int2;
begin
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    select s.current_table into v_current from tidegate.dedupe_state s where s.generation = p_generation;
    if v_current = 0 then
        return query select d.tenant_id, d.key from tidegate.dedupe_1 d
            where (d.tenant_id, d.key) > (p_after_tenant, p_after_key)
            order by d.tenant_id, d.key limit p_limit;
    elsif v_current = 1 then
        return query select d.tenant_id, d.key from tidegate.dedupe_0 d
            where (d.tenant_id, d.key) > (p_after_tenant, p_after_key)
            order by d.tenant_id, d.key limit p_limit;
    end if;
end
$$;

-- Goes on with the index of events: about so many events or 32 MiB, at least one segment, and as many
-- rows that retention left behind as so many events would be. Returns how many it indexed, and how many it
-- knows to be left. Each stream partition is followed by its own gapless sequence, so no fence is needed.
--
-- Fair: those that waited longest come first, each with its share of 512 segments, and first segments go
-- before second ones. However much one stream partition writes, no other waits for it to be done.
create function tidegate.index_events(p_events int4) returns table (events int8, events_left int8)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '200ms'
    set jit = off
as $$
begin
    events := 0;
    events_left := 0;
    if not pg_try_advisory_xact_lock(7482001, 3) then
        return next;
        return;
    end if;
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    delete from tidegate.event_index where ctid = any (array(
        select x.ctid from tidegate.chain_anchors a
          join tidegate.event_index x
            on x.tenant_id = a.tenant_id and x.stream_partition_id = a.stream_partition_id
               and x.sequence < a.next_sequence
         limit 100000));
    with lags as (
        select p.tenant_id, p.stream_partition_id, p.next_sequence, i.indexed_at,
               greatest(coalesce(i.next_sequence, 0), coalesce(a.next_sequence, 0)) as from_sequence
          from tidegate.stream_partitions p
          left join tidegate.event_index_progress i
            on i.tenant_id = p.tenant_id and i.stream_partition_id = p.stream_partition_id
          left join tidegate.chain_anchors a
            on a.tenant_id = p.tenant_id and a.stream_partition_id = p.stream_partition_id),
    behind as materialized (
        select l.tenant_id, l.stream_partition_id, l.from_sequence,
               row_number() over turns as turn,
               greatest(512 / count(*) over (), 1) as share,
               sum(l.next_sequence - l.from_sequence) over () as lag
          from lags l
         where l.next_sequence > l.from_sequence
        window turns as (
            order by l.indexed_at nulls first, l.tenant_id, l.stream_partition_id)
         order by turn limit 512),
    candidates as materialized (
        select g.*, sum(g.event_count) over in_turn - g.event_count as events_before,
               sum(g.bytes) over in_turn - g.bytes as bytes_before
          from behind b
         cross join lateral (
               select s.tenant_id, s.stream_partition_id, s.first_sequence, s.event_count, s.body,
                      octet_length(s.body) as bytes,
                      row_number() over (order by s.first_sequence) as place
                 from (select s.* from tidegate.segments s
                        where s.tenant_id = b.tenant_id and s.stream_partition_id = b.stream_partition_id
                          and s.first_sequence >= b.from_sequence
                        order by s.first_sequence limit b.share) s) g
        window in_turn as (order by g.place, b.turn)),
    -- As much text as is taken apart well within a statement's time limit.
    chosen as materialized (
        select c.* from candidates c where c.events_before < p_events and c.bytes_before < 33554432),
    indexed as (
        insert into tidegate.event_index
            (tenant_id, stream_partition_id, sequence, event_id, correlation_id)
        select s.tenant_id, s.stream_partition_id, (r.entry ->> 'sequence')::int8,
               r.entry -> 'event' ->> 'id', r.entry -> 'event' ->> 'correlationid'
          from chosen s cross join lateral json_array_elements(s.body::json) as r(entry)
         where r.entry -> 'event' is not null
        on conflict do nothing),
    moved as (
        insert into tidegate.event_index_progress as i
            (tenant_id, stream_partition_id, next_sequence, indexed_at)
        select s.tenant_id, s.stream_partition_id, max(s.first_sequence + s.event_count),
               clock_timestamp()
          from chosen s group by s.tenant_id, s.stream_partition_id
        on conflict (tenant_id, stream_partition_id)
            do update set next_sequence = greatest(i.next_sequence, excluded.next_sequence),
                          indexed_at = excluded.indexed_at)
    select coalesce(sum(s.event_count), 0),
           greatest(coalesce((select max(b.lag) from behind b), 0) - coalesce(sum(s.event_count), 0), 0)
      into events, events_left from chosen s;
    return next;
end
$$;

-- Records of all logs that the index of events does not know yet.
create function tidegate.event_index_lag() returns int8
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set jit = off
as $$
begin
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    return (
        select coalesce(sum(p.next_sequence
                   - greatest(coalesce(i.next_sequence, 0), coalesce(a.next_sequence, 0))), 0)::int8
          from tidegate.stream_partitions p
          left join tidegate.event_index_progress i using (tenant_id, stream_partition_id)
          left join tidegate.chain_anchors a using (tenant_id, stream_partition_id));
end
$$;

revoke all on function tidegate.older_keys_estimate, tidegate.older_keys, tidegate.index_events,
    tidegate.event_index_lag from public;
grant execute on function tidegate.older_keys_estimate, tidegate.older_keys, tidegate.index_events,
    tidegate.event_index_lag to tidegate_engine;

set local role tidegate_owner;
revoke create on schema tidegate from tidegate_writer;
