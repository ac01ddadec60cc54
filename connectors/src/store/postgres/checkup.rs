//! A check-up of a Postgres for people: everything that a start checks, one answer a question, and what a
//! start does not ask: room for connections, what the login may do, and whose clock is right. Reads only.

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::finding::Finding;
use tidegate_engine::store::StoreError;

use super::error::{During, store_error};
use super::migrate::check_schema;
use super::options::{PostgresOptions, exposed};
use super::session::connect_once;
use super::startup::{self, no_connection};

/// The setting that names the address.
const URL: &str = "store.postgres.url";

/// Clocks that differ by less are taken for one: most of it is the way there and back.
const SKEW_MICROS_OK: i64 = 1_000_000;

/// From here on stored times and the validity of tokens are wrong by what people notice.
const SKEW_MICROS_MAX: i64 = 60_000_000;

const ROOM_SQL: &str = "\
select current_setting('max_connections')::int8
         - current_setting('superuser_reserved_connections')::int8 as most,
       (select count(*) from pg_stat_activity where backend_type = 'client backend') as taken,
       (select rolconnlimit::int8 from pg_roles where rolname = current_user) as of_login";

/// What the engine's role must be able to do, and what it must not.
const RIGHTS_SQL: &str = "\
select coalesce(has_function_privilege(p.oid, 'execute'), false) as commits,
       has_table_privilege('tidegate.segments', 'insert, update, delete, truncate')
         or has_table_privilege('tidegate.entities', 'insert, update, delete, truncate') as writes
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'tidegate' and p.proname = 'commit_batch'";

/// Looks at everything, as far as what came before allows. `now` is this machine's clock.
pub async fn checkup(options: &PostgresOptions, now: &dyn Fn() -> Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    match options.connect_options() {
        Ok(connect) => match exposed(&connect, URL) {
            Some(warning) => found.push(Finding::warn("transport", warning)),
            None => found.push(Finding::ok(
                "transport",
                "TLS is required, or the server is on this machine",
            )),
        },
        Err(error) => {
            found.push(Finding::fail("connection", error.to_string()));
            return found;
        }
    }
    let mut connection = match connect_once(options).await {
        Ok(connection) => connection,
        Err(error) => {
            let error = no_connection(error, options, URL);
            found.push(Finding::fail("connection", error.to_string()));
            return found;
        }
    };
    found.push(Finding::ok(
        "connection",
        format!("{} answers", options.address()),
    ));
    found.extend(server(&mut connection).await);
    found.push(room(&mut connection, options).await);
    found.push(clock(&mut connection, now).await);
    found.push(login(&mut connection).await);
    match check_schema(&mut connection).await {
        Ok(()) => {
            found.push(Finding::ok("schema", "is this binary's"));
            found.push(rights(&mut connection).await);
        }
        Err(error) => found.push(Finding::fail("schema", error.to_string())),
    }
    let _ = connection.close().await;
    found
}

fn answered(about: &'static str, asked: Result<Finding, StoreError>) -> Finding {
    asked.unwrap_or_else(|error| Finding::fail(about, error.to_string()))
}

async fn server(connection: &mut PgConnection) -> Vec<Finding> {
    const ABOUT: &str = "server";
    match startup::server_warnings(connection).await {
        Err(error) => vec![Finding::fail(ABOUT, error.to_string())],
        Ok(warnings) if warnings.is_empty() => vec![Finding::ok(
            ABOUT,
            "its version, fsync, full_page_writes, synchronous_commit and timeouts are as they should be",
        )],
        Ok(warnings) => warnings
            .into_iter()
            .map(|warning| Finding::warn(ABOUT, warning))
            .collect(),
    }
}

async fn login(connection: &mut PgConnection) -> Finding {
    let about = "login";
    let checked = startup::check_role(connection).await;
    answered(
        about,
        checked.map(|()| {
            Finding::ok(
                about,
                "is no superuser, bypasses no row-level security and owns nothing",
            )
        }),
    )
}

async fn rights(connection: &mut PgConnection) -> Finding {
    let about = "rights";
    let asked = async {
        let failed = |error| store_error(error, During::Read);
        let row = sqlx::query(RIGHTS_SQL)
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        let commits: bool = row.try_get("commits").map_err(failed)?;
        let writes: bool = row.try_get("writes").map_err(failed)?;
        Ok(match (commits, writes) {
            (true, false) => Finding::ok(about, "it may commit, and write nothing by itself"),
            (false, _) => Finding::fail(
                about,
                "the login may not execute tidegate.commit_batch: connect as the engine's role, or run \
                 `tidegate migrate` again",
            ),
            (true, true) => Finding::fail(
                about,
                "the login may write to the tables by itself: revoke what was granted beside `tidegate \
                 migrate`",
            ),
        })
    };
    answered(about, asked.await)
}

