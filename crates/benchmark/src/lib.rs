//! The papers' tables, ours compared with the published figures.
//!
//! ```text
//! list.rs        the suites: data sets, what is trained on what, shots
//! locate.rs      where data sets lie below a folder
//! bench.rs       methods over data sets, cell by cell, resumed where it stopped
//! auxiliary.rs   detectors that are learned from one data set to be measured on others
//! cell.rs        the result of one method on one class: a line of results.jsonl
//! statistics.rs  means over seeds, intervals over images, tests between methods
//! tables.rs      cells as tables; comparable.rs: which published rows they stand beside
//! output.rs      tables as files
//! ablation.rs    variants of a method, trained and measured alike
//! ```

pub mod ablation;
mod auxiliary;
mod bench;
mod cell;
mod comparable;
mod error;
mod list;
mod locate;
mod output;
mod statistics;
mod tables;

pub use bench::{Bench, BenchEvent, BenchResult, Entry, Network};
pub use cell::{Cell, CellName, ImageScore};
pub use error::BenchmarkError;
pub use list::{Suite, suite, suites};
pub use locate::{Absent, locate, usual_names};
pub use output::{Written, write_tables};
pub use statistics::{Comparison, Spread};
pub use tables::{Figure, Line, comparisons, lines};
