//! The library of ONNX Runtime: found, opened once, and asked what it has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::Device;
use crate::OnnxError;

/// The environment variable that names the library of ONNX Runtime or the folder that it is in.
pub const LIBRARY_VARIABLE: &str = "ANOMALENS_ORT";

/// The library, which stays open for the rest of the program.
pub(crate) struct Library {
    pub(crate) path: PathBuf,
    /// The minor version of 1.x.
    pub(crate) version: u32,
    pub(crate) environment: Environment,
    /// What ONNX Runtime reported last.
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Library {
    /// What was reported since the last call.
    pub(crate) fn complaints(&self) -> String {
        let mut complaints = lock(&self.complaints);
        std::mem::take(&mut *complaints).join("; ")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static LIBRARY: OnceLock<Library> = OnceLock::new();

/// The library for `device`.
///
/// # Errors
/// [`OnnxError`] tells what is not there and the command that helps.
pub(crate) fn library(device: &Device) -> Result<&'static Library, OnnxError> {
    static OPENING: Mutex<()> = Mutex::new(());
    let _guard = lock(&OPENING);
    let library = match LIBRARY.get() {
        Some(library) => library,
        None => {
            let opened = open(device)?;
            LIBRARY.get_or_init(|| opened)
        }
    };
    match device.is_built_in() {
        true => Ok(library),
        false => Err(OnnxError::NoProvider {
            device: device.to_string(),
            path: library.path.clone(),
            install: device.install(),
        }),
    }
}

fn open(device: &Device) -> Result<Library, OnnxError> {
    let path = find().ok_or_else(|| OnnxError::NoLibrary {
        device: device.to_string(),
        install: device.install(),
    })?;
    let unusable = |reason: String| OnnxError::Library {
        path: path.clone(),
        reason,
    };
    let least = ort::MINOR_VERSION;
    let version = ort::util::probe(&path)
        .ok_or_else(|| unusable("it does not open as ONNX Runtime 1.x".to_owned()))?;
    if version < least {
        return Err(unusable(format!(
            "it has version 1.{version}, 1.{least} or newer is needed: pip install --upgrade onnxruntime"
        )));
    }
    if device.cuda_number().is_some() {
        preload(&path);
    }
    let complaints = Arc::new(Mutex::new(vec![]));
    let kept = complaints.clone();
    let environment = ort::init_from(&path)
        .map_err(|error| unusable(error.to_string()))?
        .with_name("anomalens")
        .with_telemetry(false)
        .with_logger(Arc::new(move |level, _, _, _, message| {
            if level >= LogLevel::Error {
                lock(&kept).push(message.to_owned());
            }
        }))
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    Ok(Library {
        path,
        version,
        environment,
        complaints,
    })
}

/// The file that the variable names, the one of an installed Python package, or the system's.
fn find() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os(LIBRARY_VARIABLE).filter(|given| !given.is_empty()) {
        let given = PathBuf::from(given);
        return match given.is_dir() {
            true => in_folder(&given),
            false => Some(given),
        };
    }
    let packages = python_folders().into_iter();
    let mut found =
        packages.filter_map(|folder| in_folder(&folder.join("onnxruntime").join("capi")));
    found.next().or_else(|| {
        let mut system = SYSTEM_FOLDERS.iter();
        system.find_map(|folder| in_folder(Path::new(folder)))
    })
}

const SYSTEM_FOLDERS: [&str; 4] = [
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
];

/// The library in a folder, the newest if there are several.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_library = |name: &String| {
        let linux = name.starts_with("libonnxruntime.so");
        let mac = name.starts_with("libonnxruntime.") && name.ends_with(".dylib");
        linux || mac || name == "onnxruntime.dll"
    };
    let newest = names.filter(is_library).max()?;
    Some(folder.join(newest))
}

/// Where Python looks for packages: that of the active environment, or the one on the path.
fn python_folders() -> Vec<PathBuf> {
    let program = if cfg!(windows) { "python" } else { "python3" };
    let of_environment = std::env::var_os("VIRTUAL_ENV").map(|folder| {
        let programs = if cfg!(windows) { "Scripts" } else { "bin" };
        Path::new(&folder).join(programs).join(program)
    });
    let mut programs = of_environment.into_iter().chain([program.into()]);
    let output = programs.find_map(|program| {
        let script = "import sys; print('\\n'.join(p for p in sys.path if p))";
        let output = Command::new(program).args(["-c", script]).output().ok()?;
        output.status.success().then_some(output.stdout)
    });
    let text = output.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    text.unwrap_or_default()
        .lines()
        .map(PathBuf::from)
        .collect()
}

/// What ONNX Runtime's provider for CUDA needs.
const CUDA_LIBRARIES: [&str; 7] = [
    "libcudart.",
    "libcublas",
    "libcudnn",
    "libcufft.",
    "libcurand.",
    "libnvrtc.",
    "libnvJitLink.",
];

/// Opens the libraries of CUDA and cuDNN that Python packages brought: ONNX Runtime looks for them by
/// name alone. What is not there is missed by ONNX Runtime itself, which then tells its name.
fn preload(library: &Path) {
    let beside = library.ancestors().nth(3).map(Path::to_owned);
    let packages = beside.into_iter().chain(python_folders());
    let mut folders = packages.filter_map(|folder| std::fs::read_dir(folder.join("nvidia")).ok());
    let Some(folders) = folders.next() else {
        return;
    };
    let is_needed = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        CUDA_LIBRARIES.iter().any(|start| name.starts_with(start))
    };
    let mut libraries: Vec<PathBuf> = folders
        .filter_map(|folder| std::fs::read_dir(folder.ok()?.path().join("lib")).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_needed)
        .collect();
    // Some need others: what fails is tried again once those are there.
    for _ in 0..3 {
        libraries.retain(|path| ort::util::preload_dylib(path).is_err());
    }
}
