"""Makes the PyTorch files of this folder: torchscript.pt, openclip.pt, openclip_legacy.pt, prompt_learner.pth.

    python torch_files.py    (torch 2.15)

Element i of the k-th tensor of a file is k + i / 16, both counted from 0 (whole numbers: k + i); this is
exact in half precision, and tells every tensor and offset apart.
"""

import warnings
import zipfile
from collections import OrderedDict

import torch
from torch import nn

WIDTH, EMBED, PATCH, TEXT_WIDTH, CONTEXT, VOCABULARY = 4, 3, 2, 2, 5, 7


def fill(k, tensor):
    step = 1 if tensor.dtype in (torch.int32, torch.int64, torch.uint8) else 16
    values = k + torch.arange(tensor.numel()) / step
    return values.reshape(tensor.shape).to(tensor.dtype)


class Layer(nn.Module):
    """Stands for any layer with a weight and perhaps a bias; its code in the archive is small."""

    def __init__(self, *shape, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        if bias:
            self.bias = nn.Parameter(torch.empty(shape[0]))

    def forward(self, x):
        return x


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = Layer(width, width)

    def forward(self, x):
        return self.out_proj(x)


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc = Layer(4 * width, width)
        self.c_proj = Layer(width, 4 * width)

    def forward(self, x):
        return self.c_proj(self.c_fc(x))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = Attention(width)
        self.ln_1 = Layer(width)
        self.mlp = Mlp(width)
        self.ln_2 = Layer(width)

    def forward(self, x):
        return self.mlp(self.ln_2(self.attn(self.ln_1(x))))


class Transformer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resblocks = nn.Sequential(Block(width))

    def forward(self, x):
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty(5, WIDTH))
        self.proj = nn.Parameter(torch.empty(WIDTH, EMBED))
        self.conv1 = Layer(WIDTH, 3, PATCH, PATCH, bias=False)
        self.ln_pre = Layer(WIDTH)
        self.transformer = Transformer(WIDTH)
        self.ln_post = Layer(WIDTH)

    def forward(self, x):
        return self.ln_post(self.transformer(self.ln_pre(x)))


class Clip(nn.Module):
    """Named and nested like OpenAI's archives, not computing anything sensible."""

    def __init__(self):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(CONTEXT, TEXT_WIDTH))
        self.text_projection = nn.Parameter(torch.empty(TEXT_WIDTH, EMBED))
        self.logit_scale = nn.Parameter(torch.empty([]))
        self.register_buffer("input_resolution", torch.tensor(4))
        self.context_length = CONTEXT
        self.visual = Visual()
        self.transformer = Transformer(TEXT_WIDTH)
        self.token_embedding = Layer(VOCABULARY, TEXT_WIDTH, bias=False)
        self.ln_final = Layer(TEXT_WIDTH)

    def forward(self, x):
        return self.visual(x)


def tensors_of(module):
    """In the order of a TorchScript archive: a module's own tensors come before those inside."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [tensor for _, tensor in own] + [
        tensor for _, child in module.named_children() for tensor in tensors_of(child)
    ]


def torchscript():
    clip = Clip()
    for module in clip.modules():
        if isinstance(module, Layer) and module.weight.dim() > 1 and module is not clip.token_embedding:
            module.half()
    with torch.no_grad():
        for attention in (m for m in clip.modules() if isinstance(m, Attention)):
            attention.in_proj_weight.data = attention.in_proj_weight.data.half()
            attention.in_proj_bias.data = attention.in_proj_bias.data.half()
        clip.visual.proj.data = clip.visual.proj.data.half()
        clip.text_projection.data = clip.text_projection.data.half()
        for k, tensor in enumerate(tensors_of(clip)):
            tensor.data = fill(k, tensor)
    torch.jit.save(torch.jit.script(clip), "torchscript.pt")
    without_debug_records("torchscript.pt")


def without_debug_records(path):
    """Where the code came from, on the machine that compiled it: nothing that a reader needs."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members:
            if not info.filename.endswith(".debug_pkl"):
                archive.writestr(info, content)


def openclip():
    whole = fill(2, torch.empty(4, 6, dtype=torch.half))
    state = OrderedDict(
        [
            ("module.visual.class_embedding", fill(0, torch.empty(4, dtype=torch.half))),
            ("module.visual.proj", fill(1, torch.empty(3, 4, dtype=torch.half)).t()),
            # Rows 1 to 2, columns 2 to 5, every second one: element (r, c) is 2 + (6 (r + 1) + 2 + 2 c) / 16.
            ("module.positional_embedding", whole[1:3, 2:6:2]),
            ("module.logit_scale", nn.Parameter(fill(3, torch.empty([])))),
            ("module.ln_final.weight", fill(4, torch.empty(3, dtype=torch.bfloat16))),
            ("module.ln_final.bias", fill(5, torch.empty(3, dtype=torch.double))),
            ("module.position_ids", fill(6, torch.empty(1, 3, dtype=torch.int64))),
            ("module.mask", fill(7, torch.empty(3, dtype=torch.uint8))),
            ("module.nothing", torch.empty(0, 3)),
        ]
    )
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]}
    saved = {"epoch": 2, "name": "tiny", "state_dict": state, "optimizer": optimizer}
    torch.save(saved, "openclip.pt")
    # As PyTorch wrote files before version 1.6.
    torch.save(saved, "openclip_legacy.pt", _use_new_zipfile_serialization=False)


def prompt_learner():
    """The tensors of AnomalyCLIP's `epoch_N.pth` at width 4, two deep blocks; prefix and suffix are views."""
    tokens, width, context = 77, 4, 12
    state = OrderedDict()
    for k, side in enumerate(["pos", "neg"]):
        state[f"ctx_{side}"] = fill(k, torch.empty(1, 1, context, width))
    for k, side in enumerate(["pos", "neg"]):
        embedding = fill(2 + k, torch.empty(1, 1, tokens, width))
        state[f"token_prefix_{side}"] = embedding[:, :, :1]
        state[f"token_suffix_{side}"] = embedding[:, :, 1 + context :]
    for k, side in enumerate(["pos", "neg"]):
        state[f"tokenized_prompts_{side}"] = fill(6 + k, torch.empty(1, 1, tokens, dtype=torch.int32))
    for i in range(2):
        state[f"compound_prompts_text.{i}"] = fill(8 + i, torch.empty(4, width))
    for i in range(2):
        state[f"compound_prompt_projections.{i}.weight"] = fill(10 + 2 * i, torch.empty(8, width))
        state[f"compound_prompt_projections.{i}.bias"] = fill(11 + 2 * i, torch.empty(8))
    torch.save({"prompt_learner": state}, "prompt_learner.pth")


warnings.simplefilter("ignore")
torchscript()
openclip()
prompt_learner()
