//! memtrap captures one complete pprof evidence bundle per memory incident of a Go service.
//!
//! # The map
//!
//! Data goes one way, once:
//!
//! ```text
//! config ──> target ──> poll ──Sample──> trigger ──> incident ──Action──> capture ──> bundle
//!            (who)      (RSS)            (pure)      (pure)              (evidence)
//! ```
//!
//! The core decides, the shell does. `series`, `trigger`, `incident` and `pprof` are pure: no tokio,
//! no filesystem, no reading of a clock; `now` is an argument. The `mod` lines below stand in the order of the flow.

pub mod clock;
pub mod units;

pub mod config;
pub mod incident;
pub mod roster;
pub mod series;
pub mod target;
pub mod trigger;
