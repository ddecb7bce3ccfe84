//! What is shown while a suite is measured.

use std::ops::ControlFlow;

use anomalens::benchmark::BenchEvent;

use crate::print_note;
use crate::progress::{Progress, interrupted};
use crate::train::Shown;

/// Shows how far a suite is.
#[derive(Default)]
pub(super) struct BenchShown {
    training: Option<(String, Shown)>,
    measuring: Option<(String, Progress)>,
    /// Sentences on what could not be measured.
    pub(super) failures: Vec<String>,
}

impl BenchShown {
    /// Shows `event`; breaks off when Ctrl-C was pressed.
    pub(super) fn take(&mut self, event: BenchEvent) -> ControlFlow<()> {
        match event {
            BenchEvent::Training {
                title,
                images,
                event,
            } => {
                if self.training.as_ref().is_none_or(|(name, _)| name != title) {
                    self.training = Some((title.to_owned(), Shown::new(title, images)));
                }
                if let Some((_, shown)) = &mut self.training {
                    return shown.take(event);
                }
            }
            BenchEvent::Measuring { title, done, total } => {
                if let Some((_, shown)) = self.training.take() {
                    shown.finish();
                }
                if self
                    .measuring
                    .as_ref()
                    .is_none_or(|(name, _)| name != title)
                {
                    if let Some((_, bar)) = &self.measuring {
                        bar.finish();
                    }
                    self.measuring = Some((title.to_owned(), Progress::images(title, total)));
                }
                if let Some((_, bar)) = &self.measuring {
                    bar.set(done as u64, Some(total as u64));
                    if done == total {
                        bar.finish();
                    }
                }
            }
            BenchEvent::Failed { title, reason } => {
                let failure = format!("failed: {title}: {reason}");
                print_note(&failure);
                self.failures.push(failure);
            }
        }
        if interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
