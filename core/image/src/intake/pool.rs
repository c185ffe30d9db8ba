//! The threads of one load that stage layers. They end with the load: none is left behind when it fails.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

type Task = Box<dyn FnOnce() + Send>;

/// A few threads and their queue.
#[derive(Debug)]
pub(crate) struct Pool {
    queue: Option<mpsc::Sender<Task>>,
    receiver: Arc<Mutex<mpsc::Receiver<Task>>>,
    threads: Vec<JoinHandle<()>>,
    most: usize,
}

impl Pool {
    /// At most `most` threads, made when there is work for them.
    pub(crate) fn new(most: usize) -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { queue: Some(sender), receiver: Arc::new(Mutex::new(receiver)), threads: Vec::new(), most }
    }

    /// Runs `task` on one of the threads, in the order of the calls.
    pub(crate) fn run(&mut self, task: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        if self.threads.len() < self.most {
            let receiver = self.receiver.clone();
            let work = move || {
                loop {
                    let task = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(task) = task else { return };
                    task();
                }
            };
            self.threads.push(std::thread::Builder::new().name("layer".to_owned()).spawn(work)?);
        }
        if let Some(queue) = &self.queue {
            // Fails only without a receiver, and we hold one.
            let _ = queue.send(Box::new(task));
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that unpacks layers panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn all_tasks_are_done_when_it_goes() {
        let done = Arc::new(AtomicUsize::new(0));
        let mut pool = Pool::new(3);
        for _ in 0..50 {
            let done = done.clone();
            pool.run(move || _ = done.fetch_add(1, Ordering::Relaxed)).expect("queued");
        }
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 50);
    }
}
