//! Images through a backbone and detectors to predictions.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_vision::{DecodeNote, GeometryError, Image, Map, Rect};

use super::stream::{ImageSize, Looks, Views, stream_views};
use super::tta::merge;
use crate::{
    Detector, DetectorError, Enlargement, ImageSource, InputSpec, NormalRange, Note, Profile,
    Scope, Scored, SourceError, StreamOptions, Tta,
};

/// What a detector says of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The anomaly score: higher is more anomalous.
    pub score: f32,
    /// The anomaly map at the resolution of the patches.
    pub map: Map,
    /// What patches of normal images score.
    pub range: NormalRange,
    /// How the map is brought to the size of the image.
    pub enlargement: Enlargement,
    /// The image's size and the part of it that the map covers.
    pub size: ImageSize,
    /// What the user should know about the image.
    pub notes: Vec<Note>,
}

impl Prediction {
    /// Whether the map says where an image is anomalous: that of a method without a map is one value.
    pub fn has_map(&self) -> bool {
        self.map.values().len() > 1
    }

    /// The anomaly map at `rows x columns` pixels over the part of the image that the network
    /// saw, or over all of it where the method does so: bilinear, then smoothed by a Gaussian.
    ///
    /// # Errors
    /// [`GeometryError`] for a size of zero or an absurd one.
    pub fn smooth_map(&self, rows: usize, columns: usize) -> Result<Map, GeometryError> {
        let Rect { width, height, .. } = self.size.footprint;
        let seen = f64::from(width) * f64::from(height);
        let pixels = (seen / (rows as f64 * columns as f64)).sqrt();
        self.enlargement.apply(&self.map, rows, columns, pixels)
    }
}

/// What became of one image under one detector.
#[derive(Debug)]
pub struct Outcome {
    /// Which detector, as an index into those given.
    pub detector: usize,
    /// Which image, as an index into the sources given.
    pub image: usize,
    /// The prediction, or why there is none.
    pub result: Result<Prediction, Arc<SourceError>>,
    /// What was noted when the file was decoded.
    pub decode_notes: Vec<DecodeNote>,
    /// The decoded image, if [`StreamOptions::keep_pixels`] asks for it and it was scored by
    /// itself.
    pub pixels: Option<Arc<Image>>,
}

/// Scores every image of `sources` with every one of `detectors` and hands each outcome to
/// `sink` as soon as it is there, until there are no more or it breaks off. Detectors that want
/// the same input share one pass through the network. Returns how long each detector would have
/// taken alone: the whole pass less the scoring of the others.
///
/// Images that must be scored jointly are distributed to the groups in turn, so that neighbours in a
/// folder (which often share a defect) come into different groups.
///
/// Images in `skip` are left out: one by one where images are scored by themselves, whole groups
/// only where they are scored together.
///
/// # Errors
/// [`DetectorError`] if the network or a detector fails; an image that cannot be used is an
/// outcome, not an error.
pub fn predict(
    encoder: &dyn ImageEncoder,
    detectors: &[&dyn Detector],
    sources: &[ImageSource],
    skip: &HashSet<usize>,
    options: &StreamOptions,
    sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>,
) -> Result<Vec<Duration>, DetectorError> {
    let mut durations = vec![Duration::ZERO; detectors.len()];
    for pass in passes(detectors) {
        let start = Instant::now();
        let mut run = Run {
            pass: &pass,
            encoder,
            sources,
            skip,
            options,
            sink,
            scoring: vec![Duration::ZERO; detectors.len()],
        };
        let flow = run.all_groups()?;
        let scoring = run.scoring;
        let encoding = start.elapsed().saturating_sub(scoring.iter().sum());
        for &(i, _) in &pass.detectors {
            durations[i] = encoding + scoring[i];
        }
        if flow.is_break() {
            break;
        }
    }
    Ok(durations)
}

/// Detectors that share one pass through the network.
struct Pass<'a> {
    input: InputSpec,
    further: Vec<InputSpec>,
    tta: Tta,
    /// The group of images that some of them need.
    group: Option<usize>,
    detectors: Vec<(usize, &'a dyn Detector)>,
}

/// The fewest passes that serve `detectors`, in their order.
fn passes<'a>(detectors: &[&'a dyn Detector]) -> Vec<Pass<'a>> {
    let mut passes: Vec<Pass> = Vec::new();
    for (i, &detector) in detectors.iter().enumerate() {
        let group = match detector.scope() {
            Scope::Single => None,
            Scope::Joint(images) => Some(images),
        };
        let fitting = passes.iter_mut().find_map(|pass| {
            let joined = pass.input.join(detector.input())?;
            let Profile { further, tta, .. } = detector.profile();
            let views_agree = pass.tta == *tta && pass.further == *further;
            let groups_agree = group.is_none() || pass.group.is_none() || group == pass.group;
            (views_agree && groups_agree).then_some((pass, joined))
        });
        match fitting {
            Some((pass, joined)) => {
                pass.input = joined;
                pass.group = pass.group.or(group);
                pass.detectors.push((i, detector));
            }
            None => passes.push(Pass {
                input: detector.input().clone(),
                further: detector.profile().further.clone(),
                tta: detector.profile().tta,
                group,
                detectors: vec![(i, detector)],
            }),
        }
    }
    passes
}

