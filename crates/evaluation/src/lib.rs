//! Runs detectors over labelled data sets and measures how good they are.
//!
//! ```text
//! run.rs           fits and scores candidates on every class of a data set
//! measure.rs       metrics of a class and of each defect type
//! pixels.rs        maps compared with masks, at which size
//! evaluation.rs    the result: metrics per class, and what was said of each image
//! calibration.rs   the threshold of a detector's decisions, and how good these are
//! published.rs     the papers' figures, each with its source
//! picture.rs       heat maps, overlays and boxes of predictions
//! results/         the folder of results that `detect` fills
//! table.rs         tables as Markdown
//! training.rs      data sets to learn from
//! ```

mod calibration;
mod error;
mod evaluation;
mod measure;
pub mod picture;
pub mod pixels;
pub mod published;
pub mod results;
pub mod run;
pub mod table;
mod training;

pub use calibration::{Calibrated, Decisions, Labelled, calibrate};
pub use error::EvaluationError;
pub use evaluation::{
    AUPIMO_COLUMN, ClassResult, Column, Evaluation, IMAGE_COLUMNS, ImageRecord, Metrics,
    PIXEL_COLUMNS, PUBLISHED_COLUMNS,
};
pub use measure::{Breakdown, DefectTypeResult};
pub use pixels::{RegionResult, Resolution};
pub use results::{
    FileStamp, Record, ResultFolder, ResultRecord, ResultsError, is_result_folder, picture_names,
    write_table,
};
pub use run::{Candidate, RunOptions, evaluate};
pub use table::Table;
pub use training::{Fold, training_samples};
