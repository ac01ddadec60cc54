//! What is delivered in one run, made from its seed: events of three tenants over four source
//! partitions, with duplicates, conflicts, what is unreadable, what panics and what the store refuses.

use std::time::Duration;

use bytes::Bytes;

use crate::ledger::{ADD, BOOM, KEYLESS, LOOK, NOISE, ODD, TAKE};
use crate::seed::Dice;

/// Source partitions. The first two share entities.
pub const PARTITIONS: u32 = 4;
/// Tenants.
pub const TENANTS: usize = 3;
/// Accounts, over all tenants.
pub const ACCOUNTS: u64 = 20;
/// Accounts that both of the first two partitions move.
const SHARED_ACCOUNTS: u64 = 10;
/// Events before duplicates, conflicts and the unreadable.
pub const EVENTS_MIN: u64 = 300;

/// The store refuses an event with this in its data, until it is dead.
pub const POISON: &str = "\"poison\":1";
/// The store refuses even the log record of an event with this in its data.
pub const VENOM: &str = "\"poison\":2";

/// One record that a producer appends.
#[derive(Clone)]
pub struct Planned {
    pub at: Duration,
    pub partition: u32,
    /// Offsets left out before it.
    pub hole: u64,
    pub payload: Bytes,
}

/// How much of what is in a workload.
#[derive(Clone, Copy)]
pub struct Mix {
    pub events: u64,
    /// Per mille of records.
    pub duplicates: u32,
    pub conflicts: u32,
    pub unreadable: u32,
    pub panics: u32,
    pub poison: u32,
    /// When the last record is appended.
    pub span: Duration,
}

impl Mix {
    /// What a seed of the chaos gets.
    pub fn full(dice: &mut Dice) -> Self {
        Self {
            events: EVENTS_MIN + dice.between(0, 30),
            duplicates: 110,
            conflicts: 15,
            unreadable: 12,
            panics: 8,
            poison: 6,
            span: dice.millis(12_000, 24_000),
        }
    }
}

/// An event that others may repeat or contradict.
struct Original {
    partition: u32,
    payload: Bytes,
    contradiction: Option<Bytes>,
}

/// All records of a run, in order of time.
pub fn plan(seed: u64, mix: Mix) -> Vec<Planned> {
    let mut dice = Dice::new(seed, "workload");
    let mut originals: Vec<Original> = Vec::new();
    let mut records: Vec<(u32, Bytes)> = Vec::new();
    let (mut events, mut repeated) = (0, 0);
    while events < mix.events {
        if !originals.is_empty() && dice.chance(mix.duplicates) {
            records.push(repetition(&originals, &mut dice));
            repeated += 1;
        } else if !originals.is_empty() && dice.chance(mix.conflicts) {
            let original = &originals[dice.index(originals.len())];
            if let Some(contradiction) = &original.contradiction {
                let times = dice.between(1, 2);
                let partition = any_partition(&mut dice);
                records.extend((0..times).map(|_| (partition, contradiction.clone())));
            }
        } else if dice.chance(mix.unreadable) {
            records.push((any_partition(&mut dice), unreadable(&mut dice)));
        } else {
            let original = event(events, &mix, &mut dice);
            records.push((original.partition, original.payload.clone()));
            originals.push(original);
            events += 1;
        }
    }
    // No seed has fewer duplicates than its share.
    while repeated * 1_000 < records.len() * mix.duplicates as usize {
        let place = dice.index(records.len());
        records.push(repetition(&originals, &mut dice));
        let last = records.len() - 1;
        records.swap(place, last);
        repeated += 1;
    }
    spread(records, mix.span, &mut dice)
}

/// A producer that sends again, somewhere.
fn repetition(originals: &[Original], dice: &mut Dice) -> (u32, Bytes) {
    let original = &originals[dice.index(originals.len())];
    let stays = dice.chance(500);
    let partition = if stays {
        original.partition
    } else {
        any_partition(dice)
    };
    (partition, again(&original.payload, dice))
}

fn any_partition(dice: &mut Dice) -> u32 {
    dice.between(0, u64::from(PARTITIONS) - 1) as u32
}

