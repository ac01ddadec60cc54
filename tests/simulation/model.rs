//! A second, short opinion on what must come of the deliveries: written on plain JSON and text, without
//! the engine's types, so that a mistake there is not made here too.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::ledger::{
    ADD, BONUS, BOOM, KEYLESS, LOOK, MILESTONE, MILESTONE_EVERY, NOISE, ODD, RICH_FROM, TAKE,
    TALLY, link,
};

/// An event as the model reads it from a record of the broker.
#[derive(Clone, Debug)]
pub struct ModelEvent {
    pub tenant: String,
    /// What makes it the same event as another.
    pub key: String,
    /// What must be the same under one key.
    pub content: String,
    pub id: String,
    pub event_type: String,
    pub account: String,
    pub group: String,
    pub amount: i64,
    /// 1: the store refuses its effects; 2: the store refuses even its log record.
    pub poison: u64,
    /// Milestones that are to follow this one.
    left: u64,
    /// Events that were emitted one for the other before this one.
    hops: u64,
}

/// An event that a machine must have emitted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Emission {
    pub machine: &'static str,
    /// What two equal events share; see [`ModelEvent::content`].
    pub content: String,
    /// That of the event.
    pub poison: u64,
}

/// Hops behind which an event is dead.
const HOPS_MAX: u64 = 16;

impl ModelEvent {
    /// The event in a record, if there is one.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let value: Value = serde_json::from_str(text).ok()?;
        let field = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let twice = text.matches("\"id\":").count() > 1;
        let tenant = field("tenantid").filter(|tenant| tenant.starts_with("tenant-") && !twice)?;
        let (id, source, event_type) = (field("id")?, field("source")?, field("type")?);
        let key = field("idempotencykey").unwrap_or_else(|| format!("{source} {id}"));
        let data = value.get("data")?;
        let account = field("subject")?;
        Some(Self {
            tenant,
            key,
            content: format!("{event_type} {source} {account} {data}"),
            id,
            event_type,
            account,
            group: data.get("group")?.as_str()?.to_owned(),
            amount: data.get("amount")?.as_i64()?,
            poison: data.get("poison").and_then(Value::as_u64).unwrap_or(0),
            left: data.get("left").and_then(Value::as_u64).unwrap_or(0),
            hops: value
                .get("tidegatehops")
                .and_then(Value::as_u64)
                .unwrap_or(0),
        })
    }

    /// The machines that it concerns, in order, each with its key, if it has one there.
    pub fn targets(&self) -> Vec<(&'static str, Option<String>)> {
        let ledger = ("ledger", Some(self.account.clone()));
        match self.event_type.as_str() {
            ADD | TAKE => vec![ledger, ("tally", Some(self.group.clone()))],
            TALLY | MILESTONE => vec![("tally", Some(self.group.clone()))],
            LOOK | BONUS | ODD | BOOM => vec![ledger],
            KEYLESS => vec![("ledger", None)],
            NOISE => Vec::new(),
            other => panic!("the workload has no type `{other}`"),
        }
    }
}

/// What a machine makes of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Applied,
    Rejected,
    Ignored,
    /// With the reason that it is kept under.
    Dead(&'static str),
}

/// An entity of either machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ModelEntity {
    pub version: u64,
    balance: i64,
    chain: String,
    count: u64,
}

impl ModelEntity {
    /// What the event does here; the entity moves when it is applied.
    pub fn apply(&mut self, machine: &str, event: &ModelEvent) -> Verdict {
        if event.poison > 0 {
            return Verdict::Dead("store");
        }
        let takes = event.event_type == TAKE;
        match event.event_type.as_str() {
            KEYLESS => return Verdict::Dead("key"),
            ODD => return Verdict::Dead("expression"),
            BOOM => return Verdict::Dead("panic"),
            LOOK => return Verdict::Ignored,
            _ if event.hops > HOPS_MAX => return Verdict::Dead("loop"),
            _ => {}
        }
        if machine == "tally" {
            self.balance += event.amount;
        } else if takes && event.amount > self.balance {
            return Verdict::Rejected;
        } else {
            self.balance += if takes { -event.amount } else { event.amount };
            self.chain = link(&self.chain, &event.id);
        }
        self.count += 1;
        self.version += 1;
        Verdict::Applied
    }

    /// What the event that was just applied makes the machine emit.
    pub fn emits(&self, machine: &str, event: &ModelEvent) -> Option<Emission> {
        let account = &event.account;
        let last = account.chars().last();
        let group = &event.group;
        let (machine, event_type, data, poison) = match machine {
            "ledger" if self.count.is_multiple_of(MILESTONE_EVERY) => {
                let left = match (self.count, last) {
                    (12, Some('1' | '5')) => 40,
                    (count, _) => count / MILESTONE_EVERY % 3,
                };
                let poison = match (self.count, last) {
                    (8, Some('3')) => 1,
                    (8, Some('7')) => 2,
                    _ => 0,
                };
                let mut data = json!({"amount": 1, "group": group, "left": left});
                if poison > 0 {
                    data["poison"] = json!(poison);
                }
                ("ledger", MILESTONE, data, poison)
            }
            "tally" if event.event_type == MILESTONE && event.left > 0 => {
                let data = json!({"amount": 1, "group": group, "left": event.left - 1});
                ("tally", MILESTONE, data, 0)
            }
            "tally" if event.event_type == MILESTONE => {
                ("tally", BONUS, json!({"amount": 2, "group": group}), 0)
            }
            _ => return None,
        };
        Some(Emission {
            machine,
            content: format!("{event_type} /machines/{machine} {account} {data}"),
            poison,
        })
    }

    pub fn status(&self, machine: &str) -> &'static str {
        match machine {
            "tally" => "counting",
            _ if self.balance >= RICH_FROM => "rich",
            _ => "open",
        }
    }

    /// The bytes that must be stored.
    pub fn data(&self, machine: &str) -> String {
        let Self {
            balance,
            chain,
            count,
            ..
        } = self;
        match machine {
            "tally" => format!("{{\"events\":{count},\"sum\":{balance}}}"),
            _ => format!("{{\"balance\":{balance},\"chain\":\"{chain}\",\"count\":{count}}}"),
        }
    }
}

/// Entities by tenant, machine and key.
pub type Place = (String, String, String);

/// Everything that was delivered, by source partition and offset.
pub type Deliveries = BTreeMap<(u32, u64), (Vec<u8>, Option<ModelEvent>)>;
