//! Scopes: what a token is good for, as operators write them, and which operation needs which.

use std::fmt;
use std::str::FromStr;

use crate::error::InvalidValue;

/// One right of a token. None contains another: a token that does two things names two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Scope {
    /// Hand in events that ask for something.
    PublishIntent,
    /// Hand in events that say what happened.
    PublishFact,
    /// Read state and events.
    Read,
    /// Decide about what is stuck: dead letters, retries.
    Operate,
    /// Read health, metrics and lag.
    Observe,
    /// Create and revoke tokens, create and close tenants.
    Admin,
}

impl Scope {
    /// All of them, in order.
    pub const ALL: [Scope; 6] = [
        Scope::PublishIntent,
        Scope::PublishFact,
        Scope::Read,
        Scope::Operate,
        Scope::Observe,
        Scope::Admin,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::PublishIntent => "publish:intent",
            Scope::PublishFact => "publish:fact",
            Scope::Read => "read",
            Scope::Operate => "operate",
            Scope::Observe => "observe",
            Scope::Admin => "admin",
        }
    }

    /// True for the scopes that hand in events. They need a tenant: an event's tenant comes from the
    /// credential.
    pub fn publishes(self) -> bool {
        matches!(self, Scope::PublishIntent | Scope::PublishFact)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| InvalidValue::new("scope", one_of_all(), text))
    }
}

fn one_of_all() -> String {
    let names: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    format!("one of {}", names.join(", "))
}

/// What a caller wants to do, as the edges name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)] // Each is what the scope of that name is for.
pub enum Operation {
    PublishIntent,
    PublishFact,
    Read,
    Operate,
    Observe,
    Administer,
}

impl Operation {
    /// All of them, in order.
    pub const ALL: [Operation; 6] = [
        Operation::PublishIntent,
        Operation::PublishFact,
        Operation::Read,
        Operation::Operate,
        Operation::Observe,
        Operation::Administer,
    ];

    /// The one scope that allows it.
    pub fn needs(self) -> Scope {
        match self {
            Operation::PublishIntent => Scope::PublishIntent,
            Operation::PublishFact => Scope::PublishFact,
            Operation::Read => Scope::Read,
            Operation::Operate => Scope::Operate,
            Operation::Observe => Scope::Observe,
            Operation::Administer => Scope::Admin,
        }
    }
}

/// A set of scopes, in order. Written `publish:fact,read`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether `scope` is among them.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// True when there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }

    /// The first one that hands in events.
    pub fn publishing(self) -> Option<Scope> {
        self.iter().find(|scope| scope.publishes())
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | scope.bit()))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

impl FromStr for Scopes {
    type Err = InvalidValue;

    /// One or more, with commas between them.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.split(',').map(|scope| scope.trim().parse()).collect()
    }
}
