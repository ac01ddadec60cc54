//! The order machine in Rust: the example to copy. It does exactly what `deploy/examples/order.yaml` does,
//! byte for byte (a property test holds the two together), and benches compare the two.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::field_type::FieldType;
use super::processor::Fault;
use super::typed::{Answer, Entity, Typed, TypedEvent, TypedMachine, fault, int};
use crate::error::InvalidValue;

/// An order: placed, paid in one or more parts, shipped; or cancelled before it is shipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order;

/// The order machine as a processor.
pub type OrderProcessor = Typed<Order>;

/// Makes the order machine.
pub fn order_processor() -> Result<OrderProcessor, InvalidValue> {
    Typed::new(Order)
}

/// What is kept of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OrderData {
    total_cents: i64,
    paid_cents: i64,
}

#[derive(Deserialize)]
struct Placed {
    #[serde(deserialize_with = "int")]
    total_cents: i64,
}

#[derive(Deserialize)]
struct Paid {
    #[serde(deserialize_with = "int")]
    amount_cents: i64,
}

impl TypedMachine for Order {
    type Data = OrderData;

    const NAME: &'static str = "order";
    const VERSION: u64 = 1;
    const SOURCE: &'static str = include_str!("order.rs");
    const STATES: &'static [&'static str] = &["new", "placed", "paid", "shipped", "cancelled"];
    const EVENTS: &'static [&'static str] = &[
        "order.placed",
        "order.paid",
        "order.shipped",
        "order.cancelled",
    ];
    const FIELDS: &'static [(&'static str, FieldType)] = &[
        ("total_cents", FieldType::Int),
        ("paid_cents", FieldType::Int),
    ];

    fn apply(
        &self,
        event: &TypedEvent<'_>,
        mut order: Entity<'_, OrderData>,
    ) -> Result<Answer<OrderData>, Fault> {
        let answer = match (event.kind(), order.status) {
            ("order.placed", "new") => {
                order.data.total_cents = event.data::<Placed>()?.total_cents;
                order.to("placed")
            }
            ("order.paid", "placed") => {
                let paid_cents = order
                    .data
                    .paid_cents
                    .checked_add(event.data::<Paid>()?.amount_cents)
                    .ok_or_else(|| fault("overflow"))?;
                order.data.paid_cents = paid_cents;
                if paid_cents >= order.data.total_cents {
                    let subject = event.envelope().subject.as_ref();
                    let data = json!({ "order": subject, "paid_cents": paid_cents });
                    order.to("paid").emit("order.ready", data)
                } else {
                    order.stay()
                }
            }
            ("order.paid", "paid") => Answer::reject("already paid"),
            ("order.shipped", "paid") => order.to("shipped"),
            ("order.shipped", "new" | "placed") => {
                let open_cents = order
                    .data
                    .total_cents
                    .checked_sub(order.data.paid_cents)
                    .ok_or_else(|| fault("overflow"))?;
                Answer::reject(format!("not paid: {open_cents} cents are open"))
            }
            ("order.cancelled", "placed" | "paid") => order.to("cancelled"),
            ("order.cancelled", "shipped") => Answer::reject("already shipped"),
            _ => Answer::Unmatched,
        };
        Ok(answer)
    }
}
