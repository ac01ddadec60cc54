-- Tenants that a source registered because an event named them: there is a bound on how many.
ALTER TABLE tenants ADD COLUMN created_by_source TEXT;
CREATE INDEX tenants_created_by_source ON tenants (tenant_id) WHERE created_by_source IS NOT NULL;
