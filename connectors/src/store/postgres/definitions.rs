//! Definitions of machines, stored append-only.

use tidegate_engine::clock::Timestamp;
use tidegate_engine::state::{MachineName, Status};
use tidegate_engine::store::{NewDefinition, StoreError, StoredDefinition};

use super::Inner;
use super::commit::int8;
use super::encode::{Moment, Uuid};
use super::error::{During, corrupt};
use super::ownership::{column, counter};

impl Inner {
    pub(super) async fn definitions(&self) -> Result<Vec<StoredDefinition>, StoreError> {
        let query = sqlx::query(
            "select m.name, d.version, d.hash, d.text, a.hash is not null as active \
             from tidegate.machine_definitions d \
             join tidegate.machines m on m.machine_id = d.machine_id \
             left join tidegate.active_definitions a \
               on a.machine_id = d.machine_id and a.hash = d.hash \
             order by m.name, d.version",
        );
        let rows = self.session.fetch(query, During::Read).await?;
        rows.iter()
            .map(|row| {
                Ok(StoredDefinition {
                    machine: MachineName::new(column(row, "name")?)
                        .map_err(|_| corrupt("a machine's name"))?,
                    version: counter(row, "version")?,
                    hash: column::<Uuid>(row, "hash")?.0,
                    text: column(row, "text")?,
                    active: column(row, "active")?,
                })
            })
            .collect()
    }

    pub(super) async fn activate_definition(
        &self,
        definition: &NewDefinition,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (fields, types): (Vec<&str>, Vec<&str>) = definition
            .fields
            .iter()
            .map(|(field, kind)| (field.as_str(), *kind))
            .unzip();
        let query =
            sqlx::query("select tidegate.activate_definition($1, $2, $3, $4, $5, $6, $7)::text")
                .bind(definition.machine.as_str())
                .bind(int8(definition.version)?)
                .bind(Uuid(definition.hash))
                .bind(&*definition.text)
                .bind(fields)
                .bind(types)
                .bind(Moment(at));
        self.session.fetch(query, During::Read).await.map(|_| ())
    }

    pub(super) async fn entities_by_status(
        &self,
        machine: &MachineName,
    ) -> Result<Vec<(Status, u64)>, StoreError> {
        let query = sqlx::query("select status, entities from tidegate.entities_by_status($1)")
            .bind(machine.as_str());
        let rows = self.session.fetch(query, During::Read).await?;
        rows.iter()
            .map(|row| {
                let status =
                    Status::new(column(row, "status")?).map_err(|_| corrupt("a status"))?;
                Ok((status, counter(row, "entities")?))
            })
            .collect()
    }
}
