//! `anomalens models`: the weights that can be used, and where they are.

use anomalens::backbones::weights::{Entry, Kind, Registry, Status, Store};
use anyhow::{Result, bail};
use serde_json::json;

use super::{End, backbone, print_line, table};

/// List, pull and find backbone weights
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every backbone and data package that can be pulled
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch weights (or a data package) into the cache and verify them
    Pull {
        /// Names from `anomalens models list`
        #[arg(required = true)]
        names: Vec<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print where an entry is on this machine
    Path {
        /// A name from `anomalens models list`
        name: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &Args) -> Result<End> {
    let store = Store::from_env()?;
    let registry = Registry::builtin();
    match &args.command {
        Command::List { json } => list(&store, registry.entries(), *json)?,
        Command::Pull { names, json } => {
            let entries = names
                .iter()
                .map(|name| registry.find(name))
                .collect::<Result<Vec<_>, _>>()?;
            for entry in entries {
                let located = backbone::pull(&store, entry)?;
                if *json {
                    print_line(json!({
                        "name": entry.name,
                        "path": located.path,
                        "bytes": located.bytes,
                        "sha256": located.sha256,
                    }))?;
                } else {
                    print_line(format!("{}: {}", entry.name, located.path.display()))?;
                }
            }
        }
        Command::Path { name, json } => {
            let entry = registry.find(name)?;
            let Some(located) = store.locate(entry)? else {
                bail!(
                    "{name} is not on this machine: `anomalens models pull {name}` fetches it to {}",
                    store.cached_path(entry).display()
                );
            };
            if *json {
                print_line(json!({ "name": entry.name, "path": located.path }))?;
            } else {
                print_line(located.path.display())?;
            }
        }
    }
    Ok(End::Done)
}

fn list(store: &Store, entries: &[Entry], json: bool) -> Result<()> {
    let mut rows = Vec::new();
    for entry in entries {
        let (state, path) = match store.status(entry)? {
            Status::Missing => ("not here", None),
            Status::Ready(located) => ("here", Some(located.path)),
            Status::Damaged { path, .. } => ("damaged", Some(path)),
        };
        let kind = match entry.kind {
            Kind::Backbone => "backbone",
            Kind::Data => "data",
        };
        if json {
            print_line(json!({
                "name": entry.name,
                "kind": kind,
                "family": entry.family,
                "description": entry.description,
                "licence": entry.licence,
                "bytes": entry.bytes,
                "sha256": entry.sha256,
                "sources": entry.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "state": state,
                "path": path,
            }))?;
        }
        rows.push(vec![
            entry.name.clone(),
            kind.to_owned(),
            entry
                .bytes
                .map_or_else(|| "-".to_owned(), |bytes| (bytes / 1_000_000).to_string()),
            state.to_owned(),
            entry.licence.clone(),
            entry.description.clone(),
        ]);
    }
    if !json {
        let titles = ["name", "kind", "MB", "state", "licence", "what"];
        print_line(table::align(&titles, rows))?;
    }
    Ok(())
}
