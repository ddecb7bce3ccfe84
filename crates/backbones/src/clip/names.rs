//! The tensors of CLIP weight files under one set of names, those of OpenAI and OpenCLIP.
//!
//! Hugging Face files call them otherwise, keep queries, keys and values apart and both projections
//! transposed. A tensor is looked up, joined and turned when it is asked for.

use std::fmt;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::{Architecture, VisionConfig};
use crate::checkpoint::{Checkpoint, Format};
use crate::{Activation, BackboneError};

/// Who wrote a CLIP weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// OpenAI: a TorchScript archive, or a state dict saved from one.
    OpenAi,
    /// OpenCLIP, or OpenAI's model in Python: a state dict in a PyTorch or safetensors file.
    OpenClip,
    /// Hugging Face `transformers`: a `CLIPModel`.
    HuggingFace,
    /// DenseCLIP: a segmentation model whose towers are CLIP's, tuned.
    DenseClip,
}

/// A view of a CLIP checkpoint that answers to OpenAI's names, such as `visual.conv1.weight`,
/// `visual.transformer.resblocks.0.attn.in_proj_weight` or `text_projection`.
#[derive(Debug, Clone, Copy)]
pub struct ClipTensors<'a> {
    checkpoint: &'a Checkpoint,
    origin: Origin,
    /// What stands before the names of the text encoder in OpenCLIP's "custom text" models.
    text_prefix: &'static str,
}

/// How the activation of a CLIP network is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationSource {
    /// The caller named it.
    Given,
    /// The registry names it for this file.
    Registry,
    /// The file is OpenAI's own.
    OpenAiFile,
    /// `config.json` or `open_clip_config.json` beside the file.
    Config,
    /// The sizes are those of a model of OpenAI.
    OpenAiSizes,
    /// OpenAI published no model of these sizes, or with such names of tensors.
    OtherModel,
    /// What `transformers` takes where there is no `config.json`.
    Usual,
}

impl fmt::Display for ActivationSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "as asked for",
            Self::Registry => "as the registry says",
            Self::OpenAiFile => "the file is OpenAI's own",
            Self::Config => "as the configuration beside the file says",
            Self::OpenAiSizes => {
                "the sizes are those of OpenAI's models; models of OpenCLIP of the same sizes may \
                 need gelu"
            }
            Self::OtherModel => {
                "no model of OpenAI, whose models alone need quick-gelu, is like this"
            }
            Self::Usual => "usual for such files; there is no configuration beside it",
        })
    }
}

impl Origin {
    /// Who wrote `checkpoint`, if it holds a CLIP image encoder made of transformer blocks.
    pub fn of(checkpoint: &Checkpoint) -> Option<Self> {
        if checkpoint.contains("vision_model.embeddings.class_embedding") {
            return Some(Self::HuggingFace);
        }
        if checkpoint.contains("backbone.class_embedding")
            && checkpoint.contains("text_encoder.token_embedding.weight")
        {
            return Some(Self::DenseClip);
        }
        if !checkpoint.contains("visual.class_embedding")
            || !checkpoint.contains("visual.transformer.resblocks.0.attn.in_proj_weight")
        {
            return None;
        }
        // OpenAI's models carry the size of their input with them, wherever they are saved to.
        let openai =
            checkpoint.format() == Format::TorchScript || checkpoint.contains("input_resolution");
        Some(if openai { Self::OpenAi } else { Self::OpenClip })
    }
}

impl<'a> ClipTensors<'a> {
    /// The tensors of `checkpoint`, or none if it is not of CLIP.
    pub fn new(checkpoint: &'a Checkpoint) -> Option<Self> {
        let origin = Origin::of(checkpoint)?;
        let custom_text = checkpoint.contains("text.positional_embedding");
        Some(Self {
            checkpoint,
            origin,
            text_prefix: if custom_text { "text." } else { "" },
        })
    }

    /// Who wrote the file.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The file itself.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The activation of all blocks, and how it is known. Weights do not say it: `config.json`
    /// (Hugging Face) or `open_clip_config.json` beside the file does.
    ///
    /// Without one, OpenAI's own files and state dicts of the sizes that OpenAI published count as
    /// OpenAI's, which need QuickGELU. OpenCLIP also published models of these sizes with exact GELU
    /// whose files look the same: theirs need the configuration beside them, or a caller who knows.
    ///
    /// # Errors
    /// [`BackboneError::Config`] if the file beside names an activation that is not known here.
    pub fn activation(&self) -> Result<(Activation, ActivationSource), BackboneError> {
        use Activation::{Gelu, QuickGelu};
        let folder = self.checkpoint.path().parent().unwrap_or(Path::new(""));
        match self.origin {
            Origin::OpenAi => Ok((QuickGelu, ActivationSource::OpenAiFile)),
            Origin::OpenClip => {
                let config = read_json(&folder.join("open_clip_config.json"));
                let model = &config["model_cfg"];
                Ok(match (&model["quick_gelu"], model) {
                    (Value::Bool(true), _) => (QuickGelu, ActivationSource::Config),
                    (_, Value::Object(_)) => (Gelu, ActivationSource::Config),
                    _ if self.has_sizes_of_openai() => (QuickGelu, ActivationSource::OpenAiSizes),
                    _ => (Gelu, ActivationSource::OtherModel),
                })
            }
            Origin::HuggingFace => hugging_face_activation(&folder.join("config.json")),
            Origin::DenseClip => Ok((QuickGelu, ActivationSource::Usual)),
        }
    }

