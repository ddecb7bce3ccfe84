//! What a long command shows while it works: a bar on a terminal, plain lines otherwise, nothing
//! of it on standard output. And Ctrl-C, which ends a command between two images.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A progress bar, or what stands for it where there is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    name: String,
    unit: Unit,
    /// When the command began, at the latest.
    begun: Instant,
    state: Mutex<State>,
}

/// What is known of the pace.
struct State {
    /// When the last plain line was written.
    line: Instant,
    /// When the first of what this run did itself was done, and how far it was before.
    from: Option<(Instant, u64)>,
}

#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Images,
}

impl Progress {
    /// Progress in bytes, of which the number may become known later.
    pub(super) fn bytes(name: &str) -> Self {
        Self::new(
            name,
            None,
            Unit::Bytes,
            "{msg} {bytes}/{total_bytes} {wide_bar} {prefix}",
        )
    }

    /// Progress over `total` images.
    pub(super) fn images(name: &str, total: usize) -> Self {
        let template = "{msg} {pos}/{len} {wide_bar} {prefix}";
        Self::new(name, Some(total as u64), Unit::Images, template)
    }

    fn new(name: &str, total: Option<u64>, unit: Unit, template: &str) -> Self {
        // A hidden bar is hidden for good, so each is made for its own unit.
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(name.to_owned());
        Self {
            bar,
            name: name.to_owned(),
            unit,
            begun: Instant::now(),
            state: Mutex::new(State {
                line: Instant::now(),
                from: None,
            }),
        }
    }

    /// Reports something next to the bar.
    pub(super) fn note(&self, text: &str) {
        self.line(&format!("{}: {text}", self.name));
    }

    /// Sets how far it is, and how far it goes where that is known.
    pub(super) fn set(&self, done: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        let total = total.or(self.bar.length());
        let mut state = self.state();
        let (since, before) = *state.from.get_or_insert_with(|| match self.unit {
            // A download may begin in the middle of a file.
            Unit::Bytes => (Instant::now(), done),
            // The first image that is reported is one of this run; those before it are not.
            Unit::Images => (self.begun, done.saturating_sub(1)),
        });
        let left = total.and_then(|total| {
            let left = total.saturating_sub(done);
            remaining(done.saturating_sub(before), left, since.elapsed())
        });
        let left = left.map(in_words).unwrap_or_default();
        self.bar.set_prefix(left.clone());
        self.bar.set_position(done);
        if self.bar.is_hidden() && state.line.elapsed() >= LINE_EVERY {
            state.line = Instant::now();
            let of = |n: u64| match self.unit {
                Unit::Bytes => format!("{} MB", n / 1_000_000),
                Unit::Images => n.to_string(),
            };
            let mut line = format!("{}: {}", self.name, of(done));
            if let Some(total) = total {
                line += &format!(" of {}", of(total));
            }
            if !left.is_empty() {
                line += &format!(", {left}");
            }
            self.line(&line);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Where there is no terminal the bar prints nothing.
    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            crate::print_note(text);
        } else {
            self.bar.println(crate::escaped(text));
        }
    }
}

/// The time that `left` takes at the mean pace of the run; none before that is known.
fn remaining(done: u64, left: u64, elapsed: Duration) -> Option<Duration> {
    const SETTLED: Duration = Duration::from_secs(2);
    // The first batch comes at once, after all the time that it took.
    const BATCH: u64 = 8;
    if done < BATCH || left == 0 || elapsed < SETTLED {
        return None;
    }
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * left as f64 / done as f64).ok()
}

/// A remaining time as exact as it deserves.
fn in_words(left: Duration) -> String {
    let seconds = left.as_secs();
    match seconds {
        0..10 => "a few seconds left".to_owned(),
        10..90 => format!("about {} s left", seconds.div_ceil(10) * 10),
        90..5400 => format!("about {} min left", seconds.div_ceil(60)),
        _ => format!("about {} h left", seconds.div_ceil(3600)),
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static HANDLER: OnceLock<()> = OnceLock::new();

/// From now on Ctrl-C asks for an orderly end; a second one ends at once.
pub(super) fn catch_interrupts() {
    HANDLER.get_or_init(|| {
        let handled = ctrlc::set_handler(|| {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(1);
            }
        });
        if let Err(error) = handled {
            tracing::warn!("Ctrl-C will end the program at once: {error}");
        }
    });
}

/// Whether Ctrl-C was pressed.
pub(super) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remaining_time_is_that_of_the_mean_pace() {
        for (name, done, left, elapsed, expected) in [
            ("nothing done", 0, 100, 60, None),
            ("the first of a batch", 1, 124, 10, None),
            ("all done", 100, 0, 60, None),
            ("too early", 8, 392, 1, None),
            ("seconds", 96, 4, 60, Some("a few seconds left")),
            ("a minute", 50, 50, 61, Some("about 70 s left")),
            ("minutes", 100, 300, 60, Some("about 3 min left")),
            ("hours", 10, 100_000, 10, Some("about 28 h left")),
            ("absurd", 8, u64::MAX, u64::MAX, None),
        ] {
            let left = remaining(done, left, Duration::from_secs(elapsed));
            assert_eq!(left.map(in_words).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_an_earlier_run_did_does_not_count() {
        let second_ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        let mut progress = Progress::images("scoring with lens", 1000);
        progress.begun = second_ago(100).unwrap();
        progress.set(901, None); // 900 were done before, the first took 100 seconds.
        assert_eq!(progress.bar.prefix(), "");
        progress.set(910, None);
        assert_eq!(progress.bar.prefix(), "about 15 min left");
    }
}
