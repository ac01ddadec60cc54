//! Admission: from a delivery to something that may enter the log, and the question whether its key was
//! admitted before. Owns the reading of deliveries under a source's binding; knows nothing of machines.

use std::sync::Arc;

use bytes::Bytes;

use crate::bus::Delivery;
use crate::clock::Timestamp;
use crate::event::{Event, Unreadable, binary};
use crate::hash::{Hash128, hash_fields};
use crate::mapping::{Input, Mapping};
use crate::position::{Offset, SourceInstance, SourcePartition, StreamName};
use crate::secrets::{Found, SecretPolicy};
use crate::tenant::{TenantBinding, TenantId};

/// What an event costs in memory beyond its payload, measured roughly: the envelope's texts, the queue's
/// entry and the entry's share of a batch in the making.
pub const ENVELOPE_BYTES: usize = 512;

/// A delivery after it was read: of a known tenant, and either an event or kept as unreadable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// Its offset.
    pub offset: Offset,
    /// Bytes it holds in memory: what a permit counts.
    pub bytes: usize,
    /// When it was written, where its broker says so.
    pub recorded_at: Option<Timestamp>,
    /// What it is.
    pub content: Content,
    /// What of its payload looks like a secret, when its source's policy takes it all the same.
    pub secrets: Option<Found>,
}

/// What a delivery turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// An event, with the hashes that admission asks for.
    Event {
        /// The event.
        event: Box<Event>,
        /// Hash of its idempotency key.
        key: Hash128,
        /// Hash of what must be equal under one key.
        conflict: Hash128,
    },
    /// No event.
    Unreadable {
        /// The delivery's bytes as they came, but for what its source's policy keeps no secrets of.
        payload: Bytes,
        /// What is wrong with it.
        fault: Unreadable,
    },
}

/// What one source's deliveries have in common.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The stream they become.
    pub stream: StreamName,
    /// Where the tenant comes from.
    pub tenant: TenantBinding,
    /// How a delivery becomes an event; without it, a delivery is one: a CloudEvents object, or its data with
    /// its attributes as headers.
    pub mapping: Option<Arc<Mapping>>,
    /// What is done with payloads that hold what looks like a secret.
    pub secrets: SecretPolicy,
}

/// Reads a delivery under its source's binding, and says whose it is.
pub fn read(delivery: &Delivery, binding: &Binding) -> (TenantId, Received) {
    read_at(None, delivery, binding)
}

/// The same where it is known which instance of its source the delivery is of: a mapping may take that and
/// the offset for its id.
pub fn read_at(
    instance: Option<&SourceInstance>,
    delivery: &Delivery,
    binding: &Binding,
) -> (TenantId, Received) {
    let bound = binding.tenant.fixed();
    let read = match &binding.mapping {
        None => match binary::structured(&delivery.headers, &delivery.payload) {
            None => Event::read_json_for(&delivery.payload, bound),
            Some(text) => text.and_then(|text| Event::read_json_for(&Bytes::from(text), bound)),
        },
        Some(mapping) => {
            let input = Input {
                headers: &delivery.headers,
                payload: &delivery.payload,
            };
            let place = instance.map(|instance| (instance, delivery.offset));
            mapping.envelope_at(place, input, bound)
        }
    };
    let read = read.and_then(|event| {
        binding.tenant.check(&event)?;
        let mut event = event;
        let found = binding.secrets.hold(&mut event)?;
        Ok((event, found))
    });
    let mut secrets = None;
    let (tenant, content) = match read {
        Ok((event, found)) => {
            secrets = found;
            let (key, conflict) = (event.idempotency_hash(), event.conflict_hash());
            let tenant = event.tenant.clone();
            (
                tenant,
                Content::Event {
                    event: Box::new(event),
                    key,
                    conflict,
                },
            )
        }
        Err(fault) => {
            let content = Content::Unreadable {
                payload: binding.secrets.kept(&delivery.payload),
                fault,
            };
            (binding.tenant.tenant_of_unreadable(), content)
        }
    };
    (
        tenant,
        Received {
            offset: delivery.offset,
            bytes: bytes_held(delivery),
            recorded_at: delivery.recorded_at,
            content,
            secrets,
        },
    )
}

/// What is kept of a delivery that is an event, but not of a tenant that takes it.
pub fn refuse(
    received: Received,
    delivery: &Delivery,
    binding: &Binding,
    fault: Unreadable,
) -> Received {
    Received {
        content: Content::Unreadable {
            payload: binding.secrets.kept(&delivery.payload),
            fault,
        },
        ..received
    }
}

/// Bytes that a delivery holds until it is settled: payload, headers and a flat share for what we make of it.
/// Permits count these.
pub fn bytes_held(delivery: &Delivery) -> usize {
    delivery.payload.len() + delivery.headers.bytes() + ENVELOPE_BYTES
}

