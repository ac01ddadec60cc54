-- Tenants, tokens and leases. What creates, closes and revokes belongs to the owner and is for
-- administrators; each change is a row of the audit, with the login and never a secret or its hash.

create function tidegate.create_tenant(p_name text, p_at timestamptz)
    returns table (created bool, state text, created_at timestamptz)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '5s'
as $$
declare
    v_tenant int4;
begin
    insert into tidegate.tenants as t (name, created_at) values (p_name, p_at)
    on conflict do nothing
    returning t.tenant_id into v_tenant;
    if v_tenant is not null then
        perform set_config('tidegate.tenants', v_tenant::text, true);
        insert into tidegate.audit (tenant_id, at, actor, action, detail)
        values (v_tenant, now(), session_user, 'create_tenant', json_build_object('tenant', p_name));
    end if;
    return query select v_tenant is not null, t.state, t.created_at
                   from tidegate.tenants t where t.name = p_name;
end
$$;

-- The tenant as it was before; no row when there is none.
create function tidegate.close_tenant(p_name text, p_at timestamptz)
    returns table (state text, created_at timestamptz)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '5s'
as $$
declare
    v_before record;
begin
    select t.tenant_id, t.state, t.created_at into v_before
      from tidegate.tenants t where t.name = p_name for update;
    if not found then
        return;
    end if;
    if v_before.state <> 'closed' then
        update tidegate.tenants t set state = 'closed' where t.tenant_id = v_before.tenant_id;
        perform set_config('tidegate.tenants', v_before.tenant_id::text, true);
        insert into tidegate.audit (tenant_id, at, actor, action, detail)
        values (v_before.tenant_id, now(), session_user, 'close_tenant',
            json_build_object('tenant', p_name, 'said_at', p_at));
    end if;
    return query select v_before.state::text, v_before.created_at::timestamptz;
end
$$;

-- Stores a token, or says why not: `created`, `no_tenant`, `id_taken`, or `too_many` with those that are
-- valid, the oldest first. Without p_tenant it is one of the whole installation. One at a time, or two
-- callers would each see room for theirs.
create function tidegate.create_token(
    p_token text, p_tenant text, p_label text, p_scopes text, p_hash bytea,
    p_created timestamptz, p_expires timestamptz, p_valid_max int4
) returns table (outcome text, valid text[])
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '5s'
as $$
declare
    v_tenant int4;
    v_valid text[];
begin
    perform pg_advisory_xact_lock(7482001, 4);
    if p_tenant is not null then
        select t.tenant_id into v_tenant from tidegate.tenants t where t.name = p_tenant;
        if v_tenant is null then
            return query select 'no_tenant', null::text[];
            return;
        end if;
        perform set_config('tidegate.tenants', v_tenant::text, true);
    end if;
    select array_agg(k.token_id order by k.created_at, k.token_id) into v_valid
      from tidegate.tokens k
     where k.tenant_id is not distinct from v_tenant and k.label = p_label
       and k.revoked_at is null and (k.expires_at is null or k.expires_at > p_created);
    if cardinality(v_valid) >= p_valid_max then
        return query select 'too_many', v_valid;
        return;
    end if;
    insert into tidegate.tokens (token_id, tenant_id, label, scopes, hash, created_at, expires_at)
    values (p_token, v_tenant, p_label, string_to_array(p_scopes, ','), p_hash, p_created, p_expires)
    on conflict do nothing;
    if not found then
        return query select 'id_taken', null::text[];
        return;
    end if;
    insert into tidegate.audit (tenant_id, at, actor, action, detail)
    values (v_tenant, now(), session_user, 'create_token', json_build_object(
        'token', p_token, 'tenant', p_tenant, 'label', p_label, 'scopes', p_scopes,
        'expires_at', p_expires));
    return query select 'created', null::text[];
end
$$;

-- Revokes a token, for ever. `before` is when it was revoked already; no row when there is no such token.
create function tidegate.revoke_token(p_token text, p_at timestamptz)
    returns table (before timestamptz)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '5s'
as $$
declare
    v_token record;
begin
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    select k.tenant_id, k.label, k.revoked_at into v_token
      from tidegate.tokens k where k.token_id = p_token for update;
    if not found then
        return;
    end if;
    if v_token.revoked_at is null then
        update tidegate.tokens k set revoked_at = p_at where k.token_id = p_token;
        insert into tidegate.audit (tenant_id, at, actor, action, detail)
        values (v_token.tenant_id, now(), session_user, 'revoke_token',
            json_build_object('token', p_token, 'label', v_token.label));
    end if;
    return query select v_token.revoked_at::timestamptz;
