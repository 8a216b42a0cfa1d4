//! IncrementalAlterConfigs (44), versions 0 and 1: changes single configs of topics (KIP-339).

use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::incremental_alter_configs::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource,
    IncrementalAlterConfigsResourceResponse, IncrementalAlterConfigsResponse,
};

use super::config_changes::{self, Change, How, Resource};
use crate::kafka::context::Context;

/// Changes configs.
pub async fn handle(
    ctx: &Context,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let resources: Vec<_> = request.resources.iter().map(wanted).collect();
    let how = How {
        replace_all: false,
        validate_only: request.validate_only,
    };
    let results = config_changes::make(ctx, &resources, how).await;
    let responses = request.resources.into_iter().zip(results);
    let responses = responses.map(|(resource, result)| {
        let (error_code, error_message) = match result {
            Ok(()) => (ErrorCode::None, None),
            Err((code, message)) => (code, Some(message)),
        };
        IncrementalAlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        }
    });
    IncrementalAlterConfigsResponse {
        responses: responses.collect(),
        ..IncrementalAlterConfigsResponse::default()
    }
}

fn wanted(resource: &IncrementalAlterConfigsResource) -> Resource<'_> {
    let changes = resource.configs.iter().map(|config| Change {
        name: &config.name,
        operation: config.config_operation,
        value: config.value.as_deref(),
    });
    Resource {
        resource_type: resource.resource_type,
        name: &resource.resource_name,
        changes: changes.collect(),
    }
}
