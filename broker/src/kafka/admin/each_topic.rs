//! Requests for many topics, each of which has a result of its own: refused here, refused by the
//! coordinator, done, or without an answer. What the handlers of topics share.

use std::collections::BTreeSet;
use std::iter;
use std::sync::Arc;

use firn_proto::cluster::{Reply, Request, TopicError, TopicKey, TopicRefusal};
use firn_proto::error_code::ErrorCode;
use tokio::time::timeout;

use crate::kafka::context::{Context, journal_wait};
use crate::kafka::view;

/// Why nothing was done to a topic, as clients are told.
pub(super) type Refused = (ErrorCode, String);

/// What the coordinator says of topics, in the order of the request.
pub(super) type Results<T> = Vec<Result<T, TopicRefusal>>;

/// Checks each topic of a request by itself; one that is named twice is refused both times.
pub(super) fn check<'a, T, N>(
    topics: &'a [T],
    name: impl Fn(&'a T) -> &'a str,
    check: impl Fn(&'a T) -> Result<N, TopicError>,
) -> Vec<Result<N, Refused>> {
    let twice = named_twice(topics.iter().map(&name));
    let checked = topics.iter().map(|topic| {
        let name = name(topic);
        let checked = match twice.contains(name) {
            true => Err(TopicError::NamedTwice),
            false => check(topic),
        };
        checked.map_err(|error| {
            let topic = TopicKey::Name(Arc::from(name));
            refused(&TopicRefusal { topic, error })
        })
    });
    checked.collect()
}

/// What comes more than once.
pub(super) fn named_twice<K: Copy + Ord>(keys: impl Iterator<Item = K>) -> BTreeSet<K> {
    let mut seen = BTreeSet::new();
    keys.filter(|key| !seen.insert(*key)).collect()
}

/// The topics that passed their checks.
pub(super) fn good<N: Clone, E>(checked: &[Result<N, E>]) -> Vec<N> {
    checked.iter().flatten().cloned().collect()
}

/// Asks the coordinator about `count` topics, and waits about as long as the client says
/// (`timeout_ms`): what has no answer by then may still happen. `results` takes them out of the
/// reply to this request. There are always as many as asked for; nobody is asked about none.
pub(super) async fn ask<T>(
    ctx: &Context,
    timeout_ms: i32,
    count: usize,
    request: Request,
    results: impl FnOnce(Reply) -> Option<Results<T>>,
) -> impl Iterator<Item = Result<T, Refused>> {
    let mut without = (ErrorCode::UnknownServerError, "no result".to_owned());
    let mut answered = Vec::new();
    if count > 0 {
        match timeout(journal_wait(timeout_ms), ctx.coordinator.call(request)).await {
            Ok(Ok(reply)) => answered = results(reply).unwrap_or_default(),
            Ok(Err(error)) => without = (view::coordinator_error(&error), error.to_string()),
            Err(_) => {
                let late = "the bucket has not taken it in time; it may still happen";
                without = (ErrorCode::RequestTimedOut, late.to_owned());
            }
        }
    }
    answered
        .into_iter()
        .map(|result| result.map_err(|refusal| refused(&refusal)))
        .chain(iter::repeat_with(move || Err(without.clone())))
        .take(count)
}

/// The results of all topics in the order of the request: refusals where the checks refused, and
/// else, one after the other, what was answered.
pub(super) fn merge<N, T, E>(
    checked: Vec<Result<N, E>>,
    answered: impl Iterator<Item = Result<T, E>>,
) -> Vec<Result<(N, T), E>> {
    let mut answered = answered;
    checked
        .into_iter()
        .filter_map(|checked| match checked {
            Ok(new) => answered.next().map(|result| result.map(|done| (new, done))),
            Err(error) => Some(Err(error)),
        })
        .collect()
}

fn refused(refusal: &TopicRefusal) -> Refused {
    let code = view::topic_error(&refusal.error, &refusal.topic);
    (code, refusal.error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_named_twice_is_refused_both_times() {
        let named = ["a".to_owned(), "b".to_owned(), "a".to_owned()];
        let checked = check(&named, String::as_str, |name| Ok(name.len()));
        let codes: Vec<_> = checked
            .iter()
            .map(|checked| checked.as_ref().map_err(|(code, _)| *code))
            .collect();
        let twice = Err(ErrorCode::InvalidRequest);
        assert_eq!(codes, [twice, Ok(&1), twice]);
        assert_eq!(good(&checked), [1]);
    }

    #[test]
    fn results_stand_where_their_topics_stood() {
        let checked = vec![Ok("a"), Err(0), Ok("b"), Ok("c")];
        let answered = [Ok(1), Err(2), Ok(3)];
        assert_eq!(
            merge(checked, answered.into_iter()),
            [Ok(("a", 1)), Err(0), Err(2), Ok(("c", 3))]
        );
    }
}
