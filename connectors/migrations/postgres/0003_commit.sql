-- The one way in which state changes. Owned by the writer, executed by the engine.
grant create on schema tidegate to tidegate_writer;
set local role tidegate_writer;

-- Commits one batch of one source partition: all of it, or nothing.
--
-- The fast path writes and counts. A unique violation, a held row or a short count undoes the block, and the
-- careful path asks the costly questions first and answers with everything that stands in the way.
--
-- outcome is 'committed' (new_rows: the rows of the new entities, in their order), 'fenced', or
-- 'surprised'. Surprises point into the arguments, counted from 1: known_keys into p_key; moved and
-- busy into p_entity_row with p_read_row behind it, or, negative, into p_new_key with p_absent_key behind
-- it. moved_row is null where the entity is gone.
--
-- Locks are taken in one order: the rotation's lock, the checkpoint, keys, entities that exist, new
-- entities; each array comes sorted. The careful path has the entities first, but waits for none of them.
-- It may hold one that somebody wants whose key it then waits for: both end at the lock_timeout at the
-- latest, and go again. The planner switches keep the plan an index look-up for
-- each element of an array, in the order of the array, also when it was made on empty tables.
create function tidegate.commit_batch(
    p_source_partition int4, p_epoch int8, p_revision int8, p_careful bool, p_at timestamptz,
    p_next_offset int8, p_done_above int8[], p_fingerprint_offset int8, p_fingerprint uuid,
    p_counts int8[],
    p_tenants int4[],
    p_filter_generation int8, p_probe_tenant int4[], p_probe_key uuid[],
    p_key_tenant int4[], p_key uuid[], p_key_conflict uuid[], p_key_offset int8[],
    p_entity_tenant int4[], p_entity_machine int4[], p_entity_key text[], p_entity_row int8[],
    p_entity_expected int8[], p_entity_version int8[], p_entity_status text[], p_entity_data text[],
    p_entity_changed timestamptz[],
    p_new_tenant int4[], p_new_machine int4[], p_new_key text[], p_new_version int8[],
    p_new_status text[], p_new_data text[], p_new_changed timestamptz[],
    p_read_tenant int4[], p_read_machine int4[], p_read_key text[], p_read_row int8[],
    p_read_expected int8[],
    p_absent_tenant int4[], p_absent_machine int4[], p_absent_key text[],
    p_segment_tenant int4[], p_segment_stream int4[], p_segment_first int8[], p_segment_count int4[],
    p_segment_first_at timestamptz[], p_segment_last_at timestamptz[], p_segment_head bytea[],
    p_segment_body text[],
    p_work_tenant int4[], p_work_number int4[], p_work_id uuid[], p_work_kind text[], p_work_due timestamptz[],
    p_work_cause text[], p_work_type text[], p_work_event text[],
    p_done_tenant int4[], p_done_revision int8[], p_done_number int4[],
    p_dead_tenant int4[], p_dead_id uuid[], p_dead_reason text[], p_dead_detail text[],
    p_dead_fingerprint uuid[], p_dead_position text[], p_dead_machine text[], p_dead_key text[],
    p_dead_source text[], p_dead_partition int8[], p_dead_offset int8[], p_dead_payload bytea[],
    p_dead_at timestamptz[],
    p_change_tenant int4[], p_change_id uuid[], p_change_state text[], p_change_at timestamptz[],
    out outcome text, out dedupe_generation int8, out new_rows int8[],
    out known_keys int4[], out known_conflicts uuid[],
    out moved int4[], out moved_row int8[], out moved_version int8[], out moved_status text[],
    out moved_data text[], out busy int4[]
)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '800ms'
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_material = off
    set enable_memoize = off
    set jit = off
    set plan_cache_mode = force_generic_plan
as $$
declare
    v_careful bool := p_careful;
    v_current int2;
    v_locked int4[];
    v_count int8;