/// Whether a key was admitted before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Never: the event enters the log.
    Admitted,
    /// With the same content: the delivery is dropped.
    Duplicate,
    /// With other content: the delivery is kept as evidence and never applied.
    Conflict,
}

/// Compares an event's conflict hash with the one its key was admitted with, if it was.
pub fn classify(conflict: Hash128, known: Option<Hash128>) -> Admission {
    match known {
        None => Admission::Admitted,
        Some(known) if known == conflict => Admission::Duplicate,
        Some(_) => Admission::Conflict,
    }
}

/// The identity of an unreadable delivery's dead letter.
pub fn unreadable_id(
    source_partition: &SourcePartition,
    offset: Offset,
    payload: &[u8],
) -> Hash128 {
    hash_fields(
        "tidegate.unreadable",
        &[
            source_partition.to_string().as_bytes(),
            &offset.0.to_le_bytes(),
            payload,
        ],
    )
}

/// The identity of a conflict's dead letter: the same content under the same key is kept once.
pub fn conflict_id(tenant: &TenantId, key: Hash128, conflict: Hash128) -> Hash128 {
    hash_fields(
        "tidegate.conflict-letter",
        &[
            tenant.as_str().as_bytes(),
            &key.to_bytes(),
            &conflict.to_bytes(),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::{Binding, Content, bytes_held, read};
    use crate::bus::Delivery;
    use crate::event::EventSource;
    use crate::headers::Headers;
    use crate::mapping::{Field, Mapping, Selector, TimeFormat};
    use crate::position::{Offset, StreamName};
    use crate::secrets::SecretPolicy;
    use crate::tenant::{TenantBinding, TenantId};

    fn content(binding: TenantBinding, tenant: &str) -> (TenantId, Content) {
        let text = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{tenant},"data":1}}"#
        );
        let delivery = Delivery {
            offset: Offset(0),
            next: Offset(1),
            payload: Bytes::from(text),
            headers: Headers::NONE,
            recorded_at: None,
        };
        let binding = Binding {
            stream: StreamName::new("orders").unwrap(),
            tenant: binding,
            mapping: None,
            secrets: SecretPolicy::Off,
        };
        let (tenant, received) = read(&delivery, &binding);
        (tenant, received.content)
    }

    #[test]
    fn r02_a_bound_source_gives_its_tenant_and_refuses_another() {
        let acme = TenantId::new("acme").unwrap();
        let bound = || TenantBinding::Fixed(acme.clone());
        for tenant in ["", r#","tenantid":"acme""#] {
            let (of, content) = content(bound(), tenant);
            assert_eq!(of, acme);
            assert!(matches!(content, Content::Event { event, .. } if event.tenant == acme));
        }
        let (of, other) = content(bound(), r#","tenantid":"bolt""#);
        assert_eq!(
            of, acme,
            "kept with the source's tenant, not with the one it claims"
        );
        assert!(matches!(other, Content::Unreadable { .. }));
        let (_, unnamed) = content(TenantBinding::TrustedField, "");
        assert!(matches!(unnamed, Content::Unreadable { .. }));
    }

    #[test]
    fn r02_a_mapping_gives_no_reserved_tenant_and_its_refusals_keep_the_payload() {
        let fields = [
            (Field::Id, "/id"),
            (Field::Type, "/id"),
            (Field::Tenant, "/t"),
        ]
        .map(|(field, pointer)| (field, Selector::parse("pointer", pointer, 1).unwrap()));
        let source = EventSource::new("/s").unwrap();
        let mapping = Mapping::compile(&fields, TimeFormat::Rfc3339, source).unwrap();
        let mapped = Binding {
            stream: StreamName::new("orders").unwrap(),
            tenant: TenantBinding::TrustedField,
            mapping: Some(Arc::new(mapping)),
            secrets: SecretPolicy::Off,
        };
        for (tenant, is_event) in [("acme", true), ("_unassigned", false), ("Acme", false)] {
            let payload = Bytes::from(format!(r#"{{"id":"1","t":"{tenant}"}}"#));
            let mut delivery = Delivery {
                offset: Offset(0),
                next: Offset(1),
                payload: payload.clone(),
                headers: Headers::NONE,
                recorded_at: None,
            };
            let (of, received) = read(&delivery, &mapped);
            match received.content {
                Content::Event { .. } => assert!(is_event && of.as_str() == tenant),
                Content::Unreadable { payload: kept, .. } => {
                    assert!(!is_event && of.is_unassigned() && kept == payload);
                }
            }
            // R45: what a permit counts holds the headers, too.
            let bytes = received.bytes;
            delivery.headers = Headers::collect([("name".into(), Bytes::from_static(b"value"))]);
            assert_eq!(bytes_held(&delivery), bytes + 9);
        }
    }
}
