"""int8: linear layers that multiply whole numbers; a quarter of the size, and faster with VNNI.

A weight matrix keeps one scale for each of its outputs, and every token gets one for itself when
it passes: x is about scale * q with q from -127 to 127. The products are then exact, so a token's
vector depends on nothing but its own text, bit for bit. The layers are swapped into the `BertModel`
that you read; attention, softmax, GELU, LayerNorm and the residuals stay float32.

Two details keep the error small. Channels that are large in every token would leave the others few
steps of the scale, so their size is moved into the weights beforehand (``smooth``). What comes out
of the activation is never below -0.17, so there the 256 steps go from that floor to the largest
value.

An int8 model cannot be trained, and other libraries cannot open it.

Source: scales per token and per output: Dettmers 2022 (LLM.int8()), §2; moving the size of
channels: Xiao 2023 (SmoothQuant), §4 equation 4.
"""

from __future__ import annotations

import functools
import os
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.io import checkpoint
from minibert.io.directory import open_directory
from minibert.io.files import atomic_directory
from minibert.model import BertModel
from minibert.pretrained import NoInitialisation
from minibert.speed.packed import PackedLinear, ShortSoftmax
from minibert.trace import record

FILE = checkpoint.INT8
SMALLEST = 1e-30  # instead of 0 where something is divided by the largest value
# Below the lowest value of each activation.
FLOORS = {"gelu": -0.171, "gelu_new": -0.171, "gelu_pytorch_tanh": -0.171, "relu": 0.0}
LINEAR = (  # of a layer
    "attention.query", "attention.key", "attention.value", "attention.output",
    "feed_forward.expand", "feed_forward.contract",
)


