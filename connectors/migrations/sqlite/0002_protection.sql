-- What is stored never changes. Triggers hold against every statement of every connection, mistakes in
-- this program included; against whoever may write the file as such, only the hash chain helps, which
-- `verify` follows. A BEFORE INSERT trigger stands beside each pair, because INSERT OR REPLACE deletes
-- the row that it replaces without any DELETE trigger.

-- Opened and closed again inside the one transaction in which retention drops segments.
CREATE TABLE retention_state (
    only_row INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    at_work INTEGER NOT NULL DEFAULT 0 CHECK (at_work IN (0, 1))
) STRICT;
INSERT INTO retention_state DEFAULT VALUES;

CREATE TRIGGER segments_never_change BEFORE UPDATE ON segments
BEGIN
    SELECT raise(ABORT, 'stored events never change');
END;

CREATE TRIGGER segments_stay BEFORE DELETE ON segments
WHEN NOT (SELECT at_work FROM retention_state)
BEGIN
    SELECT raise(ABORT, 'stored events are dropped by retention alone');
END;

CREATE TRIGGER segments_go_on BEFORE INSERT ON segments
WHEN NEW.first_sequence IS NOT (
        SELECT p.next_sequence FROM stream_partitions p
         WHERE p.stream_partition_id = NEW.stream_partition_id AND p.tenant_id = NEW.tenant_id
    ) OR EXISTS (SELECT 1 FROM segments s WHERE s.segment_id = NEW.segment_id)
BEGIN
    SELECT raise(ABORT, 'a segment begins where its log ends');
END;

CREATE TRIGGER chain_anchors_never_change BEFORE UPDATE ON chain_anchors
BEGIN
    SELECT raise(ABORT, 'chain anchors never change');
END;

CREATE TRIGGER chain_anchors_stay BEFORE DELETE ON chain_anchors
BEGIN
    SELECT raise(ABORT, 'chain anchors never change');
END;

CREATE TRIGGER chain_anchors_are_set_by_retention BEFORE INSERT ON chain_anchors
WHEN NOT (SELECT at_work FROM retention_state)
     OR EXISTS (SELECT 1 FROM chain_anchors a
                 WHERE a.tenant_id = NEW.tenant_id
                   AND a.stream_partition_id = NEW.stream_partition_id
                   AND a.next_sequence >= NEW.next_sequence)
BEGIN
    SELECT raise(ABORT, 'chain anchors are set by retention alone, and only forward');
END;

CREATE TRIGGER machine_definitions_never_change BEFORE UPDATE ON machine_definitions
BEGIN
    SELECT raise(ABORT, 'stored definitions never change');
END;

CREATE TRIGGER machine_definitions_stay BEFORE DELETE ON machine_definitions
BEGIN
    SELECT raise(ABORT, 'stored definitions never change');
END;

CREATE TRIGGER machine_definitions_are_not_replaced BEFORE INSERT ON machine_definitions
WHEN EXISTS (SELECT 1 FROM machine_definitions d
              WHERE d.rowid = NEW.rowid
                 OR (d.machine_id = NEW.machine_id AND d.version = NEW.version))
BEGIN
    SELECT raise(ABORT, 'stored definitions never change');
END;

-- Sequences and versions only grow, whoever writes.
CREATE TRIGGER logs_only_grow BEFORE UPDATE OF next_sequence ON stream_partitions
WHEN NEW.next_sequence < OLD.next_sequence
BEGIN
    SELECT raise(ABORT, 'a log only grows');
END;

CREATE TRIGGER checkpoints_only_go_on BEFORE UPDATE OF epoch, revision ON source_partitions
WHEN NEW.epoch < OLD.epoch OR NEW.revision < OLD.revision
BEGIN
    SELECT raise(ABORT, 'epoch and revision only grow');
END;

-- A token is made once; what may happen to it is that it is revoked, for ever.
CREATE TRIGGER tokens_are_only_revoked BEFORE UPDATE ON tokens
WHEN OLD.revoked_at IS NOT NULL
     OR (NEW.token_id, NEW.tenant_id, NEW.label, NEW.scopes, NEW.hash, NEW.created_at, NEW.expires_at)
        IS NOT (OLD.token_id, OLD.tenant_id, OLD.label, OLD.scopes, OLD.hash, OLD.created_at, OLD.expires_at)
BEGIN
    SELECT raise(ABORT, 'a token can only be revoked, once');
END;

CREATE TRIGGER tokens_stay BEFORE DELETE ON tokens
BEGIN
    SELECT raise(ABORT, 'tokens stay: revoke it');
END;

CREATE TRIGGER tokens_are_not_replaced BEFORE INSERT ON tokens
WHEN EXISTS (SELECT 1 FROM tokens t WHERE t.token_id = NEW.token_id)
BEGIN
    SELECT raise(ABORT, 'a token with this id is stored');
END;
