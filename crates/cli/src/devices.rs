//! `anomalens devices`: what can compute backbones here.

use anomalens::backbones::Engine;
use anomalens::onnx::Device;
use anyhow::Result;
use serde_json::json;

use super::{End, print_line};

/// List what can compute backbones here: the processor, and the devices of `--device`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print each device as a line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<End> {
    let processor = Engine::from_env()?.isa().title().to_owned();
    let processor = (
        "cpu".to_owned(),
        format!("this processor ({processor})"),
        None,
    );
    let others = Device::kinds().map(|device| {
        let problem = device.check().err();
        (
            device.to_string(),
            device.title(),
            problem.map(|error| error.to_string()),
        )
    });
    let all: Vec<(String, String, Option<String>)> =
        [processor].into_iter().chain(others).collect();
    for (name, title, problem) in all {
        if args.json {
            print_line(json!({
                "device": name,
                "title": title,
                "works": problem.is_none(),
                "problem": problem,
            }))?;
            continue;
        }
        let here = problem.map_or("works".to_owned(), |problem| format!("not here: {problem}"));
        print_line(format!("{name}\n    {title}\n    {here}"))?;
    }
    Ok(End::Done)
}
