//! Devices by their names, and what ONNX Runtime must be told of each.

use std::fmt;
use std::str::FromStr;

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};

use crate::OnnxError;
use crate::model::Float;

/// What runs a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Provider {
    /// ONNX Runtime on the processor.
    OrtCpu,
    Cuda,
    TensorRt,
    OpenVino,
    CoreMl,
    DirectMl,
    WebGpu,
}

/// How each provider is called, here and by people, and the package that brings it.
const PROVIDERS: [(Provider, &str, &str, &str); 7] = [
    (
        Provider::Cuda,
        "cuda",
        "NVIDIA GPU (CUDA)",
        "\"onnxruntime-gpu[cuda,cudnn]\"",
    ),
    (
        Provider::TensorRt,
        "tensorrt",
        "NVIDIA GPU (TensorRT)",
        "\"onnxruntime-gpu[cuda,cudnn]\" tensorrt",
    ),
    (
        Provider::OpenVino,
        "openvino",
        "OpenVINO",
        "onnxruntime-openvino",
    ),
    (Provider::CoreMl, "coreml", "Core ML", "onnxruntime"),
    (
        Provider::DirectMl,
        "directml",
        "DirectML",
        "onnxruntime-directml",
    ),
    (Provider::WebGpu, "webgpu", "WebGPU", "onnxruntime-webgpu"),
    (
        Provider::OrtCpu,
        "ort-cpu",
        "ONNX Runtime on the processor",
        "onnxruntime",
    ),
];

/// The names of all devices that need ONNX Runtime.
pub(crate) fn known_devices() -> String {
    let names = PROVIDERS.map(|(_, name, ..)| name);
    names.join(", ")
}

/// A device other than the processor with the kernels of this program: `cuda`, `cuda:1`,
/// `openvino:GPU`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Device {
    provider: Provider,
    /// Which of several.
    which: Option<String>,
}

impl FromStr for Device {
    type Err = OnnxError;

    fn from_str(text: &str) -> Result<Self, OnnxError> {
        let unknown = || OnnxError::UnknownDevice(text.to_owned());
        let (name, which) = match text.split_once(':') {
            Some((name, which)) => (name, Some(which)),
            None => (text, None),
        };
        let mut providers = PROVIDERS.into_iter();
        let (provider, ..) = providers
            .find(|(_, known, ..)| *known == name)
            .ok_or_else(unknown)?;
        let device = Self {
            provider,
            which: which.map(str::to_owned),
        };
        let fits = match (provider, which) {
            (_, None) => true,
            (Provider::OpenVino, Some(which)) => {
                let kind = which.split('.').next().unwrap_or_default();
                ["CPU", "GPU", "NPU"].contains(&kind)
            }
            (Provider::CoreMl | Provider::OrtCpu, Some(_)) => false,
            (_, Some(which)) => which.parse::<u16>().is_ok(),
        };
        fits.then_some(device).ok_or_else(unknown)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().1)?;
        match &self.which {
            Some(which) => write!(f, ":{which}"),
            None => Ok(()),
        }
    }
}

impl Device {
    /// One of each kind that ONNX Runtime may have.
    pub fn kinds() -> impl Iterator<Item = Self> {
        PROVIDERS.into_iter().map(|(provider, ..)| Self {
            provider,
            which: None,
        })
    }

    fn entry(&self) -> (Provider, &'static str, &'static str, &'static str) {
        let mut providers = PROVIDERS.into_iter();
        let found = providers.find(|(provider, ..)| *provider == self.provider);
        found.unwrap_or(PROVIDERS[0])
    }

    /// For people.
    pub fn title(&self) -> String {
        match &self.which {
            Some(which) => format!("{} {which}", self.entry().2),
            None => self.entry().2.to_owned(),
        }
    }

    /// The command that installs what it needs.
    pub(crate) fn install(&self) -> String {
        format!("pip install {}", self.entry().3)
    }

    /// How numbers are held on it.
    pub fn float(&self) -> Float {
        match self.provider {
            // OpenVINO chooses by itself for what it runs on.
            Provider::OrtCpu | Provider::OpenVino => Float::F32,
            _ => Float::F16,
        }
    }

    /// Whether it is the processor, which has other work too.
    pub(crate) fn is_processor(&self) -> bool {
        match self.provider {
            Provider::OrtCpu => true,
            Provider::OpenVino => self.which.as_deref().is_none_or(|which| which == "CPU"),
            _ => false,
        }
    }

