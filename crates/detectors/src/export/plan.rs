//! What goes into a graph: which networks see it, and at which size.

use anomalens_backbones::{ImageEncoder, LayerId};
use anomalens_onnx::network::Size;
use anomalens_vision::Resize;

use super::{ExportError, ExportOptions, Port};
use crate::{Detector, DetectorError, InputSpec, Scope};

/// A side of an image that stands for every square one.
const ANY_SIDE: u32 = 1000;

/// The inputs of a detector in a graph.
pub(super) struct Plan<'a> {
    /// The first one is that of the map.
    pub(super) seen: Vec<Seen<'a>>,
}

/// One way in which an image is seen.
pub(super) struct Seen<'a> {
    pub(super) input: &'a InputSpec,
    pub(super) size: Size,
    /// Which of the graph's inputs it sees.
    pub(super) port: usize,
}

impl<'a> Plan<'a> {
    /// That of `detector` with these options.
    pub(super) fn new(
        detector: &'a dyn Detector,
        encoder: &dyn ImageEncoder,
        options: &ExportOptions,
    ) -> Result<Self, ExportError> {
        let inputs = std::iter::once(detector.input()).chain(&detector.profile().further);
        let (mut seen, mut sizes): (Vec<Seen<'_>>, Vec<Size>) = (vec![], vec![]);
        for input in inputs {
            if input.request.layers == [LayerId::PIXELS] {
                return Err(detector.no_graph("it uses no network").into());
            }
            let size = size(input, encoder.network(input.network)?, options.size)?;
            let known = sizes.iter().position(|known| *known == size);
            let port = known.unwrap_or(sizes.len());
            if known.is_none() {
                sizes.push(size);
            }
            seen.push(Seen { input, size, port });
        }
        Ok(Self { seen })
    }

    /// Refuses what is no single pass through the networks.
    pub(super) fn require_single_pass(&self, detector: &dyn Detector) -> Result<(), DetectorError> {
        let tiled = self.seen.iter().find_map(|seen| {
            let side = seen.input.tiles?;
            (seen.size.height.max(seen.size.width) > side).then_some(side)
        });
        let reason = match (detector.scope(), detector.profile().tta.count(), tiled) {
            (Scope::Joint(_), ..) => "it scores images against each other".to_owned(),
            (_, 2.., _) => "it scores each image in several views; fit it with `tta=1`".to_owned(),
            (.., Some(side)) => format!(
                "it sees images in tiles of {side} pixels; fit it with `tiles=0`, or export it \
                 with a --size of at most {side}x{side}"
            ),
            _ => return Ok(()),
        };
        Err(detector.no_graph(&reason))
    }

    /// Rows and columns of what the map covers.
    pub(super) fn size(&self) -> Size {
        let first = self.seen.first().map(|seen| seen.size);
        first.unwrap_or(Size {
            height: 0,
            width: 0,
        })
    }

    /// The sizes of the graph's inputs.
    pub(super) fn sizes(&self) -> Vec<Size> {
        let mut sizes: Vec<Size> = vec![];
        for seen in &self.seen {
            if seen.port == sizes.len() {
                sizes.push(seen.size);
            }
        }
        sizes
    }

    /// The graph's inputs: `pixels`, and those of other sizes with these after the name.
    pub(super) fn ports(&self) -> Vec<Port> {
        let sizes = self.sizes().into_iter().enumerate();
        let port = |(place, Size { height, width })| Port {
            name: match place {
                0 => "pixels".to_owned(),
                _ => format!("pixels_{width}x{height}"),
            },
            shape: vec![height, width, 3],
        };
        sizes.map(port).collect()
    }
}

/// The size at which a network sees images; square ones where it depends on their shape.
fn size(
    input: &InputSpec,
    encoder: &dyn ImageEncoder,
    given: Option<Size>,
) -> Result<Size, ExportError> {
    let (height, width) = input.preprocess.output_size(ANY_SIDE, ANY_SIDE)?;
    let own = Size { height, width };
    let size = given.unwrap_or(own);
    if let Resize::ShorterSideCentreCrop { .. } = input.preprocess.resize
        && size != own
    {
        return Err(ExportError::FixedSize { side: own.width });
    }
    let multiple = encoder.spec().multiple.max(1);
    let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
    match fits(size.height) && fits(size.width) {
        true => Ok(size),
        false => Err(ExportError::Size {
            width: size.width,
            height: size.height,
            network: encoder.spec().name.clone(),
            multiple,
        }),
    }
}
