//! Generates events of orders, for the demo and for `bench`, and keeps the books on what must come of them. Every line is written with
//! its outcome known: the books never ask the engine, or the machine, what it would do.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// The tenants, with how much of the load is theirs.
pub const TENANTS: [(&str, u32); 5] = [
    ("acme", 40),
    ("globex", 25),
    ("initech", 20),
    ("umbrella", 10),
    ("wonka", 5),
];

/// Statuses that an order ends in or rests at.
pub const STATUSES: [&str; 4] = ["placed", "paid", "shipped", "cancelled"];

/// Orders that are open at once in one file.
const OPEN_ORDERS: usize = 400;

/// Lines that may still be repeated.
const RECENT_LINES: usize = 2_000;

/// What must come of one tenant's events in one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Books {
    /// Events that are in the log.
    pub admitted: u64,
    /// Of them, those that move an order.
    pub applied: u64,
    /// Those that the machine says no to.
    pub rejected: u64,
    /// Those that need a person.
    pub dead: u64,
    /// Lines that stand twice.
    pub duplicates: u64,
    /// Lines with the id of an earlier one and other content.
    pub conflicts: u64,
    /// Events that the machine emits.
    pub emitted: u64,
    /// Orders by status, as [`STATUSES`].
    pub orders: [u64; 4],
    /// What was paid for all of them.
    pub paid_cents: u64,
}

/// A tenant, with how much of the load is its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its share, of the sum over all tenants.
    pub share: u32,
}

/// The demo's tenants.
pub fn demo_tenants() -> Vec<Tenant> {
    let tenants = TENANTS.iter().map(|(name, share)| Tenant {
        name: (*name).to_owned(),
        share: *share,
    });
    tenants.collect()
}

/// What must come of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileBooks {
    /// By tenant, in the order in which they were given.
    pub tenants: Vec<Books>,
    /// Lines that are no event.
    pub unreadable: u64,
    /// Some order that was shipped, and whose it is.
    pub example: Option<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    New,
    Placed,
    Paid,
    Shipped,
    Cancelled,
}

struct Order {
    tenant: usize,
    number: u64,
    status: Status,
    total: u64,
    paid: u64,
}

/// An event that may be repeated: its line, and what a conflicting one needs of it.
struct Line {
    tenant: usize,
    text: String,
    head: String,
}

struct Writer<'w> {
    random: SmallRng,
    file: u32,
    tenants: &'w [Tenant],
    open: Vec<Order>,
    recent: VecDeque<Line>,
    books: FileBooks,
    orders: u64,
    events: u64,
    out: &'w mut dyn Write,
}

/// Writes `events` lines into files, a thread a file, each with the orders of all tenants.
pub fn files(
    paths: &[PathBuf],
    events: u64,
    seed: u64,
    tenants: &[Tenant],
) -> io::Result<Vec<FileBooks>> {
    let count = paths.len() as u64;
    let each = events.checked_div(count).unwrap_or(0);
    let rest = events.checked_rem(count).unwrap_or(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(paths)
            .map(|(number, path)| {
                let lines = each + u64::from(u64::from(number) < rest);
                scope.spawn(move || file(path, number, lines, seed, tenants))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let failed = || io::Error::other("the generator failed");
            thread.join().unwrap_or_else(|_| Err(failed()))
        });
        joined.collect()
    })
}

/// Writes one file of `lines` lines. The same seed, file number and tenants give the same bytes.
fn file(
    path: &Path,
    file: u32,
    lines: u64,
    seed: u64,
    tenants: &[Tenant],
) -> io::Result<FileBooks> {
    let mut out = io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let mut writer = Writer {
        random: SmallRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(u64::from(file))),
        file,
        tenants,
        open: Vec::new(),
        recent: VecDeque::new(),
        books: FileBooks {
            tenants: vec![Books::default(); tenants.len()],
            ..FileBooks::default()
        },
        orders: 0,
        events: 0,
        out: &mut out,
    };
    for _ in 0..lines {
        writer.line()?;
    }
    let mut books = std::mem::take(&mut writer.books);
    for order in std::mem::take(&mut writer.open) {
        count(&mut books, file, tenants, &order);
    }
    out.flush()?;
    Ok(books)
}

/// Enters an order that no event will move any more.
fn count(books: &mut FileBooks, file: u32, tenants: &[Tenant], order: &Order) {
    let place = match order.status {
        Status::New => return,
        Status::Placed => 0,
        Status::Paid => 1,
        Status::Shipped => 2,
        Status::Cancelled => 3,
    };
    if order.status == Status::Shipped && books.example.is_none() {
        let tenant = name_of(tenants, order.tenant).to_owned();
        books.example = Some((format!("o-{file}-{}", order.number), tenant));
    }
    if let Some(tenant) = books.tenants.get_mut(order.tenant) {
        tenant.paid_cents += order.paid;
        if let Some(orders) = tenant.orders.get_mut(place) {
            *orders += 1;
        }
    }
}

