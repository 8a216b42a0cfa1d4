//! DeleteGroups (42), versions 0 to 2: groups without members go, with their offsets.

use firn_proto::cluster::{Reply, Request};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::delete_groups::{
    DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse,
};

use super::{ask, code_of};
use crate::kafka::context::Context;

/// Answers when the groups are gone for good.
pub async fn handle(ctx: &Context, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let names = request.groups_names.clone();
    let codes: Vec<_> = match ask(ctx, Request::DeleteGroups(request.groups_names)).await {
        Ok(Reply::DeleteGroups(results)) => results.iter().map(code_of).collect(),
        Ok(_) => vec![ErrorCode::UnknownServerError; names.len()],
        Err(error) => vec![error; names.len()],
    };
    let results = names
        .into_iter()
        .zip(codes)
        .map(|(group_id, error_code)| DeletableGroupResult {
            group_id,
            error_code,
        });
    DeleteGroupsResponse {
        results: results.collect(),
        ..DeleteGroupsResponse::default()
    }
}
