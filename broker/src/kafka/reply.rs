//! An answer on its way to the client: chunks that are written as they are, without being copied
//! into one buffer.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use firn_proto::kafka::Frame;

use super::memory::Reserved;

/// One answer: its frame, and the memory that is held until it has been written.
#[derive(Debug)]
pub struct Reply {
    /// What is written.
    pub frame: Frame,
    /// What is given back then.
    pub memory: Option<Reserved>,
}

impl From<Frame> for Reply {
    /// An answer that holds no memory worth counting.
    fn from(frame: Frame) -> Self {
        Self {
            frame,
            memory: None,
        }
    }
}

/// Answers that are ready to be written, as one buffer of many chunks.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// What has been written of all answers so far.
    written: u64,
    /// The memory of each answer, and what will have been written at its end.
    memory: VecDeque<(u64, Reserved)>,
}

impl Outgoing {
    /// Adds an answer behind what is there.
    pub(super) fn push(&mut self, reply: Reply) {
        self.bytes += reply.frame.len();
        self.chunks.extend(reply.frame.into_chunks());
        let end = self.written + self.bytes as u64;
        self.memory.extend(reply.memory.map(|memory| (end, memory)));
    }

    /// Whether somebody waits for the memory of these answers.
    pub(super) fn is_wanted(&self) -> bool {
        self.memory.iter().any(|(_, memory)| memory.is_wanted())
    }

    /// Gives the memory back of what has been written by now.
    fn release(&mut self) {
        while let Some((end, memory)) = self.memory.front_mut() {
            let left = end.saturating_sub(self.written);
            if left > 0 {
                memory.shrink_to(usize::try_from(left).unwrap_or(usize::MAX));
                return;
            }
            self.memory.pop_front();
        }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.len().min(self.chunks.len());
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
        }
        filled
    }

    fn advance(&mut self, mut by: usize) {
        assert!(by <= self.bytes, "cannot advance beyond the end");
        self.bytes -= by;
        self.written += by as u64;
        while let Some(front) = self.chunks.front_mut().filter(|_| by > 0) {
            if by < front.len() {
                front.advance(by);
                break;
            }
            by -= front.len();
            self.chunks.pop_front();
        }
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::kafka::Response;
    use firn_proto::kafka::heartbeat::HeartbeatResponse;

    use futures::FutureExt;

    use super::*;
    use crate::kafka::memory::ByteBudget;

    fn reply(correlation_id: i32) -> Reply {
        Response::Heartbeat(HeartbeatResponse::default())
            .encode(0, correlation_id)
            .into()
    }

    #[test]
    fn answers_are_written_one_behind_the_other() {
        let mut outgoing = Outgoing::default();
        outgoing.push(reply(1));
        outgoing.push(reply(2));
        let all = outgoing.copy_to_bytes(outgoing.remaining());
        assert_eq!(
            &all[..],
            b"\0\0\0\x06\0\0\0\x01\0\0\0\0\0\x06\0\0\0\x02\0\0"
        );
    }

    #[test]
    fn memory_is_given_back_as_it_is_written() {
        let budget = ByteBudget::new(2_000);
        let mut outgoing = Outgoing::default();
        for correlation_id in [1, 2] {
            let memory = budget.reserve(100).now_or_never();
            let reply = reply(correlation_id);
            outgoing.push(Reply { memory, ..reply });
        }
        assert_eq!(budget.held(), 200);
        outgoing.advance(4);
        assert_eq!(budget.held(), 106, "6 bytes of the first are left");
        outgoing.advance(6);
        assert_eq!(budget.held(), 10, "the second needs no more");
        outgoing.advance(10);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_short_write_goes_on_in_the_middle_of_a_chunk() {
        let mut outgoing = Outgoing::default();
        outgoing.push(reply(1));
        outgoing.push(reply(2));
        outgoing.advance(13);
        assert_eq!(outgoing.chunk(), b"\x06\0\0\0\x02\0\0");
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(outgoing.chunks_vectored(&mut slices), 1);
    }
}
