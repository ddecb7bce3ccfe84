//! Checkpoint files: PyTorch archives of every kind that CLIP and its methods come in, damaged and
//! hostile ones, and files that are written for PyTorch. `tests/goldens/torch_files.py` made the
//! archives: element i of a file's k-th tensor is k + i / 16.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::collections::{BTreeSet, HashMap};
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use anomalens_backbones::BackboneError;
use anomalens_backbones::checkpoint::{
    Checkpoint, Format, Number, Outer, parse_torch, read_torch, seeded_tensor, write_torch,
    write_torch_beside, write_torch_dicts,
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(name)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

/// `k`, `k + 1 / 16`, ...
fn sixteenths(k: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| k as f32 + i as f32 / 16.0).collect()
}

fn get(checkpoint: &Checkpoint, name: &str, shape: &[usize]) -> Vec<f32> {
    values(&checkpoint.tensor(name, shape, &Device::Cpu).unwrap())
}

#[test]
fn torchscript_is_read_by_the_paths_of_its_modules() {
    let checkpoint = Checkpoint::open(&golden("torchscript.pt")).unwrap();
    assert_eq!(checkpoint.format(), Format::TorchScript);
    assert_eq!(checkpoint.names().count(), 39);
    // The tensor's place in the file, name, shape.
    let cases: [(usize, &str, &[usize]); 6] = [
        (0, "positional_embedding", &[5, 2]),
        (2, "logit_scale", &[]),
        (7, "visual.conv1.weight", &[4, 3, 2, 2]),
        (
            18,
            "visual.transformer.resblocks.0.mlp.c_proj.weight",
            &[4, 16],
        ),
        (24, "transformer.resblocks.0.attn.in_proj_weight", &[6, 2]),
        (38, "ln_final.bias", &[2]),
    ];
    for (k, name, shape) in cases {
        let count = shape.iter().product();
        assert_eq!(
            get(&checkpoint, name, shape),
            sixteenths(k, count),
            "{name}"
        );
    }
    assert!(!checkpoint.contains("context_length"));
}

#[test]
fn state_dicts_are_found_and_their_views_followed() {
    // Since version 1.6 of PyTorch, and before.
    for file in ["openclip.pt", "openclip_legacy.pt"] {
        check_openclip(&Checkpoint::open(&golden(file)).unwrap());
    }
}

fn check_openclip(checkpoint: &Checkpoint) {
    assert_eq!(checkpoint.format(), Format::Torch);
    let transposed: Vec<f32> = (0..12)
        .map(|i| 1.0 + (i % 3 * 4 + i / 3) as f32 / 16.0)
        .collect();
    let cases: [(&str, &[usize], Vec<f32>); 9] = [
        ("visual.class_embedding", &[4], sixteenths(0, 4)),
        ("visual.proj", &[4, 3], transposed),
        (
            "positional_embedding",
            &[2, 2],
            vec![2.5, 2.625, 2.875, 3.0],
        ),
        ("logit_scale", &[], vec![3.0]),
        ("ln_final.weight", &[3], sixteenths(4, 3)),
        ("ln_final.bias", &[3], sixteenths(5, 3)),
        ("position_ids", &[1, 3], vec![6.0, 7.0, 8.0]),
        ("mask", &[3], vec![7.0, 8.0, 9.0]),
        ("nothing", &[0, 3], vec![]),
    ];
    assert_eq!(checkpoint.names().count(), cases.len());
    for (name, shape, expected) in cases {
        assert_eq!(checkpoint.shape(name), Some(shape), "{name}");
        assert_eq!(get(checkpoint, name, shape), expected, "{name}");
    }
}

