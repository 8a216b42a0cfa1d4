//! What the HTTP door says of the archive, as JSON.
//!
//! * `GET /archive[?topic=T]`: [`crate::archive::ArchiveStatus`].
//! * `POST /archive/flush[?topic=T]`: archives now, and answers a [`FlushAnswer`] when that is done.
//!   Until then an empty line comes each second, so that the connection does not count as one that
//!   stands still.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use firn_proto::ids::TopicId;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{JSON, Shown, unavailable};
use crate::archive::Archive;

/// What became of a request to archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlushAnswer {
    /// Everything is archived that could be when it was asked for, in so many segments.
    Segments(u64),
    /// Not all of it is, for this reason.
    Error(String),
}

pub(super) async fn status(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let (archive, topic) = match asked(&shown, query.as_deref()) {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    match archive.status(topic).await {
        Ok(status) => json(serde_json::to_string(&status)),
        Err(error) => unavailable(&error.to_string()),
    }
}

pub(super) async fn flush(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let (archive, topic) = match asked(&shown, query.as_deref()) {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let flushed = async move {
        let answer = match archive.flush(topic).await {
            Ok(flushed) => FlushAnswer::Segments(flushed.segments),
            Err(error) => FlushAnswer::Error(error.to_string()),
        };
        serde_json::to_string(&answer).unwrap_or_default()
    };
    let body = Body::from_stream(futures::stream::unfold(Some(flushed.boxed()), next_line));
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// The answer, or an empty line while there is none.
pub(super) async fn next_line(
    waiting: Option<BoxFuture<'static, String>>,
) -> Option<(
    Result<Bytes, Infallible>,
    Option<BoxFuture<'static, String>>,
)> {
    let mut waiting = waiting?;
    tokio::select! {
        answer = &mut waiting => Some((Ok(format!("{answer}\n").into()), None)),
        () = tokio::time::sleep(SIGN_OF_LIFE) => Some((Ok("\n".into()), Some(waiting))),
    }
}

/// The archive, and the topic that is asked for.
#[expect(clippy::result_large_err, reason = "it is the answer, either way")]
fn asked(shown: &Shown, query: Option<&str>) -> Result<(Archive, Option<TopicId>), Response> {
    let Some(archive) = shown.archive.get() else {
        return Err(unavailable("the broker does not serve yet"));
    };
    let topic = match query.filter(|query| !query.is_empty()) {
        None => None,
        Some(query) => {
            // names of topics have no character that is written in another way
            let Some(name) = query.strip_prefix("topic=") else {
                let unknown = format!("`{query}` is not topic=NAME\n");
                return Err((StatusCode::BAD_REQUEST, unknown).into_response());
            };
            let found = archive.topic(name).map_err(|error| {
                (StatusCode::NOT_FOUND, format!("{name}: {error}\n")).into_response()
            })?;
            Some(found.id)
        }
    };
    Ok((archive.clone(), topic))
}

fn json(text: serde_json::Result<String>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], format!("{text}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// More often than a connection that stands still is ended.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
