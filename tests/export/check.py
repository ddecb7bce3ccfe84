"""Exported files against the program itself: the ONNX checker, ONNX Runtime and OpenVINO.

    check.py PROGRAM FOLDER [--normal DIR --images DIR] [--case NAME ...]

Each case is fitted, exported and run on the same pictures by the program and by both engines. FOLDER gets the
files and, for run.mjs, what must come out.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from PIL import Image

SCORE, COSINE = 1e-3, 0.9999
# The weights in the program: they compute in float32 on processors without 8-bit instructions.
DINO = ["--weights", "dinov2-s-focus-int8"]
EFFICIENT = ["--weights", "efficientnet-lite0-int8"]
CLIP = ["--weights", "seeded:7:clip-vit-b32", "--precision", "f32"]
os.environ["ANOMALENS_CPU"] = "portable"
# Name, the arguments of `fit`, those of `export`.
CASES = [
    ("lens", DINO, []),
    ("lens-batch", [*DINO, "--set", "image_size=112"], ["--dynamic-batch"]),
    ("lens-contrib", [*DINO, "--set", "image_size=112"], ["--contrib"]),
    ("lens-half", [*DINO, "--set", "image_size=112"], ["--half"]),
    ("lens-own-image", [*DINO, "--set", "evidence=own-image"], []),
    ("lens-convolutional", [*EFFICIENT, "--set", "image_size=224"], []),
    ("anomaly-dino", ["--method", "anomaly-dino", *DINO, "--set", "image_size=224", "--set", "block=10"], []),
    ("patchcore", ["--method", "patchcore", *EFFICIENT], []),
    ("patchcore-anomalib", ["--method", "patchcore", *EFFICIENT, "--set", "variant=anomalib"], []),
    ("patchcore-transformer", ["--method", "patchcore", *DINO], []),
    ("padim", ["--method", "padim", *EFFICIENT], []),
    ("padim-anomalib", ["--method", "padim", *EFFICIENT, "--set", "variant=anomalib"], []),
    ("spade", ["--method", "spade", *EFFICIENT], []),
    ("clip", ["--method", "clip", *CLIP, "--set", "image_size=224"], []),
    ("anomalyclip", ["--method", "anomalyclip", *CLIP, "--epochs", "1", "--set", "image_size=224"], []),
]


def run(program, *arguments):
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def pixels_of(path, entry):
    """A picture as the file's metadata ask for it: what the program sees, and what goes into the graph."""
    picture = Image.open(path).convert("RGB")
    rule, size = entry["resize"], (entry["width"], entry["height"])
    if rule["mode"] == "shorter_side_centre_crop":
        picture = picture.resize((rule["size"], rule["size"]), Image.BICUBIC)
        left = round((rule["size"] - size[0]) / 2)
        return picture, picture.crop((left, left, left + size[0], left + size[1]))
    picture = picture.resize(size, Image.BICUBIC)
    return picture, picture


def cosine(a, b):
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def engines(path, half):
    """Functions that run the file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    yield "onnxruntime", lambda feed: dict(zip(names, session.run(None, feed)))
    contrib = any(opset.domain == "com.microsoft" for opset in onnx.load(path).opset_import)
    if not contrib:
        model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run_openvino(feed):
            found = model(feed)
            return {name: found[name] for name in names}

        yield "openvino", run_openvino


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--normal", type=pathlib.Path)
    parser.add_argument("--images", type=pathlib.Path)
    parser.add_argument("--case", action="append")
    parser.add_argument("--arguments", help="those of `fit`, for one case of another name")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if given.normal is None:
        spec = "textures,materials=1,images=10,side=224"
        if not (folder / "set").exists():
            run(given.program, "data", "draw", spec, "-o", folder / "set")
        given.normal = next(folder.glob("set/*/train/good"))
        given.images = next(folder.glob("set/*/test"))
    normal = sorted(given.normal.rglob("*.png"))[:4]
    images = sorted(given.images.rglob("*.png"))
    images = images[:: max(1, len(images) // 10)][:10]
    cases = CASES
    if given.arguments:
        cases = [(given.case[0], given.arguments.split(), [])]
    elif given.case:
        cases = [case for case in CASES if case[0] in given.case]
    failed = False
    for name, fit, export in cases:
        detector, path = folder / f"{name}.detector", folder / f"{name}.onnx"
        command, source = "fit", ["--normal", *normal]
        if name in ("lens-own-image", "clip"):
            source = []
        if name == "anomalyclip":
            command, source = "train", ["--data", f"folder:{folder / 'set'}"]
        run(given.program, command, *source, *fit, "-o", detector)
        told = json.loads(run(given.program, "export", detector, *export, "-o", path, "--json"))
        onnx.checker.check_model(str(path), full_check="--contrib" not in export)
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        entries = json.loads(metadata["anomalens.inputs"])
        assert metadata["anomalens.part"] == "detector", metadata
        pictures, crops, feeds = [], [], []
        (folder / name).mkdir(exist_ok=True)
        for number, image in enumerate(images):
            feed = {}
            for entry in entries:
                whole, seen = pixels_of(image, entry)
                feed.setdefault(entry["name"], np.asarray(seen)[None])
                if not feed or entry is entries[0]:
                    first = whole
                    crops.append(((whole.width - seen.width) // 2, (whole.height - seen.height) // 2))
            picture = folder / name / f"{number:02}.png"
            first.save(picture)
            pictures.append(picture)
            feeds.append(feed)
        out = folder / name / "out"
        lines = run(given.program, "detect", *pictures, "--detector", detector, "-o", out,
                    "--fresh", "--no-pictures", "--maps", "npy", "--json").splitlines()
        results = {pathlib.Path(line["image"]).name: line for line in map(json.loads, lines)}
        half = "--half" in export
        for engine, infer in engines(path, half):
            worst, least = 0.0, 1.0
            for picture, feed, (left, top) in zip(pictures, feeds, crops):
                found = infer(feed)
                result = results[picture.name]
                expected = np.load(out / result["map"])
                large = found["anomaly_map"][0]
                rows, columns = large.shape
                expected = expected[top : top + rows, left : left + columns]
                expected.tofile(picture.with_suffix(".map"))
                difference = abs(float(found["score"][0]) - result["score"]) / abs(result["score"])
                worst, least = max(worst, difference), min(least, cosine(large, expected))
            good = (worst <= SCORE and least >= COSINE) or (half and worst <= 0.05 and least >= 0.999)
            failed |= not good
            print(f"{name:24} {engine:12} score off by {worst:.1e}, smallest cosine {least:.6f}"
                  f"{'' if good else '  FAILED'}", flush=True)
        expected = {
            "file": path.name,
            "limits": {"score": 0.05, "cosine": 0.999} if half else {"score": SCORE, "cosine": COSINE},
            "skip": half or "--contrib" in export,
            "inputs": {port: list(pixels.shape) for port, pixels in feeds[0].items()},
            "scores": [results[picture.name]["score"] for picture in pictures],
        }
        for number, feed in enumerate(feeds):
            for port, pixels in feed.items():
                pixels.tofile(folder / name / f"{number:02}.{port}.bytes")
        (folder / f"{name}.json").write_text(json.dumps(expected))
        (folder / name / "00.score").write_text(f"{expected['scores'][0]:.4f}")
    sys.exit(failed)


main()