#[test]
fn a_prompt_file_keeps_its_order_and_types_and_is_written_back() {
    let tensors = read_torch(&golden("prompt_learner.pth")).unwrap();
    let names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "ctx_pos",
        "ctx_neg",
        "token_prefix_pos",
        "token_suffix_pos",
        "token_prefix_neg",
        "token_suffix_neg",
        "tokenized_prompts_pos",
        "tokenized_prompts_neg",
        "compound_prompts_text.0",
        "compound_prompts_text.1",
        "compound_prompt_projections.0.weight",
        "compound_prompt_projections.0.bias",
        "compound_prompt_projections.1.weight",
        "compound_prompt_projections.1.bias",
    ];
    assert_eq!(names, expected);
    let (_, suffix) = &tensors[3];
    assert_eq!(suffix.dims(), [1, 1, 64, 4]);
    assert_eq!(values(suffix), sixteenths(2, 77 * 4)[13 * 4..]);
    let (_, tokens) = &tensors[6];
    assert_eq!(
        (tokens.dtype(), tokens.dims()),
        (DType::I32, &[1, 1, 77][..])
    );
    assert_eq!(values(tokens)[76], 82.0);

    let folder = tempfile::tempdir().unwrap();
    for key in [Some("prompt_learner"), Some("anything"), None] {
        let path = folder.path().join("epoch_1.pth");
        write_torch(&path, key, &tensors).unwrap();
        let again = read_torch(&path).unwrap();
        assert_eq!(again.len(), tensors.len());
        for ((name, tensor), (expected_name, expected)) in again.iter().zip(&tensors) {
            assert_eq!(name, expected_name);
            assert_eq!(
                (tensor.dtype(), tensor.dims(), values(tensor)),
                (expected.dtype(), expected.dims(), values(expected)),
                "{name}"
            );
        }
    }
}

#[test]
fn several_state_dicts_are_read_with_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    let number = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
    let given = [
        ("STN.conv1.weight", number(1.0)),
        ("STN.bn1.weight", number(2.0)),
        ("PRED.conv1.weight", number(3.0)),
    ];
    write_torch_dicts(&path, &given).unwrap();
    let read = read_torch(&path).unwrap();
    for ((name, expected), (found_name, found)) in given.iter().zip(&read) {
        assert_eq!(
            (name, values(expected)),
            (&found_name.as_str(), values(found))
        );
    }
    assert_eq!(read.len(), given.len());
    // One of them alone is a state dict without its key.
    write_torch_dicts(&path, &given[..2]).unwrap();
    assert_eq!(read_torch(&path).unwrap()[1].0, "bn1.weight");
}

#[test]
fn types_and_shapes_survive_writing() {
    let of = |dtype| {
        Tensor::arange(0_i64, 6, &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    // Type in memory, type in the file.
    for (given, written) in [
        (DType::F32, DType::F32),
        (DType::F16, DType::F32),
        (DType::F64, DType::F32),
        (DType::I32, DType::I32),
        (DType::U8, DType::I64),
        (DType::U32, DType::I64),
    ] {
        let flat = of(given);
        let matrix = flat.reshape((2, 3)).unwrap();
        let turned = matrix.t().unwrap();
        write_torch(&path, None, &[("flat", flat), ("turned", turned)]).unwrap();
        let read = read_torch(&path).unwrap();
        assert_eq!(
            (read[0].1.dtype(), read[1].1.dims()),
            (written, &[3, 2][..])
        );
        assert_eq!(
            values(&read[1].1),
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0],
            "{given:?}"
        );
    }
    let error = write_torch(
        &folder.path().join("no/such/folder"),
        None,
        &[("a", of(DType::F32))],
    );
    assert!(matches!(error, Err(BackboneError::Write { .. })));
}

#[test]
fn numbers_are_written_beside_a_state_dict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth.tar-15");
    let tensor = Tensor::new(&[1_f32, 2.0], &Device::Cpu).unwrap();
    let state = [("ctx", tensor)];
    let numbers = [
        ("epoch", Number::Whole(15)),
        ("steps", Number::Whole(1 << 40)),
    ];
    let outer = Outer {
        key: "state_dict",
        beside: &numbers,
    };
    write_torch_beside(&path, Some(outer), &state).unwrap();
    let read = read_torch(&path).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(
        (read[0].0.as_str(), values(&read[0].1)),
        ("ctx", vec![1.0, 2.0])
    );
    // In the pickle, which is stored as it is: the key, then a number of 32 or 64 bits.
    let bytes = std::fs::read(&path).unwrap();
    for part in [
        &b"X\x05\0\0\0epochJ\x0f\0\0\0s"[..],
        b"X\x05\0\0\0steps\x8a\x08\0\0\0\0\0\x01\0\0s.",
    ] {
        assert!(bytes.windows(part.len()).any(|window| window == part));
    }
}

#[test]
fn half_precision_of_every_format_is_widened_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let source = seeded_tensor(1, "x", &[3, 5000]).unwrap();
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let stored = source.to_dtype(dtype).unwrap();
        let tensors = HashMap::from([("x".to_owned(), stored.clone())]);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.format(), Format::Safetensors);
        assert_eq!(
            get(&checkpoint, "x", &[3, 5000]),
            values(&stored),
            "{dtype:?}"
        );
    }
}

