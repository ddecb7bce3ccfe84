"""Sets the search for nearest neighbours beside NumPy and PyTorch: a whole product, then the maximum.

    cargo build --release -p anomalens-detectors --example search_speed
    python benchmarks/search_peers.py target/release/examples/search_speed

Everything is timed in turn on the machine at hand (median of the runs, after one that is not counted);
the table holds milliseconds and how many times as fast the search in float32, 16 bits and 8 bits is.
Needs numpy; torch, if it is to be compared.
"""

import argparse
import json
import os
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--sizes", default="256x2048x384,256x16384x384,1024x65536x384")
parser.add_argument("--threads", default="1,2")
parser.add_argument("--runs", type=int, default=9)
parser.add_argument("--peer", help=argparse.SUPPRESS)
args = parser.parse_args()


def median(work):
    work()
    times = []
    for _ in range(args.runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def peers(queries, vectors, width):
    """Times of the peers in this process, whose number of threads is set from outside."""
    import numpy

    random = numpy.random.default_rng(0)
    a = random.standard_normal((queries, width), dtype=numpy.float32)
    b = random.standard_normal((vectors, width), dtype=numpy.float32)
    times = {"numpy-f32": median(lambda: (a @ b.T).max(axis=1))}
    try:
        import torch
    except ImportError:
        return times
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for name, dtype in (("torch-f32", torch.float32), ("torch-bf16", torch.bfloat16)):
        x, y = torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)
        with torch.inference_mode():
            times[name] = median(lambda: (x @ y.T).amax(dim=1))
    return times


def run(command, threads):
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = dict(os.environ, **{name: str(threads) for name in names})
    output = subprocess.check_output(command, env=environment, text=True)
    return json.loads(output.strip().splitlines()[-1])


if args.peer:
    print(json.dumps(peers(*map(int, args.peer.split("x")))))
    raise SystemExit

print("| threads | queries x vectors x width | what | ms | f32 | half | int8 |")
print("| --- " * 7 + "|")
for threads in map(int, args.threads.split(",")):
    for size in args.sizes.split(","):
        ours = run([args.program, *size.split("x"), str(args.runs)], threads)["seconds"]
        mine = [sys.executable, __file__, args.program, "--runs", str(args.runs), "--peer", size]
        times = {"candle-f32": ours.pop("candle-f32"), **run(mine, threads)}
        for name, seconds in [*ours.items(), *times.items()]:
            cells = [f"{seconds / ours[kind]:.2f}" for kind in ("f32", "half", "int8")]
            print(
                f"| {threads} | {size} | {name} | {1000 * seconds:.2f} | " + " | ".join(cells) + " |",
                flush=True,
            )
