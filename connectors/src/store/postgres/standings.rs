//! How tenants stand that events name. Owns the call of the function that registers some of them.

use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::{TenantId, TenantStanding, TenantsAsked};

use super::Inner;
use super::encode::Moment;
use super::error::{During, corrupt};
use super::ownership::column;

impl Inner {
    pub(super) async fn tenant_standings(
        &self,
        asked: &TenantsAsked,
    ) -> Result<Vec<TenantStanding>, StoreError> {
        let names: Vec<&str> = asked.names.iter().map(TenantId::as_str).collect();
        let create = asked.create.as_ref();
        let query =
            sqlx::query("select name, standing from tidegate.tenant_standings($1, $2, $3, $4)")
                .bind(names)
                .bind(create.map(|create| create.source.as_str()))
                .bind(create.map(|create| i64::from(create.created_max)))
                .bind(create.map(|create| Moment(create.at)));
        let rows = self.session.fetch(query, During::Read).await?;
        // The server keeps the order; one answer for each name is what the seam promises.
        if rows.len() != asked.names.len() {
            return Err(corrupt("the standing of a tenant"));
        }
        let standings = rows.iter().zip(&asked.names).map(|(row, asked)| {
            let name: &str = column(row, "name")?;
            let standing = TenantStanding::from_word(column(row, "standing")?);
            standing
                .filter(|_| name == asked.as_str())
                .ok_or_else(|| corrupt("the standing of a tenant"))
        });
        standings.collect()
    }
}