    /// Whether OpenAI published an image encoder of these sizes under these names.
    fn has_sizes_of_openai(&self) -> bool {
        let sizes = VisionConfig::of(self);
        let sizes = sizes.ok().filter(|_| self.text_prefix.is_empty());
        sizes.is_some_and(|sizes| Architecture::of_openai().any(|known| known.vision == sizes))
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The shape of tensor `name` as OpenAI stores it, if there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.place(name) {
            Place::Plain(name) => Some(self.checkpoint.shape(&name)?.to_vec()),
            Place::Transposed(name) => match self.checkpoint.shape(&name)? {
                &[rows, columns] => Some(vec![columns, rows]),
                _ => None,
            },
            Place::Joined(names) => {
                let mut shape = self.checkpoint.shape(&names[0])?.to_vec();
                let mut rows = 0;
                for name in &names {
                    rows += self.checkpoint.shape(name)?.first()?;
                }
                *shape.first_mut()? = rows;
                Some(shape)
            }
        }
    }

    /// The number of consecutive `PREFIX.0`, `PREFIX.1`, ... for which `PREFIX.N.SUFFIX` exists.
    pub fn count(&self, prefix: &str, suffix: &str) -> usize {
        (0..)
            .take_while(|i| self.contains(&format!("{prefix}.{i}.{suffix}")))
            .count()
    }

    /// Tensor `name` in the shape `expected`, as OpenAI stores it, as float32 on `device`.
    ///
    /// # Errors
    /// [`BackboneError::MissingTensor`] or [`BackboneError::TensorShape`], which call the tensor
    /// and give both shapes as they are in the file.
    pub fn tensor(
        &self,
        name: &str,
        expected: &[usize],
        device: &Device,
    ) -> Result<Tensor, BackboneError> {
        match self.place(name) {
            Place::Plain(name) => self.checkpoint.tensor(&name, expected, device),
            Place::Transposed(name) => {
                let stored: Vec<usize> = expected.iter().rev().copied().collect();
                let tensor = self.checkpoint.tensor(&name, &stored, device)?;
                Ok(tensor.t()?.contiguous()?)
            }
            Place::Joined(names) => {
                let mut part = expected.to_vec();
                if let Some(rows) = part.first_mut() {
                    *rows = rows.div_ceil(names.len());
                }
                let parts = names
                    .iter()
                    .map(|name| self.checkpoint.tensor(name, &part, device))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Tensor::cat(&parts, 0)?)
            }
        }
    }

    /// Where the file keeps what OpenAI calls `name`.
    fn place(&self, name: &str) -> Place {
        let of_text = !name.starts_with("visual.") && name != "logit_scale";
        match self.origin {
            Origin::HuggingFace => hugging_face(name),
            Origin::DenseClip => Place::Plain(match name.strip_prefix("visual.") {
                Some(name) => format!("backbone.{name}"),
                None => format!("text_encoder.{name}"),
            }),
            _ if of_text => Place::Plain(format!("{}{name}", self.text_prefix)),
            _ => Place::Plain(name.to_owned()),
        }
    }
}

/// Where a tensor is kept.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Plain(String),
    /// A matrix with rows and columns exchanged.
    Transposed(String),
    /// The rows of queries, keys and values, in this order.
    Joined([String; 3]),
}

