//! Suites: the papers' tables again, ours beside the published figures.
//!
//! ```text
//! list.rs        the suites: data sets, who teaches what, shots
//! place.rs       where data sets lie below a folder
//! bench.rs       methods over data sets, cell by cell, resumed where it stopped
//! teaching.rs    detectors that are learned from one data set to be measured on others
//! cell.rs        what one method came to on one class: a line of results.jsonl
//! statistics.rs  means over seeds, intervals over images, tests between methods
//! tables.rs      cells as tables
//! output.rs      tables as files
//! ```

mod bench;
mod cell;
mod list;
mod output;
mod place;
mod statistics;
mod tables;
mod teaching;

pub use bench::{Bench, BenchEvent, BenchResult, Entrant};
pub use cell::{Cell, CellName, ImageScore};
pub use list::{Suite, suite, suites};
pub use output::{Heading, Written, write_tables};
pub use place::{Absent, place, usual_names};
pub use statistics::{Comparison, Spread};
pub use tables::{Figure, Line, comparisons, lines};
