//! What a long command shows while it works: a bar on a terminal, plain lines otherwise, nothing
//! of it on standard output. And Ctrl-C, which ends a command between two images.

use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A progress bar, or what stands for it where there is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    name: String,
    /// When the last plain line was written.
    last: Mutex<Instant>,
    unit: Unit,
}

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
            "{msg} {bytes}/{total_bytes} {wide_bar} {eta}",
        )
    }

    /// Progress over `total` images.
    pub(super) fn images(name: &str, total: usize) -> Self {
        let template = "{msg} {pos}/{len} {wide_bar} {per_sec} {eta}";
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
            last: Mutex::new(Instant::now()),
            unit,
        }
    }

    /// Tells something beside the bar.
    pub(super) fn note(&self, text: &str) {
        self.line(&format!("{}: {text}", self.name));
    }

    /// Sets how far it is, and how far it goes where that is known.
    pub(super) fn set(&self, done: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
        let Ok(mut last) = self.last.lock() else {
            return;
        };
        if self.bar.is_hidden() && last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let total = total.or(self.bar.length());
            let of = |n: u64| match self.unit {
                Unit::Bytes => format!("{} MB", n / 1_000_000),
                Unit::Images => n.to_string(),
            };
            let total = total.map_or_else(String::new, |total| format!(" of {}", of(total)));
            self.line(&format!("{}: {}{total}", self.name, of(done)));
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    #[allow(clippy::print_stderr)] // Where there is no terminal the bar prints nothing.
    fn line(&self, text: &str) {
        let text = crate::escaped(text);
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(&text);
        }
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
