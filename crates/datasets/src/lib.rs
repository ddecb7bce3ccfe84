//! Labelled image data sets on disk: which images there are, which are normal, where the masks
//! are, and how they are split. It knows folders, labels and paths, and nothing of tensors.
//!
//! ```text
//!  "elpv:/data/elpv" ── DataRef ──> layouts/   one file per published layout, one line in the
//!     data_ref.rs                   mod.rs     registry: recognise a folder, scan it
//!                                      │
//!                                      v
//!                                   scan.rs    samples and findings, as the layout fills them in
//!                                   │      │   (listing.rs reads folders, pairing.rs pairs masks)
//!                    data_set.rs    v      v   check.rs
//!                    DataSet::open          check: reads every image and reports what is wrong
//!                    strict: one error      (finding.rs: their kinds; decode.rs)
//!                    and it does not open
//!                         │
//!                         v
//!                    sample.rs  Sample: image, crop, label, defect type, class, split, mask
//!                    split.rs   scikit-learn's train_test_split, to the draw
//!                    shots.rs   few-shot sampling, lists of shots in a file
//!
//!  images.rs   the image files that paths and patterns name, without labels
//!  parse.rs    the parsers of lists on bytes, for fuzzing
//!  text.rs     texts in UTF-8 and UTF-16
//!  settings.rs `,name=value` behind a path
//!  meta.rs     a data set as AnomalyCLIP's meta.json
//!  unpack.rs   data sets published as numbers -> folders of pictures
//! ```

mod check;
mod data_ref;
mod data_set;
mod decode;
mod error;
mod finding;
mod images;
mod layouts;
mod listing;
mod meta;
mod pairing;
pub mod parse;
mod sample;
mod scan;
mod settings;
mod shots;
mod split;
mod text;
mod unpack;

pub use anomalens_vision::{MaskChannel, MaskReading, MaskSource};
pub use check::{CheckReport, Count, Progress, check, check_while};
pub use data_ref::DataRef;
pub use data_set::DataSet;
pub use error::Error;
pub use finding::{Finding, FindingKind, Severity};
pub use images::{FoundImages, ImageFile, find_images, path_text};
pub use layouts::{About, Layout, Published, layout, layouts};
pub use listing::images_below;
pub use meta::meta_json;
pub use sample::{Crop, GOOD, Label, Sample, Split};
pub use settings::split_settings;
pub use shots::{few_shot, read_shots, write_shots};
pub use split::{TrainTest, permutation, train_test_split};
pub use unpack::{Packing, unpack};
