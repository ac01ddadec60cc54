//! `tidegate tenants` and `tidegate tokens` as they are typed.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use tidegate_engine::access::{Scopes, TokenLabel};
use tidegate_engine::error::InvalidValue;
use tidegate_engine::tenant::TenantId;

/// `tidegate tenants`
#[derive(Debug, Subcommand)]
pub enum Tenants {
    /// Register a tenant; one that is there already is left as it is
    Create {
        /// Its name
        #[arg(value_name = "NAME")]
        name: TenantId,
    },
    /// All tenants, with their state
    List,
    /// One tenant
    Show {
        /// Its name
        #[arg(value_name = "NAME")]
        name: TenantId,
    },
    /// Have no new events of a tenant taken over HTTP, for ever; what is stored stays and is read as before
    Close {
        /// Its name
        #[arg(value_name = "NAME")]
        name: TenantId,
    },
}

/// `tidegate tokens`
#[derive(Debug, Subcommand)]
pub enum Tokens {
    /// Make a token; its secret is shown once, or written to a file
    Create(NewTokenArgs),
    /// Tokens without their secrets, expired and revoked ones too
    List(TokensFilter),
    /// Revoke a token, for ever; servers know within 5 seconds
    Revoke {
        /// Its id: the 16 digits behind `tg_`, never the whole token
        // Read by the command: what clap refuses it repeats, and this may be a secret by mistake.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// `tidegate tokens create`
#[derive(Debug, Args)]
#[command(after_long_help = "\
A token is `tg_<id>_<secret>`: 256 random bits behind a public id. The store keeps a hash, so nobody can \
show it again. No scope contains another: name each that is needed. A token that publishes belongs to \
a tenant, since its events do.

To rotate, create a second one with the same --label, give it to the client, and revoke the first. A third \
valid one with the same tenant and label is refused.")]
pub struct NewTokenArgs {
    /// Whose token it is; the tenant has to exist
    #[arg(
        long,
        value_name = "TENANT",
        required_unless_present = "installation",
        conflicts_with = "installation"
    )]
    pub tenant: Option<TenantId>,

    /// It is an operator's and reaches every tenant
    #[arg(long)]
    pub installation: bool,

    /// What it is good for: publish:intent, publish:fact, read, operate, observe, admin
    #[arg(long, value_name = "SCOPE,…", required = true)]
    pub scope: Vec<Scopes>,

    /// What it is for, in your words
    #[arg(long, value_name = "LABEL", default_value = "default")]
    pub label: TokenLabel,

    /// When it ends: a number with s, m, h, d or w; without this, never
    #[arg(long, value_name = "TIME")]
    pub expires_in: Option<TimeSpan>,

    /// Write it to a new file that its owner alone may read, instead of showing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `tidegate tokens list`
#[derive(Debug, Args)]
pub struct TokensFilter {
    /// Only those of one tenant
    #[arg(long, value_name = "TENANT", conflicts_with = "installation")]
    pub tenant: Option<TenantId>,

    /// Only those of the whole installation
    #[arg(long)]
    pub installation: bool,
}

/// A length of time as people type it, in microseconds: `90d`, `12h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeSpan(pub i64);

impl FromStr for TimeSpan {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        /// A century: what is meant to last longer does not end at all.
        const SECONDS_MAX: i64 = 100 * 366 * 24 * 3_600;
        let seconds = || {
            let unit = text.chars().last()?;
            let each = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 24 * 3_600,
                'w' => 7 * 24 * 3_600,
                _ => return None,
            };
            let digits = text.strip_suffix(unit)?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            let number: i64 = digits.parse().ok().filter(|_| plain)?;
            let seconds = number.checked_mul(each)?;
            (1..=SECONDS_MAX).contains(&seconds).then_some(seconds)
        };
        seconds()
            .map(|seconds| Self(seconds * 1_000_000))
            .ok_or_else(|| {
                let expected =
                    "a whole number with s, m, h, d or w behind it, at most 100 years: 90d";
                InvalidValue::new("time", expected, text)
            })
    }
}
