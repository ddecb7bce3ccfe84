//! `anomalens methods`: every method and what it needs.

use anomalens::detectors::{DEFAULT_METHOD, MethodInfo, Need, Requirements, methods};
use anyhow::Result;

use super::{End, print_json, print_line};

/// List the methods and what each needs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print each method as a line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<End> {
    for method in methods() {
        let info = method.info();
        match args.json {
            true => print_json(info)?,
            false => print_line(paragraph(info))?,
        }
    }
    Ok(End::Done)
}

/// A method in a few lines.
fn paragraph(info: &MethodInfo) -> String {
    let MethodInfo {
        name,
        summary,
        paper,
        requirements,
        backbones,
        weights: _,
        several_networks: _,
    } = info;
    let default = match *name == DEFAULT_METHOD {
        true => " (default)",
        false => "",
    };
    format!(
        "{name}{default}\n    {summary}\n    needs: {}\n    backbones: {backbones}\n    paper: {paper}",
        needs(requirements)
    )
}

/// What a method needs, in words.
fn needs(requirements: &Requirements) -> String {
    let Requirements {
        references,
        training,
        joint,
        class,
    } = *requirements;
    let parts = [
        (references == Need::Required, "a few normal images"),
        (references == Need::Optional, "normal images, optional"),
        (
            training == Need::Required,
            "training on auxiliary data, once",
        ),
        (
            training == Need::Optional,
            "training on auxiliary data, optional",
        ),
        (joint, "several unlabelled images of one class"),
        (class, "the name of the class"),
    ];
    let parts = parts.into_iter().filter(|(needed, _)| *needed);
    parts.map(|(_, what)| what).collect::<Vec<_>>().join("; ")
}
