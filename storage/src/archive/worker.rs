//! A thread of low priority: what it computes must not take the processor from clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, thread};

use firn_proto::env::thread_cpu;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// The thread that does the work is gone: it panicked, or the process ends.
#[derive(Clone, Copy, Debug, Error)]
#[error("the thread of the archiver has stopped")]
pub struct Stopped;

type Work = Box<dyn FnOnce() + Send>;

/// A thread that does one piece of work after the other. It ends when this is dropped and the work
/// at hand is done.
pub(super) struct Worker {
    work: mpsc::Sender<Work>,
}

impl Worker {
    /// Starts a thread that adds what it takes of a processor to `cpu_micros`.
    pub(super) fn start(cpu_micros: Arc<AtomicU64>) -> io::Result<Self> {
        let (work, mut queue) = mpsc::channel::<Work>(1);
        thread::Builder::new()
            .name("archive".to_owned())
            .spawn(move || {
                lower_priority();
                let mut before = thread_cpu();
                while let Some(work) = queue.blocking_recv() {
                    work();
                    let taken = thread_cpu();
                    let micros = taken.saturating_sub(before).as_micros();
                    cpu_micros
                        .fetch_add(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
                    before = taken;
                }
            })?;
        Ok(Self { work })
    }

    /// What `work` returns. It is done even if nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (sender, answer) = oneshot::channel();
        let work = Box::new(move || {
            // whoever no longer waits does not mind
            let _ = sender.send(work());
        });
        self.work.send(work).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// On Linux a thread has a nice value of its own, and may always raise it. Elsewhere it would be
/// that of the whole process.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        const NICE: i32 = 10;
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "the thread of the archiver keeps the priority of all others");
        }
    }
}
