//! Runs that end in the middle: the program is killed, or the disk is full or broken, at one system
//! call after the other. What was there before must stay or be replaced in one step, the same command
//! must then give what an undisturbed run gives, and nothing else may be left, neither in the folder
//! of the results nor in the cache.
//!
//! `strace` injects the faults. Where it is missing, the tests say so and check nothing; on CI they
//! fail. `ANOMALENS_FAULTS=N` tries up to N places per command and kind of call instead of a few.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code
#![allow(clippy::print_stderr)] // reports what was skipped

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anomalens::base::ContentHash;
use anomalens::detectors::DetectorFile;
use candle_core::Device;
use common::Sandbox;
use serde_json::Value;

/// The calls that change files.
const CALLS: [&str; 9] = [
    "write",
    "pwrite64",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "ftruncate",
    "unlink",
    "mkdir",
];

/// What happens at a call, as strace writes it.
const FAULTS: [&str; 3] = ["signal=SIGKILL", "error=ENOSPC", "error=EIO"];

/// Places that are tried for each fault and call.
const PLACES: usize = 6;

/// Keys of results that differ from run to run.
const VOLATILE: [&str; 7] = [
    "modified_ns",
    "changed_ns",
    "seconds",
    "date",
    "encoding",
    "modified",
    "milliseconds",
];

/// What a folder holds: the content of each file by its path below the folder.
type Snapshot = BTreeMap<PathBuf, String>;

/// A command, and the state of its folder before it and after it.
struct Case {
    sandbox: Sandbox,
    command: String,
    before: PathBuf,
    old: Snapshot,
    new: Snapshot,
}

impl Case {
    /// A run of `command` in a folder where `earlier` ran before.
    fn new(sandbox: Sandbox, earlier: Option<&str>, command: &str) -> Self {
        if let Some(earlier) = earlier {
            let run = sandbox.run(earlier);
            assert_eq!(run.code, Some(0), "{run:?}");
        }
        let before = sandbox.path("").with_extension("before");
        copy(&sandbox.path(""), &before);
        let old = snapshot(&sandbox.path(""));
        let run = sandbox.run(command);
        assert_eq!(run.code, Some(0), "{run:?}");
        let new = snapshot(&sandbox.path(""));
        let case = Self {
            command: command.to_owned(),
            sandbox,
            before,
            old,
            new,
        };
        // The comparison below is worth something only if undisturbed runs agree.
        case.reset();
        let again = case.sandbox.run(command);
        assert_eq!(again.code, Some(0), "{again:?}");
        case.assert_done("an undisturbed run");
        case
    }

    fn reset(&self) {
        fs::remove_dir_all(self.sandbox.path("")).unwrap();
        copy(&self.before, &self.sandbox.path(""));
    }

