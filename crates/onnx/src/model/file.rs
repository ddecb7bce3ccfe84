//! Models as files.

use std::io::{self, Write};
use std::path::Path;

use anomalens_base::replace_file;
use prost::Message;

use super::Graph;

/// Constants of more bytes than this in all lie in a file beside the model, which protobuf limits to
/// 2 GB.
const MOST_BYTES: usize = 2_000_000_000;

/// The smallest constant that is put there.
const LEAST_BYTES: usize = 1024;

impl Graph {
    /// The model with all its constants, of less than 2 GB.
    pub fn to_bytes(self) -> Vec<u8> {
        self.model(None).0.encode_to_vec()
    }

    /// Writes the model to `path`, in one step; if its constants are too many, to `path` with `.data`
    /// after it too, which is written first. Returns whether there is such a file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(self, path: &Path) -> io::Result<bool> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let data = format!("{name}.data");
        let is_large = self.bytes() > MOST_BYTES;
        let (model, bytes) = self.model(is_large.then_some((data.as_str(), LEAST_BYTES)));
        if is_large {
            replace_file(&path.with_file_name(&data), |file| file.write_all(&bytes))?;
        }
        replace_file(path, |file| file.write_all(&model.encode_to_vec()))?;
        Ok(is_large)
    }
}