/// What one step does.
struct Step {
    event_type: &'static str,
    data: String,
    outcome: Outcome,
    emits: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Applied,
    Rejected,
    Dead,
}

impl Writer<'_> {
    fn line(&mut self) -> io::Result<()> {
        let dice = self.random.random_range(0..10_000);
        match dice {
            // 5 % duplicates, 0.3 % conflicts, 0.1 % unreadable.
            0..500 if !self.recent.is_empty() => self.duplicate(),
            500..530 if !self.recent.is_empty() => self.conflict(),
            530..540 => self.unreadable(),
            _ => self.event(),
        }
    }

    fn duplicate(&mut self) -> io::Result<()> {
        let at = self.random.random_range(0..self.recent.len());
        let Some(line) = self.recent.get(at) else {
            return Ok(());
        };
        if let Some(books) = self.books.tenants.get_mut(line.tenant) {
            books.duplicates += 1;
        }
        self.out.write_all(line.text.as_bytes())
    }

    /// The same id with other content; a number in it keeps two conflicts from being the same.
    fn conflict(&mut self) -> io::Result<()> {
        self.events += 1;
        let at = self.random.random_range(0..self.recent.len());
        let Some(line) = self.recent.get(at) else {
            return Ok(());
        };
        if let Some(books) = self.books.tenants.get_mut(line.tenant) {
            books.conflicts += 1;
        }
        writeln!(
            self.out,
            "{}\"data\":{{\"amount_cents\":1,\"attempt\":{}}}}}",
            line.head, self.events
        )
    }

    fn unreadable(&mut self) -> io::Result<()> {
        self.events += 1;
        self.books.unreadable += 1;
        let number = self.events;
        match number % 3 {
            0 => writeln!(
                self.out,
                "{{\"specversion\":\"1.0\",\"id\":\"cut-off-{number}"
            ),
            1 => writeln!(
                self.out,
                "{{\"specversion\":\"1.0\",\"id\":\"nobody-{}-{number}\",\"source\":\"/demo/shop\",\"type\":\"order.placed\"}}",
                self.file
            ),
            _ => writeln!(self.out, "order {number} was paid, kind regards"),
        }
    }

    fn event(&mut self) -> io::Result<()> {
        let begins = self.open.len() < OPEN_ORDERS && self.random.random_bool(0.4);
        if self.open.is_empty() || begins {
            self.begin();
        }
        let at = self.random.random_range(0..self.open.len());
        let mut order = self.open.swap_remove(at);
        let step = self.step(&mut order);
        self.write(&order, &step)?;
        let is_over = match order.status {
            Status::Shipped => self.random.random_bool(0.8),
            Status::Cancelled => true,
            _ => false,
        };
        if is_over {
            count(&mut self.books, self.file, self.tenants, &order);
        } else {
            self.open.push(order);
        }
        Ok(())
    }

    fn begin(&mut self) {
        let sum: u32 = self.tenants.iter().map(|tenant| tenant.share).sum();
        let mut dice = self.random.random_range(0..sum.max(1));
        let mut tenant = 0;
        for (index, Tenant { share, .. }) in self.tenants.iter().enumerate() {
            if dice < *share {
                tenant = index;
                break;
            }
            dice -= share;
        }
        self.orders += 1;
        self.open.push(Order {
            tenant,
            number: self.orders,
            status: Status::New,
            total: self.random.random_range(5..500) * 100,
            paid: 0,
        });
    }

    /// The next event of an order, with what it does to it.
    fn step(&mut self, order: &mut Order) -> Step {
        let dice = self.random.random_range(0..100);
        let step = |event_type, data, outcome| Step {
            event_type,
            data,
            outcome,
            emits: false,
        };
        match (order.status, dice) {
            // Shipped before it was placed.
            (Status::New, 0..2) => step("order.shipped", "{}".to_owned(), Outcome::Rejected),
            (Status::New, _) => {
                order.status = Status::Placed;
                let data = format!(
                    "{{\"total_cents\":{},\"customer\":\"c-{}\",\"currency\":\"EUR\"}}",
                    order.total,
                    order.number % 997
                );
                step("order.placed", data, Outcome::Applied)
            }
            // An amount in words.
            (Status::Placed, 0..3) => step(
                "order.paid",
                "{\"amount_cents\":\"all of it\",\"method\":\"card\"}".to_owned(),
                Outcome::Dead,
            ),
            (Status::Placed, 3..8) => step("order.shipped", "{}".to_owned(), Outcome::Rejected),
            (Status::Placed, 8..13) => {
                order.status = Status::Cancelled;
                step("order.cancelled", "{}".to_owned(), Outcome::Applied)
            }
            (Status::Placed, 13..30) if order.total - order.paid > 100 => {
                let amount = self.random.random_range(1..order.total - order.paid);
                order.paid += amount;
                step("order.paid", payment(amount), Outcome::Applied)
            }
            (Status::Placed, _) => {
                let amount = order.total - order.paid;
                order.paid = order.total;
                order.status = Status::Paid;
                Step {
                    emits: true,
                    ..step("order.paid", payment(amount), Outcome::Applied)
                }
            }
            // Paid again.
            (Status::Paid, 0..8) => step("order.paid", payment(100), Outcome::Rejected),
            (Status::Paid, 8..11) => {
                order.status = Status::Cancelled;
                step("order.cancelled", "{}".to_owned(), Outcome::Applied)
            }
            (Status::Paid, _) => {
                order.status = Status::Shipped;
                let data = format!("{{\"parcel\":\"p-{}-{}\"}}", self.file, order.number);
                step("order.shipped", data, Outcome::Applied)
            }
            // Cancelled too late.
            (Status::Shipped | Status::Cancelled, _) => {
                step("order.cancelled", "{}".to_owned(), Outcome::Rejected)
            }
        }
    }

    fn write(&mut self, order: &Order, step: &Step) -> io::Result<()> {
        self.events += 1;
        let tenant = name_of(self.tenants, order.tenant);
        // A second between two events of a file, from a fixed day on.
        let (hour, minute, second) = (
            self.events / 3_600 % 24,
            self.events / 60 % 60,
            self.events % 60,
        );
        let day = 1 + self.events / 86_400 % 28;
        let (file, number) = (self.file, order.number);
        let mut head = String::with_capacity(320);
        let _ = write!(
            head,
            "{{\"specversion\":\"1.0\",\"id\":\"{file}-{}\",\"source\":\"/demo/shop\",\"type\":\"{}\",\
             \"subject\":\"o-{file}-{number}\",\"time\":\"2026-05-{day:02}T{hour:02}:{minute:02}:{second:02}Z\",\
             \"tenantid\":\"{tenant}\",\"correlationid\":\"visit-{file}-{number}\",",
            self.events, step.event_type
        );
        let text = format!("{head}\"data\":{}}}\n", step.data);
        self.out.write_all(text.as_bytes())?;
        if let Some(books) = self.books.tenants.get_mut(order.tenant) {
            books.admitted += 1;
            books.emitted += u64::from(step.emits);
            match step.outcome {
                Outcome::Applied => books.applied += 1,
                Outcome::Rejected => books.rejected += 1,
                Outcome::Dead => books.dead += 1,
            }
        }
        if self.recent.len() == RECENT_LINES {
            self.recent.pop_front();
        }
        self.recent.push_back(Line {
            tenant: order.tenant,
            text,
            head,
        });
        Ok(())
    }
}

