//! Messages that a broker delivers again and again: each of them one to five times, in any order, through
//! any source partition. Their effects commute, or another order would rightly be another state.

use std::time::Duration;

use bytes::Bytes;

use crate::ledger::TALLY;
use crate::seed::Dice;
use crate::workload::{PARTITIONS, Planned, TENANTS};

const MESSAGES: u64 = 300;
/// Entities of each tenant.
const GROUPS: u64 = 7;
/// Deliveries of one message.
pub const DELIVERIES: std::ops::RangeInclusive<u64> = 1..=5;
/// When the last delivery is there.
const SPAN: Duration = Duration::from_secs(15);

/// The messages of a seed.
pub fn messages(seed: u64) -> Vec<Bytes> {
    let mut dice = Dice::new(seed, "messages");
    let message = |number| {
        let (tenant, group) = (dice.index(TENANTS), dice.between(1, GROUPS));
        let amount = dice.between(1, 1_000);
        Bytes::from(format!(
            "{{\"specversion\":\"1.0\",\"id\":\"m{number}\",\"source\":\"/sim\",\"type\":\"{TALLY}\",\
             \"subject\":\"account-00\",\"tenantid\":\"tenant-{tenant}\",\
             \"data\":{{\"amount\":{amount},\"group\":\"group-{group}\"}}}}"
        ))
    };
    (0..MESSAGES).map(message).collect()
}

/// Each message once, in order.
pub fn once(messages: &[Bytes]) -> Vec<Planned> {
    planned(messages.to_vec(), |number| number as u32 % PARTITIONS)
}

/// Each message one to five times, in random order, through random source partitions.
pub fn again_and_again(messages: &[Bytes], dice: &mut Dice) -> Vec<Planned> {
    let mut deliveries = Vec::new();
    for message in messages {
        let times = dice.between(*DELIVERIES.start(), *DELIVERIES.end());
        deliveries.extend((0..times).map(|_| message.clone()));
    }
    for last in (1..deliveries.len()).rev() {
        deliveries.swap(last, dice.index(last + 1));
    }
    planned(deliveries, |_| {
        dice.between(0, u64::from(PARTITIONS) - 1) as u32
    })
}

fn planned(deliveries: Vec<Bytes>, mut partition: impl FnMut(usize) -> u32) -> Vec<Planned> {
    let count = deliveries.len() as u32;
    let of = |(number, payload)| Planned {
        at: SPAN * number as u32 / count,
        partition: partition(number),
        hole: 0,
        payload,
    };
    deliveries.into_iter().enumerate().map(of).collect()
}
