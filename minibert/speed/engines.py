"""Choose the parts a model computes with: the textbook's, or faster ones swapped in for them."""

from __future__ import annotations

import warnings

import torch

from minibert.io.directory import ModelDirectory
from minibert.model import BertModel
from minibert.speed import int8, packed, sdpa

ENGINES = ("packed", "textbook", "bf16", "int8", "sdpa")
ON_CPU = ("packed", "bf16", "int8")  # and in float32


def load_model(
    home: ModelDirectory, engine: str | None, dtype: torch.dtype, device: torch.device
) -> BertModel:
    """The model of a directory with the parts of an engine.

    Args:
        engine: one of `ENGINES`; "float32": packed on a CPU, textbook elsewhere; None: int8 where
            the directory was saved so, else as "float32". Where int8 or bf16 would be slow a
            warning says why, and the model is float32. sdpa has to be asked for: with it another
            attention runs than the one that is read.

    Raises:
        ValueError: an unknown engine, or one that is not for this device or dtype.
    """
    if engine not in (*ENGINES, "float32", None):
        raise ValueError(f"no engine is named {engine!r}; there are {', '.join(ENGINES)}")
    saved = int8.is_int8(home)
    on_cpu = device.type == "cpu" and dtype == torch.float32
    best = "packed" if on_cpu and packed.available() else "textbook"
    if engine in ("float32", None):
        engine = "int8" if engine is None and saved and on_cpu else best
    if engine in ON_CPU and not on_cpu:
        raise ValueError(f'engine "{engine}" needs a CPU and float32, not {device} and {dtype}')
    if engine == "packed" and best != "packed":
        raise ValueError('engine "packed" needs oneDNN, which this torch lacks; "textbook" works')
    slow = {"int8": int8.unsupported, "bf16": packed.no_bfloat16}
    if engine in slow and (reason := slow[engine]()):
        warnings.warn(f"{reason}: the model computes in float32, not {engine}", stacklevel=3)
        engine = best
    model = int8.load(home) if saved else BertModel.from_pretrained(home, dtype=dtype)
    if engine == "int8":
        return model if saved else int8.quantize(model)
    model = (int8.dequantize(model) if saved else model).to(device, dtype)
    if engine == "bf16":
        return packed.pack(model.to(torch.bfloat16), packed.BFloat16Linear)
    if engine == "sdpa":
        return sdpa.fuse(model)
    return packed.pack(model) if engine == "packed" else model
