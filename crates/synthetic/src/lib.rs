//! Labelled images without a camera: defects with exact masks, drawn on any normal image, and
//! generated normal images to draw on. Everything follows from a seed, on every machine alike.
//!
//! ```text
//!  "textures,seed=1" ── spec.rs ──> set.rs ──> a folder in the layout of MVTec AD
//!                                    │  │
//!            pattern.rs <─ texture.rs   defect.rs ─> canvas.rs ─> area.rs  where it is
//!            the look      materials    the types  └> paint.rs             what it does there
//!
//!  noise.rs, random.rs   smooth and random numbers without the platform's mathematics library
//! ```

mod area;
mod canvas;
mod defect;
mod error;
mod noise;
mod paint;
mod pattern;
mod random;
mod set;
mod spec;
mod texture;

pub use defect::Defect;
pub use error::SyntheticError;
pub use pattern::Pattern;
pub use random::Random;
pub use spec::{Normals, Spec};
pub use texture::Texture;
