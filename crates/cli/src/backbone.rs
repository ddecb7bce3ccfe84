//! Which weights a command uses, and how it shows that they are fetched.

use anomalens::backbones::weights::{Entry, Located, PullEvent, Store};
use std::io::Write;

use anomalens::backbones::{
    Activation, Backbone, BackboneOptions, DEFAULT_WEIGHTS, EMBEDDED, OpenError, Precision,
};
use anomalens::detectors::{BackboneRef, DetectorFile, Method, MethodInfo, default_weights};
use anomalens::onnx::{Devices, open_on as open_backbone};
use anyhow::{Result, bail};

use super::progress::Progress;

/// Which backbone to use, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Backbone: a name from `anomalens models list`, or a weight file; lens joins what several see
    /// (repeatable) [default: that of the detector file, or else those in the program]
    #[arg(long, value_name = "NAME|FILE")]
    weights: Vec<String>,
    /// Precision of the backbone; half and int8 are faster and take less memory [default:
    /// that of the detector file, or else half, int8 for the one in the program]
    #[arg(long, value_name = "f32|half|int8")]
    precision: Option<Precision>,
    /// The activation of a CLIP file, where neither the file nor a configuration next to it names the
    /// right one (`anomalens models show FILE` prints what is used)
    #[arg(long, value_name = "gelu|quick-gelu")]
    activation: Option<Activation>,
    /// What computes the network: cpu, auto (the first of a GPU and the processor that works), cuda,
    /// tensorrt, openvino, coreml, directml, webgpu or ort-cpu; `cuda:1` is the second one,
    /// `cuda:0,cuda:1` are both. All but cpu need the library of ONNX Runtime (docs/devices.md)
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Devices,
}

impl Args {
    /// `first` beside the networks that `methods` join with it where none is named.
    pub(super) fn with_companions<'m>(
        &self,
        first: Backbone,
        methods: impl IntoIterator<Item = &'m MethodInfo>,
    ) -> Result<Backbone> {
        let companions = default_weights(methods).into_iter().skip(1);
        let companions =
            companions.map(|name| quietly(name, BackboneOptions::default(), &self.device));
        Ok(first.beside(companions.collect::<Result<_>>()?))
    }

    /// Whether the weights are left open, and those in the program would be used.
    pub(super) fn is_open(&self) -> bool {
        self.weights.is_empty() && !EMBEDDED.is_empty()
    }

    /// The weights that are named.
    pub(super) fn named(&self) -> &[String] {
        &self.weights
    }

    /// The same with these weights named.
    pub(super) fn with(&self, weights: Vec<String>) -> Self {
        Self {
            weights,
            precision: self.precision,
            activation: self.activation,
            device: self.device.clone(),
        }
    }

    /// The one network that is meant where no detector file names any: `default` if none is named.
    pub(super) fn one_or<'a>(&'a self, default: &'a str) -> Result<&'a str> {
        match self.weights.as_slice() {
            [] => Ok(default),
            [one] => Ok(one),
            several => bail!(
                "one backbone is used here, and --weights names {}",
                several.len()
            ),
        }
    }

    /// Opens the one backbone that is meant, `default` if none is named, pulling it if it is not
    /// here.
    pub(super) fn open_or(&self, default: &str) -> Result<Backbone> {
        self.open_named(self.one_or(default)?)
    }

    /// The backbone for `methods`: where none is named, one that has the blocks which they need (a
    /// convolutional one if all of them take that), and beside it a small one for methods that join
    /// what several see.
    pub(super) fn open_for_methods<'m>(
        &self,
        methods: impl IntoIterator<Item = &'m dyn Method>,
    ) -> Result<Backbone> {
        let methods: Vec<_> = methods.into_iter().map(|method| method.info()).collect();
        if let [first, companions @ ..] = self.weights.as_slice() {
            let one_network = methods.iter().find(|method| !method.several_networks);
            if let (Some(method), [_, ..]) = (one_network, companions) {
                bail!("{} uses one backbone: name one with --weights", method.name);
            }
            let first = self.open_named(first)?;
            let companions = companions.iter().map(|name| self.open_named(name));
            return Ok(first.beside(companions.collect::<Result<_>>()?));
        }
        let names = default_weights(methods.iter().copied());
        let first = self.open_named(names.first().unwrap_or(&DEFAULT_WEIGHTS))?;
        self.with_companions(first, methods)
    }

    /// The backbone called `weights`, pulled if it is not here.
    pub(super) fn open_named(&self, weights: &str) -> Result<Backbone> {
        let options = BackboneOptions {
            precision: self.precision,
            activation: self.activation,
            ..BackboneOptions::default()
        };
        open_on(weights, options, &self.device)
    }

    /// Opens the backbone of a detector file, which must be what it was made with.
    pub(super) fn open_for(&self, detector: &DetectorFile) -> Result<Backbone> {
        let made_with = &detector.backbone;
        if let Some(precision) = self.precision.filter(|&p| p != made_with.precision) {
            bail!(
                "the detector was made with --precision {}, its scores would not be comparable \
                 with {precision}; leave --precision out, or fit the detector again",
                made_with.precision
            );
        }
        if let Some(activation) = self.activation.filter(|&a| Some(a) != made_with.activation) {
            bail!(
                "the detector was made with another activation, its scores would not be comparable \
                 with {activation}; leave --activation out, or fit the detector again"
            );
        }
        open_again(
            detector,
            &self.weights,
            |place, weights, options| match place {
                0 => open_on(weights, options, &self.device),
                _ => quietly(weights, options, &self.device),
            },
        )
    }
}

