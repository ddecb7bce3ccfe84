"""Sets the speed of the image encoder and of the whole pipeline beside PyTorch and OpenVINO.

    python benchmarks/encoder_peers.py target/release/anomalens PEER [--arch dinov2-s,anomalyclip] [--images DIR]

PEER is a script that times the same network and prints JSON with `seconds` per image (arguments
--arch dinov2-s|anomalyclip --engine torch-bf16|openvino-bf16|torch-f32 --batch N --threads N --runs N);
run it with a Python that has torch and openvino. Everything is timed in turn on the machine at hand. The
table on standard output has a line for each precision of ours: median time per image, peak memory, and
for each peer its median time and the ratio to ours (above 1: Anomalens is faster).
"""

import argparse
import json
import os
import subprocess
import sys

# DINOv2 ViT-S/14 at 224 x 224; CLIP ViT-L/14@336 at 518 x 518 with AnomalyCLIP's local stream.
ARCHITECTURES = {
    "dinov2-s": ["--weights", "dinov2-s-focus"],
    "anomalyclip": "--arch clip-vit-l14-336 --dpam --size 518 --weights seeded:7".split(),
}

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("peer")
parser.add_argument("--arch", default="dinov2-s", help="networks, of " + ", ".join(ARCHITECTURES))
parser.add_argument("--precisions", default="f32,half,int8")
parser.add_argument("--engines", default="torch-f32,torch-bf16,openvino-bf16")
parser.add_argument("--threads", default="1,2")
parser.add_argument("--batches", default="1,8", help="of dinov2-s; anomalyclip takes one image at a time")
parser.add_argument("--runs", type=int, default=7)
parser.add_argument("--images", help="a folder of images for the pipeline")
args = parser.parse_args()


def run(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        environment.pop(name, None)
    output = subprocess.check_output(command, env=environment, text=True)
    return json.loads(output.strip().splitlines()[-1])


def compare(arch, threads, batch):
    shape = ["--batch", str(batch), "--runs", str(args.runs)]
    peers = []
    for engine in engines:
        peer = [sys.executable, args.peer, "--arch", arch, "--engine", engine, *shape]
        peers.append(run([*peer, "--threads", str(threads)], threads)["seconds"])
    for precision in args.precisions.split(","):
        command = [args.program, "bench", "encoder", *ARCHITECTURES[arch], "--precision", precision]
        ours = run([*command, *shape, "--json"], threads)
        seconds = ours["seconds"]
        cells = [arch, threads, batch, ours["engine"], f"{1000 * seconds:.1f} ms", f"{ours['peak_rss_mb']} MB"]
        cells += [f"{1000 * peer:.1f} ms ({peer / seconds:.2f})" for peer in peers]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


engines = args.engines.split(",")
print("| network | threads | batch | Anomalens | time | peak memory | " + " | ".join(engines) + " |")
print("| --- " * (6 + len(engines)) + "|", flush=True)
for arch in args.arch.split(","):
    for threads in map(int, args.threads.split(",")):
        for batch in map(int, args.batches.split(",") if arch == "dinov2-s" else ["1"]):
            compare(arch, threads, batch)
if args.images:
    print()
    for threads in map(int, args.threads.split(",")):
        command = [args.program, "bench", "pipeline", args.images, "--runs", "3", "--json"]
        ours = run(command, threads)
        print(
            f"pipeline, {threads} threads: {ours['images_per_second']:.1f} images/s over "
            f"{ours['images']} files, peak memory {ours['peak_rss_mb']} MB"
        )