/// A pass at work.
struct Run<'a> {
    pass: &'a Pass<'a>,
    encoder: &'a dyn ImageEncoder,
    sources: &'a [ImageSource],
    skip: &'a HashSet<usize>,
    options: &'a StreamOptions,
    sink: &'a mut dyn FnMut(Outcome) -> ControlFlow<()>,
    /// Time spent in each detector.
    scoring: Vec<Duration>,
}

/// An encoded image of a group.
struct Member {
    image: usize,
    views: Views,
}

impl Run<'_> {
    fn all_groups(&mut self) -> Result<ControlFlow<()>, DetectorError> {
        let count = self.sources.len();
        let groups = self.pass.group.map_or(1, |largest| count.div_ceil(largest));
        for mut group in in_turn(count, groups) {
            if self.pass.group.is_none() || group.iter().all(|image| self.skip.contains(image)) {
                group.retain(|image| !self.skip.contains(image));
            }
            if self.group(&group)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Streams the images of one group; detectors of single images score each as it comes.
    fn group(&mut self, group: &[usize]) -> Result<ControlFlow<()>, DetectorError> {
        let sources: Vec<ImageSource> = group.iter().map(|&i| self.sources[i].clone()).collect();
        let by_scope = |wanted: fn(Scope) -> bool| -> Vec<_> {
            let detectors = self.pass.detectors.iter().copied();
            detectors
                .filter(|(_, detector)| wanted(detector.scope()))
                .collect()
        };
        let singles = by_scope(|scope| scope == Scope::Single);
        let joint = by_scope(|scope| scope != Scope::Single);
        let mut members: Vec<Member> = Vec::new();
        let mut stopped: Result<ControlFlow<()>, DetectorError> = Ok(ControlFlow::Continue(()));
        let (encoder, pass, options) = (self.encoder, self.pass, self.options);
        stream_views(
            encoder,
            &Looks {
                input: &pass.input,
                further: &pass.further,
                tta: pass.tta,
            },
            &sources,
            options,
            |i, views| {
                let image = group[i];
                let step = match views {
                    Ok(views) => {
                        let mut member = Member { image, views };
                        let flow = self.score(&singles, std::slice::from_ref(&member));
                        if !joint.is_empty() {
                            member.views.pixels = None; // Those of a whole group are too many.
                            members.push(member);
                        }
                        flow
                    }
                    Err(error) => Ok(self.refuse(image, &Arc::new(error))),
                };
                let flow = *step.as_ref().unwrap_or(&ControlFlow::Break(()));
                stopped = step;
                flow
            },
        )?;
        if stopped?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if members.is_empty() {
            Ok(ControlFlow::Continue(()))
        } else {
            self.score(&joint, &members)
        }
    }

    /// Hands on that an image cannot be used.
    fn refuse(&mut self, image: usize, error: &Arc<SourceError>) -> ControlFlow<()> {
        self.pass.detectors.iter().try_for_each(|&(detector, _)| {
            (self.sink)(Outcome {
                detector,
                image,
                result: Err(error.clone()),
                decode_notes: vec![],
                pixels: None,
            })
        })
    }

    /// Scores `members` with each of `detectors` and hands the predictions on.
    fn score(
        &mut self,
        detectors: &[(usize, &dyn Detector)],
        members: &[Member],
    ) -> Result<ControlFlow<()>, DetectorError> {
        let views = |view: usize| -> Vec<&ImageFeatures> {
            members.iter().map(|m| &m.views.views[view]).collect()
        };
        for &(detector, scorer) in detectors {
            let start = Instant::now();
            let mut scored: Vec<Vec<Scored>> = members.iter().map(|_| vec![]).collect();
            for view in 0..self.pass.tta.count() {
                for (all, of_view) in scored.iter_mut().zip(scorer.score(&views(view))?) {
                    all.push(of_view);
                }
            }
            let merged = scored.into_iter().map(merge);
            let merged = merged.collect::<Result<Vec<Option<Scored>>, _>>()?;
            self.scoring[detector] += start.elapsed();
            let enlargement = scorer.profile().enlargement;
            for (Scored { score, map, range }, member) in merged.into_iter().flatten().zip(members)
            {
                let outcome = Outcome {
                    detector,
                    image: member.image,
                    result: Ok(Prediction {
                        score,
                        map,
                        range,
                        enlargement,
                        size: match enlargement.over_margins {
                            true => member.views.size.with_margins(),
                            false => member.views.size,
                        },
                        notes: member
                            .views
                            .flat
                            .then_some(Note::FlatImage)
                            .into_iter()
                            .collect(),
                    }),
                    decode_notes: member.views.notes.clone(),
                    pixels: member.views.pixels.clone(),
                };
                if (self.sink)(outcome).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// `0..count` in so many groups, each number in the next one.
fn in_turn(count: usize, groups: usize) -> Vec<Vec<usize>> {
    (0..groups)
        .map(|group| (group..count).step_by(groups).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_gets_its_share() {
        for (count, groups, expected) in [
            (0, 0, vec![]),
            (3, 1, vec![vec![0, 1, 2]]),
            (5, 2, vec![vec![0, 2, 4], vec![1, 3]]),
        ] {
            assert_eq!(in_turn(count, groups), expected);
        }
    }
}