/// Records come in bursts, in the order in which they were made.
fn spread(records: Vec<(u32, Bytes)>, span: Duration, dice: &mut Dice) -> Vec<Planned> {
    let mut times: Vec<Duration> = Vec::with_capacity(records.len());
    while times.len() < records.len() {
        let burst = dice.millis(200, span.as_millis() as u64);
        times.extend((0..dice.between(1, 40)).map(|_| burst));
    }
    times.truncate(records.len());
    times.sort();
    let planned = |(at, (partition, payload)): (Duration, (u32, Bytes))| {
        let hole = if dice.chance(80) {
            dice.between(1, 5)
        } else {
            0
        };
        Planned {
            at,
            partition,
            hole,
            payload,
        }
    };
    times.into_iter().zip(records).map(planned).collect()
}

fn event(number: u64, mix: &Mix, dice: &mut Dice) -> Original {
    let partition = any_partition(dice);
    let account = match partition {
        0 | 1 => dice.between(0, SHARED_ACCOUNTS - 1),
        2 => dice.between(SHARED_ACCOUNTS, SHARED_ACCOUNTS + 4),
        _ => dice.between(SHARED_ACCOUNTS + 5, ACCOUNTS - 1),
    };
    let group = match partition {
        0 | 1 => "shared",
        2 => "second",
        _ => "third",
    };
    let event_type = match dice.between(0, 99) {
        _ if dice.chance(mix.panics) => BOOM,
        0..=59 => ADD,
        60..=84 => TAKE,
        85..=89 => LOOK,
        90..=92 => ODD,
        93..=94 => KEYLESS,
        _ => NOISE,
    };
    let poison = match dice.between(0, 2) {
        _ if event_type != ADD || !dice.chance(mix.poison) => "",
        0 => VENOM,
        _ => POISON,
    };
    let amount = dice.between(1, 20);
    let explicit_key = dice.chance(150);
    let write = |amount: u64| {
        let key = if explicit_key {
            format!("\"idempotencykey\":\"key-{number}\",")
        } else {
            String::new()
        };
        let comma = if poison.is_empty() { "" } else { "," };
        Bytes::from(format!(
            "{{\"specversion\":\"1.0\",\"id\":\"e{number}\",\"source\":\"/sim/{partition}\",\
             \"type\":\"{event_type}\",\"subject\":\"account-{account:02}\",\"tenantid\":\"tenant-{}\",{key}\
             \"correlationid\":\"c{}\",\"data\":{{\"amount\":{amount},\"group\":\"{group}\"{comma}{poison}}}}}",
            account % TENANTS as u64,
            number / 3,
        ))
    };
    // What the store refuses is never contradicted: which of the two is admitted would decide whether
    // the other is a conflict, and the model would have to know the order of commits.
    let contradiction = poison.is_empty().then(|| write(amount + 100));
    Original {
        partition,
        payload: write(amount),
        contradiction,
    }
}

/// The same event once more; what transport and tracing stamp may differ.
fn again(payload: &Bytes, dice: &mut Dice) -> Bytes {
    if dice.chance(700) {
        return payload.clone();
    }
    let text = std::str::from_utf8(payload).unwrap();
    let trace = format!("\"traceparent\":\"00-{:032x}-00\",\"data\":", dice.bits());
    Bytes::from(text.replacen("\"data\":", &trace, 1))
}

fn unreadable(dice: &mut Dice) -> Bytes {
    let number = dice.bits();
    Bytes::from(match dice.between(0, 4) {
        0 => format!("not JSON {number}"),
        1 => format!(
            "{{\"specversion\":\"1.0\",\"id\":\"u{number}\",\"source\":\"/s\",\"type\":\"t\"}}"
        ),
        2 => format!(
            "{{\"specversion\":\"1.0\",\"tenantid\":\"tenant-0\",\"id\":\"u{number}\",\"id\":\"again\",\"source\":\"/s\",\"type\":\"t\"}}"
        ),
        3 => format!(
            "{{\"specversion\":\"1.0\",\"tenantid\":\"_unassigned\",\"id\":\"u{number}\",\"source\":\"/s\",\"type\":\"t\"}}"
        ),
        _ => String::new(),
    })
}
