"""Choose the linear layers a model computes with: plain ``nn.Linear``, packed, or int8."""

from __future__ import annotations

import warnings

import torch

from minibert.io.directory import ModelDirectory
from minibert.model import BertModel
from minibert.speed import int8, packed

ENGINES = ("packed", "textbook", "int8")


def load_model(
    home: ModelDirectory, engine: str | None, dtype: torch.dtype, device: torch.device
) -> BertModel:
    """The model of a directory with the linear layers of an engine.

    Args:
        engine: one of `ENGINES`; "float32": the fastest that is not int8; None: int8 where the
            directory was saved so, else as "float32". Where int8 would be slow a warning says why,
            and the model is float32.

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
    if engine != "textbook" and not on_cpu:
        raise ValueError(f'engine "{engine}" needs a CPU and float32, not {device} and {dtype}')
    if engine == "packed" and best != "packed":
        raise ValueError('engine "packed" needs oneDNN, which this torch lacks; "textbook" works')
    if engine == "int8" and (reason := int8.unsupported()):
        warnings.warn(f"{reason}: the model computes in float32, not int8", stacklevel=3)
        engine = best
    model = int8.load(home) if saved else BertModel.from_pretrained(home, dtype=dtype)
    if engine == "int8":
        return model if saved else int8.quantize(model)
    model = (int8.dequantize(model) if saved else model).to(device, dtype)
    return packed.pack(model) if engine == "packed" else model