async fn room(connection: &mut PgConnection, options: &PostgresOptions) -> Finding {
    let about = "connections";
    let asked = async {
        let failed = |error| store_error(error, During::Read);
        let row = sqlx::query(ROOM_SQL)
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        let most: i64 = row.try_get("most").map_err(failed)?;
        let taken: i64 = row.try_get("taken").map_err(failed)?;
        let of_login: i64 = row.try_get("of_login").map_err(failed)?;
        Ok(room_for(
            options.connections_max.into(),
            most,
            taken,
            of_login,
        ))
    };
    answered(about, asked.await)
}

/// `of_login` is -1 without a limit.
fn room_for(wanted: i64, most: i64, taken: i64, of_login: i64) -> Finding {
    let about = "connections";
    if of_login >= 0 && of_login < wanted {
        return Finding::fail(
            about,
            format!(
                "the login may have {of_login}, and `store.postgres.connections_max` is {wanted}: `alter role \
                 … connection limit`, or configure fewer"
            ),
        );
    }
    if most < wanted {
        return Finding::fail(
            about,
            format!(
                "the server takes {most}, and `store.postgres.connections_max` is {wanted}: raise \
                 max_connections, or configure fewer"
            ),
        );
    }
    let free = (most - taken).max(0);
    let says = format!("{free} of {most} are free, each node takes up to {wanted}");
    match free < wanted {
        true => Finding::warn(
            about,
            format!("{says}: raise max_connections, or see who has them in pg_stat_activity"),
        ),
        false => Finding::ok(about, says),
    }
}

async fn clock(connection: &mut PgConnection, now: &dyn Fn() -> Timestamp) -> Finding {
    let about = "clock";
    let asked = async {
        let failed = |error| store_error(error, During::Read);
        let before = now();
        let row = sqlx::query("select (extract(epoch from clock_timestamp()) * 1000000)::int8")
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        let after = now();
        let theirs: i64 = row.try_get(0).map_err(failed)?;
        Ok(skew(before.0, theirs, after.0))
    };
    answered(about, asked.await)
}

/// The server's moment lies between the two of ours, or somebody's clock is wrong by the rest.
fn skew(before: i64, theirs: i64, after: i64) -> Finding {
    let about = "clock";
    let (ahead, by) = if theirs > after {
        ("behind", theirs - after)
    } else {
        ("ahead of", (before - theirs).max(0))
    };
    if by <= SKEW_MICROS_OK {
        return Finding::ok(
            about,
            "this machine and the server agree to within a second",
        );
    }
    let says = format!(
        "this machine is {} s {ahead} the server: let both follow a time server",
        by / 1_000_000
    );
    match by > SKEW_MICROS_MAX {
        true => Finding::fail(about, says),
        false => Finding::warn(about, says),
    }
}

#[cfg(test)]
mod tests {
    use super::{room_for, skew};
    use tidegate_engine::finding::Grade;

    #[test]
    fn a_clock_is_wrong_by_what_the_way_there_and_back_does_not_explain() {
        const S: i64 = 1_000_000;
        for (before, theirs, after, grade) in [
            (0, 5 * S, 10 * S, Grade::Ok),
            (0, 11 * S, 10 * S, Grade::Ok),
            (0, 12 * S, 10 * S, Grade::Warn),
            (0, -2 * S, 10 * S, Grade::Warn),
            (0, 100 * S, 10 * S, Grade::Fail),
            (0, -61 * S, 10 * S, Grade::Fail),
        ] {
            assert_eq!(skew(before, theirs, after).grade, grade, "{theirs}");
        }
    }

    #[test]
    fn a_node_has_to_fit_into_what_the_server_and_the_login_allow() {
        for (wanted, most, taken, of_login, grade) in [
            (8, 97, 1, -1, Grade::Ok),
            (8, 97, 90, -1, Grade::Warn),
            (8, 7, 1, -1, Grade::Fail),
            (8, 97, 1, 7, Grade::Fail),
            (8, 97, 1, 8, Grade::Ok),
        ] {
            assert_eq!(room_for(wanted, most, taken, of_login).grade, grade);
        }
    }
}
