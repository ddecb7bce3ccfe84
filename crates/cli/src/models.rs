//! `anomalens models`: the weights that can be used, where they are, and small ones made from
//! them.

use std::path::{Path, PathBuf};

use anomalens::backbones::clip::ActivationSource;
use anomalens::backbones::weights::{ContentHash, Entry, Kind, Registry, Status, Store};
use anomalens::backbones::{Description, EMBEDDED, Embedded, Precision, describe, write_embedded};
use anyhow::{Result, bail};
use serde_json::json;

use super::{End, backbone, compare, print_json, print_line, table};

/// List, pull, verify, show, find, pack and compare backbone weights
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
    /// Check the hash of everything that was fetched
    Verify {
        /// Names from `anomalens models list` [default: all that are here]
        names: Vec<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what a weight file holds: network, sizes, activation, hash
    Show {
        /// A name from `anomalens models list`, or a weight file
        #[arg(value_name = "NAME|FILE")]
        weights: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the first blocks or stages of a backbone in 8 bits, in the format of the one in the program
    Pack {
        /// A name from `anomalens models list`, or a weight file
        #[arg(value_name = "NAME|FILE")]
        weights: String,
        /// Number of blocks or stages to keep: up to the last one that methods use
        #[arg(long, value_name = "N")]
        blocks: usize,
        /// Where to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure how similar the patch tokens of two backbones are, block by block
    Compare {
        /// Two names from `anomalens models list`, or weight files
        #[arg(value_name = "NAME|FILE", num_args = 2)]
        weights: Vec<String>,
        /// Precision of the second one, where it can be chosen; the first one computes as exactly as
        /// it can
        #[arg(long, value_name = "f32|half|int8", default_value_t = Precision::F32)]
        precision: Precision,
        /// Images, or folders of images, to encode
        #[arg(long, value_name = "FILE|DIR", required = true, num_args = 1..)]
        images: Vec<PathBuf>,
        /// The blocks, or stages of a convolutional network, after which tokens are compared
        #[arg(
            long,
            value_name = "N",
            value_delimiter = ',',
            default_value = "3,6,9,10"
        )]
        blocks: Vec<usize>,
        /// Side of the square that images are stretched to, in pixels
        #[arg(long, value_name = "PIXELS", default_value_t = 224)]
        size: u32,
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
                let pin = store.pin_file(entry);
                if *json {
                    print_json(json!({
                        "name": entry.name,
                        "path": located.path,
                        "bytes": located.bytes,
                        "sha256": located.sha256,
                        "pinned": match pin {
                            Some(_) => "first pull",
                            None => "registry",
                        },
                    }))?;
                    continue;
                }
                print_line(format!("{}: {}", entry.name, located.path.display()))?;
                if let Some(pin) = pin {
                    print_line(format!(
                        "  SHA-256 {}; the registry has none: it must be this one from now on ({})",
                        located.sha256,
                        pin.display()
                    ))?;
                }
            }
        }
        Command::Verify { names, json } => return verify(&store, names, *json),
        Command::Show { weights, json } => show(&store, weights, *json)?,
        Command::Pack {
            weights,
            blocks,
            output,
            json,
        } => pack_weights(&store, weights, *blocks, output, *json)?,
        Command::Compare {
            weights,
            precision,
            images,
            blocks,
            size,
            json,
        } => compare::run(weights, *precision, images, blocks, *size, *json)?,
        Command::Path { name, json } => {
            let entry = registry.find(name)?;
            let Some(located) = store.locate(entry)? else {
                bail!(
                    "{name} is not on this machine: `anomalens models pull {name}` fetches it to {}",
                    store.cached_path(entry).display()
                );
            };
            if *json {
                print_json(json!({ "name": entry.name, "path": located.path }))?;
            } else {
                print_line(located.path.display())?;
            }
        }
    }
    Ok(End::Done)
}

