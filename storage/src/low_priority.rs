//! Threads of low priority: what they compute must not take the processor from clients.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use firn_proto::env::thread_cpu;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// The work panicked, or was dropped because the process ends.
#[derive(Clone, Copy, Debug, Error)]
#[error("work of low priority was not done: it panicked, or the process ends")]
pub struct Stopped;

type Work = Box<dyn FnOnce() + Send>;

/// Some threads, each of which does one piece of work after the other. They end when this is dropped
/// and the work at hand is done.
pub(crate) struct Workers {
    work: mpsc::Sender<Work>,
}

impl Workers {
    /// Starts `threads` threads that add what they take of a processor to `cpu_micros`. As many
    /// pieces of work may wait for one.
    pub(crate) fn start(
        name: &str,
        threads: usize,
        cpu_micros: &Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let (work, queue) = mpsc::channel(threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let (queue, cpu_micros) = (Arc::clone(&queue), Arc::clone(cpu_micros));
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(move || work_on(&queue, &cpu_micros))?;
        }
        Ok(Self { work })
    }

    /// What `work` returns. It is done even if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (sender, answer) = oneshot::channel();
        let work = Box::new(move || {
            // whoever no longer waits does not mind
            let _ = sender.send(work());
        });
        self.answered(work, answer).await
    }

    /// [`Self::run`], but what nobody waits for any more when its turn comes is not done.
    pub(crate) async fn run_if_wanted<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (sender, answer) = oneshot::channel();
        let work = Box::new(move || {
            if !sender.is_closed() {
                let _ = sender.send(work());
            }
        });
        self.answered(work, answer).await
    }

    async fn answered<T>(&self, work: Work, answer: oneshot::Receiver<T>) -> Result<T, Stopped> {
        self.work.send(work).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// Does what is in the queue until nobody puts anything into it any more.
fn work_on(queue: &Mutex<mpsc::Receiver<Work>>, cpu_micros: &AtomicU64) {
    lower_priority();
    let mut before = thread_cpu();
    loop {
        // One waits in the queue, and the others for it.
        let next = queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        let Some(work) = next else {
            return;
        };
        // The panic hook has said why, and whoever waits is told. Nothing else saw what the work
        // held, for it is dropped with it.
        let _ = catch_unwind(AssertUnwindSafe(work));
        let taken = thread_cpu();
        let micros = taken.saturating_sub(before).as_micros();
        cpu_micros.fetch_add(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
        before = taken;
    }
}

/// On Linux a thread has a nice value of its own, and may always raise it. Elsewhere it would be
/// that of the whole process.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        const NICE: i32 = 10;
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "a thread keeps the priority of all others");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn threads_work_side_by_side() {
        let cpu_micros = Arc::default();
        let workers = Workers::start("test", 2, &cpu_micros).unwrap();
        let both = Arc::new(Barrier::new(2));
        let meet = || {
            let both = Arc::clone(&both);
            move || both.wait().is_leader()
        };
        // With one thread the first would wait for the second for ever.
        let (first, second) = tokio::join!(workers.run(meet()), workers.run(meet()));
        assert_ne!(first.unwrap(), second.unwrap());
    }

    #[tokio::test]
    async fn work_is_done_though_nobody_waits_for_it() {
        let workers = Workers::start("test", 1, &Arc::default()).unwrap();
        let done = Arc::new(AtomicU64::new(0));
        let (at, held) = (Arc::clone(&done), Arc::new(Barrier::new(2)));
        let holds = Arc::clone(&held);
        let first = workers.run(move || {
            holds.wait();
            at.store(7, Ordering::Relaxed);
        });
        assert!(futures::poll!(Box::pin(first)).is_pending());
        held.wait();
        let seen = Arc::clone(&done);
        let second = workers.run(move || seen.load(Ordering::Relaxed)).await;
        assert_eq!(second.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_that_is_to_be_wanted_is_not_done_when_nobody_waits_for_it() {
        let workers = Workers::start("test", 1, &Arc::default()).unwrap();
        let (begun, held) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let (begins, holds) = (Arc::clone(&begun), Arc::clone(&held));
        let mut first = Box::pin(workers.run(move || {
            begins.wait();
            holds.wait();
        }));
        assert!(futures::poll!(&mut first).is_pending());
        begun.wait();
        let done = Arc::new(AtomicU64::new(0));
        let add = || {
            let done = Arc::clone(&done);
            move || done.fetch_add(1, Ordering::Relaxed)
        };
        let mut given_up = Box::pin(workers.run_if_wanted(add()));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        held.wait();
        first.await.unwrap();
        assert_eq!(workers.run_if_wanted(add()).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn work_that_panics_is_told_from_work_that_is_done() {
        let workers = Workers::start("test", 1, &Arc::default()).unwrap();
        let panicked = workers.run(|| panic!("as the test wants it")).await;
        assert!(panicked.is_err());
        let next = workers.run(|| 7).await;
        assert_eq!(next.unwrap(), 7, "the thread goes on");
    }
}
