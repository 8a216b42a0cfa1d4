//! ApiVersions (18), versions 0 to 4: which APIs and versions this broker serves.
//!
//! The first request of nearly every client. A version that is not served is answered in version 0
//! with UNSUPPORTED_VERSION and the table, so that the client can come again (KIP-511); its body
//! is not looked at. Since version 3 the client names its software, by a strict pattern.
//!
//! Features: `group.version` is at 1, so that clients may use the protocol of consumer groups
//! (KIP-848). `transaction.version` is not finalized, so that clients use the protocol of Kafka's
//! transactions version 1. A feature that may be at level 0 is hidden from clients of version 3,
//! which cannot read that (KAFKA-17011).

use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::ApiKey;
use firn_proto::kafka::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};

use crate::kafka::context::{Call, ConnectionState};

/// Answers with the table of APIs.
pub fn handle(
    conn: &ConnectionState,
    call: &Call,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    if call.version >= 3 {
        let name = request.client_software_name;
        let version = request.client_software_version;
        if !is_software_word(&name) || !is_software_word(&version) {
            return answer(call.version, ErrorCode::InvalidRequest);
        }
        // A client that introduces itself twice keeps its first name.
        let _ = conn.software.set((name, version));
    }
    answer(call.version, ErrorCode::None)
}

/// The answer to a version that is not served; to be written as version 0.
pub fn unsupported() -> ApiVersionsResponse {
    answer(0, ErrorCode::UnsupportedVersion)
}

/// The feature whose level 1 is KIP-848.
const GROUP_VERSION: &str = "group.version";

fn answer(version: i16, error_code: ErrorCode) -> ApiVersionsResponse {
    let api_keys = match error_code {
        ErrorCode::InvalidRequest => Vec::new(),
        _ => ApiKey::ALL.iter().map(|api| row(*api)).collect(),
    };
    let supported = SupportedFeatureKey {
        name: GROUP_VERSION.to_owned(),
        min_version: 0,
        max_version: 1,
    };
    let finalized = FinalizedFeatureKey {
        name: GROUP_VERSION.to_owned(),
        max_version_level: 1,
        min_version_level: 1,
    };
    ApiVersionsResponse {
        error_code,
        api_keys,
        supported_features: [supported].into_iter().filter(|_| version >= 4).collect(),
        finalized_features_epoch: 0,
        finalized_features: vec![finalized],
        ..ApiVersionsResponse::default()
    }
}

fn row(api: ApiKey) -> ApiVersion {
    let versions = api.advertised();
    ApiVersion {
        api_key: api.code(),
        min_version: *versions.start(),
        max_version: *versions.end(),
    }
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`, the pattern of KIP-511.
fn is_software_word(word: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = word.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    is_edge(bytes.first()) && is_edge(bytes.last()) && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_words_are_judged_by_the_pattern() {
        for good in ["librdkafka", "2.8.0", "apache-kafka-java", "a"] {
            assert!(is_software_word(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", ".", "ä"] {
            assert!(!is_software_word(bad), "{bad}");
        }
    }

    #[test]
    fn consumer_groups_are_announced_to_clients_that_can_read_it() {
        for version in [3, 4] {
            let answer = answer(version, ErrorCode::None);
            let levels = answer.finalized_features.iter();
            let levels: Vec<_> = levels.map(|f| (&*f.name, f.max_version_level)).collect();
            assert_eq!(levels, [("group.version", 1)]);
            assert!(answer.finalized_features_epoch >= 0);
            assert_eq!(answer.supported_features.is_empty(), version < 4);
        }
    }

    #[test]
    fn an_unsupported_version_is_answered_with_the_table() {
        let answer = unsupported();
        assert_eq!(answer.error_code, ErrorCode::UnsupportedVersion);
        let own = answer
            .api_keys
            .iter()
            .find(|row| row.api_key == ApiKey::ApiVersions.code());
        assert_eq!(
            own.map(|row| (row.min_version, row.max_version)),
            Some((0, 4))
        );
    }
}
