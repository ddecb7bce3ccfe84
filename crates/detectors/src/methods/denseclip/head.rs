//! What DenseCLIP learns: contexts of its texts, and a decoder in which the texts look at the image
//! (paper, section 3.2; "post-model prompting" of 3.3). Parameters have the names of the original's
//! checkpoints.

use anomalens_backbones::clip::tokenizer::{Tokenizer, TooLong};
use anomalens_backbones::clip::{ClipText, end_positions};
use candle_core::{D, Device, Result, Tensor};

use super::settings::Settings;
use super::{NAME, refuse};
use crate::DetectorError;
use crate::training::random::{generator, normal};
use crate::training::{Parameters, attention};

/// Epsilon of the layer norms.
const EPSILON: f64 = 1e-5;

/// How much of what the decoder says is added to a text before anything is learned.
const GAMMA: f32 = 1e-4;

/// Deviation of the initial weights of the decoder, and of the contexts.
const WEIGHT_DEVIATION: f64 = 0.02;
const CONTEXT_DEVIATION: f64 = 1.0;

/// Purpose of the generator of initial values.
const INITIAL_VALUES: u32 = u32::MAX;

/// Contexts, decoder, and how much it counts.
pub(super) struct Head {
    pub(super) parameters: Parameters,
    heads: usize,
    layers: usize,
}

/// Every parameter's name and shape; texts have `text_width` numbers a token, embeddings `embedding`.
fn shapes(settings: &Settings, text_width: usize, embedding: usize) -> Vec<(String, Vec<usize>)> {
    let width = settings.decoder_width;
    let mut all = vec![];
    let mut linear = |name: &str, outputs: usize, inputs: usize, bias: bool| {
        all.push((
            format!("context_decoder.{name}.weight"),
            vec![outputs, inputs],
        ));
        if bias {
            all.push((format!("context_decoder.{name}.bias"), vec![outputs]));
        }
    };
    linear("memory_proj.1", width, embedding, true);
    linear("text_proj.1", width, embedding, true);
    linear("out_proj.1", embedding, width, true);
    for layer in 0..settings.decoder_layers {
        for attention in ["self_attn", "cross_attn"] {
            for (part, bias) in [
                ("q_proj", false),
                ("k_proj", false),
                ("v_proj", false),
                ("proj", true),
            ] {
                let name = format!("decoder.{layer}.{attention}.{part}");
                linear(&name, width, width, bias);
            }
        }
        linear(&format!("decoder.{layer}.mlp.0"), 4 * width, width, true);
        linear(&format!("decoder.{layer}.mlp.3"), width, 4 * width, true);
    }
    let norms = [
        ("memory_proj.0".to_owned(), embedding),
        ("memory_proj.2".to_owned(), width),
        ("text_proj.0".to_owned(), embedding),
        ("out_proj.0".to_owned(), width),
    ];
    let in_layers = (0..settings.decoder_layers)
        .flat_map(|layer| [1, 2, 3].map(|i| (format!("decoder.{layer}.norm{i}"), width)));
    for (name, width) in norms.into_iter().chain(in_layers) {
        for kind in ["weight", "bias"] {
            all.push((format!("context_decoder.{name}.{kind}"), vec![width]));
        }
    }
    all.push((
        "contexts".to_owned(),
        vec![1, settings.context_length, text_width],
    ));
    all.push(("gamma".to_owned(), vec![embedding]));
    all
}

impl Head {
    /// Initial values from `seed`; texts have `text_width` numbers a token, embeddings `embedding`.
    pub(super) fn new(
        settings: &Settings,
        text_width: usize,
        embedding: usize,
        seed: u32,
    ) -> Result<Self> {
        let mut random = generator(seed, INITIAL_VALUES);
        Self::of(settings, text_width, embedding, |name, shape| {
            let count = shape.iter().product();
            let values = match (name, shape) {
                ("contexts", _) => normal(count, CONTEXT_DEVIATION, &mut random),
                ("gamma", _) => vec![GAMMA; count],
                (_, [_, _]) => normal(count, WEIGHT_DEVIATION, &mut random),
                // Of a layer norm, which starts as it is.
                (name, _) if name.ends_with("weight") => vec![1.0; count],
                _ => vec![0.0; count],
            };
            Tensor::from_vec(values, shape, &Device::Cpu)
        })
    }

