//! Model files read back.

use std::collections::HashSet;
use std::path::Path;

use prost::Message;

use super::proto;
use crate::OnnxError;

/// What a model file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Names of what goes in.
    pub inputs: Vec<String>,
    /// Names of what comes out.
    pub outputs: Vec<String>,
    /// How many operations it has.
    pub operations: usize,
    /// What a caller must know, by name.
    pub metadata: Vec<(String, String)>,
    /// Bytes of the file, and of the one beside it.
    pub bytes: u64,
}

impl Summary {
    /// Reads a file that [`Graph::write`](super::Graph::write) wrote: every operation must take what is
    /// there before it, and every constant must have its bytes.
    ///
    /// # Errors
    /// [`OnnxError::File`] with what is wrong.
    pub fn read(path: &Path) -> Result<Self, OnnxError> {
        let wrong = |reason: String| OnnxError::File {
            path: path.to_owned(),
            reason,
        };
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let model =
            proto::Model::decode(bytes.as_slice()).map_err(|error| wrong(error.to_string()))?;
        let graph = model
            .graph
            .ok_or_else(|| wrong("it has no graph".to_owned()))?;
        let mut known: HashSet<&str> = HashSet::new();
        let mut beside = 0;
        for constant in &graph.initializer {
            known.insert(&constant.name);
            match constant.data_location {
                proto::EXTERNAL => {
                    let end = end(path, constant).ok_or_else(|| {
                        wrong(format!("the bytes of {} are not there", constant.name))
                    })?;
                    beside = beside.max(end);
                }
                _ if constant.raw_data.is_none() => {
                    return Err(wrong(format!("{} has no bytes", constant.name)));
                }
                _ => {}
            }
        }
        known.extend(graph.input.iter().map(|input| input.name.as_str()));
        for node in &graph.node {
            let unknown = node
                .input
                .iter()
                .find(|name| !known.contains(name.as_str()));
            if let Some(name) = unknown {
                return Err(wrong(format!(
                    "{} takes {name}, which is not there",
                    node.name
                )));
            }
            for output in &node.output {
                if !known.insert(output) {
                    return Err(wrong(format!("{output} is there twice")));
                }
            }
        }
        let names = |values: &[proto::ValueInfo]| values.iter().map(|v| v.name.clone()).collect();
        let outputs: Vec<String> = names(&graph.output);
        if let Some(name) = outputs.iter().find(|name| !known.contains(name.as_str())) {
            return Err(wrong(format!("nothing gives {name}")));
        }
        let metadata = model.metadata_props.into_iter();
        Ok(Self {
            inputs: names(&graph.input),
            outputs,
            operations: graph.node.len(),
            metadata: metadata.map(|entry| (entry.key, entry.value)).collect(),
            bytes: bytes.len() as u64 + beside,
        })
    }
}

/// Where the bytes of a constant end in the file beside the model, if they are there.
fn end(path: &Path, constant: &proto::Tensor) -> Option<u64> {
    let entry = |key: &str| {
        let mut entries = constant.external_data.iter();
        entries
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    };
    let number = |key| entry(key)?.parse::<u64>().ok();
    let end = number("offset")?.checked_add(number("length")?)?;
    let file = path.with_file_name(entry("location")?);
    (std::fs::metadata(file).ok()?.len() >= end).then_some(end)
}
