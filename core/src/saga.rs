//! Steps with undo: a verb of many steps registers after each step how to take it back; when a later step fails, what
//! was done is undone backwards. The first error is what the caller reports; failures of undoing go to the log.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

type Undo<'a> = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> + Send + 'a>;

/// The undo steps of one run of a verb.
#[derive(Default)]
pub struct Saga<'a> {
    steps: Vec<(&'static str, Undo<'a>)>,
}

impl fmt::Debug for Saga<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|(name, _)| name)).finish()
    }
}

impl<'a> Saga<'a> {
    /// No step done yet.
    pub fn new() -> Self {
        Self { steps: Vec::new() }
    }

    /// A step is done; `undo` takes it back.
    pub fn done<F, Fut>(&mut self, step: &'static str, undo: F)
    where
        F: FnOnce() -> Fut + Send + 'a,
        Fut: Future<Output = ()> + Send + 'a,
    {
        self.steps.push((step, Box::new(move || Box::pin(undo()))));
    }

    /// All steps are done; nothing will be undone.
    pub fn commit(mut self) {
        self.steps.clear();
    }

    /// Takes back what was done, last step first.
    pub async fn roll_back(mut self) {
        while let Some((step, undo)) = self.steps.pop() {
            tracing::debug!(step, "undoing");
            undo().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn undo_runs_backwards_and_not_after_commit() {
        let log = Mutex::new(Vec::new());
        let run = |commit: bool| {
            let mut saga = Saga::new();
            for name in ["a", "b"] {
                let log = &log;
                saga.done(name, move || async move { log.lock().expect("lock").push(name) });
            }
            async move { if commit { saga.commit() } else { saga.roll_back().await } }
        };
        run(false).await;
        run(true).await;
        assert_eq!(*log.lock().expect("lock"), ["b", "a"]);
    }
}
