//! A sandbox for the program: a folder with images and a small network, and nothing of the user's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use candle_core::{Device, Tensor};
use tempfile::TempDir;

pub(crate) struct Sandbox {
    folder: TempDir,
}

#[allow(dead_code)] // Every test file uses its own part.
impl Sandbox {
    /// An empty folder but for `tiny.safetensors`, a DINOv2 of width 64 with random (seeded) weights.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        candle_core::safetensors::save(&tiny_network(), folder.path().join("tiny.safetensors"))
            .unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program in the folder with `arguments` as a shell would split them.
    pub(crate) fn run(&self, arguments: &str) -> Run {
        Run::of(
            self.command(arguments).output().unwrap(),
            self.folder.path(),
        )
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::cargo_bin("anomalens").unwrap();
        command.args(arguments.split_whitespace());
        self.clean(&mut command);
        command
    }

    fn clean(&self, command: &mut Command) {
        command
            .current_dir(self.folder.path())
            .env("ANOMALENS_CACHE", self.path("cache"));
        command
            .env("ANOMALENS_OFFLINE", "1")
            .env_remove("ANOMALENS_MODELS")
            .env_remove("ANOMALENS_CPU");
    }

    /// A shell script in the folder; `$ANOMALENS` is the program.
    #[cfg(unix)]
    pub(crate) fn shell(&self, script: &str) -> Run {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .env("ANOMALENS", assert_cmd::cargo::cargo_bin("anomalens"));
        self.clean(&mut command);
        Run::of(command.output().unwrap(), self.folder.path())
    }

    /// Writes a 64 x 48 picture of vertical stripes, with a bright blot if it is `bad`; `seed`
    /// changes the colours a little.
    pub(crate) fn picture(&self, name: &str, seed: u32, bad: bool) {
        self.write(
            name,
            &png(64, 48, |x, y| {
                let blot = bad && (20..34).contains(&x) && (12..26).contains(&y);
                let shade = 90 + (x / 8 % 2) * 40 + seed % 7;
                if blot {
                    [250, 240, 30]
                } else {
                    [shade as u8, shade as u8, 120]
                }
            }),
        );
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// `good/0.png` ... and `test/good-0.png` ..., `test/bad-0.png` ....
    pub(crate) fn pictures(&self, normal: u32, good: u32, bad: u32) {
        (0..normal).for_each(|i| self.picture(&format!("good/{i}.png"), i, false));
        (0..good).for_each(|i| self.picture(&format!("test/good-{i}.png"), i + 3, false));
        (0..bad).for_each(|i| self.picture(&format!("test/bad-{i}.png"), i + 1, true));
    }

    /// An MVTec-style class with masks: `data/nut/{train,test,ground_truth}`.
    pub(crate) fn data(&self) {
        self.class("data/nut");
    }

    /// The same in another folder.
    pub(crate) fn class(&self, folder: &str) {
        (0..4).for_each(|i| self.picture(&format!("{folder}/train/good/{i}.png"), i, false));
        for i in 0..3 {
            self.picture(&format!("{folder}/test/good/{i}.png"), i + 2, false);
            self.picture(&format!("{folder}/test/blot/{i}.png"), i, true);
            self.mask(&format!("{folder}/ground_truth/blot/{i}_mask.png"));
        }
    }

    /// The mask of a bad picture.
    pub(crate) fn mask(&self, name: &str) {
        let mask = png(64, 48, |x, y| {
            let blot = (20..34).contains(&x) && (12..26).contains(&y);
            if blot { [255; 3] } else { [0; 3] }
        });
        self.write(name, &mask);
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

/// Whether a line is as `scoring with lens: 6 of 7, a few seconds left`.
fn is_progress(line: &str) -> bool {
    let counts = line.trim_end().rsplit_once(": ").map(|(_, counts)| counts);
    let counts = counts.map(|counts| counts.split(", ").next().unwrap_or_default());
    let counts = counts.and_then(|counts| counts.split_once(" of "));
    counts.is_some_and(|(done, all)| done.parse::<u64>().and(all.parse::<u64>()).is_ok())
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    fn of(output: Output, folder: &Path) -> Self {
        // The same text on every machine: the sandbox's folder is called DIR.
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(&*folder.canonicalize().unwrap().to_string_lossy(), "DIR")
                .replace(&*folder.to_string_lossy(), "DIR")
        };
        // What computes the backbone, and whether it takes long enough for progress to be shown, is
        // this machine's own.
        let is_backbone =
            |line: &str| line.starts_with("backbone ") && line.ends_with(" threads\n");
        let told = |line: &&str| !is_backbone(line) && !is_progress(line);
        let stderr = text(output.stderr);
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: stderr.split_inclusive('\n').filter(told).collect(),
        }
    }

    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

pub(crate) fn png(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let pixels = pixels.flat_map(|(x, y)| colour(x, y)).collect();
    anomalens::vision::Image::new(width, height, pixels)
        .unwrap()
        .to_png()
        .unwrap()
}

/// DINOv2 weights of width 64 with 12 blocks, from sines.
fn tiny_network() -> HashMap<String, Tensor> {
    const WIDTH: usize = 64;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.cls_token".into(), vec![1, 1, WIDTH]),
        ("embeddings.position_embeddings".into(), vec![1, 257, WIDTH]),
        (
            "embeddings.patch_embeddings.projection.weight".into(),
            vec![WIDTH, 3, 14, 14],
        ),
        (
            "embeddings.patch_embeddings.projection.bias".into(),
            vec![WIDTH],
        ),
        ("layernorm.weight".into(), vec![WIDTH]),
        ("layernorm.bias".into(), vec![WIDTH]),
    ];
    for block in 0..12 {
        let block = format!("encoder.layer.{block}");
        for (name, outputs, inputs) in [
            ("attention.attention.query", WIDTH, WIDTH),
            ("attention.attention.key", WIDTH, WIDTH),
            ("attention.attention.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("mlp.fc1", 2 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 2 * WIDTH),
        ] {
            shapes.push((format!("{block}.{name}.weight"), vec![outputs, inputs]));
            shapes.push((format!("{block}.{name}.bias"), vec![outputs]));
        }
        for name in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"] {
            shapes.push((format!("{block}.{name}"), vec![WIDTH]));
        }
        for i in 1..=2 {
            shapes.push((format!("{block}.layer_scale{i}.lambda1"), vec![WIDTH]));
        }
    }
    shapes
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count)
                .map(|j| ((i * 37 + j) as f32 * 0.73).sin() * 0.15)
                .collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect()
}