class Rounding:
    """x → whole numbers q from -127 to 127 and the largest value of each token.

    Query, key and value share one: they get the same tensor one after the other, and it is rounded
    once. The tensor is known by its identity, as long as it lives.
    """

    def __init__(self) -> None:
        self.last: tuple | None = None  # a reference to the last x, and what came of it

    def __call__(self, x: Tensor, smooth: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shapes: x (n, in), smooth (in,) → q (n, in) int8, largest (n, 1)."""
        last = self.last  # read once: another thread may be writing
        if last is not None and last[0]() is x:
            return last[1], last[2]
        scaled = x if smooth is None else x / smooth  # (n, in)
        largest = scaled.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST)  # (n, 1)
        q = (scaled * (127 / largest)).round_().to(torch.int8)  # (n, in)
        self.last = (weakref.ref(x), q, largest)
        return q, largest

    def __getstate__(self) -> dict:
        """Nothing: a copy rounds for itself."""
        return {"last": None}


class Int8Linear(nn.Module):
    """A linear layer of whole numbers: x W + b, with the scales put back afterwards.

    Without a floor q = x / smooth * 127 / largest, with largest = max |x / smooth| of the token.
    With one, q = (x - floor) * 255 / largest - 128, with largest = max (x - floor); ``offset`` is
    then 128 times the sum of the weights of each output, and ``bias`` has taken in what the floor
    adds.

    Shapes: (..., in) → (..., out). ``weight`` (in, out) int8, ``scale`` and ``bias`` (out,)
    float32, ``smooth`` (in,) or None, ``offset`` (out,) int32 or None.
    """

    engine = "int8"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        smooth: bool = False,
        floor: float | None = None,
        rounding: Rounding | None = None,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.rounding = rounding or Rounding()
        self.register_buffer("weight", torch.empty(inputs, outputs, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(outputs))
        self.register_buffer("bias", torch.empty(outputs))
        self.register_buffer("smooth", torch.empty(inputs) if smooth else None)
        offset = None if floor is None else torch.empty(outputs, dtype=torch.int32)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        """Round the tokens, multiply, scale: few passes over memory, and those in place."""
        if self.floor is None:
            q, largest = self.rounding(x, self.smooth)
            product = torch._int_mm(q.flatten(0, -2), self.weight)  # (n, out) int32
        else:
            largest = (x.amax(-1, keepdim=True) - self.floor).clamp_(min=SMALLEST)  # (..., 1)
            factor = 255 / largest
            shift = -128 - self.floor * factor
            q = (x * factor).add_(shift).round_().to(torch.int8)  # (..., in)
            product = torch._int_mm(q.flatten(0, -2), self.weight).add_(self.offset)
        y = product.float().view(*x.shape[:-1], -1).mul_(largest)  # (..., out)
        return torch.addcmul(self.bias, y, self.scale, out=y)

    @torch.no_grad()
    def fill(self, linear: nn.Linear, smooth: Tensor | None = None) -> None:
        """Take the numbers of a float layer. Shapes: smooth (in,)."""
        weight, bias = linear.weight.float(), linear.bias.float().clone()  # (out, in), (out,)
        q, scale = rounded(weight if smooth is None else weight * smooth)
        scale, sums = scale.flatten(), q.sum(1, dtype=torch.int32)  # (out,) each
        self.weight, self.smooth = q.T.contiguous(), smooth
        if self.floor is None:
            self.scale, self.bias = scale / 127, bias
        else:
            self.scale, self.bias = scale / 255, bias + self.floor * scale * sums
            self.offset = 128 * sums

    @torch.no_grad()
    def to_float(self) -> nn.Linear:
        """An ``nn.Linear`` with the rounded weights."""
        scale = self.scale * (127 if self.floor is None else 255)  # (out,)
        weight = self.weight.T.float() * scale[:, None]  # (out, in)
        bias = self.bias - (0.0 if self.floor is None else self.floor * weight.sum(1))
        with torch.device("meta"), NoInitialisation():
            linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight = nn.Parameter(weight if self.smooth is None else weight / self.smooth)
        linear.bias = nn.Parameter(bias)
        return linear


class Int8Embedding(nn.Module):
    """The word table, with a scale for each row. Shapes: ids (B, T) → (B, T, H)."""

    def __init__(self, words: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(words, hidden, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(words, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up the rows and scale them."""
        return self.weight[ids].float().mul_(self.scale[ids])  # (B, T, H)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127, and a scale for each row: (out, in) → (out, in), (out, 1)."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=SMALLEST) / 127
    return (weight / scale).round().to(torch.int8), scale


# ---------------------------------------------------------------------- swapping, and swapping back


def swap_in(model: BertModel) -> None:
    """Put int8 parts, without numbers yet, in the place of the float ones.

    The pooler, which has no use in a sentence encoder, is removed.
    """
    config = model.config
    H, F = config.hidden_size, config.intermediate_size
    for layer in model.layers:
        rounding = Rounding()
        for name in ("query", "key", "value"):
            setattr(layer.attention, name, Int8Linear(H, H, smooth=True, rounding=rounding))
        layer.attention.probabilities = ShortSoftmax(dim=-1)
        layer.attention.output = Int8Linear(H, H)
        layer.feed_forward.expand = Int8Linear(H, F, smooth=True)
        layer.feed_forward.contract = Int8Linear(F, H, floor=FLOORS[config.hidden_act])
    model.embeddings.word = Int8Embedding(config.vocab_size, H)
    model.pooler = None


def quantize(model: BertModel) -> BertModel:
    """Swap the linear layers and the word table of a model for int8 ones, in place; returns it.

    Raises:
        ValueError: a linear layer is not an ``nn.Linear`` (any more): one with LoRA matrices, say.
    """
    before = dict(model.named_modules())
    for name, part in before.items():
        plain = type(part) is nn.Linear or isinstance(part, PackedLinear)
        if name.endswith(LINEAR) and not plain:
            raise ValueError(
                f"{name} is a {type(part).__name__}; int8 takes the place of nn.Linear: merge LoRA "
                "matrices first"
            )
    largest = largest_inputs(model)
    table = model.embeddings.word.weight.detach().float()  # (V, H)
    swap_in(model)
    for i, layer in enumerate(model.layers):
        for names in (LINEAR[:3], LINEAR[4:5]):  # query, key and value; expand
            parts = [before[f"layers.{i}.{name}"] for name in names]
            weight = torch.cat([part.weight for part in parts])
            smooth = smoothing(largest[f"layers.{i}.{names[0]}"], weight)
            for name, part in zip(names, parts, strict=True):
                layer.get_submodule(name).fill(part, smooth)
        for name in (LINEAR[3], LINEAR[5]):
            layer.get_submodule(name).fill(before[f"layers.{i}.{name}"])
    words = model.embeddings.word
    words.weight, words.scale = rounded(table)
    return model.float().requires_grad_(False).eval()


def smoothing(largest: Tensor, weight: Tensor) -> Tensor:
    """What each channel is divided by: large for a channel that is large and has small weights.

    Shapes: (in,) and (out, in) → (in,).
    """
    weight = weight.detach().float().abs().amax(0)  # (in,)
    return largest.clamp(min=1e-5) ** 0.6 / weight.clamp(min=1e-5) ** 0.4  # (in,)


def largest_inputs(model: BertModel) -> dict[str, Tensor]:
    """The largest |value| of each channel before attention and feed-forward: layer → (H,).

    No texts are needed: the large channels are large for any words. 32 lists of 16 random tokens
    found the same ones as the sentences of the STS benchmark.
    """
    config, random = model.config, torch.Generator().manual_seed(0)
    size = (32, min(16, config.max_position_embeddings))
    ids = torch.randint(config.vocab_size, size, generator=random)
    names = [f"layers.{i}.{LINEAR[n]}" for i in range(len(model.layers)) for n in (0, 4)]
    with torch.no_grad(), record(model.eval(), dict(zip(names, names, strict=True)), {}) as tensors:
        model(ids.to(model.embeddings.word.weight.device))
    return {name: tensor.float().abs().amax((0, 1)) for name, tensor in tensors.items()}


def dequantize(model: BertModel) -> BertModel:
    """Swap the int8 parts for float32 ones with the rounded weights, in place; returns the model.

    For where int8 is slow, or to export: nearly the same vectors, as only tokens are not rounded.
    """
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, Int8Linear):
                setattr(module, name, part.to_float())
            elif isinstance(part, ShortSoftmax):
                setattr(module, name, nn.Softmax(part.dim).train(part.training))
    table = model.embeddings.word
    words, pad = table.weight.float() * table.scale, model.config.pad_token_id
    model.embeddings.word = nn.Embedding(*words.shape, padding_idx=pad, _weight=words)
    return model.requires_grad_(True)


