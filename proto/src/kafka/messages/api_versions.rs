//! ApiVersions (key 18): which APIs and versions the broker serves.
//!
//! v1: throttle time. v3: flexible, the client's software (KIP-511), features (KIP-584). v4:
//! features may begin at level 0 (KAFKA-17011). The header of the response is the same in all
//! versions.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// The client introduces itself.
    struct ApiVersionsRequest {
        client_software_name: String, 3..;
        client_software_version: String, 3..;
    }

    /// What the broker serves.
    struct ApiVersionsResponse {
        error_code: ErrorCode, ..;
        api_keys: Vec<ApiVersion>, ..;
        throttle_time_ms: i32, 1..;
        supported_features: Vec<SupportedFeatureKey>, 3.., tag 0;
        /// −1: unknown, and the features with it.
        finalized_features_epoch: i64, 3.., tag 1, default -1;
        finalized_features: Vec<FinalizedFeatureKey>, 3.., tag 2;
        zk_migration_ready: bool, 3.., tag 3;
    }

    /// An API and its versions.
    struct ApiVersion {
        api_key: i16, ..;
        min_version: i16, ..;
        max_version: i16, ..;
    }

    /// A feature and the levels the broker knows.
    struct SupportedFeatureKey {
        name: String, 3..;
        min_version: i16, 3..;
        max_version: i16, 3..;
    }

    /// A feature and the levels the cluster is at.
    struct FinalizedFeatureKey {
        name: String, 3..;
        max_version_level: i16, 3..;
        min_version_level: i16, 3..;
    }
}
