//! A cluster that answers with the errors it is told to: librdkafka's own, inside this process. For errors
//! alone; everything else is tested against a real broker.

use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// What clients ask of brokers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Records.
    Fetch,
    /// Where a partition begins and ends.
    ListOffsets,
    /// Which topics there are, and who leads them.
    Metadata,
    /// Who coordinates a group.
    FindCoordinator,
    /// To be a member of a group.
    JoinGroup,
    /// The partitions of a member.
    SyncGroup,
    /// To tell a group how far one is.
    OffsetCommit,
}

/// What they are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Another broker leads it.
    NotLeader,
    /// Nobody leads it for now.
    NoLeader,
    /// The broker took too long.
    TimedOut,
    /// The connection breaks.
    Disconnected,
    /// The group's coordinator is not there yet.
    NoCoordinator,
    /// It reads its state yet.
    Loading,
    /// It is another broker by now.
    NotCoordinator,
    /// What is asked for is not there any more.
    OutOfRange,
    /// The group deals its partitions out anew.
    Rebalancing,
    /// The member is none of the group's.
    UnknownMember,
    /// The group is a generation further.
    OldGeneration,
}

impl Request {
    fn key(self) -> RDKafkaApiKey {
        match self {
            Request::Fetch => RDKafkaApiKey::Fetch,
            Request::ListOffsets => RDKafkaApiKey::ListOffsets,
            Request::Metadata => RDKafkaApiKey::Metadata,
            Request::FindCoordinator => RDKafkaApiKey::FindCoordinator,
            Request::JoinGroup => RDKafkaApiKey::JoinGroup,
            Request::SyncGroup => RDKafkaApiKey::SyncGroup,
            Request::OffsetCommit => RDKafkaApiKey::OffsetCommit,
        }
    }
}

impl Fault {
    fn code(self) -> RDKafkaRespErr {
        match self {
            Fault::NotLeader => RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Fault::NoLeader => RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            Fault::TimedOut => RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            Fault::Disconnected => RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
            Fault::NoCoordinator => RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
            Fault::Loading => RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
            Fault::NotCoordinator => RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
            Fault::OutOfRange => RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
            Fault::Rebalancing => RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
            Fault::UnknownMember => RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
            Fault::OldGeneration => RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
        }
    }
}

/// The cluster. It ends when it is dropped.
pub struct InjectingCluster(MockCluster<'static, DefaultProducerContext>);

impl InjectingCluster {
    /// With so many brokers.
    pub fn new(brokers: i32) -> Self {
        Self(MockCluster::new(brokers).unwrap())
    }

    /// Where its brokers are, `host:port` each.
    pub fn brokers(&self) -> Vec<String> {
        let all = self.0.bootstrap_servers();
        all.split(',').map(str::to_owned).collect()
    }

    /// Makes a topic that every broker has.
    pub fn make_topic(&self, topic: &str, partitions: i32) {
        self.0.create_topic(topic, partitions, 1).unwrap();
    }

    /// Answers the next requests of this kind with these, one each.
    pub fn answer(&self, request: Request, faults: &[Fault]) {
        let codes: Vec<_> = faults.iter().map(|fault| fault.code()).collect();
        self.0.request_errors(request.key(), &codes);
    }

    /// Another broker leads a partition from now on.
    pub fn lead(&self, topic: &str, partition: i32, broker: i32) {
        let broker = Some(broker);
        self.0.partition_leader(topic, partition, broker).unwrap();
    }

    /// Each answer of a broker takes so long.
    pub fn slow(&self, broker: i32, answer: Duration) {
        self.0.broker_round_trip_time(broker, answer).unwrap();
    }

    /// A broker is away, or back.
    pub fn set_up(&self, broker: i32, is_up: bool) {
        let set = if is_up {
            self.0.broker_up(broker)
        } else {
            self.0.broker_down(broker)
        };
        set.unwrap();
    }
}
