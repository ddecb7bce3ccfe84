//! What several methods are made of.
//!
//! ```text
//! tokens.rs                  tokens made comparable
//! coreset.rs                 rows that cover all others
//! nearest.rs                 nearest neighbours in sets of tokens
//! gaussian.rs                a normal distribution of the tokens of each place
//! few_gaussian.rs            the same from a few images, which are kept in place of covariances
//! by_name.rs                 references added and taken out by the names of their files
//! residual.rs                how far patches are from the most similar ones of references
//! prompts.rs                 prompts of normal and of anomalous things; prompts/: those of the papers
//! learned_prompts.rs         prompts with learned tokens
//! text_scores.rs             images nearer to an anomalous text than to a normal one
//! neighbourhood.rs           tokens averaged over neighbourhoods
//! convnet/                   layers of convolutional networks that learn
//! joined.rs                  maps of several layers as one
//! layers.rs                  which layers of a network are compared, and how images come to them
//! mutual_scoring.rs          images of a batch score each other's patches
//! principal_components.rs    tokens shortened to the principal components of a batch
//! canonical.rs               images in an order that does not depend on their files
//! reference_augmentation.rs  a reference image turned and mirrored
//! graph.rs                   what methods do, as operations of an ONNX graph
//! self_similarity.rs         how different a patch is from the rest of its own image
//! ```

pub(crate) mod by_name;
pub(crate) mod canonical;
pub(crate) mod convnet;
pub(crate) mod coreset;
pub(crate) mod few_gaussian;
pub(crate) mod gaussian;
pub(crate) mod graph;
pub(crate) mod joined;
pub(crate) mod layers;
pub(crate) mod learned_prompts;
pub(crate) mod mutual_scoring;
pub(crate) mod nearest;
pub(crate) mod neighbourhood;
pub(crate) mod principal_components;
pub(crate) mod prompts;
pub(crate) mod reference_augmentation;
pub(crate) mod residual;
pub(crate) mod self_similarity;
pub(crate) mod text_scores;
pub(crate) mod tokens;
