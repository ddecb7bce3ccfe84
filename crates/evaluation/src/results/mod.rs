//! Results on disk. `detect` fills a folder with them:
//!
//! ```text
//! run.json       which detector the results are of
//! results.jsonl  a line for each image, written as soon as it is scored
//! results.csv    the same as a table, written at the end
//! heat-maps/  overlays/  maps/   pictures and float maps, named by names.rs
//! ```
//!
//! `folder.rs` keeps any kind of [`Record`]; `record.rs` is what `detect` keeps of an image;
//! `stamp.rs` checks whether a file is still the one that was scored. `docs/results.md` has every key.

mod folder;
mod names;
mod record;
mod stamp;

pub use folder::{Record, ResultFolder, ResultsError, is_result_folder, parse_lines};
pub use names::picture_names;
pub use record::{ResultRecord, write_table};
pub use stamp::FileStamp;
