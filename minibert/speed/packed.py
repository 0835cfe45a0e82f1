"""Faster linear layers: the weights are laid out for the processor once, not at every call.

A product of matrices first lays the weights out in blocks that suit the processor, at every call.
For the few tokens of one short text that is half of the time. `PackedLinear` does it once, and
again when the weight has changed. It takes the place of ``nn.Linear``; the model around it stays
the one that you read. The sums are added in another order, so the numbers differ by about 3e-7.

`BFloat16Linear` is the same in bfloat16: half of the bytes, and about half of the time where the
processor has instructions for it, but three digits only.

`ShortSoftmax` goes with both: the softmax of a text of a few tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from minibert.batching import round_up

# With AVX-512 the second copy is faster for any number of tokens; with AVX2 alone, for few.
AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
MOST_TOKENS = 1_000_000_000 if AVX512 else 64
LANES = 16 if AVX512 else 8  # float32 numbers that the processor computes at once

steps = 0  # of all optimizers of this process


def count_step(optimizer: object, args: object, kwargs: object) -> None:
    """Called after every optimizer step, since fused ones do not raise a weight's version count."""
    global steps
    steps += 1


register_optimizer_step_post_hook(count_step)


class PackedLinear(nn.Linear):
    """``nn.Linear`` with a second copy of its weight, laid out for the processor.

    ``weight`` and ``bias`` are those of the layer it stands for: it is trained, saved and moved
    like that one. The copy serves where no gradient is wanted, in ``dtype`` on a CPU; everywhere
    else this *is* ``nn.Linear``. It is made anew when ``weight`` is another tensor or has changed,
    by torch's own count of changes, and after an optimizer step. As with autograd, changes behind
    torch's back do not count: use ``with torch.no_grad(): weight.mul_(2)``, not
    ``weight.data.mul_(2)``.

    Shapes: (..., in) → (..., out).
    """

    engine, dtype = "packed", torch.float32

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # not nn.Linear's: the parameters are there
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.training = linear.training
        self.layout: tuple[tuple | None, Tensor | None] = (None, None)  # (weight, state), its copy

    def forward(self, x: Tensor) -> Tensor:
        """``x Wᵀ + b``."""
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        if torch.is_grad_enabled() or type(x) is not Tensor or x.dtype != self.dtype:
            return F.linear(x, weight, bias)
        n = x.numel() // self.in_features  # tokens
        if n > MOST_TOKENS or weight.is_inference() or torch.is_autocast_enabled("cpu"):
            return F.linear(x, weight, bias)
        known, packed = self.layout
        state = (weight._version, weight.data_ptr(), weight.dtype, steps)
        if known is None or known[0] is not weight or known[1] != state:
            packed = lay_out(weight, self.dtype)
            self.layout = ((weight, state), packed)
        if packed is None:
            return F.linear(x, weight, bias)
        if extra := round_up(n) - n:
            zeros = x.new_zeros(extra, self.in_features)
            tokens = torch.cat((x.flatten(0, -2), zeros))  # (n + extra, in)
            y = torch.ops.mkldnn._linear_pointwise(tokens, packed, bias, "none", [], "")
            return y[:n].view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")

    def __getstate__(self) -> dict:
        """What ``copy`` and ``pickle`` take along: all but the second copy."""
        return {**self.__dict__, "layout": (None, None)}


class BFloat16Linear(PackedLinear):
    """`PackedLinear` for a model in bfloat16."""

    engine, dtype = "bf16", torch.bfloat16


class ShortSoftmax(nn.Softmax):
    """``nn.Softmax``, written out where a row has fewer numbers than the processor takes at once.

    Torch's kernel fills the processor's registers from one row, and takes the numbers of a shorter
    one singly: in texts of 10 tokens it is a twentieth of the time of `encode`. Every step of the
    formula by itself goes through all rows at once. The numbers differ by some 1e-7; where
    gradients are wanted, this *is* ``nn.Softmax``.

    Shapes: (..., n) → (..., n).
    """

    def forward(self, scores: Tensor) -> Tensor:
        """exp(x) / Σ exp(x), with the largest x of each row taken off all of them beforehand."""
        if scores.shape[-1] >= LANES or self.dim != -1 or torch.is_grad_enabled():
            return super().forward(scores)
        wide = torch.promote_types(scores.dtype, torch.float32)
        powers = (scores.to(wide) - scores.amax(-1, keepdim=True)).exp_()
        return powers.div_(powers.sum(-1, keepdim=True)).to(scores.dtype)


def lay_out(weight: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The weight in oneDNN's blocks, or None where oneDNN does not take it."""
    if weight.dtype != dtype or weight.device.type != "cpu":
        return None
    # The best blocks depend a little on how many tokens come at once: some hundreds, in `encode`.
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 512)


def available() -> bool:
    """Whether torch has these products here: they are part of oneDNN, as in all builds for x86."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in names
    )


def no_bfloat16() -> str | None:
    """Why bfloat16 does not pay on this machine, or None where it does."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")):
        return None if available() else "this torch has no oneDNN"
    return "this processor has no instructions for products of bfloat16"


def pack(model: nn.Module, kind: type[PackedLinear] = PackedLinear) -> nn.Module:
    """Swap every ``nn.Linear`` of a model for a `PackedLinear`, in place; returns the model.

    Every ``nn.Softmax`` becomes a `ShortSoftmax`.
    """
    for module in list(model.modules()):
        for name, part in module.named_children():
            if type(part) is nn.Linear:
                setattr(module, name, kind(part))
            elif type(part) is nn.Softmax:
                setattr(module, name, ShortSoftmax(part.dim).train(part.training))
    return model
