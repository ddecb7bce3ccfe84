"""Pixel-level metrics: ours against scikit-learn and scikit-image, on the same maps.

    cargo build --release -p anomalens-metrics --example pixel_speed
    python benchmarks/metrics_peer.py target/release/examples/pixel_speed --maps 400 --size 512

Runs the example, which writes its maps to a file, computes the same metrics in Python and prints
both times and their ratio as JSON, by the clock and of the processor (which other programs on the
machine hardly change). Ends with an error if a value differs.

With --anomalib its exact AUPRO and its AUPIMO are timed too (the latter takes minutes).

AUPRO with 200 steps is computed as the published evaluation codes do: a loop over thresholds, and
inside it a loop over the regions of all masks. Those codes find the regions again for each
threshold; this is done with --relabel only, otherwise they are found once.

Needs numpy, scikit-learn and scikit-image; anomalib with --anomalib.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from skimage.measure import label, regionprops
from sklearn.metrics import auc, average_precision_score, roc_auc_score

STEPS = 200
FPR_LIMIT = 0.3
TOLERANCE = 1e-9
ANOMALIB_TOLERANCE = 1e-4  # it adds up in float32


def read_maps(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float32) and masks (bool), each [maps, rows, columns]."""
    shape = tuple(int(n) for n in np.fromfile(path, "<u4", count=3))
    pixels = int(np.prod(shape))
    scores = np.fromfile(path, "<f4", count=pixels, offset=12).reshape(shape)
    masks = np.fromfile(path, np.uint8, offset=12 + 4 * pixels).reshape(shape)
    return scores, masks.astype(bool)


def step_thresholds(scores: np.ndarray) -> np.ndarray:
    """The thresholds under NumPy 1.x number rules, with any NumPy version."""
    lowest, highest = scores.min(), scores.max()
    step = np.float64(highest - lowest) / STEPS
    count = int(np.ceil(np.float64(highest - lowest) / step))
    start = np.float64(lowest)
    step = (start + step) - start
    return (start + np.arange(count) * step).astype(np.float32)


def find_regions(masks: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Index of the map and pixel coordinates of every region."""
    return [
        (index, region.coords)
        for index, mask in enumerate(masks)
        for region in regionprops(label(mask))
    ]


def aupro_200_steps(scores: np.ndarray, masks: np.ndarray, relabel: bool) -> float:
    normal = ~masks
    normal_pixels = normal.sum()
    regions = find_regions(masks)
    rates, overlaps = [], []
    for threshold in step_thresholds(scores):
        predicted = scores > threshold
        if relabel:
            regions = find_regions(masks)
        covered = [
            predicted[index][coords[:, 0], coords[:, 1]].sum() / len(coords)
            for index, coords in regions
        ]
        overlaps.append(np.mean(covered))
        rates.append((predicted & normal).sum() / normal_pixels)
    rates, overlaps = np.array(rates), np.array(overlaps)
    kept = rates < FPR_LIMIT
    rates, overlaps = rates[kept], overlaps[kept]
    return auc((rates - rates.min()) / (rates.max() - rates.min()), overlaps)


def anomalib_aupro(scores: np.ndarray, masks: np.ndarray) -> float:
    import torch
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=FPR_LIMIT)
    metric.update(torch.from_numpy(scores), torch.from_numpy(masks))
    return metric.compute()


def anomalib_aupimo(scores: np.ndarray, masks: np.ndarray) -> float:
    import torch
    from anomalib.metrics.pimo.pimo import _AUPIMO

    metric = _AUPIMO()
    metric.update(torch.from_numpy(scores), torch.from_numpy(masks))
    return metric.compute()


def timed(function, *arguments) -> dict:
    start, cpu_start = time.perf_counter(), time.process_time()
    value = float(function(*arguments))
    return {
        "value": value,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="the built example pixel_speed")
    parser.add_argument("--maps", type=int, default=400)
    parser.add_argument("--size", type=int, default=512, help="rows and columns of a map")
    parser.add_argument("--relabel", action="store_true", help="find the regions at each threshold")
    parser.add_argument("--anomalib", action="store_true", help="time anomalib's metrics too")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "maps.raw")
        command = [arguments.program, str(arguments.maps), str(arguments.size), path]
        ours = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        scores, masks = read_maps(path)

    peer = {
        "auroc": timed(roc_auc_score, masks.ravel(), scores.ravel()),
        "average_precision": timed(average_precision_score, masks.ravel(), scores.ravel()),
        "aupro_200_steps": timed(aupro_200_steps, scores, masks, arguments.relabel),
    }
    seconds, cpu_seconds = (
        sum(metric[key] for metric in peer.values()) for key in ("seconds", "cpu_seconds")
    )
    differences = {name: abs(metric["value"] - ours[name]) for name, metric in peer.items()}
    result = {
        "relabel": arguments.relabel,
        "ours": ours,
        "peer": peer,
        "peer_seconds": seconds,
        "peer_cpu_seconds": cpu_seconds,
        "differences": differences,
        "ratio": seconds / ours["seconds"],
        "cpu_ratio": cpu_seconds / ours["cpu_seconds"],
    }
    wrong = max(differences.values()) > TOLERANCE
    if arguments.anomalib:
        import anomalib.metrics  # noqa: F401, so that no import is timed

        result["anomalib"] = {
            "aupro": timed(anomalib_aupro, scores, masks),
            "aupimo": timed(anomalib_aupimo, scores, masks),
        }
        for name, ours_took in (("aupro", "cpu_seconds"), ("aupimo", "aupimo_cpu_seconds")):
            metric = result["anomalib"][name]
            metric["difference"] = abs(metric["value"] - ours[name])
            metric["cpu_ratio"] = metric["cpu_seconds"] / ours[ours_took]
            wrong |= metric["difference"] > ANOMALIB_TOLERANCE
    print(json.dumps(result, indent=2))
    if wrong:
        sys.exit("the values differ")


if __name__ == "__main__":
    main()