# ----------------------------------------------------------------------------- load and save


def save(
    model: BertModel, directory: str | os.PathLike, instead_of: str | os.PathLike | None = None
) -> None:
    """Write ``config.json`` and ``model.int8.safetensors``, a quarter of the float32 file.

    The file has a name of its own because no other library can read it: transformers says that
    there is no ``model.safetensors``, which is better than wrong numbers.

    Args:
        instead_of: the directory that the files will end up in, if that is another one.

    Raises:
        ValueError: the directory has a ``model.safetensors``: which of the two would be meant?
        OSError: the directory cannot be written.
    """
    target = directory if instead_of is None else instead_of
    if Path(target, "model.safetensors").exists():
        raise ValueError(
            f"{target} has a model.safetensors; save the int8 model into a directory of its own"
        )
    with atomic_directory(directory) as staging:
        model.config.save_pretrained(staging)
        checkpoint.write_safetensors(staging / FILE, model.state_dict())


def load(directory: str | os.PathLike) -> BertModel:
    """Read what `save` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or does not fit the config.
    """
    directory = open_directory(directory)
    state, _ = checkpoint.read_safetensors(directory.file(FILE))
    with torch.device("meta"), NoInitialisation():
        model = BertModel(BertConfig.from_pretrained(directory), add_pooling_layer=False)
        swap_in(model)
    wanted, found = (
        {(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        for tensors in (model.state_dict(), state)
    )
    wrong = sorted({name for name, _, _ in wanted ^ found})
    if wrong:
        raise ValueError(
            f"{Path(directory, FILE)}: {len(wrong)} tensors are missing, not expected, or of "
            f"another shape or dtype than the config needs: {', '.join(wrong[:6])}. If an older "
            "minibert saved it, make it again from the float32 model"
        )
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def is_int8(directory: str | os.PathLike) -> bool:
    """Whether a directory holds an int8 model and no float one."""
    return Path(directory, FILE).exists() and not Path(directory, "model.safetensors").exists()


@functools.cache
def unsupported() -> str | None:
    """Why int8 does not pay on this machine, or None where it does.

    Torch multiplies int8 matrices on every processor, but without the instructions for it that
    takes many times as long as in float32. `minibert bench` measures both.
    """
    if not hasattr(torch, "_int_mm"):
        return f"torch {torch.__version__} cannot multiply int8 matrices"
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (64, 384), generator=random).to(torch.int8)
    w = torch.randint(-127, 128, (384, 64), generator=random).to(torch.int8)
    x[0], w[:, 0] = 127, 127  # sums that would overflow 16 bits
    if not torch.equal(torch._int_mm(x, w).double(), x.double() @ w.double()):
        return "this processor's product of int8 matrices is not exact"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if not any(capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "i8mm", "arm_i8mm")):
        return "this processor has no instructions for products of int8 (VNNI, I8MM)"
    return None
