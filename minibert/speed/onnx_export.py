"""A model as an ONNX file, for programs without Python; checked against ONNX Runtime.

The packages ``onnx`` and ``onnxruntime`` are the extra ``onnx``; minibert needs neither otherwise.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.io.files import atomic_path, need_ending
from minibert.pooling import POOLING
from minibert.sentence_encoder import SentenceEncoder

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOLERANCE = 1e-4
OPSET = 17


class Outputs(nn.Module):
    """A model whose outputs are a tuple of tensors, ``names`` their names: what is exported.

    Of a sentence encoder the output is the vector of the text, (B, dimension).
    """

    def __init__(self, model: nn.Module | SentenceEncoder) -> None:
        super().__init__()
        self.encoder = model if isinstance(model, SentenceEncoder) else None
        self.model = model.model if self.encoder else model
        with torch.no_grad():
            found = self.model(torch.zeros(1, 1, dtype=torch.long))
        self.names = [name for name, value in found._asdict().items() if value is not None]
        if self.encoder:
            self.names = ["sentence_embedding"]

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor, ...]:
        """Shapes: (B, T) three times."""
        found = self.model(ids, mask, types)
        if self.encoder is None:
            return tuple(value for value in found if value is not None)
        states = found.last_hidden_state
        pooled = torch.cat([POOLING[name](states, mask) for name in self.encoder.pooling], dim=1)
        vectors = self.encoder.dense(pooled)
        vectors = F.normalize(vectors, dim=1) if self.encoder.normalize else vectors
        return (vectors[:, : self.encoder.truncate_dim],)


def export(model: nn.Module | SentenceEncoder, path: str | os.PathLike) -> dict:
    """Write a model as an ONNX file, for batches of any size and texts of any length.

    It takes ``input_ids``, ``attention_mask`` and ``token_type_ids``, (B, T) each, int64, and gives
    what the model gives, under the same names.

    Args:
        model: any of ours, with linear layers of torch (``engine="textbook"``).
        path: a file name that ends in .onnx.

    Returns:
        ``outputs``, the names; ``differences``: output → the largest difference to ONNX Runtime on
        four batches; None where that is not installed.

    Raises:
        ValueError: ``onnx`` is not installed, or ``path`` is no name of an ONNX file.
    """
    need_ending(path, ".onnx")
    if not importlib.util.find_spec("onnx"):
        raise ValueError('onnx is not installed: pip install "minibert-torch[onnx]"')
    whole = Outputs(model).eval()
    axes = {name: {0: "texts", 1: "tokens"} for name in INPUTS}
    for name, short, long in zip(
        whole.names, whole(*batch(whole, 2, 1)), whole(*batch(whole, 2, 2)), strict=True
    ):
        axes[name] = {0: "texts"} if short.shape == long.shape else {0: "texts", 1: "tokens"}
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # The exporter that follows a run: the newer one needs a further package and a newer torch.
        warnings.simplefilter("ignore")  # shapes are checked once, while it is followed
        torch.onnx.export(
            whole, tuple(batch(whole, 2, 2)), str(temporary), input_names=list(INPUTS),
            output_names=whole.names, dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    return {"outputs": whole.names, "differences": differences(whole, Path(path))}


def batch(whole: Outputs, texts: int, tokens: int) -> list[Tensor]:
    """Random ids, padding of several lengths, two segments."""
    config, random = whole.model.config, torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (texts, tokens), generator=random)
    lengths = torch.randint(1, tokens + 1, (texts, 1), generator=random)
    lengths[0] = tokens
    place = torch.arange(tokens)
    types = (place >= lengths // 2).long() * min(config.type_vocab_size - 1, 1)
    return [ids, (place < lengths).long(), types]


def differences(whole: Outputs, path: Path) -> dict[str, float] | None:
    """The largest difference of every output, on batches of other shapes than the followed one."""
    if not importlib.util.find_spec("onnxruntime"):
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = dict.fromkeys(whole.names, 0.0)
    longest = whole.model.config.max_position_embeddings
    for texts, tokens in ((1, 1), (1, 5), (3, min(17, longest)), (2, min(128, longest))):
        inputs = batch(whole, texts, tokens)
        with torch.no_grad():
            ours = whole(*inputs)
        feed = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
        theirs = session.run(whole.names, feed)
        for name, a, b in zip(whole.names, ours, theirs, strict=True):
            found[name] = max(found[name], (a - torch.from_numpy(b)).abs().max().item())
    return found
