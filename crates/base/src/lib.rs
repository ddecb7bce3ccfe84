//! What every other crate builds on and that knows nothing of images.
//!
//! ```text
//! atomic.rs     files that are replaced in one step
//! atomic_folder.rs  folders that are there when they are complete
//! digest.rs     SHA-256 of bytes, files and folders
//! regular_file.rs  opens what is a file with an end
//! suggest.rs    the known name most similar to a mistyped one
//! progress.rs   events of a long run, and how its caller cancels it
//! ```

mod atomic;
mod atomic_folder;
mod digest;
mod progress;
mod regular_file;
mod suggest;

pub use atomic::{replace_file, write_atomic, write_cached};
pub use atomic_folder::AtomicFolder;
pub use digest::{ContentHash, InvalidHash, ListedFile, files_in};
pub use progress::Progress;
pub use regular_file::open_regular;
pub use suggest::{did_you_mean, nearest};
