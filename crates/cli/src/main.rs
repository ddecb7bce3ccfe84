//! The `anomalens` program: what can be asked, and how errors are shown. Exit codes: 0 done, 1
//! failed, 2 wrong usage.
//!
//! ```text
//! detect.rs  fit.rs  calibrate.rs  export.rs  train.rs  eval.rs  demo.rs  methods.rs  models.rs
//! devices.rs  data.rs  bench/  the commands
//! compare.rs    how alike two backbones are
//! backbone.rs   which weights, and how a pull is shown
//! images.rs     the image files that paths name
//! decode.rs     how image files are decoded, and what is said about them
//! settings.rs   a method and its settings from the command line
//! progress.rs   progress bars or log lines; Ctrl-C
//! table.rs      results as a table on the terminal
//! ```

mod backbone;
mod bench;
mod calibrate;
mod compare;
mod data;
mod decode;
mod demo;
mod detect;
mod devices;
mod eval;
mod export;
mod fit;
mod images;
mod methods;
mod models;
mod offer;
mod progress;
mod settings;
mod table;
mod train;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tensors come and go by the megabyte; the system's allocator would map and unmap their pages each
/// time, which costs a seventh of the encoder's speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Finds anomalies in images without training on the target data.
#[derive(Debug, Parser)]
#[command(
    name = "anomalens",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all steps on real solar-cell images; nothing else is needed
    Demo(demo::Args),
    /// Score images and write heat maps
    Detect(detect::Args),
    /// Make a detector file from normal images
    Fit(fit::Args),
    /// Choose the threshold of a detector's decisions
    Calibrate(calibrate::Args),
    /// Write a detector as an ONNX file, which other programs run without this one
    Export(export::Args),
    /// Train a detector on labelled auxiliary data
    Train(train::Args),
    /// Measure a method or detector on a labelled data set
    Eval(eval::Args),
    /// List, check, draw and unpack labelled data sets
    Data(data::Args),
    /// List the methods and what each needs
    Methods(methods::Args),
    /// List, pull, verify, show, find, pack and compare backbone weights
    Models(models::Args),
    /// List what can compute backbones here: the processor, and the devices of `--device`
    Devices(devices::Args),
    /// Measure methods on a paper's data sets, variants of a method, or the speed of this machine
    Bench(bench::Args),
}

/// How a command that did not fail outright ended.
enum End {
    /// Everything was done.
    Done,
    /// Something could not be done, and has been reported.
    Incomplete,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ANOMALENS_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let command = Cli::parse().command;
    let has_limits = matches!(
        command,
        Command::Detect(_) | Command::Fit(_) | Command::Calibrate(_) | Command::Eval(_)
    );
    let result = match command {
        Command::Demo(args) => demo::run(&args),
        Command::Detect(args) => detect::run(&args),
        Command::Fit(args) => fit::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Methods(args) => methods::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Incomplete) => ExitCode::FAILURE,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let text = match has_limits {
                true => decode::with_option(&sentence(&error)),
                false => sentence(&error),
            };
            print_note(format!("error: {text}"));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes as one text; causes that the error names already are left out.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether the reader of the output went away, as `head` does: no reason to complain.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// A text without the characters by which a name of a file could steer a terminal, or turn its text
/// around.
fn escaped(text: &str) -> String {
    let steers = |c: char| turns(c) || c.is_control() && c != '\n' && c != '\t';
    text.chars()
        .map(|c| match steers(c) {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        })
        .collect()
}

/// Whether a character changes the direction of a text, and so what its reader sees.
fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Prints a line of JSON to standard output, escaped as JSON escapes.
fn print_json(value: impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(&value)?;
    let line: String = text
        .chars()
        .map(|c| match turns(c) || c.is_control() {
            true => format!("\\u{:04x}", u32::from(c)),
            false => c.to_string(),
        })
        .collect();
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

/// Prints a line of results to standard output.
fn print_line(line: impl std::fmt::Display) -> anyhow::Result<()> {
    Ok(writeln!(
        std::io::stdout().lock(),
        "{}",
        escaped(&line.to_string())
    )?)
}

/// Prints a line to standard error. That nobody can read it there is no reason to stop.
fn print_note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", escaped(&line.to_string()));
}

/// The command line as it was given, quoted where a shell needs it.
fn command_line() -> String {
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let quoted = arguments.enumerate().map(|(i, argument)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%[]".contains(c);
        if i == 0 {
            "anomalens".to_owned()
        } else if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Now, in UTC, to the second.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}
