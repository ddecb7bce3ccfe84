"""Sets the speed of the image encoder and of the whole pipeline beside PyTorch and OpenVINO.

    python benchmarks/encoder_peers.py target/release/anomalens PEER --images DIR

PEER is a script that times a DINOv2 ViT-S/14 at 224 x 224 and prints JSON with `seconds` per image
(arguments --arch dinov2-s --engine torch-bf16|openvino-bf16|torch-f32 --batch N --threads N --runs N);
run it with a Python that has torch and openvino. Everything is timed in turn on the machine at hand, and
the table on standard output holds times per image and ratios (above 1: Anomalens is faster).
"""

import argparse
import json
import os
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("peer")
parser.add_argument("--images", required=True, help="a folder of images for the pipeline")
parser.add_argument("--engines", default="torch-f32,torch-bf16,openvino-bf16")
parser.add_argument("--threads", default="1,2")
parser.add_argument("--batches", default="1,8")
parser.add_argument("--runs", type=int, default=7)
args = parser.parse_args()


def run(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        environment.pop(name, None)
    output = subprocess.check_output(command, env=environment, text=True)
    return json.loads(output.strip().splitlines()[-1])


engines = args.engines.split(",")
print("| threads | batch | Anomalens | peak memory | " + " | ".join(engines) + " |")
print("| --- " * (4 + len(engines)) + "|")
for threads in map(int, args.threads.split(",")):
    for batch in map(int, args.batches.split(",")):
        shape = ["--batch", str(batch), "--runs", str(args.runs)]
        ours = run([args.program, "bench", "encoder", "--json", *shape], threads)
        cells = []
        for engine in engines:
            peer = [sys.executable, args.peer, "--arch", "dinov2-s", "--engine", engine, *shape]
            seconds = run([*peer, "--threads", str(threads)], threads)["seconds"]
            cells.append(f"{1000 * seconds:.0f} ms ({seconds / ours['seconds']:.2f})")
        print(
            f"| {threads} | {batch} | {1000 * ours['seconds']:.0f} ms | {ours['peak_rss_mb']} MB | "
            + " | ".join(cells)
            + " |",
            flush=True,
        )
print()
for threads in map(int, args.threads.split(",")):
    command = [args.program, "bench", "pipeline", args.images, "--runs", "3", "--json"]
    ours = run(command, threads)
    print(
        f"pipeline, {threads} threads: {ours['images_per_second']:.1f} images/s over "
        f"{ours['images']} files, peak memory {ours['peak_rss_mb']} MB"
    )
