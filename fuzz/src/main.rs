//! Parses mutations of a target's inputs, one after the other: `mutations TARGET FROM TO PROGRESS`.
//!
//! The seed is written into the file PROGRESS before each, so that it is known even if the process is
//! killed. The first seeds are the inputs themselves, unchanged.

use std::fs::File;
use std::io::{Seek, Write};
use std::process::ExitCode;

use anomalens_fuzz::target;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, from, to, progress] = &arguments[..] else {
        return ExitCode::from(2);
    };
    let (Some(target), Ok(from), Ok(to), Ok(mut progress)) = (
        target(name),
        from.parse::<u64>(),
        to.parse::<u64>(),
        File::create(progress),
    ) else {
        return ExitCode::from(2);
    };
    let inputs = target.inputs();
    let mut accepted = 0_u64;
    for seed in from..to {
        let told = progress
            .rewind()
            .and_then(|()| write!(progress, "{seed:020} {accepted:020}"));
        if told.is_err() {
            return ExitCode::from(2);
        }
        accepted += u64::from((target.parse)(&target.input(&inputs, seed)));
    }
    match progress
        .rewind()
        .and_then(|()| write!(progress, "{to:020} {accepted:020}"))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}