#[test]
fn a_seeded_checkpoint_makes_each_tensor_alone() {
    let shapes = [("visual.proj", vec![8, 4]), ("logit_scale", vec![])];
    let checkpoint = Checkpoint::seeded(7, shapes.map(|(name, shape)| (name.to_owned(), shape)));
    let proj = get(&checkpoint, "visual.proj", &[8, 4]);
    assert_eq!(
        proj,
        values(&seeded_tensor(7, "visual.proj", &[8, 4]).unwrap())
    );
    let scale = get(&checkpoint, "logit_scale", &[]);
    assert!((scale[0] - 100_f32.ln()).abs() < 1e-6);
    let missing = checkpoint.tensor("none", &[1], &Device::Cpu).unwrap_err();
    assert!(missing.to_string().contains("`none`"));
}

// ---- damaged and hostile archives ------------------------------------------------------------

type Members = Vec<(String, Vec<u8>)>;

fn members(name: &str) -> Members {
    let mut archive = ZipArchive::new(Cursor::new(std::fs::read(golden(name)).unwrap())).unwrap();
    (0..archive.len())
        .map(|i| {
            let mut member = archive.by_index(i).unwrap();
            let mut bytes = vec![];
            member.read_to_end(&mut bytes).unwrap();
            (member.name().unwrap().into_owned(), bytes)
        })
        .collect()
}

fn zipped(members: &Members, method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in members {
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// `openclip.pt` after `change` was made to its members.
fn changed(change: impl FnOnce(&mut Members)) -> Vec<u8> {
    let mut members = members("openclip.pt");
    change(&mut members);
    zipped(&members, CompressionMethod::Stored)
}

fn member<'a>(members: &'a mut Members, name: &str) -> &'a mut Vec<u8> {
    let name = format!("openclip/{name}");
    &mut members.iter_mut().find(|(n, _)| *n == name).unwrap().1
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    changed(|members| *member(members, "data.pkl") = pickle.to_vec())
}

fn with_replacement(from: &[u8], to: &[u8]) -> Vec<u8> {
    changed(|members| {
        let pickle = member(members, "data.pkl");
        *pickle = replaced(pickle, from, to);
    })
}

/// From a file and from memory, which is the same.
fn open(folder: &Path, bytes: &[u8]) -> Result<Checkpoint, BackboneError> {
    let path = folder.join("file.pt");
    std::fs::write(&path, bytes).unwrap();
    let opened = Checkpoint::open(&path);
    let text = |result: &Result<Checkpoint, BackboneError>| match result {
        Ok(checkpoint) => format!("{:?}", checkpoint.names().collect::<BTreeSet<_>>()),
        Err(error) => error.to_string(),
    };
    let from_memory = Checkpoint::from_bytes(&path, bytes);
    assert_eq!(text(&opened), text(&from_memory));
    opened
}

