//! Bringing up processes in containers: the plan the daemon makes (`build`), and what the new process does with it
//! (`child`, `root`, `program`). The two sides share only [`plan`].

pub(crate) mod build;
pub(crate) mod child;
pub(crate) mod failure;
mod options;
pub(crate) mod plan;
mod program;
mod root;
mod sysctl;
