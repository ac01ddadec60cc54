-- The five roles. They belong to the cluster, not to a database: made once, by somebody who may create
-- roles, and never dropped by us. None of them is a superuser or may bypass row-level security.
do $$
begin
    if not exists (select from pg_roles where rolname = 'tidegate_owner') then
        create role tidegate_owner nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'tidegate_writer') then
        create role tidegate_writer nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'tidegate_engine') then
        create role tidegate_engine login;
    end if;
    if not exists (select from pg_roles where rolname = 'tidegate_reader') then
        create role tidegate_reader nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'tidegate_admin') then
        create role tidegate_admin nologin;
    end if;
end
$$;

-- Limits are the server's: nobody has to drop a future to enforce them. The lock timeout stands below
-- the server's deadlock_timeout (1s), so that a deadlock ends as a lock timeout, without a victim's search.
alter role tidegate_engine set statement_timeout = '30s';
alter role tidegate_engine set lock_timeout = '800ms';
alter role tidegate_engine set idle_in_transaction_session_timeout = '10s';
alter role tidegate_engine set jit = off;

-- Migrations create as these two.
grant tidegate_owner, tidegate_writer to current_user;