    /// Runs the command under strace with these options.
    fn trace(&self, options: &[&str]) -> (Output, String) {
        let log = self.before.with_extension("strace");
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "--seccomp-bpf", "-qq", "-o"])
            .arg(&log)
            .args(options)
            .arg(assert_cmd::cargo::cargo_bin("anomalens"))
            .args(self.command.split_whitespace())
            .current_dir(self.sandbox.path(""))
            .env("ANOMALENS_CACHE", self.sandbox.path("cache"))
            .env("ANOMALENS_OFFLINE", "1")
            .env("RAYON_NUM_THREADS", "1")
            .env_remove("ANOMALENS_MODELS")
            .env_remove("ANOMALENS_CPU");
        let output = strace.output().unwrap();
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        (output, text)
    }

    /// How often each call is made, at most by one thread: strace counts for each by itself.
    fn count(&self) -> BTreeMap<&'static str, usize> {
        self.reset();
        let (output, log) = self.trace(&["-e", &format!("trace={}", known_calls())]);
        assert!(output.status.success(), "{output:?}");
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for line in log.lines() {
            let Some((thread, call)) = line.split_once(' ') else {
                continue;
            };
            let call = call.trim_start();
            if let Some(call) = CALLS.iter().find(|name| {
                call.strip_prefix(**name)
                    .is_some_and(|rest| rest.starts_with('('))
            }) {
                *counts.entry((thread, call)).or_default() += 1;
            }
        }
        let mut most: BTreeMap<&'static str, usize> = BTreeMap::new();
        for ((_, call), count) in counts {
            let call = CALLS.into_iter().find(|known| *known == call).unwrap();
            let most = most.entry(call).or_default();
            *most = count.max(*most);
        }
        most
    }

    /// Injects every fault at some of the calls.
    fn disturb(&self) {
        let places = std::env::var("ANOMALENS_FAULTS")
            .ok()
            .and_then(|places| places.parse().ok())
            .unwrap_or(PLACES);
        let mut injected = 0;
        for (call, count) in self.count() {
            for fault in FAULTS {
                for place in spread(count, places) {
                    injected += usize::from(self.disturb_at(call, fault, place));
                }
            }
        }
        eprintln!("{}: {injected} faults injected", self.command);
        assert!(injected > 0);
    }

    /// Whether the fault came about.
    fn disturb_at(&self, call: &str, fault: &str, place: usize) -> bool {
        self.reset();
        let inject = format!("inject={call}:{fault}:when={place}");
        let (output, log) = self.trace(&["-e", &format!("trace={call}"), "-e", &inject]);
        let at = format!(
            "`{}`, {call} {place}, {fault}: {:?} {}",
            self.command,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let killed = log.contains("+++ killed by SIGKILL");
        let injected = killed || log.contains("(INJECTED)");
        if !killed {
            let code = output.status.code();
            assert!(
                matches!(code, Some(0..=2)),
                "a panic or signal instead of an error: {at}"
            );
        }
        self.assert_intact(&at);
        if output.status.success() {
            // What could not be written was not needed: a copy in the cache, or a line on the terminal.
            self.assert_done(&at);
        }
        let again = self.sandbox.run(&self.command);
        assert_eq!(again.code, Some(0), "run again after {at}: {again:?}");
        self.assert_done(&at);
        injected
    }

    /// Every file is the old one or the new one; lists of results may lack their end.
    fn assert_intact(&self, at: &str) {
        for (path, content) in snapshot(&self.sandbox.path("")) {
            let is_working_file = path
                .components()
                .any(|part| is_working_name(&part.as_os_str().to_string_lossy()));
            if is_working_file {
                continue;
            }
            if is_list(&path) {
                let known = |snapshot: &Snapshot| -> BTreeSet<String> {
                    let lines = snapshot.get(&path).map(String::as_str).unwrap_or_default();
                    lines.lines().map(str::to_owned).collect()
                };
                let known: BTreeSet<String> = &known(&self.old) | &known(&self.new);
                let unknown = content.lines().filter(|line| !known.contains(*line));
                assert!(unknown.count() <= 1, "{}: {content}\n{at}", path.display());
                continue;
            }
            assert!(
                [&self.old, &self.new]
                    .into_iter()
                    .any(|complete| complete.get(&path) == Some(&content)),
                "{} is neither the old nor the new one after {at}",
                path.display()
            );
        }
        for path in self.old.keys() {
            let exists = self.sandbox.path("").join(path).exists();
            assert!(exists, "{} is gone after {at}", path.display());
        }
    }

    /// The folder is as an undisturbed run leaves it. The cache may lack copies for which there was
    /// no room.
    fn assert_done(&self, at: &str) {
        let now = snapshot(&self.sandbox.path(""));
        let names = |snapshot: &Snapshot| -> BTreeSet<PathBuf> {
            let names = snapshot
                .keys()
                .filter(|name| !name.starts_with("cache") || now.contains_key(*name));
            names.cloned().collect()
        };
        assert_eq!(names(&now), names(&self.new), "files after {at}");
        for (path, content) in &now {
            assert_eq!(content, &self.new[path], "{} after {at}", path.display());
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.before);
        let _ = fs::remove_file(self.before.with_extension("strace"));
    }
}

/// Those calls of [`CALLS`] that this machine has; others need not be traced.
fn known_calls() -> String {
    CALLS.map(|call| format!("?{call}")).join(",")
}

/// Up to `places` of the numbers 1 to `count`, the first and the last among them.
fn spread(count: usize, places: usize) -> BTreeSet<usize> {
    match places.min(count) {
        0 => BTreeSet::new(),
        1 => BTreeSet::from([1]),
        places => (0..places)
            .map(|i| 1 + i * (count - 1) / (places - 1))
            .collect(),
    }
}

/// Files and folders that a run works in, and that only the next run reads.
fn is_working_name(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".training") || name == "trained"
}

fn is_list(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending == "jsonl" || ending == "csv")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            // `fs::copy` gives the new file other times, which caches look at.
            let time = entry.metadata().unwrap().modified().unwrap();
            fs::copy(entry.path(), &target).unwrap();
            let file = fs::File::options().append(true).open(&target).unwrap();
            file.set_modified(time).unwrap();
        }
    }
}

