//! How hashes and moments travel to Postgres: as `uuid` and `timestamptz`, without another crate's
//! types in between.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::hash::Hash128;

/// The fixed object ids of the types, from `pg_type.dat`: they are the same in every Postgres.
const UUID: u32 = 2950;
const UUID_ARRAY: u32 = 2951;
const TIMESTAMPTZ: u32 = 1184;
const TIMESTAMPTZ_ARRAY: u32 = 1185;

/// Microseconds from 1970-01-01 to Postgres' own epoch, 2000-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The first moment that `timestamptz` holds, 4713 BC, from 1970; its last one is beyond ours.
const FIRST_MOMENT: Timestamp = Timestamp(-210_866_803_200_000_000);

/// True when a moment can be stored exactly.
pub(super) fn can_hold(moment: Timestamp) -> bool {
    moment >= FIRST_MOMENT
}

/// A hash as `uuid`.
#[derive(Clone, Copy)]
pub(super) struct Uuid(pub Hash128);

/// A moment as `timestamptz`.
#[derive(Clone, Copy)]
pub(super) struct Moment(pub Timestamp);

fn has_oid(ty: &PgTypeInfo, oid: u32) -> bool {
    ty.oid() == Some(Oid(oid))
}

macro_rules! postgres_type {
    ($name:ident, $oid:ident, $array_oid:ident) => {
        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                PgTypeInfo::with_oid(Oid($oid))
            }
            fn compatible(ty: &PgTypeInfo) -> bool {
                has_oid(ty, $oid)
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::with_oid(Oid($array_oid))
            }
            fn array_compatible(ty: &PgTypeInfo) -> bool {
                has_oid(ty, $array_oid)
            }
        }
    };
}

postgres_type!(Uuid, UUID, UUID_ARRAY);
postgres_type!(Moment, TIMESTAMPTZ, TIMESTAMPTZ_ARRAY);

impl Encode<'_, Postgres> for Uuid {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.extend_from_slice(&self.0.to_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Uuid {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        binary_only(value.format())?;
        let bytes: [u8; 16] = value.as_bytes()?.try_into()?;
        Ok(Self(Hash128::from_bytes(bytes)))
    }
}

impl Encode<'_, Postgres> for Moment {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = self
            .0
            .0
            .checked_sub(POSTGRES_EPOCH_MICROS)
            .ok_or("a moment before what timestamptz can hold")?;
        buf.extend_from_slice(&micros.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Moment {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        binary_only(value.format())?;
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        let micros = i64::from_be_bytes(bytes)
            .checked_add(POSTGRES_EPOCH_MICROS)
            .ok_or("a moment beyond what we can hold")?;
        Ok(Self(Timestamp(micros)))
    }
}

/// Results of statements with parameters are binary; we send no others.
fn binary_only(format: PgValueFormat) -> Result<(), BoxDynError> {
    match format {
        PgValueFormat::Binary => Ok(()),
        PgValueFormat::Text => Err("expected a binary result".into()),
    }
}