    /// The head whose parameters `value` gives by their names and shapes.
    pub(super) fn of<E: From<candle_core::Error>>(
        settings: &Settings,
        text_width: usize,
        embedding: usize,
        mut value: impl FnMut(&str, &[usize]) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Self, E> {
        let mut parameters = Parameters::default();
        for (name, shape) in shapes(settings, text_width, embedding) {
            let value = value(&name, &shape)?;
            parameters.insert(name, &value)?;
        }
        Ok(Self {
            parameters,
            heads: settings.decoder_heads,
            layers: settings.decoder_layers,
        })
    }

    /// The embeddings `[prompts, embedding]` of `prompts`, each behind the learned contexts.
    pub(super) fn texts(
        &self,
        text: &ClipText,
        prompts: &[String],
    ) -> std::result::Result<Tensor, DetectorError> {
        let contexts = self.parameters.get("contexts")?;
        let (_, learned, width) = contexts.dims3()?;
        let length = text.config().context.saturating_sub(learned);
        if length < 3 {
            return Err(refuse(format!(
                "{learned} learned tokens leave no room for a name in {} tokens",
                text.config().context
            )));
        }
        if width != text.config().width {
            return Err(DetectorError::settings(
                NAME,
                format!(
                    "its contexts have {width} numbers a token, and texts here have {}: use the \
                     backbone that it was trained with",
                    text.config().width
                ),
            ));
        }
        let tokenizer = Tokenizer::new();
        let ids = prompts
            .iter()
            .map(|prompt| tokenizer.tokenize(prompt, length, TooLong::Truncate))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let ids = Tensor::from_vec(ids.concat(), (prompts.len(), length), &Device::Cpu)?;
        self.texts_of_ids(text, &ids)
    }

    /// The same for token ids `[prompts, tokens]`.
    pub(super) fn texts_of_ids(
        &self,
        text: &ClipText,
        ids: &Tensor,
    ) -> std::result::Result<Tensor, DetectorError> {
        let contexts = self.parameters.get("contexts")?;
        let (prompts, tokens) = ids.dims2()?;
        let (_, learned, width) = contexts.dims3()?;
        let contexts = contexts.broadcast_as((prompts, learned, width))?;
        let rows = text.embed(ids)?;
        // After the start, which stays the first token.
        let start = rows.narrow(1, 0, 1)?;
        let rest = rows.narrow(1, 1, tokens - 1)?;
        let embeddings = match learned {
            0 => rows,
            _ => Tensor::cat(&[&start, &contexts, &rest], 1)?,
        };
        let ends = end_positions(ids)?;
        let ends: Vec<usize> = ends.into_iter().map(|end| end + learned).collect();
        Ok(text.encode_embeddings(&embeddings, &ends, |_, tokens| Ok(tokens))?)
    }

    /// What the decoder says of `texts` `[batch, texts, embedding]` and images: the embedding
    /// `[batch, embedding]` and patches `[batch, patches, embedding]` of each.
    pub(super) fn decode(
        &self,
        texts: &Tensor,
        global: &Tensor,
        patches: &Tensor,
    ) -> Result<Tensor> {
        let all = &self.parameters;
        let of = |name: &str| format!("context_decoder.{name}");
        let memory = Tensor::cat(&[&global.unsqueeze(1)?, patches], 1)?;
        let memory = all.norm(&of("memory_proj.0"), &memory, EPSILON)?;
        let memory = all.linear(&of("memory_proj.1"), &memory)?;
        let memory = all.norm(&of("memory_proj.2"), &memory, EPSILON)?;
        let x = all.norm(&of("text_proj.0"), texts, EPSILON)?;
        let mut x = all.linear(&of("text_proj.1"), &x)?;
        for layer in 0..self.layers {
            let of = |name: &str| format!("context_decoder.decoder.{layer}.{name}");
            let attend = |name: &str, x: &Tensor, memory: &Tensor| {
                let part = |part: &str, x| all.linear(&of(&format!("{name}.{part}")), x);
                let (key, value) = (part("k_proj", memory)?, part("v_proj", memory)?);
                part(
                    "proj",
                    &attention(&part("q_proj", x)?, &key, &value, self.heads, None)?,
                )
            };
            let own = all.norm(&of("norm1"), &x, EPSILON)?;
            x = (x + attend("self_attn", &own, &own)?)?;
            let own = all.norm(&of("norm2"), &x, EPSILON)?;
            x = (x + attend("cross_attn", &own, &memory)?)?;
            let own = all.norm(&of("norm3"), &x, EPSILON)?;
            let middle = all.linear(&of("mlp.0"), &own)?.gelu_erf()?;
            x = (x + all.linear(&of("mlp.3"), &middle)?)?;
        }
        let x = all.norm(&of("out_proj.0"), &x, EPSILON)?;
        all.linear(&of("out_proj.1"), &x)
    }

    /// `texts` as the image changes them: `texts + gamma * decoded`.
    pub(super) fn adapted(
        &self,
        texts: &Tensor,
        global: &Tensor,
        patches: &Tensor,
    ) -> Result<Tensor> {
        let decoded = self.decode(texts, global, patches)?;
        texts + decoded.broadcast_mul(self.parameters.get("gamma")?)?
    }
}

/// The cosines of patches `[batch, patches, width]` and texts `[batch, texts, width]`:
/// `[batch, patches, texts]`.
pub(super) fn cosines(patches: &Tensor, texts: &Tensor) -> Result<Tensor> {
    unit(patches)?.matmul(&unit(texts)?.transpose(1, 2)?.contiguous()?)
}

/// Rows of length 1.
fn unit(x: &Tensor) -> Result<Tensor> {
    let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    x.broadcast_div(&length.clamp(1e-12, f64::INFINITY)?)
}