fn name_of(tenants: &[Tenant], index: usize) -> &str {
    tenants.get(index).map_or("", |tenant| tenant.name.as_str())
}

fn payment(amount: u64) -> String {
    format!("{{\"amount_cents\":{amount},\"method\":\"card\"}}")
}

#[cfg(test)]
mod tests {
    use super::{demo_tenants, file};

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_the_books_count_every_line() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("1"), directory.path().join("2"));
        let tenants = demo_tenants();
        let books = file(&one, 3, 20_000, 7, &tenants).unwrap();
        assert_eq!(file(&other, 3, 20_000, 7, &tenants).unwrap(), books);
        let text = std::fs::read_to_string(&one).unwrap();
        assert_eq!(text, std::fs::read_to_string(&other).unwrap());
        assert_eq!(text.lines().count(), 20_000);
        let sum = |of: fn(&super::Books) -> u64| books.tenants.iter().map(of).sum::<u64>();
        let (admitted, duplicates) = (sum(|b| b.admitted), sum(|b| b.duplicates));
        let conflicts = sum(|b| b.conflicts);
        assert_eq!(admitted + duplicates + conflicts + books.unreadable, 20_000);
        assert_eq!(sum(|b| b.applied + b.rejected + b.dead), admitted);
        assert!((900..1_100).contains(&duplicates), "{duplicates}");
        assert!(conflicts > 0 && books.unreadable > 0 && sum(|b| b.dead) > 0);
    }
}