/// Hashes what is here again.
fn verify(store: &Store, names: &[String], json: bool) -> Result<End> {
    let registry = Registry::builtin();
    let entries = match names {
        [] => registry.entries().iter().collect(),
        names => names
            .iter()
            .map(|name| registry.find(name))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let mut end = End::Done;
    for entry in entries {
        let (state, path, sha256) = match store.verify(entry)? {
            Status::Missing if names.is_empty() => continue,
            Status::Missing => ("not here", store.cached_path(entry), None),
            Status::Ready(located) => ("verified", located.path, Some(located.sha256)),
            Status::Damaged { path, found, .. } => ("damaged", path, Some(found)),
        };
        if state != "verified" {
            end = End::Incomplete;
        }
        if json {
            print_json(json!({
                "name": entry.name,
                "state": state,
                "path": path,
                "sha256": sha256,
            }))?;
        } else {
            let hash = sha256.map(|hash| format!(", SHA-256 {hash}"));
            let hash = hash.unwrap_or_default();
            print_line(format!("{}: {state}{hash}, {}", entry.name, path.display()))?;
        }
    }
    Ok(end)
}

/// Prints what a weight file holds.
fn show(store: &Store, weights: &str, json: bool) -> Result<()> {
    if let Some(embedded) = Embedded::find(weights) {
        let hash = ContentHash::of_bytes(embedded.bytes);
        return match json {
            true => print_json(json!({
                "name": embedded.name,
                "description": embedded.description,
                "sha256": hash,
            })),
            false => print_line(format!(
                "{}: {}, SHA-256 {hash}",
                embedded.name, embedded.description
            )),
        };
    }
    let file = PathBuf::from(weights);
    let (path, known) = match file.is_file() {
        true => (file, None),
        false => {
            let entry = Registry::builtin().find(weights)?;
            let known = entry.activation.map(|a| (a, ActivationSource::Registry));
            (backbone::pull(store, entry)?.path, known)
        }
    };
    let found = describe(&path, known)?;
    let sha256 = ContentHash::of_path(&path)?;
    let source = found.activation_source.map(|source| source.to_string());
    if json {
        return print_json(json!({
            "path": path,
            "sha256": sha256,
            "network": found.name,
            "format": found.format.to_string(),
            "tensors": found.tensors,
            "width": found.width,
            "blocks": found.blocks,
            "heads": found.heads,
            "patch": found.patch,
            "image_side": found.image_side,
            "stages": found.stages.iter().map(|stage| json!({
                "dim": stage.dim,
                "stride": stage.stride,
            })).collect::<Vec<_>>(),
            "embedding": found.embedding,
            "activation": found.activation,
            "activation_source": source,
            "text": found.text.map(|text| json!({
                "width": text.width,
                "blocks": text.blocks,
                "heads": text.heads,
                "context": text.context,
                "vocabulary": text.vocabulary,
            })),
        }));
    }
    let mut lines = vec![
        ("network", found.name),
        (
            "file",
            format!("{}, {} tensors", found.format, found.tensors),
        ),
        ("SHA-256", sha256.to_string()),
    ];
    match &found.stages[..] {
        [] => {
            let Description {
                blocks,
                width,
                heads,
                image_side: side,
                patch,
                ..
            } = found;
            let blocks = format!("{blocks} of width {width}, {heads} heads");
            lines.push(("blocks", blocks));
            lines.push(("images", format!("{side} x {side}, patches of {patch}")));
        }
        stages => {
            let stages = stages
                .iter()
                .map(|stage| format!("{}/{}", stage.dim, stage.stride));
            let stages: Vec<String> = stages.collect();
            let stages = format!("{} (channels/stride in pixels)", stages.join(", "));
            lines.push(("stages", stages));
        }
    }
    if let Some(embedding) = found.embedding {
        lines.push(("embedding", embedding.to_string()));
    }
    let source = source.map(|source| format!(" ({source})"));
    let activation = found.activation.to_owned() + &source.unwrap_or_default();
    lines.push(("activation", activation));
    if let Some(text) = found.text {
        let text = format!(
            "{} blocks of width {}, {} tokens of {}",
            text.blocks, text.width, text.context, text.vocabulary
        );
        lines.push(("texts", text));
    }
    lines
        .iter()
        .try_for_each(|(name, value)| print_line(format!("{name:<11}{value}")))
}

fn pack_weights(
    store: &Store,
    weights: &str,
    blocks: usize,
    output: &Path,
    json: bool,
) -> Result<()> {
    let file = PathBuf::from(weights);
    let from = if file.is_file() {
        file
    } else {
        backbone::pull(store, Registry::builtin().find(weights)?)?.path
    };
    write_embedded(&from, blocks, output)?;
    let bytes = std::fs::metadata(output)?.len();
    let sha256 = ContentHash::of_path(output)?;
    if json {
        print_json(json!({ "path": output, "bytes": bytes, "sha256": sha256 }))
    } else {
        print_line(format!(
            "{}: {bytes} bytes, SHA-256 {sha256}",
            output.display()
        ))
    }
}

fn list(store: &Store, entries: &[Entry], json: bool) -> Result<()> {
    let mut rows = Vec::new();
    for embedded in EMBEDDED {
        if json {
            print_json(json!({
                "name": embedded.name,
                "kind": "backbone",
                "description": embedded.description,
                "licence": embedded.licence,
                "bytes": embedded.bytes.len(),
                "sha256": ContentHash::of_bytes(embedded.bytes),
                "state": "built in",
            }))?;
        }
        rows.push(vec![
            embedded.name.to_owned(),
            "backbone".to_owned(),
            (embedded.bytes.len() / 1_000_000).to_string(),
            "built in".to_owned(),
            embedded.licence.to_owned(),
            embedded.description.to_owned(),
        ]);
    }
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
            print_json(json!({
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
