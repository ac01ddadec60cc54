//! Room for the bodies of requests, the events in them, and pages of what is stored: what all may take
//! together, and what one tenant may take of it. A body takes it as its bytes arrive, so whoever announces a
//! large one and sends nothing has none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_engine::tenant::TenantId;

use super::problem::{Kind, Problem};

/// All the room there is.
pub struct BodyRoom(Arc<Shared>);

struct Shared {
    bytes_max: usize,
    tenant_bytes_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    bytes: usize,
    /// Only tenants that have some: as many as there are requests, at most.
    of_tenants: HashMap<TenantId, usize>,
}

impl BodyRoom {
    /// `bytes_max` for all; a tenant may have half of it, and always one body of `body_bytes_max` with its
    /// events.
    pub fn new(bytes_max: usize, body_bytes_max: usize) -> Self {
        let one = body_bytes_max.saturating_mul(2);
        Self(Arc::new(Shared {
            bytes_max,
            tenant_bytes_max: (bytes_max / 2).max(one),
            taken: Mutex::default(),
        }))
    }

    /// A request's room, with nothing in it yet.
    pub fn of(&self, tenant: TenantId) -> Room {
        Room {
            shared: Arc::clone(&self.0),
            tenant,
            bytes: 0,
        }
    }
}

#[cfg(test)]
impl BodyRoom {
    /// Bytes that are taken.
    pub fn taken(&self) -> usize {
        self.0.lock().bytes
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing inside panics; were it to, the figures are still whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one request has; it is given back when this is dropped.
pub struct Room {
    shared: Arc<Shared>,
    tenant: TenantId,
    bytes: usize,
}

impl Room {
    /// Makes it as large as this, or leaves it as it is and says that there is no room now.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Problem> {
        let mut taken = self.shared.lock();
        let Taken {
            bytes: all,
            of_tenants,
        } = &mut *taken;
        let others = all.saturating_sub(self.bytes);
        let of_tenant = of_tenants.get(&self.tenant).copied().unwrap_or(0);
        let of_tenant = of_tenant.saturating_sub(self.bytes);
        if bytes > self.bytes {
            if of_tenant.saturating_add(bytes) > self.shared.tenant_bytes_max {
                return Err(full("this tenant has too many large requests at once"));
            }
            if others.saturating_add(bytes) > self.shared.bytes_max {
                return Err(full("too many large requests at once"));
            }
        }
        *all = others + bytes;
        match of_tenant + bytes {
            0 => {
                of_tenants.remove(&self.tenant);
            }
            left => {
                of_tenants.insert(self.tenant.clone(), left);
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Adds to it.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        self.resize(self.bytes.saturating_add(bytes))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Smaller always fits.
        let _ = self.resize(0);
    }
}

fn full(what: &str) -> Problem {
    Problem::new(
        Kind::Unavailable,
        format!("{what}; send it again a little later"),
    )
}

#[cfg(test)]
mod tests {
    use tidegate_engine::tenant::TenantId;

    use super::BodyRoom;

    #[test]
    fn one_tenant_has_half_and_what_is_dropped_is_room_again() {
        let room = BodyRoom::new(1_000, 100);
        let (acme, bolt) = (
            TenantId::new("acme").unwrap(),
            TenantId::new("bolt").unwrap(),
        );
        let mut first = room.of(acme.clone());
        let mut second = room.of(acme.clone());
        first.grow(300).unwrap();
        second.grow(200).unwrap();
        assert!(second.grow(1).is_err(), "half is half");
        let mut third = room.of(bolt);
        third.grow(500).unwrap();
        first.resize(299).unwrap();
        second.grow(1).unwrap();
        assert!(
            room.of(TenantId::new("core").unwrap()).grow(1).is_err(),
            "all is all"
        );
        drop((first, second, third));
        assert_eq!(room.taken(), 0);
        assert!(room.0.lock().of_tenants.is_empty());
        room.of(acme).grow(500).unwrap();
    }

    #[test]
    fn one_body_always_fits() {
        let room = BodyRoom::new(1_000, 400);
        room.of(TenantId::new("acme").unwrap()).grow(800).unwrap();
    }
}
