//! ListGroups (16), versions 0 to 5: the groups of the cluster.
//!
//! - v4: only groups in certain states (KIP-518). v5: only groups of certain types (KIP-848).

use firn_proto::cluster::{ListGroups, Reply, Request};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};

use super::look_up;
use crate::kafka::context::Context;

/// Lists them by id.
pub async fn handle(ctx: &Context, request: ListGroupsRequest) -> ListGroupsResponse {
    let filters = ListGroups {
        states: request.states_filter,
        types: request.types_filter,
    };
    let refuse = |error_code| ListGroupsResponse {
        error_code,
        ..ListGroupsResponse::default()
    };
    let groups = match look_up(ctx, Request::ListGroups(filters)).await {
        Ok(Reply::ListGroups(groups)) => groups,
        Ok(_) => return refuse(ErrorCode::UnknownServerError),
        Err(error) => return refuse(error),
    };
    let listed = groups.into_iter().map(|group| ListedGroup {
        group_id: group.group.to_string(),
        protocol_type: group.protocol_type.to_string(),
        group_state: group.state.name().to_owned(),
        group_type: group.group_type.name().to_owned(),
    });
    ListGroupsResponse {
        groups: listed.collect(),
        ..ListGroupsResponse::default()
    }
}