end
$$;

revoke all on function tidegate.create_tenant, tidegate.close_tenant, tidegate.create_token,
    tidegate.revoke_token from public;
grant execute on function tidegate.create_tenant, tidegate.close_tenant, tidegate.create_token,
    tidegate.revoke_token to tidegate_admin;

grant create on schema tidegate to tidegate_writer;
set local role tidegate_writer;

-- One token with the hash of its secret: what a node asks for each secret that is presented. Nobody who
-- logs in may select hashes; this gives the one whose id is known.
create function tidegate.token(p_token text)
    returns table (token_id text, tenant text, tenant_state text, label text, scopes text, hash bytea,
        created_at timestamptz, expires_at timestamptz, revoked_at timestamptz)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set jit = off
as $$
begin
    perform set_config('tidegate.token', p_token, true);
    return query
        select k.token_id, t.name, t.state, k.label, array_to_string(k.scopes, ','), k.hash, k.created_at,
               k.expires_at, k.revoked_at
          from tidegate.tokens k
          left join tidegate.tenants t on t.tenant_id = k.tenant_id
         where k.token_id = p_token;
end
$$;

-- Tokens in order of id behind one, without hashes: all, those of one tenant, or, for the tenant `*`,
-- those of the whole installation.
create function tidegate.list_tokens(p_tenant text, p_after text, p_limit int4)
    returns table (token_id text, tenant text, label text, scopes text,
        created_at timestamptz, expires_at timestamptz, revoked_at timestamptz)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('tidegate.tenants',
        (select coalesce(string_agg(t.tenant_id::text, ','), '') from tidegate.tenants t), true);
    return query
        select k.token_id, t.name, k.label, array_to_string(k.scopes, ','), k.created_at, k.expires_at,
               k.revoked_at
          from tidegate.tokens k
          left join tidegate.tenants t on t.tenant_id = k.tenant_id
         where k.token_id > p_after
           and (p_tenant is null or t.name = p_tenant or (p_tenant = '*' and k.tenant_id is null))
         order by k.token_id limit p_limit;
end
$$;

-- Leases, by the server's clock as it is when the row is had, not when the transaction began: whoever
-- waited for the row meanwhile must not count that time as somebody's lease.
create function tidegate.lease_acquire(p_source text, p_partition int8, p_holder text, p_ttl_ms int4)
    returns bool
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '800ms'
as $$
begin
    insert into tidegate.leases as l (source, partition, holder, acquired_at, expires_at)
    values (p_source, p_partition, p_holder, clock_timestamp(),
        clock_timestamp() + p_ttl_ms * interval '1 millisecond')
    on conflict (source, partition) do update
        set holder = excluded.holder, acquired_at = clock_timestamp(),
            expires_at = clock_timestamp() + p_ttl_ms * interval '1 millisecond'
        where l.holder = excluded.holder or l.expires_at <= clock_timestamp();
    return found;
end
$$;

create function tidegate.lease_renew(p_source text, p_partition int8, p_holder text, p_ttl_ms int4)
    returns bool
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '800ms'
as $$
begin
    update tidegate.leases l
       set expires_at = clock_timestamp() + p_ttl_ms * interval '1 millisecond'
     where l.source = p_source and l.partition = p_partition and l.holder = p_holder
       and l.expires_at > clock_timestamp();
    return found;
end
$$;

create function tidegate.lease_release(p_source text, p_partition int8, p_holder text)
    returns bool
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '800ms'
as $$
begin
    update tidegate.leases l set expires_at = '-infinity'
     where l.source = p_source and l.partition = p_partition and l.holder = p_holder;
    return found;
end
$$;

revoke all on function tidegate.token, tidegate.list_tokens, tidegate.lease_acquire, tidegate.lease_renew,
    tidegate.lease_release from public;
grant execute on function tidegate.token, tidegate.lease_acquire, tidegate.lease_renew,
    tidegate.lease_release to tidegate_engine;
grant execute on function tidegate.list_tokens to tidegate_engine, tidegate_admin;

set local role tidegate_owner;
revoke create on schema tidegate from tidegate_writer;
