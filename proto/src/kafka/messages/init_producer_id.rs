//! InitProducerId (key 22): gives a producer its id and epoch.
//!
//! v2: flexible. v3: a producer that goes on with its id (KIP-360). v4: PRODUCER_FENCED. v5:
//! errors of KIP-890.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// A producer that starts, or that lost its epoch.
    struct InitProducerIdRequest {
        transactional_id: Option<String>, ..;
        transaction_timeout_ms: i32, ..;
        /// The id to go on with, or −1 for a new one.
        producer_id: i64, 3.., default -1;
        producer_epoch: i16, 3.., default -1;
    }

    /// The id and epoch to use.
    struct InitProducerIdResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        producer_id: i64, .., default -1;
        producer_epoch: i16, ..;
    }
}
