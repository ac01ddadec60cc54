//! What a consumer of order events reads of each: borrowed from the delivery, without a copy.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

use crate::harness::Result;
use crate::harness::load::Load;

/// An order event, read.
pub struct OrderEvent<'d> {
    /// The tenant's number.
    pub tenant: i32,
    /// The producer's id of the event.
    pub id: EventId,
    /// The order.
    pub order: Cow<'d, str>,
    /// What the order costs, when it is placed.
    pub total_cents: i64,
    /// What is paid.
    pub amount_cents: i64,
    /// The event as it came.
    pub json: &'d str,
}

/// The tenants' numbers, as the consumer knows them from its table.
pub type TenantNumbers = HashMap<String, i32>;

/// A UUID. Sent as such, which is smaller and faster to index than its text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u128);

#[derive(Deserialize)]
struct Envelope<'d> {
    #[serde(borrow)]
    id: Cow<'d, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'d, str>,
    #[serde(borrow)]
    subject: Cow<'d, str>,
    #[serde(borrow)]
    tenantid: Cow<'d, str>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    total_cents: Option<i64>,
    amount_cents: Option<i64>,
}

impl<'d> OrderEvent<'d> {
    /// Reads one delivery.
    pub fn read(delivery: &'d [u8], tenants: &TenantNumbers) -> Result<Self> {
        let json = std::str::from_utf8(delivery)?;
        let Envelope {
            id,
            kind,
            subject,
            tenantid,
            data,
        } = serde_json::from_str(json)?;
        let (total_cents, amount_cents) = match &*kind {
            "order.placed" => (data.total_cents.ok_or("no total")?, 0),
            "order.paid" => (0, data.amount_cents.ok_or("no amount")?),
            other => return Err(format!("an order knows no `{other}`").into()),
        };
        Ok(Self {
            tenant: *tenants.get(&*tenantid).ok_or("not a tenant")?,
            id: EventId::parse(&id)?,
            order: subject,
            total_cents,
            amount_cents,
            json,
        })
    }
}

/// The tenants of a load, numbered.
pub fn tenant_numbers(load: &Load) -> TenantNumbers {
    load.tenants().into_iter().zip(1..).collect()
}

impl EventId {
    fn parse(text: &str) -> Result<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        Ok(Self(u128::from_str_radix(&digits, 16)?))
    }
}

/// Fixed object ids, from `pg_type.dat`.
const UUID: Oid = Oid(2950);
const UUID_ARRAY: Oid = Oid(2951);

impl Type<Postgres> for EventId {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(UUID)
    }
    fn compatible(found: &PgTypeInfo) -> bool {
        found.oid() == Some(UUID)
    }
}

impl PgHasArrayType for EventId {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(UUID_ARRAY)
    }
}

impl Encode<'_, Postgres> for EventId {
    fn encode_by_ref(
        &self,
        buffer: &mut PgArgumentBuffer,
    ) -> std::result::Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for EventId {
    fn decode(value: PgValueRef<'_>) -> std::result::Result<Self, BoxDynError> {
        Ok(Self(u128::from_be_bytes(value.as_bytes()?.try_into()?)))
    }
}
