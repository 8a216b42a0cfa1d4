//! Who leads a partition and where it is (KIP-951), as Fetch and Produce tell it. In which versions
//! they do is said where they hold it.

use crate::kafka::message::messages;

messages! {
    /// The leader a client should turn to; −1 if unknown.
    struct LeaderIdAndEpoch {
        leader_id: i32, .., default -1;
        leader_epoch: i32, .., default -1;
    }

    /// Where a broker is.
    struct NodeEndpoint {
        node_id: i32, ..;
        host: String, ..;
        port: i32, ..;
        rack: Option<String>, ..;
    }
}
