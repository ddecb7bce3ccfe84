//! `anomalens data`: the layouts of labelled data sets, and whether a folder follows one.

use anomalens::datasets::{DataRef, check, layouts};
use anyhow::Result;

use super::{End, print_line, table};

/// List, check labelled data sets
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every layout that `--data LAYOUT:PATH` can name
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell what is in a data set, and what is missing, unreadable or unlabelled
    Check {
        /// The data set
        #[arg(value_name = "LAYOUT:PATH")]
        data: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &Args) -> Result<End> {
    match &args.command {
        Command::List { json: true } => {
            for layout in layouts() {
                print_line(serde_json::to_string(layout)?)?;
            }
            Ok(End::Done)
        }
        Command::List { json: false } => {
            let rows = layouts().iter().map(|layout| {
                vec![
                    layout.name.to_owned(),
                    layout.summary.to_owned(),
                    layout.expects.to_owned(),
                ]
            });
            print_line(table::align(&["layout", "what", "folders"], rows.collect()))?;
            Ok(End::Done)
        }
        Command::Check { data, json } => {
            let report = check(&data.parse::<DataRef>()?)?;
            if *json {
                print_line(serde_json::to_string(&report)?)?;
            } else {
                print_line(&report)?;
            }
            Ok(if report.is_sound() {
                End::Done
            } else {
                End::Incomplete
            })
        }
    }
}
