//! AlterConfigs (33), versions 0 to 2: gives topics all their configs anew. What a request does not
//! name falls back to its default; IncrementalAlterConfigs changes one config and leaves the others.

use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::alter_configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
};

use super::config_changes::{self, Change, How, Resource, SET};
use crate::kafka::context::Context;

/// Replaces configs.
pub async fn handle(ctx: &Context, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let resources: Vec<_> = request.resources.iter().map(wanted).collect();
    let how = How {
        replace_all: true,
        validate_only: request.validate_only,
    };
    let results = config_changes::make(ctx, &resources, how).await;
    let responses = request.resources.into_iter().zip(results);
    let responses = responses.map(|(resource, result)| {
        let (error_code, error_message) = match result {
            Ok(()) => (ErrorCode::None, None),
            Err((code, message)) => (code, Some(message)),
        };
        AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        }
    });
    AlterConfigsResponse {
        responses: responses.collect(),
        ..AlterConfigsResponse::default()
    }
}

fn wanted(resource: &AlterConfigsResource) -> Resource<'_> {
    let changes = resource.configs.iter().map(|config| Change {
        name: &config.name,
        operation: SET,
        value: config.value.as_deref(),
    });
    Resource {
        resource_type: resource.resource_type,
        name: &resource.resource_name,
        changes: changes.collect(),
    }
}
