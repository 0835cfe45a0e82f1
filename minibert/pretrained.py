"""Where a model's weights come from: random numbers, or a directory.

``Pretrained`` is what every model class mixes in; ``initialise`` makes new weights.
"""

from __future__ import annotations

import os
import warnings

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from minibert.config import BertConfig
from minibert.embeddings import sinusoidal_positions
from minibert.io import checkpoint
from minibert.io.directory import open_directory
from minibert.io.files import atomic_directory
from minibert.io.hub import OPTIONS

RECORD = "record it: with minibert.trace.trace(model) as tensors: model(...)"
ELSEWHERE = {  # arguments of transformers' models: what to write here
    "output_attentions": RECORD,
    "output_hidden_states": RECORD,
    "labels": "heads return logits; the loss is yours: torch.nn.functional.cross_entropy(...)",
    "position_ids": "positions are 0, 1, 2, ...",
    "inputs_embeds": "call model.embeddings and model.layers yourself",
    "return_dict": "a named tuple is returned, model(...)[0] and .last_hidden_state both work",
}


class Pretrained:
    """What every model can do: `from_pretrained` and `save_pretrained`.

    A class that mixes this in says in ``names`` which rows of the checkpoint's name table are its
    own, and in ``optional`` which parts it does without where the file has none.
    """

    names: tuple[tuple[str, str], ...] = ()
    optional: tuple[str, ...] = ()
    config: BertConfig
    load_report: checkpoint.LoadReport | None = None

    def __call__(self, *args: object, **options: object) -> tuple:
        """Compute, as ``forward`` says; for arguments of other libraries say what to write here."""
        for name in options.keys() & ELSEWHERE.keys():
            raise TypeError(f"{name} is no argument of {type(self).__name__}; {ELSEWHERE[name]}")
        return super().__call__(*args, **options)

    def num_parameters(self) -> int:
        """How many numbers are learnt; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        *,
        dtype: torch.dtype = torch.float32,
        **overrides: object,
    ) -> Pretrained:
        """Build the model of a directory or a hub name, load its weights, and set it to ``eval()``.

        Args:
            name_or_path: a directory, or a name for ``hub.locate``.
            dtype: what the weights are turned into; half-precision files come up as float32.
            overrides: config values that differ from the file's, such as ``num_labels=3``; and the
                options of ``hub.locate``, such as ``revision``.

        Returns:
            The model. ``model.load_report`` accounts for every tensor; tensors that are new, and
            so untrained, are named in one warning.

        Raises:
            FileNotFoundError: no such model, or no weights in it.
            ValueError: a file is damaged, or config, weights and class do not fit each other.
        """
        hub = {name: overrides.pop(name) for name in OPTIONS if name in overrides}
        directory = open_directory(name_or_path, **hub)
        in_file = BertConfig.from_pretrained(directory)
        config = in_file.replace(**overrides) if overrides else in_file
        tensors = checkpoint.read(directory)
        layers = checkpoint.number_of_layers(tensors)
        if layers != config.num_hidden_layers:  # known before a model of a million layers is built
            raise ValueError(
                f"the weights in {directory} have {layers} layers, the config says "
                f"{config.num_hidden_layers} (num_hidden_layers): do the two belong together?"
            )

        # On the device "meta" tensors have shapes but no numbers; `assign` below gives them some.
        with torch.device("meta"), NoInitialisation():
            model = cls(config)
        for part in cls.optional:
            if not any(checkpoint.canonical_name(name).startswith(part + ".") for name in tensors):
                setattr(model, part, None)
        state, report = checkpoint.match(
            directory,
            tensors,
            model.state_dict(),
            (*checkpoint.ENCODER_NAMES, *cls.names),
            replace="classifier." if {"num_labels", "id2label"} & overrides.keys() else None,
            dtype=dtype,
        )
        model.load_state_dict(state, strict=False, assign=True)
        if report.new:
            initialise_new(model, config, dtype)
            warnings.warn(
                f"new, untrained tensors in {cls.__name__}: {', '.join(report.new)} "
                f"({'; '.join(sorted(set(report.new.values())))}); train it before you use it",
                stacklevel=2,
            )
        model.load_report = report
        return model.eval()

    def save_pretrained(self, directory: str | os.PathLike, *, half: bool = False) -> None:
        """Write ``config.json`` and ``model.safetensors``, under the official names.

        Both are complete before the first one takes its place: a full disk leaves what was there.

        Args:
            half: store the weights as float16, in half the bytes. The config goes on saying what
                the model computes in, so transformers too computes in float32 what it loads; the
                numbers are those of a model whose weights were rounded so (`round_to_half`).

        Raises:
            OSError: the directory cannot be written.
        """
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        config = self.config.replace(
            architectures=[type(self).__name__], dtype=dtype, torch_dtype=dtype
        )
        state = {k: v.half() if half else v for k, v in self.state_dict().items()}
        with atomic_directory(directory) as staging:
            config.save_pretrained(staging)
            checkpoint.save(staging, state, (*checkpoint.ENCODER_NAMES, *self.names))


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round all parameters, in place, to what float16 can hold: a save as ``half`` loses nothing.

    Raises:
        ValueError: one is too large for float16.
    """
    for name, parameter in model.named_parameters():
        parameter.copy_(parameter.half())
        if not parameter.isfinite().all():
            raise ValueError(f"{name} has numbers over 65,504, which float16 cannot hold")


def initialise(model: nn.Module, config: BertConfig) -> None:
    """Give a model new weights: N(0, initializer_range), biases 0, LayerNorms the identity.

    Source: google-research/bert, ``modeling.py`` (which cuts the normal at two deviations; here, as
    in the PyTorch port of it, it is not cut); sinusoidal positions: Vaswani 2017, §3.5.
    """
    for name, part in model.named_modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
        elif isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=config.initializer_range)
        if getattr(part, "padding_idx", None) is not None:
            nn.init.zeros_(part.weight[part.padding_idx])
        if getattr(part, "bias", None) is not None:
            nn.init.zeros_(part.bias)
        if name.endswith("embeddings.position") and config.position_embedding_type == "sinusoidal":
            with torch.no_grad():
                part.weight.copy_(sinusoidal_positions(*part.weight.shape))


class NoInitialisation(TorchFunctionMode):
    """A context in which ``torch.nn.init`` does nothing: weights from a file follow."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Let through every other call."""
        if getattr(function, "__module__", None) == "torch.nn.init":
            return None
        return function(*args, **(kwargs or {}))


def initialise_new(model: nn.Module, config: BertConfig, dtype: torch.dtype) -> None:
    """Initialise the modules of a model that no file had weights for: those still on "meta"."""
    new = [part for part in model.modules() if any(p.is_meta for p in part.parameters(False))]
    for part in new:
        for name, parameter in part.named_parameters(recurse=False):
            # Not Module.to_empty: it takes a second to import what it needs for the meta device.
            setattr(part, name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype)))
    for part in new:
        initialise(part, config)
