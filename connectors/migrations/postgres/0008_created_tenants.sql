-- Tenants that a source registers because an event named them, and how many there may be.
alter table tidegate.tenants add column created_by_source text collate "C";
create index tenants_created_by_source on tidegate.tenants (tenant_id) where created_by_source is not null;

grant create on schema tidegate to tidegate_writer;
set local role tidegate_writer;

-- How tenants stand: `open`, `closed`, `unknown`; and with p_source, which registers the unknown ones,
-- `created` or `too_many`. Registering goes one at a time, or two nodes would each see room for theirs; the
-- rule, names that are all known, takes no lock.
create function tidegate.tenant_standings(
    p_names text[], p_source text, p_created_max int8, p_at timestamptz
) returns table (name text, standing text)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '800ms'
as $$
declare
    v_created text[] := '{}';
    v_room int8;
    v_tenant record;
begin
    if p_source is not null and exists (
        select from unnest(p_names) as n(name)
         where not exists (select from tidegate.tenants t where t.name = n.name)) then
        perform pg_advisory_xact_lock(7482001, 5);
        select greatest(p_created_max - count(*), 0) into v_room
          from tidegate.tenants t where t.created_by_source is not null;
        for v_tenant in
            insert into tidegate.tenants as t (name, created_at, created_by_source)
            select n.name, p_at, p_source
              from unnest(p_names) with ordinality as n(name, place)
             where not exists (select from tidegate.tenants t where t.name = n.name)
             order by n.place limit v_room
            on conflict do nothing
            returning t.tenant_id, t.name
        loop
            v_created := v_created || v_tenant.name;
            perform set_config('tidegate.tenants', v_tenant.tenant_id::text, true);
            insert into tidegate.audit (tenant_id, at, actor, action, detail)
            values (v_tenant.tenant_id, now(), session_user, 'create_tenant',
                json_build_object('tenant', v_tenant.name, 'source', p_source));
        end loop;
    end if;
    return query
        select n.name,
               case when n.name = any (v_created) then 'created'
                    when t.name is not null then t.state
                    when p_source is not null then 'too_many'
                    else 'unknown' end
          from unnest(p_names) with ordinality as n(name, place)
          left join tidegate.tenants t on t.name = n.name
         order by n.place;
end
$$;

revoke all on function tidegate.tenant_standings from public;
grant execute on function tidegate.tenant_standings to tidegate_engine;

set local role tidegate_owner;
revoke create on schema tidegate from tidegate_writer;