begin
    -- Shared: a rotation waits for the commits in flight, and they for it. A statement of its own, so
    -- that what follows is read under the lock.
    perform pg_advisory_xact_lock_shared(7482001, 1);
    perform set_config('tidegate.tenants', array_to_string(p_tenants, ','), true);
    select s.current_table, s.generation into v_current, dedupe_generation from tidegate.dedupe_state s;

    for attempt in 1..3 loop
        if v_careful then
            perform from tidegate.source_partitions s
              where s.source_partition_id = p_source_partition
                and s.epoch = p_epoch and s.revision = p_revision
                for no key update;
            if not found then
                outcome := 'fenced';
                return;
            end if;
            select array_agg(l.ordinal) into v_locked
              from (select w.ordinal
                      from unnest(p_entity_row, p_entity_tenant)
                           with ordinality as w(row_id, tenant_id, ordinal)
                      join tidegate.entities e
                        on e.entity_id = w.row_id and e.tenant_id = w.tenant_id
                     order by w.ordinal
                       for no key update of e skip locked) l;
            select array_agg(k.ordinal), array_agg(k.conflict) into known_keys, known_conflicts
              from (select w.ordinal, d.conflict
                      from unnest(p_key_tenant, p_key) with ordinality as w(tenant_id, key, ordinal)
                      join tidegate.dedupe_0 d on d.tenant_id = w.tenant_id and d.key = w.key
                    union all
                    select w.ordinal, d.conflict
                      from unnest(p_key_tenant, p_key) with ordinality as w(tenant_id, key, ordinal)
                      join tidegate.dedupe_1 d on d.tenant_id = w.tenant_id and d.key = w.key) k;
            -- Read after the locks were taken: what is locked cannot move any more.
            select array_agg(m.ordinal), array_agg(m.entity_id), array_agg(m.version),
                   array_agg(m.status), array_agg(m.data)
              into moved, moved_row, moved_version, moved_status, moved_data
              from (select w.ordinal, e.entity_id, e.version, e.status, e.data
                      from unnest(p_entity_row, p_entity_tenant, p_entity_expected)
                           with ordinality as w(row_id, tenant_id, expected, ordinal)
                      left join tidegate.entities e
                        on e.entity_id = w.row_id and e.tenant_id = w.tenant_id
                           and e.machine_id = p_entity_machine[w.ordinal]
                           and e.key = p_entity_key[w.ordinal]
                     where e.version is distinct from w.expected
                    union all
                    select -w.ordinal, e.entity_id, e.version, e.status, e.data
                      from unnest(p_new_tenant, p_new_machine, p_new_key)
                           with ordinality as w(tenant_id, machine_id, key, ordinal)
                      join tidegate.entities e
                        on e.tenant_id = w.tenant_id and e.machine_id = w.machine_id
                           and e.key = w.key
                    union all
                    select cardinality(p_entity_row) + w.ordinal, e.entity_id, e.version, e.status, e.data
                      from unnest(p_read_row, p_read_tenant, p_read_expected)
                           with ordinality as w(row_id, tenant_id, expected, ordinal)
                      left join tidegate.entities e
                        on e.entity_id = w.row_id and e.tenant_id = w.tenant_id
                           and e.machine_id = p_read_machine[w.ordinal]
                           and e.key = p_read_key[w.ordinal]
                     where e.version is distinct from w.expected
                    union all
                    select -cardinality(p_new_key) - w.ordinal, e.entity_id, e.version, e.status, e.data
                      from unnest(p_absent_tenant, p_absent_machine, p_absent_key)
                           with ordinality as w(tenant_id, machine_id, key, ordinal)
                      join tidegate.entities e
                        on e.tenant_id = w.tenant_id and e.machine_id = w.machine_id
                           and e.key = w.key) m;
            -- The row is gone or another entity's, and the entity itself stands in another row: a mistake
            -- of the caller that no new attempt mends.
            if exists (select from unnest(moved, moved_row) as m(ordinal, row_id)
                        join tidegate.entities e
                          on e.tenant_id = (p_entity_tenant || p_read_tenant)[m.ordinal]
                             and e.machine_id = (p_entity_machine || p_read_machine)[m.ordinal]
                             and e.key = (p_entity_key || p_read_key)[m.ordinal]
                       where m.ordinal > 0 and m.row_id is null) then
                raise exception 'an entity is not in the row that is named' using errcode = 'TG004';
            end if;
            -- Not lockable and not moved either: somebody is about to move it.
            if cardinality(p_entity_row) > coalesce(cardinality(v_locked), 0) then
                select array_agg(b.ordinal) into busy
                  from (select generate_series(1, cardinality(p_entity_row))
                        except select unnest(v_locked)
                        except select unnest(moved)) as b(ordinal);
            end if;
            if known_keys is not null or moved is not null or busy is not null then
                outcome := 'surprised';
                return;
            end if;
        end if;

        begin
            update tidegate.source_partitions s
               set revision = s.revision + 1, next_offset = p_next_offset, done_above = p_done_above,
                   fingerprint_offset = p_fingerprint_offset, fingerprint = p_fingerprint,
                   admitted = p_counts[1], duplicates = p_counts[2], conflicts = p_counts[3],
                   unreadable = p_counts[4], applied = p_counts[5], rejected = p_counts[6],
                   ignored = p_counts[7], dead = p_counts[8], unhandled = p_counts[9],
                   emitted = p_counts[10], looped_back = p_counts[11], committed_at = p_at
             where s.source_partition_id = p_source_partition
               and s.epoch = p_epoch and s.revision = p_revision;
            if not found then
                outcome := 'fenced';
                return;
            end if;

            if cardinality(p_key) > 0 then
                -- The older table: the keys that the caller's filter could not rule out, or all of
                -- them when the filter was made of another generation's table.
                if p_filter_generation is distinct from dedupe_generation then
                    p_probe_tenant := p_key_tenant;
                    p_probe_key := p_key;
                end if;
                if v_current = 0 then
                    if cardinality(p_probe_key) > 0 and exists (
                        select from unnest(p_probe_tenant, p_probe_key) as w(tenant_id, key)
                          join tidegate.dedupe_1 d on d.tenant_id = w.tenant_id and d.key = w.key) then
                        raise sqlstate 'TG009';
                    end if;
                    insert into tidegate.dedupe_0
                        (tenant_id, source_partition_id, key, conflict, source_offset)
                    select p_key_tenant[i], p_source_partition, p_key[i], p_key_conflict[i],
                           p_key_offset[i]
                      from generate_series(1, cardinality(p_key)) as i;
                else
                    if cardinality(p_probe_key) > 0 and exists (
                        select from unnest(p_probe_tenant, p_probe_key) as w(tenant_id, key)
                          join tidegate.dedupe_0 d on d.tenant_id = w.tenant_id and d.key = w.key) then
                        raise sqlstate 'TG009';
                    end if;
                    insert into tidegate.dedupe_1
                        (tenant_id, source_partition_id, key, conflict, source_offset)
                    select p_key_tenant[i], p_source_partition, p_key[i], p_key_conflict[i],
                           p_key_offset[i]
                      from generate_series(1, cardinality(p_key)) as i;
                end if;
            end if;

            -- What was decided on and does not move has to be as it was seen. The careful path has just
            -- looked: whoever moves it from here on comes after this batch.
            if not v_careful and cardinality(p_read_row) > 0 then
                select count(*) into v_count
                  from generate_series(1, cardinality(p_read_row)) as i
                  join tidegate.entities e
                    on e.entity_id = p_read_row[i] and e.tenant_id = p_read_tenant[i]
                   and e.version = p_read_expected[i] and e.machine_id = p_read_machine[i]
                   and e.key = p_read_key[i];
                if v_count <> cardinality(p_read_row) then
                    raise sqlstate 'TG009';
                end if;
            end if;
            if not v_careful and cardinality(p_absent_key) > 0 and exists (
                select from unnest(p_absent_tenant, p_absent_machine, p_absent_key)
                           as w(tenant_id, machine_id, key)
                  join tidegate.entities e
                    on e.tenant_id = w.tenant_id and e.machine_id = w.machine_id
                   and e.key = w.key) then
                raise sqlstate 'TG009';
            end if;

            -- Entities before segments, since they are what is likely to surprise: the log's large rows
            -- are then not written in vain.
            if cardinality(p_entity_row) > 0 then
                update tidegate.entities e
                   set version = p_entity_version[i], changed_at = p_entity_changed[i],
                       status = p_entity_status[i], data = p_entity_data[i]
                  from generate_series(1, cardinality(p_entity_row)) as i
                 where e.entity_id = p_entity_row[i] and e.tenant_id = p_entity_tenant[i]
                   and e.version = p_entity_expected[i] and e.machine_id = p_entity_machine[i]
                   and e.key = p_entity_key[i];
                get diagnostics v_count = row_count;
                if v_count <> cardinality(p_entity_row) then
                    raise sqlstate 'TG009';
                end if;
            end if;
            if cardinality(p_new_key) > 0 then
                with made as (
                    insert into tidegate.entities
                        (tenant_id, machine_id, version, created_at, changed_at, key, status, data)
                    select p_new_tenant[i], p_new_machine[i], p_new_version[i], p_new_changed[i],
                           p_new_changed[i], p_new_key[i], p_new_status[i], p_new_data[i]
                      from generate_series(1, cardinality(p_new_key)) as i
                    returning entity_id)
                select array_agg(m.entity_id) into new_rows from made m;
            end if;

            if cardinality(p_segment_stream) > 0 then
                -- The log of a stream partition goes on exactly where it ended, and never before the
                -- partition that it ended in: so what retention drops is always its beginning.
                with ended as (
                    update tidegate.stream_partitions s
                       set next_sequence = w.first_sequence + w.event_count,
                           chain_head = w.chain_head,
                           logged_at = greatest(s.logged_at, w.last_at)
                      from unnest(p_segment_tenant, p_segment_stream, p_segment_first, p_segment_count,
                                  p_segment_first_at, p_segment_last_at, p_segment_head, p_segment_body)
                           as w(tenant_id, stream_id, first_sequence, event_count, first_at, last_at,
                                chain_head, body)
                     where s.tenant_id = w.tenant_id and s.stream_partition_id = w.stream_id
                       -- No index may be tempted: the partition of the source alone has many logs.
                       and s.source_partition_id + 0 = p_source_partition
                       and s.next_sequence = w.first_sequence
                    returning w.*, s.logged_at)
                insert into tidegate.segments
                    (tenant_id, stream_partition_id, first_sequence, event_count, first_at, last_at,
                     logged_at, committed_xid, chain_head, body)
                select e.tenant_id, e.stream_id, e.first_sequence, e.event_count, e.first_at, e.last_at,
                       e.logged_at, pg_current_xact_id(), e.chain_head, e.body
                  from ended e;
                get diagnostics v_count = row_count;
                if v_count <> cardinality(p_segment_stream) then
                    raise exception 'a segment does not begin where the log of its stream partition ends'
                        using errcode = 'TG002';
                end if;
            end if;

            -- What a commit does is open until then, and was made by an earlier commit of this source
            -- partition: nobody else deletes it.
            if cardinality(p_done_number) > 0 then
                delete from tidegate.open_work w
                 using generate_series(1, cardinality(p_done_number)) as i
                 where w.tenant_id = p_done_tenant[i] and w.source_partition_id = p_source_partition
                   and w.revision = p_done_revision[i] and w.number = p_done_number[i];
                get diagnostics v_count = row_count;
                if v_count <> cardinality(p_done_number) then
                    raise exception 'open work that is done is not there any more'
                        using errcode = 'TG011';
                end if;
            end if;
            if cardinality(p_work_id) > 0 then
                insert into tidegate.open_work
                    (tenant_id, source_partition_id, revision, number, id, due_at, kind, cause,
                     event_type, event)
                select w.tenant_id, p_source_partition, p_revision, w.number, w.id, w.due_at, w.kind,
                       w.cause, w.event_type, w.event
                  from unnest(p_work_tenant, p_work_number, p_work_id, p_work_kind, p_work_due,
                              p_work_cause, p_work_type, p_work_event)
                       as w(tenant_id, number, id, kind, due_at, cause, event_type, event);
            end if;
            -- Letters have identities of their own: the same cause writes the same one again.
            if cardinality(p_dead_id) > 0 then
                insert into tidegate.dead_letters
                    (tenant_id, id, reason, detail, fingerprint, position, machine, key, source,
                     partition, source_offset, payload, created_at, changed_at)
                select w.tenant_id, w.id, w.reason, w.detail, w.fingerprint, w.position, w.machine,
                       w.key, w.source, w.partition, w.source_offset, w.payload, w.at, w.at
                  from unnest(p_dead_tenant, p_dead_id, p_dead_reason, p_dead_detail,
                              p_dead_fingerprint, p_dead_position, p_dead_machine, p_dead_key,
                              p_dead_source, p_dead_partition, p_dead_offset, p_dead_payload, p_dead_at)
                       as w(tenant_id, id, reason, detail, fingerprint, position, machine, key, source,
                            partition, source_offset, payload, at)
                on conflict (tenant_id, id) do nothing;
            end if;
            if cardinality(p_change_id) > 0 then
                update tidegate.dead_letters d
                   set state = w.state, changed_at = w.at,
                       attempts = d.attempts + (w.state <> 'discarded')::int4
                  from unnest(p_change_tenant, p_change_id, p_change_state, p_change_at)
                       as w(tenant_id, id, state, at)
                 where d.tenant_id = w.tenant_id and d.id = w.id and d.state = 'open';
                get diagnostics v_count = row_count;
                if v_count <> cardinality(p_change_id) then
                    raise exception 'a dead letter that is to change is not open'
                        using errcode = 'TG003';
                end if;
            end if;
            outcome := 'committed';
            return;
        exception when unique_violation or lock_not_available or sqlstate 'TG009' then
            -- Nothing of the block stands. Whatever it stumbled over is committed by now, or aborted, or
            -- a row that is held for longer: the careful path skips it and says whose it is.
            v_careful := true;
            new_rows := null;
        end;
    end loop;
    -- Three times nothing in the way, and three times something after all.
    raise exception 'the batch met concurrent writers three times' using errcode = '40001';
end
$$;
revoke all on function tidegate.commit_batch from public;
grant execute on function tidegate.commit_batch to tidegate_engine;

set local role tidegate_owner;
revoke create on schema tidegate from tidegate_writer;
