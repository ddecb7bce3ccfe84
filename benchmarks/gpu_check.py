#!/usr/bin/env python3
"""Measures anomalens on an NVIDIA GPU beside PyTorch, in one run of at most four minutes.

    python3 benchmarks/gpu_check.py --program target/release/anomalens --library FOLDER

Needs PyTorch with CUDA and the library of ONNX Runtime for GPUs (`pip install onnxruntime-gpu`, or
--library FOLDER), and nothing from the network: weights are random, images are drawn. Prints a line of
JSON for each figure: milliseconds for an image, with the copies from and to the host for anomalens,
without them for PyTorch; images per second from JPEG files to scores; how far the scores are from the
processor's.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

START = time.monotonic()
# AnomalyCLIP: CLIP ViT-L/14 at 518 pixels with V-V attention from block 6 on.
NETWORKS = {
    "anomalyclip": dict(weights="seeded:1:clip-vit-l14", side=518, batches=[1, 8, 32], dpam=True),
    "dinov2-s": dict(weights="seeded:1:dinov2-vit-s14", side=224, batches=[1, 8, 64, 256], dpam=False),
}
SHAPES = {
    "anomalyclip": dict(width=1024, depth=24, heads=16, local_from=5, embedding=768, quick=True),
    "dinov2-s": dict(width=384, depth=12, heads=6, local_from=None, embedding=None, quick=False),
}


def say(**figures):
    print(json.dumps(figures), flush=True)


def left(limit):
    return limit - (time.monotonic() - START)


def run(arguments, environment, timeout):
    result = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=max(timeout, 1)
    )
    if result.returncode:
        said = f"{result.stderr.strip()[-600:]} {result.stdout.strip()[-600:]}"
        raise RuntimeError(f"{' '.join(arguments)} ended with {result.returncode}: {said}")
    return result.stdout


def encoder(program, environment, device, runs, limit):
    for name, network in NETWORKS.items():
        arguments = [program, "bench", "encoder", "--weights", network["weights"], "--device", device]
        arguments += ["--size", str(network["side"]), "--runs", str(runs), "--json"]
        arguments += ["--batch", ",".join(map(str, network["batches"]))]
        arguments += ["--dpam"] if network["dpam"] else []
        try:
            started = time.monotonic()
            rows = json.loads(run(arguments, environment, left(limit)))["batches"]
            say(network=name, engine="anomalens", whole_command_s=round(time.monotonic() - started, 1))
            for row in rows:
                say(
                    network=name,
                    engine=f"anomalens, {row['runs_as']}",
                    batch=row["batch"],
                    ms=round(row["seconds"] * 1e3, 4),
                    least_ms=round(row["least_seconds"] * 1e3, 4),
                )
        except Exception as error:
            say(network=name, engine="anomalens", error=str(error)[-900:])


def transformer(width, depth, heads, local_from, embedding, quick, side):
    import torch
    from torch import nn
    from torch.nn.functional import gelu, scaled_dot_product_attention as attend

    class Block(nn.Module):
        def __init__(self, has_local):
            super().__init__()
            self.has_local = has_local
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, own, local):
            images, tokens, _ = own.shape
            heads_of = self.project(self.before(own)).view(images, tokens, 3, heads, width // heads)
            query, key, value = heads_of.permute(2, 0, 3, 1, 4)
            joined = lambda x: self.join(x.transpose(1, 2).reshape(images, tokens, width))
            if self.has_local:
                local = local + joined(attend(value, value, value))
            own = own + joined(attend(query, key, value))
            hidden = self.widen(self.between(own))
            hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else gelu(hidden)
            own = own + self.narrow(hidden)
            return own, local if self.has_local else own

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, width, 14, 14)
            self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
            self.places = nn.Parameter(0.02 * torch.randn(1, (side // 14) ** 2 + 1, width))
            self.blocks = nn.ModuleList(
                Block(local_from is not None and i >= local_from) for i in range(depth)
            )
            self.norm = nn.LayerNorm(width)
            self.space = nn.Linear(width, embedding, bias=False) if embedding else nn.Identity()

        def forward(self, pixels):
            tokens = self.patches(pixels).flatten(2).transpose(1, 2)
            own = torch.cat([self.first.expand(len(tokens), 1, width), tokens], 1) + self.places
            local = own
            for block in self.blocks:
                own, local = block(own, local)
            return self.space(own[:, 0]), self.space(self.norm(local))

    return Network().eval().cuda()


def pytorch(runs, limit):
    import torch

    for engine in ["PyTorch bf16", "PyTorch bf16, compiled"]:
        for name, network in NETWORKS.items():
            torch.manual_seed(0)
            model = transformer(side=network["side"], **SHAPES[name]).bfloat16()
            called = torch.compile(model, mode="reduce-overhead") if "compiled" in engine else model
            for batch in network["batches"]:
                if left(limit) < 30:
                    say(network=name, engine=engine, batch=batch, skipped="no time left")
                    continue
                shape = (batch, 3, network["side"], network["side"])
                pixels = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
                times = []
                with torch.inference_mode():
                    for _ in range(3):
                        called(pixels)
                    torch.cuda.synchronize()
                    for _ in range(runs):
                        begin = time.perf_counter()
                        called(pixels)
                        torch.cuda.synchronize()
                        times.append((time.perf_counter() - begin) / batch * 1e3)
                say(
                    network=name,
                    engine=engine,
                    batch=batch,
                    ms=round(statistics.median(times), 4),
                    least_ms=round(min(times), 4),
                )
            del model, called
            torch.cuda.empty_cache()


def photographs(folder, count):
    import numpy
    from PIL import Image

    random = numpy.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        rough = random.integers(0, 256, (12, 12, 3), dtype=numpy.uint8)
        image = Image.fromarray(rough).resize((320, 320), Image.BICUBIC)
        image.save(folder / f"{i:05}.jpg", quality=90)


def pipeline(program, environment, device, count, limit):
    with tempfile.TemporaryDirectory() as folder:
        images = pathlib.Path(folder) / "images"
        photographs(images, count)
        common = ["--weights", NETWORKS["dinov2-s"]["weights"]]
        settings = ["--set", "image_size=224"]
        bench = [program, "bench", "pipeline", "--method", "anomaly-dino", "--runs", "1", "--json"]
        try:
            text = run(bench + common + settings + ["--device", device, str(images)], environment, left(limit))
            found = json.loads(text)
            say(pipeline="JPEG files to scores and maps, 224 pixels", device=device, images=count,
                threads=found["threads"], images_per_second=found["images_per_second"],
                stages=found["stages_one_after_another"])
        except Exception as error:
            say(pipeline="failed", error=str(error)[-900:])
        try:
            few = pathlib.Path(folder) / "few"
            few.mkdir()
            for path in sorted(images.iterdir())[:24]:
                path.rename(few / path.name)
            detector = str(pathlib.Path(folder) / "a.detector")
            normal = [str(path) for path in sorted(few.iterdir())[:4]]
            run([program, "fit", "--method", "anomaly-dino", *common, *settings, "--normal", *normal, "-o", detector],
                environment, left(limit))
            scores = []
            for name in ["cpu", device]:
                out = str(pathlib.Path(folder) / name)
                text = run([program, "detect", "--detector", detector, str(few), "--device", name, "--json", "-o", out],
                           environment, left(limit))
                lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
                scores.append([line["score"] for line in lines if "score" in line])
            pairs = list(zip(*scores))
            far = max(abs(a - b) / max(abs(a), 1e-9) for a, b in pairs[4:])
            say(scores="the processor's and the device's", images=len(pairs), largest_relative_difference=far)
        except Exception as error:
            say(scores="failed", error=str(error)[-900:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="target/release/anomalens")
    parser.add_argument("--library", help="the folder of ONNX Runtime's library")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--limit", type=float, default=230, help="seconds")
    parser.add_argument("--parts", default="encoder,pipeline,pytorch")
    arguments = parser.parse_args()
    environment = dict(os.environ)
    if arguments.library:
        environment["ANOMALENS_ORT"] = arguments.library
    cards = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        say(machine=subprocess.run(cards, capture_output=True, text=True).stdout.strip(), cores=os.cpu_count())
    except OSError:
        say(machine="no NVIDIA GPU", cores=os.cpu_count())
    parts = arguments.parts.split(",")
    if "encoder" in parts:
        encoder(arguments.program, environment, arguments.device, arguments.runs, arguments.limit)
    if "pipeline" in parts:
        pipeline(arguments.program, environment, arguments.device, arguments.images, arguments.limit)
    if "pytorch" in parts:
        pytorch(arguments.runs, arguments.limit)
    say(seconds=round(time.monotonic() - START))


if __name__ == "__main__":
    main()