/// Where Hugging Face's `CLIPModel` keeps what OpenAI calls `name`.
fn hugging_face(name: &str) -> Place {
    match name {
        "visual.proj" => return Place::Transposed("visual_projection.weight".to_owned()),
        "text_projection" => return Place::Transposed("text_projection.weight".to_owned()),
        "logit_scale" => return Place::Plain(name.to_owned()),
        _ => {}
    }
    let (model, name) = match name.strip_prefix("visual.") {
        Some(name) => ("vision_model", name),
        None => ("text_model", name),
    };
    let in_block = name
        .strip_prefix("transformer.resblocks.")
        .and_then(|rest| rest.split_once('.'));
    if let Some((block, name)) = in_block {
        return in_layer(&format!("{model}.encoder.layers.{block}"), name);
    }
    let renamed = match name {
        "class_embedding" => "embeddings.class_embedding",
        "conv1.weight" => "embeddings.patch_embedding.weight",
        "positional_embedding" => "embeddings.position_embedding.weight",
        "token_embedding.weight" => "embeddings.token_embedding.weight",
        // Misspelt in every file that there is.
        "ln_pre.weight" => "pre_layrnorm.weight",
        "ln_pre.bias" => "pre_layrnorm.bias",
        "ln_post.weight" => "post_layernorm.weight",
        "ln_post.bias" => "post_layernorm.bias",
        "ln_final.weight" => "final_layer_norm.weight",
        "ln_final.bias" => "final_layer_norm.bias",
        other => other,
    };
    Place::Plain(format!("{model}.{renamed}"))
}

/// Where the block `layer` keeps what OpenAI calls `name` there.
fn in_layer(layer: &str, name: &str) -> Place {
    let joined = |kind: &str| {
        Place::Joined(["q", "k", "v"].map(|part| format!("{layer}.self_attn.{part}_proj.{kind}")))
    };
    match name {
        "attn.in_proj_weight" => return joined("weight"),
        "attn.in_proj_bias" => return joined("bias"),
        _ => {}
    }
    let (part, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let renamed = match part {
        "ln_1" => "layer_norm1",
        "ln_2" => "layer_norm2",
        "attn.out_proj" => "self_attn.out_proj",
        "mlp.c_fc" => "mlp.fc1",
        "mlp.c_proj" => "mlp.fc2",
        other => other,
    };
    Place::Plain(format!("{layer}.{renamed}.{kind}"))
}

/// `hidden_act` of the `config.json` of a CLIP model; without one, that of OpenAI's models.
fn hugging_face_activation(path: &Path) -> Result<(Activation, ActivationSource), BackboneError> {
    let config = read_json(path);
    let of_clip = config["model_type"]
        .as_str()
        .is_some_and(|kind| kind.starts_with("clip"));
    if !of_clip {
        return Ok((Activation::QuickGelu, ActivationSource::Usual));
    }
    let named = ["/vision_config/hidden_act", "/hidden_act"]
        .iter()
        .find_map(|place| config.pointer(place)?.as_str());
    match named {
        None | Some("quick_gelu") => Ok((Activation::QuickGelu, ActivationSource::Config)),
        Some("gelu") => Ok((Activation::Gelu, ActivationSource::Config)),
        Some(other) => Err(BackboneError::Config(format!(
            "{} names the activation `{other}`; `quick_gelu` and `gelu` are known",
            path.display()
        ))),
    }
}

/// A JSON file's content, null if there is none.
fn read_json(path: &Path) -> Value {
    fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hugging_face_names_follow_from_those_of_openai() {
        let layer = |name: &str| format!("vision_model.encoder.layers.11.{name}");
        let joined = |kind: &str| {
            Place::Joined(["q", "k", "v"].map(|p| layer(&format!("self_attn.{p}_proj.{kind}"))))
        };
        let plain = |name: &str| Place::Plain(name.to_owned());
        let cases = [
            ("logit_scale", plain("logit_scale")),
            (
                "visual.proj",
                Place::Transposed("visual_projection.weight".to_owned()),
            ),
            (
                "text_projection",
                Place::Transposed("text_projection.weight".to_owned()),
            ),
            (
                "visual.class_embedding",
                plain("vision_model.embeddings.class_embedding"),
            ),
            (
                "visual.conv1.weight",
                plain("vision_model.embeddings.patch_embedding.weight"),
            ),
            (
                "visual.ln_pre.bias",
                plain("vision_model.pre_layrnorm.bias"),
            ),
            (
                "positional_embedding",
                plain("text_model.embeddings.position_embedding.weight"),
            ),
            (
                "token_embedding.weight",
                plain("text_model.embeddings.token_embedding.weight"),
            ),
            (
                "ln_final.weight",
                plain("text_model.final_layer_norm.weight"),
            ),
            (
                "transformer.resblocks.3.mlp.c_fc.bias",
                plain("text_model.encoder.layers.3.mlp.fc1.bias"),
            ),
            (
                "visual.transformer.resblocks.11.ln_2.weight",
                Place::Plain(layer("layer_norm2.weight")),
            ),
            (
                "visual.transformer.resblocks.11.attn.out_proj.bias",
                Place::Plain(layer("self_attn.out_proj.bias")),
            ),
            (
                "visual.transformer.resblocks.11.attn.in_proj_weight",
                joined("weight"),
            ),
            (
                "visual.transformer.resblocks.11.attn.in_proj_bias",
                joined("bias"),
            ),
        ];
        for (name, expected) in cases {
            assert_eq!(hugging_face(name), expected, "{name}");
        }
    }
}
