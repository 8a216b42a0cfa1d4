//! What one follower asks of the leader, and the answers: many at a time, each when it is ready.

use bytes::Bytes;
use firn_proto::cluster::{Beat, CoordinatorError, Reply};
use firn_proto::limits::{LINK_CALLS_BYTES_MAX, LINK_CALLS_MAX, LINK_MESSAGE_BYTES_MAX};
use firn_proto::link::{Assembly, CallPart, Message, decode_request, encode_reply};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::leading::Leading;
use super::outbox::Full;
use super::wire::{LinkFault, MessageReader, Sender};

/// See the module.
pub(super) struct Answers<'a> {
    leading: &'a dyn Leading,
    sender: &'a Sender,
    asked: Assembly,
    under_way: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Bytes of the requests under way.
    bytes: usize,
}

/// An answer that is ready.
struct Answered {
    call: u64,
    /// Bytes that the request had.
    bytes: usize,
    answer: Result<Reply, CoordinatorError>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(leading: &'a dyn Leading, sender: &'a Sender) -> Self {
        Self {
            leading,
            sender,
            asked: Assembly::default(),
            under_way: FuturesUnordered::new(),
            bytes: 0,
        }
    }

    /// Takes in what the follower says, and answers it, until the link breaks.
    pub(super) async fn run(
        &mut self,
        reader: &mut MessageReader,
        on_beat: impl Fn(Beat),
    ) -> LinkFault {
        loop {
            let message = tokio::select! {
                Some(answered) = self.under_way.next() => {
                    self.bytes -= answered.bytes;
                    if let Err(fault) = self.answer(answered.call, answered.answer) {
                        return fault;
                    }
                    continue;
                }
                message = reader.next() => message,
            };
            let taken = match message {
                Ok(Message::Beat(beat)) => {
                    on_beat(beat);
                    Ok(())
                }
                Ok(Message::Call(part)) => self.ask(part),
                Ok(message) => Err(LinkFault::Unexpected(message.kind())),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = taken {
                return fault;
            }
        }
    }

    fn ask(&mut self, part: CallPart) -> Result<(), LinkFault> {
        let Some((call, bytes)) = self.asked.take(part)? else {
            return Ok(());
        };
        let length = bytes.len();
        let is_crowded =
            self.under_way.len() >= LINK_CALLS_MAX || length > LINK_CALLS_BYTES_MAX - self.bytes;
        if is_crowded {
            return self.answer_shortly(call, CoordinatorError::Busy);
        }
        let request = decode_request(&bytes).map_err(|e| LinkFault::Call(e.to_string()))?;
        self.bytes += length;
        let answer = self.leading.call_here(request);
        let answered = answer.map(move |answer| Answered {
            call,
            bytes: length,
            answer,
        });
        self.under_way.push(answered.boxed());
        Ok(())
    }

    /// Lets an answer go. One for which there is no room becomes a short one that says so.
    fn answer(&self, call: u64, answer: Result<Reply, CoordinatorError>) -> Result<(), LinkFault> {
        let bytes = encode_reply(&answer).unwrap_or_default();
        drop(answer);
        let too_long = match bytes.len() {
            0 => Some(CoordinatorError::Refused(
                "the answer cannot be written".to_owned(),
            )),
            length if length > LINK_MESSAGE_BYTES_MAX => Some(CoordinatorError::Refused(format!(
                "the answer has {length} bytes, and the broker link takes {LINK_MESSAGE_BYTES_MAX}: \
                 ask for less at a time"
            ))),
            _ => None,
        };
        if let Some(error) = too_long {
            return self.answer_shortly(call, error);
        }
        let put = self.sender.with(|outbox| outbox.call(call, bytes));
        if put.is_ok() {
            return Ok(());
        }
        let reason = "too many answers wait for this follower, and what it asked has happened";
        self.answer_shortly(call, CoordinatorError::NotLeader(reason.to_owned()))
    }

    fn answer_shortly(&self, call: u64, error: CoordinatorError) -> Result<(), LinkFault> {
        let bytes: Bytes = encode_reply(&Err(error)).unwrap_or_default();
        let put = self.sender.with(|outbox| outbox.refuse(call, bytes));
        put.map_err(|Full| LinkFault::Flooded)
    }
}