/// The backbones of a detector file, found under other names where `named` has them, in float32 on the
/// processor.
pub(super) fn open_exactly_for(detector: &DetectorFile, named: &[String]) -> Result<Backbone> {
    open_again(detector, named, |_, weights, options| {
        let exact = BackboneOptions {
            exact: true,
            ..options
        };
        quietly(weights, exact, &Devices::Cpu)
    })
}

/// The backbones of a detector file, each opened by `open`, which gets its number, weights and options.
fn open_again(
    detector: &DetectorFile,
    named: &[String],
    open: impl Fn(usize, &str, BackboneOptions) -> Result<Backbone>,
) -> Result<Backbone> {
    let made_with = &detector.backbone;
    let (given, used) = (named.len(), made_with.all().count());
    if given > used {
        bail!("--weights names {given} backbones, and the detector was made with {used}");
    }
    let mut opened = vec![];
    for (place, made_with) in made_with.all().enumerate() {
        let weights = named.get(place).unwrap_or(&made_with.name);
        let options = BackboneOptions {
            precision: Some(made_with.precision),
            activation: made_with.activation,
            ..BackboneOptions::default()
        };
        opened.push(open(place, weights, options)?);
    }
    let backbone = opened.remove(0).beside(opened);
    detector.check_backbone(&BackboneRef::of(&backbone))?;
    Ok(backbone)
}

/// What distinguishes `backbone` from others that give other features.
pub(super) fn identity(backbone: &Backbone) -> String {
    let one = |backbone: &Backbone| {
        let activation = backbone.activation.map_or("", Activation::name);
        let identity = format!("{} {} {activation}", backbone.sha256, backbone.precision);
        let device = backbone.runs_as.device.as_deref().unwrap_or_default();
        format!("{} {device}", identity.trim_end())
            .trim_end()
            .to_owned()
    };
    let all = std::iter::once(backbone).chain(&backbone.companions);
    all.map(one).collect::<Vec<_>>().join(" + ")
}

/// Opens the backbone `weights` on the processor.
pub(super) fn open(weights: &str, options: impl Into<BackboneOptions>) -> Result<Backbone> {
    open_on(weights, options, &Devices::Cpu)
}

/// Opens the backbone `weights`, pulling it if it is not here, and prints what computes it.
fn open_on(
    weights: &str,
    options: impl Into<BackboneOptions>,
    devices: &Devices,
) -> Result<Backbone> {
    let backbone = quietly(weights, options, devices)?;
    let Backbone { name, runs_as, .. } = &backbone;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let plural = if threads == 1 { "" } else { "s" };
    // Where standard error is closed, nobody wants to know.
    let _ = writeln!(
        std::io::stderr(),
        "backbone {name}: {runs_as}, {threads} thread{plural}"
    );
    Ok(backbone)
}

/// The same without a word on what computes it.
fn quietly(
    weights: &str,
    options: impl Into<BackboneOptions>,
    devices: &Devices,
) -> Result<Backbone> {
    let progress = Progress::bytes(weights);
    let backbone = open_backbone(
        &devices.resolve(),
        weights,
        options.into(),
        &Store::from_env()?,
        &|event| show(&progress, event),
    );
    progress.finish();
    match backbone {
        Err(error) if matches!(*error, OpenError::FixedPrecision { .. }) => {
            bail!("{error}; leave --precision out, or name another backbone with --weights")
        }
        backbone => Ok(backbone?),
    }
}

/// Pulls a weight file or data package.
pub(super) fn pull(store: &Store, entry: &Entry) -> Result<Located> {
    let progress = Progress::bytes(&entry.name);
    let located = store.pull(entry, &|event| show(&progress, event));
    progress.finish();
    Ok(located?)
}

fn show(progress: &Progress, event: PullEvent<'_>) {
    match event {
        PullEvent::Waiting => progress.note("another process is fetching it; waiting"),
        PullEvent::Trying { source } => progress.note(&format!("fetching from {source}")),
        PullEvent::Bytes { done, total } => progress.set(done, total),
    }
}
