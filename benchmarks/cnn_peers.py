"""Sets the speed of convolutional networks beside ONNX Runtime on the CPU.

    python benchmarks/cnn_peers.py target/release/anomalens [--networks wide-resnet50-2,efficientnet-lite0]
        [--sizes 224,672] [--threads 1,2] [--precisions f32,half,int8] [--rounds 5] [--runs 5]

Needs torch, torchvision, onnx and onnxruntime. The networks are exported from PyTorch with random weights
(only the time is of interest) up to the last feature map, batch norm folded, as ONNX Runtime gets them
from any exporter. Both are timed in turn, several rounds of several runs each, and the least time of all
counts, so that other work on the machine matters little; the table gives both in milliseconds, and how many
times as fast Anomalens is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

NETWORKS = {
    "wide-resnet50-2": "seeded:7:wide-resnet50-2",
    "resnet18": "seeded:7:resnet18",
    "efficientnet-lite0": "efficientnet-lite0",
}

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--networks", default="wide-resnet50-2,efficientnet-lite0", help=", ".join(NETWORKS))
parser.add_argument("--sizes", default="224,672")
parser.add_argument("--threads", default="1,2")
parser.add_argument("--precisions", default="f32,half,int8")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--peer", help=argparse.SUPPRESS)
args = parser.parse_args()


def lite0(size):
    """EfficientNet-Lite0 as its publishers define it: SAME padding, relu6, no squeeze-and-excite."""
    from torch import nn

    def convolution(inputs, outputs, side, stride, groups, clipped):
        nonlocal size
        reach = max((-(-size // stride) - 1) * stride + side - size, 0)
        size = -(-size // stride)
        layers = [nn.ZeroPad2d((reach // 2, reach - reach // 2) * 2)] if reach else []
        layers += [nn.Conv2d(inputs, outputs, side, stride, groups=groups)]
        return layers + ([nn.ReLU6()] if clipped else [])

    class Block(nn.Module):
        def __init__(self, inputs, outputs, side, stride, expand):
            super().__init__()
            hidden = inputs * expand
            layers = convolution(inputs, hidden, 1, 1, 1, True) if expand > 1 else []
            layers += convolution(hidden, hidden, side, stride, hidden, True)
            layers += convolution(hidden, outputs, 1, 1, 1, False)
            self.layers = nn.Sequential(*layers)
            self.skips = stride == 1 and inputs == outputs

        def forward(self, x):
            return x + self.layers(x) if self.skips else self.layers(x)

    layers, inputs = convolution(3, 32, 3, 2, 1, True), 32
    for blocks, side, stride, expand, outputs in [
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ]:
        for block in range(blocks):
            layers.append(Block(inputs, outputs, side, stride if block == 0 else 1, expand))
            inputs = outputs
    return nn.Sequential(*layers)


def without_pads(path, network):
    """Makes padding part of the convolutions, which ONNX Runtime is faster with."""
    import onnx
    from torch import nn

    widths = [list(layer.padding) for layer in network.modules() if isinstance(layer, nn.ZeroPad2d)]
    model = onnx.load(path)
    graph = model.graph
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    for node in list(graph.node):
        if node.op_type == "Conv" and node.input[0] in pads:
            pad = pads[node.input[0]]
            left, right, top, bottom = widths.pop(0)
            attribute = next(a for a in node.attribute if a.name == "pads")
            attribute.ints[:] = [top, left, bottom, right]
            node.input[0] = pad.input[0]
            graph.node.remove(pad)
    assert not widths and not any(node.op_type == "Pad" for node in graph.node)
    onnx.save(model, path)


def export(name, size, path):
    import torch
    import torchvision

    torch.manual_seed(0)
    if name == "efficientnet-lite0":
        network = lite0(size)
    else:
        network = getattr(torchvision.models, name.replace("-", "_"))(weights=None)
        network = torch.nn.Sequential(*list(network.children())[:-2])
    network.eval()
    image = torch.randn(1, 3, size, size)
    torch.onnx.export(network, (image,), path, dynamo=False, input_names=["image"], output_names=["map"])
    without_pads(path, network)


def peer():
    """One process of ONNX Runtime: prints the least time."""
    import numpy
    import onnxruntime

    path, size, threads, runs = args.peer.split(",")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = numpy.random.default_rng(0).standard_normal((1, 3, int(size), int(size)), dtype=numpy.float32)
    times = []
    for _ in range(int(runs) + 1):
        start = time.perf_counter()
        session.run(None, {"image": image})
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": min(times[1:])}))


def run(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    output = subprocess.check_output(command, env=environment, text=True, stderr=subprocess.DEVNULL)
    return json.loads(output.strip().splitlines()[-1])


def main():
    precisions = args.precisions.split(",")
    print("| network | pixels | threads | ONNX Runtime | " + " | ".join(f"`{p}`" for p in precisions) + " |")
    print("| --- " * (4 + len(precisions)) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks.split(","):
            for size in args.sizes.split(","):
                path = os.path.join(folder, f"{name}-{size}.onnx")
                export(name, int(size), path)
                for threads in args.threads.split(","):
                    compare(name, size, threads, path, precisions)


def compare(name, size, threads, path, precisions):
    theirs, ours = [], {precision: [] for precision in precisions}
    for _ in range(args.rounds):
        command = [sys.executable, __file__, args.program, "--peer", f"{path},{size},{threads},{args.runs}"]
        theirs.append(run(command, threads)["seconds"])
        for precision in precisions:
            command = [args.program, "bench", "encoder", "--weights", NETWORKS[name], "--size", size]
            command += ["--precision", precision, "--runs", str(args.runs), "--json"]
            ours[precision].append(run(command, threads)["least_seconds"])
    theirs = min(theirs)
    cells = [f"{1e3 * min(times):.1f} ({theirs / min(times):.2f})" for times in ours.values()]
    print("| " + " | ".join([name, size, threads, f"{1e3 * theirs:.1f}", *cells]) + " |", flush=True)


peer() if args.peer else main()
