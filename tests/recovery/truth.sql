-- What the files say, each event once by source and id, against what the engine made of it.
with readable as (
    select file, line, text::json as event from public.input where text like '%}}'
), once as (
    select distinct on (event ->> 'tenantid', event ->> 'source', event ->> 'id')
           file, line, event ->> 'tenantid' as tenant, event ->> 'subject' as account, event ->> 'id' as id,
           (event -> 'data' ->> 'cents')::int8 as cents
      from readable
), expected as (
    select tenant, account, count(*) as deposits, sum(cents)::int8 as cents,
           -- The order within one file decides the last deposit of an account that only it has.
           case when account like 'own-%' then (array_agg(id order by file, line desc))[1] end as last
      from once where cents > 0 group by tenant, account
), found as (
    select t.name as tenant, e.key as account, e.version, (e.data::json ->> 'count')::int8 as deposits,
           (e.data::json ->> 'cents')::int8 as cents, e.data::json ->> 'last' as last
      from tidegate.entities e join tidegate.tenants t using (tenant_id)
)
select coalesce(x.deposits, 0) as deposits,
       (x.deposits, x.cents) is not distinct from (f.deposits, f.cents)
           and f.version = f.deposits and (x.last is null or x.last = f.last) as equal,
       concat_ws(' ', tenant, account, x.deposits, x.cents, x.last, '|', f.deposits, f.cents, f.last) as shown
  from expected x full join found f using (tenant, account)