#[test]
fn damaged_and_hostile_archives_are_refused_with_a_reason() {
    let whole = std::fs::read(golden("openclip.pt")).unwrap();
    let legacy = std::fs::read(golden("openclip_legacy.pt")).unwrap();
    let zero_rows = "tests/files/inctrl_zero_8589934592.pth";
    // A module in a module, 100 000 deep; a module that holds itself.
    let nested = {
        let open = b"c__torch__\nM\n)\x81}X\x01\0\0\0a".repeat(100_000);
        [b"\x80\x02", &open[..], b"N", &b"sb".repeat(100_000), b"."].concat()
    };
    let endless = b"\x80\x02c__torch__\nM\n)\x81q\0}X\x01\0\0\0ah\0sb.";
    // Module i holds module i - 1 twice, so that 2^60 paths lead to the innermost.
    let doubled = {
        let mut pickle = b"\x80\x02c__torch__\nM\n)\x81}bq\x00".to_vec();
        for i in 0..60_u8 {
            pickle.extend(b"c__torch__\nM\n)\x81}(X\x01\0\0\0a");
            pickle.extend([b'h', i]);
            pickle.extend(b"X\x01\0\0\0b");
            pickle.extend([b'h', i]);
            pickle.extend(b"ub");
            pickle.extend([b'q', i + 1]);
        }
        pickle.push(b'.');
        pickle
    };
    // One long name, met again and again: along the paths of modules, and as a key.
    let long_path = {
        let name = [b"X", &(1_u32 << 20).to_le_bytes()[..], &[b'a'; 1 << 20]].concat();
        let module = b"c__torch__\nM\n)\x81}";
        let inner = b"h\x01c__torch__\nM\n)\x81}b".repeat(100);
        let start = [b"\x80\x02", &module[..], &name, b"q\x01", &module[..], b"("].concat();
        [&start[..], &inner, b"ubsb."].concat()
    };
    let long_key = {
        let name = [b"X", &(1_u32 << 20).to_le_bytes()[..], &[b'a'; 1 << 20]].concat();
        let tensor = b"h\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n\
            HalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQK\0K\x04\x85K\x01\x85\x89}tR";
        let start = [b"\x80\x02", &name[..], b"q\x02}("].concat();
        [&start[..], &tensor.repeat(100), b"u."].concat()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("long paths", with_pickle(&long_path), "names of more than"),
        ("long keys", with_pickle(&long_key), "names of more than"),
        (
            "remembered too often",
            with_pickle(&[b"\x80\x02K\x01", &b"\x94".repeat((1 << 20) + 2)[..], b"."].concat()),
            "more than",
        ),
        (
            "recalled too often",
            with_pickle(&[b"\x80\x02K\x01q\x01", &b"h\x01".repeat(1 << 20)[..], b"."].concat()),
            "more than",
        ),
        (
            "no elements in 2^33 rows",
            std::fs::read(zero_rows).unwrap(),
            "no elements",
        ),
        ("cut off", whole[..whole.len() / 2].to_vec(), "PyTorch"),
        ("start only", b"PK\x03\x04".to_vec(), "PyTorch"),
        (
            "not of PyTorch",
            zipped(
                &vec![("a.txt".into(), b"a".into())],
                CompressionMethod::Stored,
            ),
            "no data.pkl",
        ),
        (
            "compressed",
            zipped(&members("openclip.pt"), CompressionMethod::Deflated),
            "compressed",
        ),
        (
            "missing storage",
            changed(|members| members.retain(|(name, _)| name != "openclip/data/0")),
            "tensor `module.visual.class_embedding`: data/0 is not in the archive",
        ),
        (
            "short storage",
            changed(|members| member(members, "data/0").truncate(7)),
            "data/0 has 7 bytes, too few for 4 elements of 2 bytes",
        ),
        (
            "larger than its storage",
            // K\x04 is the side of the class embedding, the first one-sided shape.
            with_replacement(b"K\x04\x85", b"K\x05\x85"),
            "[5]",
        ),
        (
            "negative offset",
            with_replacement(b"QK\x00K\x04\x85", b"QJ\xff\xff\xff\xffK\x04\x85"),
            "unknown way",
        ),
        (
            "unknown type",
            with_replacement(b"HalfStorage", b"ComplexDoubleStorage"),
            "ComplexDoubleStorage",
        ),
        (
            "big-endian",
            changed(|members| *member(members, "byteorder") = b"big".into()),
            "big-endian",
        ),
        (
            "a command",
            with_pickle(b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."),
            "os.system",
        ),
        (
            "code in a tensor's place",
            with_replacement(b"torch._utils\n_rebuild_tensor_v2", b"builtins\neval"),
            "builtins.eval",
        ),
        (
            "cut pickle",
            with_pickle(b"\x80\x02}q\x00(X\xff\0\0\0"),
            "too early",
        ),
        ("a number", with_pickle(b"\x80\x02K\x01."), "neither"),
        ("no tensors", with_pickle(b"\x80\x02}."), "no tensors"),
        ("deep modules", with_pickle(&nested), "deep"),
        ("endless modules", with_pickle(endless), "deep"),
        ("doubled modules", with_pickle(&doubled), "more than"),
        ("a plain pickle", b"\x80\x02}.".to_vec(), "plain pickle"),
        ("cut before 1.6", legacy[..200].to_vec(), "within a name"),
        (
            "a storage cut before 1.6",
            legacy[..legacy.len() - 1].to_vec(),
            "does not fit into the file",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (case, bytes, expected) in cases {
        let message = open(folder.path(), &bytes).expect_err(case).to_string();
        assert!(message.contains(expected), "{case}: {message}");
    }
}

/// What CoOp's checkpoints have beside the state dict: a schedule with the optimiser that it is of.
#[test]
fn optimisers_and_schedules_beside_a_state_dict_are_not_looked_at() {
    let mut files = members("openclip.pt");
    let pickle = member(&mut files, "data.pkl");
    assert_eq!(pickle.pop(), Some(b'.'));
    let text = |text: &str| {
        [
            b"X",
            &(text.len() as u32).to_le_bytes()[..],
            text.as_bytes(),
        ]
        .concat()
    };
    let class = |name: &str| [b"c", name.as_bytes(), b"\n)\x81}"].concat();
    for part in [
        text("scheduler"),
        b"}".to_vec(),
        text("successor"),
        class("torch.optim.lr_scheduler\nCosineAnnealingLR"),
        text("optimizer"),
        class("torch.optim.sgd\nSGD"),
        text("state"),
        b"ccollections\ndefaultdict\nc__builtin__\ndict\n\x85Rsbsbss.".to_vec(),
    ] {
        pickle.extend(part);
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = zipped(&files, CompressionMethod::Stored);
    check_openclip(&open(folder.path(), &bytes).unwrap());
}

#[test]
fn several_state_dicts_without_a_usual_name_keep_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let pickle = |first: &str, second: &str| {
        let dict = |name: &str| {
            let length = name.len() as u8;
            let tensor =
                b"}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n\
                HalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQK\0K\x04\x85K\x01\x85\x89}tRs";
            [b"X", &[length, 0, 0, 0][..], name.as_bytes(), &tensor[..]].concat()
        };
        [b"\x80\x02}(", &dict(first)[..], &dict(second), b"u."].concat()
    };
    for (first, second, expected) in [
        ("generator", "critic", &["generator.x", "critic.x"][..]),
        ("ema", "state_dict", &["x"]),
        ("model_state", "state_dict", &["x"]),
    ] {
        let checkpoint = open(folder.path(), &with_pickle(&pickle(first, second))).unwrap();
        for name in expected {
            assert!(checkpoint.contains(name), "{first}, {second}: {name}");
        }
    }
}

#[test]
fn many_views_of_one_storage_do_not_fill_the_memory() {
    let mut pickle = b"\x80\x02}(".to_vec();
    for i in 0..1000 {
        pickle.extend(format!("X\x04\0\0\0{i:04}").bytes());
        pickle.extend(
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nByteStorage\n\
              X\x01\0\0\x000X\x03\0\0\0cpuJ\0\0\x10\0tQK\0J\0\0\x10\0\x85K\x01\x85\x89}tR",
        );
    }
    pickle.extend(b"u.");
    let bytes = changed(|members| {
        *member(members, "data/0") = vec![0; 1 << 20];
        *member(members, "data.pkl") = pickle;
    });
    let folder = tempfile::tempdir().unwrap();
    for error in [
        open(folder.path(), &bytes).map(drop).unwrap_err(),
        parse_torch(Path::new("file"), &bytes)
            .map(drop)
            .unwrap_err(),
    ] {
        let message = error.to_string();
        assert!(message.contains("would have 1048576000 bytes"), "{message}");
    }
}

#[test]
fn a_file_that_is_cut_after_it_was_opened_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let tensor = seeded_tensor(1, "x", &[3, 5000]).unwrap();
    let tensors = HashMap::from([("x".to_owned(), tensor)]);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(1000).unwrap();
    let error = checkpoint
        .tensor("x", &[3, 5000], &Device::Cpu)
        .unwrap_err();
    assert!(matches!(error, BackboneError::Read { .. }), "{error}");
}

#[test]
#[cfg(unix)]
fn what_has_no_end_is_not_read() {
    for path in ["/dev/zero", "/dev/stdin", "/"] {
        let error = Checkpoint::open(Path::new(path)).unwrap_err();
        assert!(matches!(error, BackboneError::Read { .. }), "{error}");
    }
}

// ---- damaged safetensors and ONNX files ------------------------------------------------------

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

/// A protobuf field of bytes, or of a number.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut length = content.len();
    let mut bytes = vec![number << 3 | 2];
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    [&bytes, content].concat()
}

