-- What people read: a public surface, so columns are only added. Times are shown as text in UTC.

-- One row an event, and one a later effect of a stored event.
CREATE VIEW events AS
SELECT t.name AS tenant,
       p.stream,
       s.source AS bus_source,
       s.partition AS bus_partition,
       r.value ->> '$.sequence' AS sequence,
       format('%s:%s/%d:%d', p.stream, s.source, s.partition, r.value ->> '$.sequence') AS position,
       r.value ->> '$.offset' AS bus_offset,
       r.value ->> '$.admitted_at' AS admitted_at,
       r.value ->> '$.event.id' AS id,
       r.value ->> '$.event.source' AS source,
       r.value ->> '$.event.type' AS type,
       r.value ->> '$.event.subject' AS subject,
       r.value ->> '$.event.time' AS time,
       r.value ->> '$.event.correlationid' AS correlation_id,
       r.value ->> '$.event.causationid' AS causation_id,
       r.value ->> '$.event.causedby' AS caused_by,
       -- Of what a machine emitted: the position of the event that set it off.
       r.value ->> '$.cause' AS cause,
       r.value -> '$.event.data' AS data,
       r.value -> '$.effects' AS effects,
       r.value ->> '$.of' AS follow_up_of,
       r.value ->> '$.action' AS follow_up_action,
       r.value ->> '$.by' AS follow_up_by,
       r.value -> '$.event' AS event,
       g.first_sequence AS segment_first_sequence,
       g.first_at AS segment_first_at,
       g.last_at AS segment_last_at
  FROM segments g
  JOIN tenants t ON t.tenant_id = g.tenant_id
  JOIN stream_partitions p ON p.stream_partition_id = g.stream_partition_id
  JOIN source_partitions s ON s.source_partition_id = p.source_partition_id
  JOIN json_each(g.body) r;

-- What needs a person.
CREATE VIEW open_dead_letters AS
SELECT t.name AS tenant, lower(hex(d.id)) AS id, d.reason, d.detail,
       lower(hex(d.fingerprint)) AS fingerprint, d.attempts, d.position, d.machine, d.key,
       d.source AS bus_source, d.partition AS bus_partition, d.source_offset AS bus_offset,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.created_at / 1e6, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.changed_at / 1e6, 'unixepoch') AS changed_at
  FROM dead_letters d
  JOIN tenants t ON t.tenant_id = d.tenant_id
 WHERE d.state = 'open';

-- Where an event stands, by its id or its correlation id. Follows the log with a lag; what it does not
-- know yet is in `events`.
CREATE VIEW event_positions AS
SELECT t.name AS tenant, x.event_id, x.correlation_id, p.stream, s.source AS bus_source,
       s.partition AS bus_partition, x.sequence,
       format('%s:%s/%d:%d', p.stream, s.source, s.partition, x.sequence) AS position
  FROM event_index x
  JOIN tenants t ON t.tenant_id = x.tenant_id
  JOIN stream_partitions p ON p.stream_partition_id = x.stream_partition_id
  JOIN source_partitions s ON s.source_partition_id = p.source_partition_id;

-- Who asks that view for an id asks by the index. The planner knows nothing of a table that was never
-- analysed, and would read all of a tenant; these are orders of magnitude, and ANALYZE replaces them.
ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('event_index', 'event_index', '1000000 100000 10000 1'),
    ('event_index', 'event_index_by_event', '1000000 100000 1'),
    ('event_index', 'event_index_by_correlation', '1000000 100000 10');
