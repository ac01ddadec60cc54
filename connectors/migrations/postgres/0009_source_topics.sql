-- The topics of sources: which number each has, over all nodes, and how often it got more partitions.
create table tidegate.source_topics (
    source text collate "C" not null,
    number int4 not null check (number between 0 and 65535),
    topic text collate "C" not null,
    -- How many it had each time that it was found with more; the first is what it had when it was found.
    partitions int4[] not null check (cardinality(partitions) > 0),
    -- It came under a pattern of a source that was read already.
    came_later bool not null,
    found_at timestamptz not null default now(),
    primary key (source, number),
    unique (source, topic)
);

-- Topics are nobody's, but their names may tell of tenants: readers see none.
alter table tidegate.source_topics enable row level security;
alter table tidegate.source_topics force row level security;
create policy registry on tidegate.source_topics
    to tidegate_owner, tidegate_writer, tidegate_engine, tidegate_admin using (true);
grant select, insert on tidegate.source_topics to tidegate_writer;
grant update (partitions) on tidegate.source_topics to tidegate_writer;
grant select on tidegate.source_topics to tidegate_engine, tidegate_admin;

grant create on schema tidegate to tidegate_writer;
set local role tidegate_writer;

-- Every topic of a source, with what was found taken up. Taking up goes one at a time, or two nodes would
-- give one number twice; the rule, nothing new, takes no lock.
create function tidegate.source_topics(
    p_source text, p_topics text[], p_partitions int4[], p_by_pattern bool[]
) returns table (topic text, number int4, partitions int4[], came_later bool)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '800ms'
as $$
#variable_conflict use_column
declare
    v_next int4;
begin
    if exists (
        select from unnest(p_topics, p_partitions) as f(topic, partitions)
         where not exists (select from tidegate.source_topics t
                            where t.source = p_source and t.topic = f.topic
                              and t.partitions[cardinality(t.partitions)] >= f.partitions)) then
        perform pg_advisory_xact_lock(7482001, 6);
        select coalesce(max(t.number) + 1, 0) into v_next
          from tidegate.source_topics t where t.source = p_source;
        if 65536 - v_next < (
            select count(*) from unnest(p_topics) as f(topic)
             where not exists (select from tidegate.source_topics t
                                where t.source = p_source and t.topic = f.topic)) then
            raise exception 'the source has more than 65,536 topics' using errcode = '54000';
        end if;
        update tidegate.source_topics t set partitions = t.partitions || f.partitions
          from unnest(p_topics, p_partitions) as f(topic, partitions)
         where t.source = p_source and t.topic = f.topic
           and t.partitions[cardinality(t.partitions)] < f.partitions;
        insert into tidegate.source_topics (source, number, topic, partitions, came_later)
        select p_source, v_next + row_number() over (order by f.place) - 1, f.topic, array[f.partitions],
               f.by_pattern and v_next > 0
          from unnest(p_topics, p_partitions, p_by_pattern)
               with ordinality as f(topic, partitions, by_pattern, place)
         where not exists (select from tidegate.source_topics t
                            where t.source = p_source and t.topic = f.topic);
    end if;
    return query
        select t.topic, t.number, t.partitions, t.came_later
          from tidegate.source_topics t where t.source = p_source order by t.number;
end
$$;

revoke all on function tidegate.source_topics from public;
grant execute on function tidegate.source_topics to tidegate_engine;

set local role tidegate_owner;
revoke create on schema tidegate from tidegate_writer;