    /// Whether ONNX Runtime's own operators run on it.
    pub(crate) fn takes_contrib(&self) -> bool {
        matches!(self.provider, Provider::Cuda | Provider::OrtCpu)
    }

    /// Whether a graph of fixed sizes can be recorded once and replayed.
    pub(crate) fn replays(&self) -> bool {
        self.provider == Provider::Cuda
    }

    /// The number of an NVIDIA GPU, whose memory the host can prepare.
    pub(crate) fn cuda_number(&self) -> Option<i32> {
        matches!(self.provider, Provider::Cuda | Provider::TensorRt).then(|| self.number())
    }

    fn number(&self) -> i32 {
        let number = self.which.as_ref().and_then(|which| which.parse().ok());
        number.unwrap_or(0)
    }

    /// Whether the library was built with what it needs.
    pub(crate) fn is_built_in(&self) -> bool {
        let available = match self.provider {
            Provider::OrtCpu => return true,
            Provider::Cuda => ep::CUDA::is_available(),
            Provider::TensorRt => ep::TensorRT::is_available(),
            Provider::OpenVino => ep::OpenVINO::is_available(),
            Provider::CoreMl => ep::CoreML::is_available(),
            Provider::DirectMl => ep::DirectML::is_available(),
            Provider::WebGpu => ep::WebGPU::is_available(),
        };
        available.unwrap_or(false)
    }

    /// What sessions on it are opened with; none for the processor.
    pub(crate) fn provider(&self, replay: bool) -> Option<ExecutionProviderDispatch> {
        let which = self.which.as_deref();
        let built = match self.provider {
            Provider::OrtCpu => return None,
            Provider::Cuda => ep::CUDA::default()
                .with_device_id(self.number())
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                .with_cuda_graph(replay)
                .build(),
            Provider::TensorRt => ep::TensorRT::default()
                .with_device_id(self.number())
                .with_fp16(true)
                .build(),
            Provider::OpenVino => ep::OpenVINO::default()
                .with_device_type(which.unwrap_or("CPU"))
                .build(),
            Provider::CoreMl => ep::CoreML::default().build(),
            Provider::DirectMl => ep::DirectML::default()
                .with_device_id(self.number())
                .build(),
            Provider::WebGpu => ep::WebGPU::default().with_device_id(self.number()).build(),
        };
        Some(built.error_on_failure())
    }
}

/// Where a network runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Devices {
    /// On the processor, by the kernels of this program.
    #[default]
    Cpu,
    /// On the first that is here of a GPU and the processor.
    Auto,
    /// On these, which share the images.
    Named(Vec<Device>),
}

impl FromStr for Devices {
    type Err = OnnxError;

    fn from_str(text: &str) -> Result<Self, OnnxError> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            _ => {
                let named = text.split(',').map(str::parse);
                Ok(Self::Named(named.collect::<Result<_, _>>()?))
            }
        }
    }
}

impl Devices {
    /// What `auto` tries, in this order.
    pub(crate) fn tried() -> Vec<Device> {
        let device = |provider, which: Option<&str>| Device {
            provider,
            which: which.map(str::to_owned),
        };
        vec![
            device(Provider::Cuda, None),
            device(Provider::CoreMl, None),
            device(Provider::DirectMl, None),
            device(Provider::OpenVino, Some("GPU")),
            device(Provider::WebGpu, None),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_their_names() {
        for (text, expected) in [
            ("cpu", Some("processor")),
            ("auto", Some("auto")),
            ("cuda", Some("NVIDIA GPU (CUDA)")),
            (
                "cuda:0,cuda:1",
                Some("NVIDIA GPU (CUDA) 0 + NVIDIA GPU (CUDA) 1"),
            ),
            ("openvino:GPU.1", Some("OpenVINO GPU.1")),
            ("ort-cpu", Some("ONNX Runtime on the processor")),
            ("gpu", None),
            ("cuda:", None),
            ("cuda:x", None),
            ("cuda,", None),
            ("openvino:TPU", None),
            ("coreml:1", None),
            ("", None),
        ] {
            let found = text.parse::<Devices>().ok().map(|devices| match devices {
                Devices::Cpu => "processor".to_owned(),
                Devices::Auto => "auto".to_owned(),
                Devices::Named(devices) => {
                    let titles: Vec<String> = devices.iter().map(Device::title).collect();
                    titles.join(" + ")
                }
            });
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        let error = "gpu".parse::<Devices>().unwrap_err();
        assert!(
            error.to_string().contains("cuda, tensorrt, openvino"),
            "{error}"
        );
    }
}
