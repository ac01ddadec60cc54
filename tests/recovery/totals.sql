-- What else the files say: every line was received, every event is in the log once, and every line that
-- is none is kept once.
with readable as (
    select file, text::json as event from public.input where text like '%}}'
)
select 'lines received of file ' || i.file as what, count(*) as expected,
       (select s.admitted + s.duplicates + s.conflicts + s.unreadable
          from tidegate.source_partitions s where s.source = 'deposits' and s.partition = i.file) as found
  from public.input i group by i.file
union all
select 'records of the log',
       (select count(distinct (event ->> 'tenantid', event ->> 'source', event ->> 'id')) from readable),
       (select sum(event_count)::int8 from tidegate.segments)
union all
select 'unreadable lines kept', (select count(*) from public.input where text not like '%}}'),
       (select count(*) from tidegate.dead_letters where reason = 'unreadable')
union all
select 'other dead letters', 0, (select count(*) from tidegate.dead_letters where reason <> 'unreadable')