/// A model with one float32 initialiser called `name`.
fn onnx(name: &str, dims: &[u8], values: &[u8]) -> Vec<u8> {
    let tensor = [
        field(1, dims),
        vec![2 << 3, 1],
        field(8, name.as_bytes()),
        field(9, values),
    ];
    field(7, &field(5, &tensor.concat()))
}

#[test]
fn damaged_safetensors_and_onnx_files_are_refused_with_a_reason() {
    let x = |shape: &str, end: usize| {
        format!(r#"{{"x": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, {end}]}}}}"#)
    };
    let whole = onnx("backbone.x", &[2, 3], &[0; 24]);
    let huge_side = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "long header",
            [&[0xff; 8][..], b"{"].concat(),
            "its header cannot have 18446744073709551615 bytes",
        ),
        (
            "header beyond the end",
            [&100_u64.to_le_bytes()[..], b"{}"].concat(),
            "its header cannot have 100 bytes",
        ),
        ("no JSON", safetensors("{x", b""), "safetensors"),
        (
            "no data",
            safetensors(&x("[2]", 8), b""),
            "tensors have 8 bytes, but 0",
        ),
        (
            "too few data",
            safetensors(&x("[3]", 8), &[0; 8]),
            "safetensors",
        ),
        (
            "sides that overflow",
            safetensors(&x("[4294967296, 4294967296]", 0), b""),
            "safetensors",
        ),
        (
            "no elements",
            safetensors(&x("[4294967296, 0]", 0), b""),
            "`x`: its shape [4294967296, 0] has no elements",
        ),
        ("no graph", field(3, b"x"), "no graph"),
        ("cut off", whole[..whole.len() - 1].to_vec(), "cut off"),
        ("a group", vec![0x3b], "unknown kind 3"),
        ("endless number", vec![0xff; 11], "64 bits"),
        (
            "other names",
            onnx("head.x", &[2, 3], &[0; 24]),
            "no weights under `backbone`",
        ),
        (
            "too few values",
            onnx("backbone.x", &[2, 4], &[0; 24]),
            "`backbone.x`: 6 values for the shape [2, 4]",
        ),
        (
            "no elements in 2^62 rows",
            onnx("backbone.x", &[&huge_side[..], &[0]].concat(), b""),
            "no elements",
        ),
        (
            "sides that overflow",
            onnx("backbone.x", &[huge_side, huge_side].concat(), b""),
            "0 values",
        ),
        (
            "sides without end",
            onnx("backbone.x", &[1; 100], &[0; 4]),
            "more than 8 numbers",
        ),
        (
            "long name",
            onnx(&"x".repeat(5000), &[1], &[0; 4]),
            "a name of 5000 bytes",
        ),
        (
            "fields without end",
            field(7, &field(1, b"").repeat(1 << 20)),
            "too many fields",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (case, bytes, expected) in cases {
        let message = open(folder.path(), &bytes).expect_err(case).to_string();
        assert!(message.contains(expected), "{case}: {message}");
    }
    let checkpoint = open(folder.path(), &whole).unwrap();
    assert_eq!(checkpoint.format(), Format::Onnx);
    assert_eq!(get(&checkpoint, "x", &[2, 3]), [0.0; 6]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever bytes change, there are tensors or an error.
    #[test]
    fn no_change_of_bytes_is_fatal(
        name in prop::sample::select(vec![
            "openclip.pt",
            "openclip_legacy.pt",
            "torchscript.pt",
            "prompt_learner.pth",
        ]),
        in_pickle: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let change = |bytes: &mut Vec<u8>| {
            for (index, value) in &changes {
                let at = index.index(bytes.len());
                bytes[at] = *value;
            }
            if let Some(cut) = &cut {
                bytes.truncate(cut.index(bytes.len()));
            }
        };
        let bytes = if in_pickle && name != "openclip_legacy.pt" {
            let mut members = members(name);
            let pickle = members.iter_mut().find(|(name, _)| name.ends_with("data.pkl"));
            change(&mut pickle.unwrap().1);
            zipped(&members, CompressionMethod::Stored)
        } else {
            let mut bytes = std::fs::read(golden(name)).unwrap();
            change(&mut bytes);
            bytes
        };
        if let Ok(checkpoint) = Checkpoint::from_bytes(Path::new("file"), &bytes) {
            for name in checkpoint.names() {
                let shape = checkpoint.shape(name).unwrap();
                checkpoint.tensor(name, shape, &Device::Cpu).unwrap();
            }
        }
    }
}
