//! The names of this crate's metrics, each with its unit and labels. `docs/OPERATING.md` says of each what
//! it means and when to worry; a test holds the two against each other.

/// Events settled, by `source`, `partition` and `outcome` (counter, since the checkpoint was made).
pub const EVENTS: &str = "tidegate_events_total";
/// Commits of the current ownership, by `source` and `partition` (counter).
pub const COMMITS: &str = "tidegate_commits_total";
/// Batches that were applied again, by `source` and `partition` (counter).
pub const SURPRISES: &str = "tidegate_surprises_total";
/// Events received and not settled, by `source` and `partition` (gauge).
pub const UNSETTLED: &str = "tidegate_unsettled_events";
/// The epoch of the current ownership, by `source` and `partition` (gauge): it grows with each claim.
pub const EPOCH: &str = "tidegate_ownership_epoch";
/// 1 while a source runs or has ended, 0 while a part of it is stopped, by `source` (gauge).
pub const SOURCE_UP: &str = "tidegate_source_up";
/// Events that hold a permit of the node (gauge).
pub const NODE_EVENTS: &str = "tidegate_permits_events";
/// Bytes of these (gauge).
pub const NODE_BYTES: &str = "tidegate_permits_bytes";
/// Events in the lane of a `tenant` (gauge). The fullest lanes; the rest together as `_other`.
pub const LANE_EVENTS: &str = "tidegate_lane_events";
/// Tenants with work or a memory of it (gauge).
pub const TENANTS: &str = "tidegate_active_tenants";
/// Events that requests handed in (counter).
pub const EVENTS_OFFERED: &str = "tidegate_http_events_total";
/// Events of requests that wait for their commit, by `stream` (gauge).
pub const PENDING_EVENTS: &str = "tidegate_http_pending_events";
/// Bytes of these, by `stream` (gauge).
pub const PENDING_BYTES: &str = "tidegate_http_pending_bytes";
/// Requests without a valid token, by `reason` (counter).
pub const REQUESTS_DENIED: &str = "tidegate_http_denied_total";
/// Requests, by `method`, `route` and `status` (counter).
pub const REQUESTS: &str = "tidegate_http_requests_total";
/// Seconds from a request's head to its response, by `method` and `route` (histogram).
pub const REQUEST_SECONDS: &str = "tidegate_http_request_seconds";

/// All of them.
pub const ALL: [&str; 16] = [
    EVENTS,
    COMMITS,
    SURPRISES,
    UNSETTLED,
    EPOCH,
    SOURCE_UP,
    NODE_EVENTS,
    NODE_BYTES,
    LANE_EVENTS,
    TENANTS,
    EVENTS_OFFERED,
    PENDING_EVENTS,
    PENDING_BYTES,
    REQUESTS_DENIED,
    REQUESTS,
    REQUEST_SECONDS,
];
