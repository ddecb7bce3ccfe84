//! Packed convolutional networks in files of the same form as packed transformers, see
//! `vit/packed.rs`: a header in JSON, and the weights of its steps.

use std::io::{self, Seek, Write};

use anomalens_kernels::{ConvNet, Engine, Precision, SharedBytes, Step};
use serde::{Deserialize, Serialize};

use super::ConvEncoder;
use super::plan::Scale;
use crate::Normalisation;
use crate::vit::{Envelope, write_envelope};
use crate::weights::ContentHash;

/// What a file tells about its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    name: String,
    /// Those of the whole network, of which the steps may be the first ones.
    stages: Vec<Scale>,
    /// Length of the whole network's embedding.
    embedding: usize,
    normalisation: Normalisation,
    steps: Vec<Step>,
    pub(crate) precision: Precision,
    /// SHA-256 of the weight file that it was made from.
    pub(crate) original: ContentHash,
}

impl ConvEncoder {
    /// Writes the packed network from the start of `file` on.
    pub(crate) fn write(
        &self,
        precision: Precision,
        original: ContentHash,
        file: &mut (impl Write + Seek),
    ) -> io::Result<()> {
        let stages = self.spec.layers.iter().map(|layer| Scale {
            dim: layer.dim,
            stride: layer.stride,
        });
        let header = serde_json::to_vec(&Header {
            name: self.spec.name.clone(),
            stages: stages.collect(),
            embedding: self.spec.embedding,
            normalisation: self.spec.normalisation,
            steps: self.network.steps().copied().collect(),
            precision,
            original,
        })?;
        write_envelope(file, &header, |to| self.network.write(to))
    }
}

/// The network in a file whose header was read, or what is wrong with it.
pub(crate) fn open(
    bytes: &SharedBytes,
    envelope: &Envelope<'_>,
    engine: Engine,
    computes: Option<Precision>,
) -> Result<(ConvEncoder, Header), String> {
    let header: Header =
        serde_json::from_slice(envelope.header).map_err(|error| error.to_string())?;
    let precision = computes.unwrap_or(header.precision);
    let network = ConvNet::read(engine, precision, &header.steps, bytes, envelope.start)
        .map_err(|error| error.to_string())?;
    let held = network
        .stages()
        .iter()
        .map(|stage| (stage.dim, stage.stride));
    let told = header.stages.iter().map(|scale| (scale.dim, scale.stride));
    let embedding = network.embedding().unwrap_or(header.embedding);
    if held.len() > told.len() || held.zip(told).any(|(a, b)| a != b) {
        return Err("their stages are not those of their network".to_owned());
    }
    if embedding != header.embedding {
        return Err("their embedding is not that of their network".to_owned());
    }
    let encoder = ConvEncoder::of_parts(
        header.name.clone(),
        header.normalisation,
        header.stages.clone(),
        header.embedding,
        network,
        engine.runs(precision),
    );
    Ok((encoder, header))
}

/// Whether a header is one of a convolutional network.
pub(crate) fn recognises(header: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(header)
        .is_ok_and(|header| header.get("steps").is_some())
}