/// All files below `folder`. Lock files are empty and stay.
fn snapshot(folder: &Path) -> Snapshot {
    fn add(root: &Path, folder: &Path, snapshot: &mut Snapshot) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(root, &path, snapshot);
            } else if path.extension().is_none_or(|ending| ending != "lock") {
                let name = path.strip_prefix(root).unwrap().to_owned();
                snapshot.insert(name, content(&path));
            }
        }
    }
    let mut found = Snapshot::new();
    add(folder, folder, &mut found);
    found
}

/// What a file holds, but for what differs from run to run.
fn content(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let hash = || ContentHash::of_bytes(&bytes).to_string();
    match &*ending {
        "detector" => DetectorFile::load(path).map_or_else(
            |error| error.to_string(),
            |file| file.identity().to_string(),
        ),
        "jsonl" => {
            let text = String::from_utf8_lossy(&bytes);
            let mut lines: Vec<String> = text.lines().map(stable).collect();
            lines.sort();
            lines.join("\n")
        }
        // A date, and how long it took.
        "md" | "html" => format!("{} lines", String::from_utf8_lossy(&bytes).lines().count()),
        // The header says how long epochs took.
        "safetensors" if path.to_string_lossy().contains(".training") => tensors(path),
        // When a weight file was last seen.
        _ if path.to_string_lossy().contains("verified") => String::new(),
        _ => hash(),
    }
}

fn tensors(path: &Path) -> String {
    let Ok(tensors) = candle_core::safetensors::load(path, &Device::Cpu) else {
        return "damaged".to_owned();
    };
    let tensors: BTreeMap<String, String> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tensor64 = tensor.to_dtype(candle_core::DType::F64).unwrap();
            let values: Vec<f64> = tensor64.flatten_all().unwrap().to_vec1().unwrap();
            (name, format!("{:?} {values:?}", tensor.dims()))
        })
        .collect();
    format!("{tensors:?}")
}

/// A line of JSON without what differs from run to run; other lines as they are.
fn stable(line: &str) -> String {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.retain(|key, _| !VOLATILE.contains(&key.as_str()));
                object.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    match serde_json::from_str::<Value>(line) {
        Ok(mut value) => {
            strip(&mut value);
            value.to_string()
        }
        Err(_) => line.to_owned(),
    }
}

/// Whether strace can be used here.
fn can_inject() -> bool {
    let works = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-e", "trace=write", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(
        works || std::env::var_os("CI").is_none(),
        "strace is missing or may not trace: install it"
    );
    if !works {
        eprintln!("SKIPPED: strace is missing or may not trace, no fault was injected");
    }
    works
}

const TINY: &str = "--weights tiny.safetensors";

#[test]
fn fit_leaves_the_old_detector_or_the_new_one() {
    if !can_inject() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.pictures(3, 0, 0);
    let fit = |images: &str| format!("fit --normal {images} -o nut.detector {TINY}");
    let (earlier, command) = (fit("good/0.png good/1.png"), fit("good"));
    Case::new(sandbox, Some(&earlier), &command).disturb();
}

#[test]
fn detect_resumes_and_its_results_are_complete() {
    if !can_inject() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.pictures(2, 1, 1);
    let fit = format!("fit --normal good -o nut.detector {TINY}");
    let command = format!("detect test --detector nut.detector -o out {TINY}");
    Case::new(sandbox, Some(&fit), &command).disturb();
}

#[test]
fn train_resumes_to_the_same_detector() {
    if !can_inject() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.data();
    let command = format!(
        "train --data folder:data {TINY} --set blocks=[2] --set image_size=56 --batch 2 \
         --epochs 2 -o nut.detector"
    );
    Case::new(sandbox, None, &command).disturb();
}

#[test]
fn bench_resumes_to_the_same_results() {
    if !can_inject() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.data();
    let command = format!(
        "bench local --data folder:data --method anomaly-dino,lens --shots 1 --seed 0 \
         -o bench --resolution 56 --set image_size=56 {TINY}"
    );
    Case::new(sandbox, None, &command).disturb();
}

#[test]
fn pack_leaves_the_old_file_or_the_new_one() {
    if !can_inject() {
        return;
    }
    let sandbox = Sandbox::new();
    let pack = |blocks: u32| format!("models pack tiny.safetensors --blocks {blocks} -o small.gz");
    Case::new(sandbox, Some(&pack(1)), &pack(2)).disturb();
}
