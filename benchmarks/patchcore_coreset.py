"""Sets our choice of PatchCore's coreset beside that of the published code, written anew in PyTorch.

    cargo build --release -p anomalens-detectors --example coreset_speed
    python benchmarks/patchcore_coreset.py target/release/examples/coreset_speed

Both take the same patches in one run: crowds around random centres, as patches of real images come. They
project them to 128 numbers and take, one at a time, the patch that is farthest from all taken before, starting
from the mean distance to ten random ones. Prints the seconds of each, their ratio, and how far the farthest
patch is from each coreset, which must be about the same: the random parts differ. Needs numpy and torch.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--patches", type=int, default=50_000)
parser.add_argument("--width", type=int, default=1024)
parser.add_argument("--part", type=float, default=0.01)
parser.add_argument("--crowds", type=int, default=200, help="0: no crowds, every patch by itself")
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(args.threads)

import numpy  # noqa: E402
import torch  # noqa: E402

PROJECTED = 128
STARTS = 10
torch.set_num_threads(args.threads)


def distances(rows, one):
    """From all rows to one, by the squares of their lengths, as the published code has it."""
    squares = (rows * rows).sum(dim=1, keepdim=True)
    square = (one * one).sum(dim=1, keepdim=True)
    return (squares + square.T - 2 * rows @ one.T).clamp(min=0).sqrt()


def reference(patches):
    with torch.inference_mode():
        rows = torch.nn.Linear(patches.shape[1], PROJECTED, bias=False)(patches)
        starts = torch.randperm(len(rows))[:STARTS]
        nearest = distances(rows, rows[starts]).mean(dim=1, keepdim=True)
        taken = []
        for _ in range(int(args.part * len(rows))):
            new = int(nearest.argmax())
            taken.append(new)
            both = torch.cat([nearest, distances(rows, rows[new : new + 1])], dim=1)
            nearest = both.min(dim=1, keepdim=True).values
    return taken


def farthest(patches, taken):
    """How far the farthest patch is from what was taken."""
    parts = torch.split(patches, 4096)
    return max(float(torch.cdist(part, patches[taken]).amin(dim=1).max()) for part in parts)


random = numpy.random.default_rng(0)
patches = random.standard_normal((args.patches, args.width), dtype=numpy.float32)
if args.crowds:
    centres = 3 * random.standard_normal((args.crowds, args.width), dtype=numpy.float32)
    spread = random.random((args.patches, 1), dtype=numpy.float32)
    patches = patches * spread + centres[random.integers(args.crowds, size=args.patches)]
with tempfile.NamedTemporaryFile() as file:
    patches.tofile(file.name)
    command = [args.program, file.name, str(args.width), str(args.part)]
    ours = json.loads(subprocess.check_output(command, text=True))

patches = torch.from_numpy(patches)
start = time.perf_counter()
taken = reference(patches)
theirs = time.perf_counter() - start
print(f"{args.patches} x {args.width}, {len(taken)} taken, {args.threads} threads, seconds:")
print(f"ours {ours['seconds']:.2f}, the published algorithm {theirs:.2f}, ratio {theirs / ours['seconds']:.1f}")
print(
    f"farthest patch: ours {farthest(patches, ours['taken']):.2f}, "
    f"the published algorithm {farthest(patches, taken):.2f}"
)
