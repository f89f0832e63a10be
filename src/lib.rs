//! memtrap captures one complete pprof evidence bundle per memory incident of a Go service.
//!
//! # The map
//!
//! Data goes one way, once:
//!
//! ```text
//! config ──> host ────> poll ──Sample──> trigger ──> incident ──Action──> capture ──> bundle
//!            (/proc)    (RSS)            (pure)      (pure)              (evidence)
//!                         ▲
//!            source ──Readings          (who asks expositions and Prometheus servers; metrics reads what they say)
//!                                                          ▲                          │           │
//!                                                          └── outcome ───────────────┘   retention, egress
//!
//!                      analysis: pprof, anatomy ──> verdict ──> report   (pure, in a process of its own)
//! ```
//!
//! The core decides, the shell does. `charge`, `metrics`, `series`, `floors`, `trigger`, `incident`, `roster`, `budget`, `pprof`, `anatomy`, `verdict`, `egress::claim` and `retention::plan` are pure: no tokio, no filesystem, no
//! reading of a clock; `now` is an argument. The `mod` lines below stand in the order of the flow. No room knows a room that knows it:
//! `tests/rooms.rs` checks it and prints who knows whom.
//!
//! | room | one purpose |
//! | --- | --- |
//! | [`clock`], [`units`], `digest`, `text`, `disk`, `writable`, `credential`, `plot`, [`error`], [`lang`], [`layout`] | the words that all rooms share |
//! | [`charge`] | what of a cgroup's memory its kernel cannot drop |
//! | [`aside`] | threads for what may never answer, of each kind its own; the table of them |
//! | [`config`] | TOML to a valid [`config::Config`], every mistake at once; touches nothing but the text |
//! | `steps` | the steps of a capture: names, files, what is in them; one table for the plan, `skip`, the README of a bundle and the documentation |
//! | [`identity`] | names of what is watched: processes, instances elsewhere, their places within a target |
//! | [`client`] | HTTP clients, credentials and names of hosts, for captures, sources, uploads and notifications |
//! | [`host`] | readers of /proc: processes, limits, sockets, cgroups, users, Go builds; below a root that tests replace; the bells that cgroups ring |
//! | [`metrics`] | what services say of themselves: expositions, answers of the Prometheus query API, label sets |
//! | [`source`] | one task per target elsewhere: asks, and tells the watcher |
//! | [`poll`] | who is meant, and the one loop: selectors become processes; it reads RSS when it is due or is told of it, asks the rules, orders captures; a thread of its own that never waits for a disk |
//! | [`series`], [`floors`], [`trigger`] | readings to "did a rule fire, and why not"; floors are those of a month |
//! | [`meters`] | what memtrap counts about itself |
//! | [`incident`], [`roster`], [`budget`] | one incident, one bundle; who inherits whose cooldown; what all captures share |
//! | [`state`] | what of that outlives memtrap |
//! | [`brake`] | a cgroup held at its `memory.high` for the first evidence, and let go: the only writer of a cgroup's file |
//! | [`capture`] | the plan as a list of steps with recorded outcomes; HTTP; kernel evidence |
//! | [`bundle`] | the only writer of bundle paths: partial, manifest, rename; the formats of its files, and the archive of one |
//! | [`calendar`] | whether the wall clock can be believed |
//! | [`retention`] | which bundles to delete |
//! | [`egress`] | what leaves this host: uploads and notifications, each from a queue on disk; which of several memtraps has an incident |
//! | [`holders`] | what `holders.json` says, and how two of them compare |
//! | [`goruntime`] | Go's own structures in the memory of a process or in its core file: MemStats, profiles and the object graph without an endpoint |
//! | [`pprof`] | Go's profiles: bounded decoding, what `go tool pprof -top` prints |
//! | [`anatomy`], [`verdict`] | RSS in named buckets that add up to it; the cause, with its evidence and how sure it is |
//! | [`analysis`] | from the files of a bundle to its verdict |
//! | [`report`] | the analysis as a text and as one self-contained page |
//! | [`replay`] | recorded readings against the rules |
//! | [`serve`] | what the operator sees: status page, JSON API, metrics; captures on request |
//! | [`daemon`], [`systemd`] | composition: threads, tasks, signals, the service manager |
//! | [`cli`] | what each command takes and prints |

// Nothing in the product panics on what it reads or was told. Left out are `unreachable_pub`, since `pub` in a private module says
// what the room offers its neighbours (378 places), and `missing_docs`, since fields and variants (878 of 1030 places) say it by name.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::string_slice))]
// a function is read as its own table of contents; the threshold stands in clippy.toml
#![cfg_attr(not(test), warn(clippy::too_many_lines))]
// they panic where the reader is gone or the disk is full: `cli::print` and `cli::tell` do not
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod aside;
pub mod clock;
mod credential;
mod digest;
mod disk;
pub mod error;
pub mod lang;
pub mod identity;
pub mod layout;
mod plot;
mod steps;
mod text;
pub mod units;
mod writable;
pub mod charge;

pub mod config;
pub mod client;
pub mod host;
pub mod metrics;
pub mod source;
pub mod meters;
pub mod poll;
pub mod series;
pub mod floors;
pub mod trigger;
pub mod incident;
pub mod roster;
pub mod budget;
pub mod state;
pub mod brake;
pub mod capture;
pub mod bundle;
pub mod calendar;
pub mod retention;
pub mod egress;

pub mod holders;
pub mod goruntime;
pub mod pprof;
pub mod anatomy;
pub mod verdict;
pub mod analysis;
pub mod report;
pub mod replay;

pub mod serve;
pub mod daemon;
pub mod systemd;
pub mod cli;
