"""``BertModel``: embeddings, the layers one after the other, and the pooler.

Source: Devlin 2019, §3; the pooler: google-research/bert, ``modeling.py``.
"""

from __future__ import annotations

import json
import os
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minibert.attention import additive_mask
from minibert.config import BertConfig
from minibert.embeddings import Embeddings, sinusoidal_positions
from minibert.encoder import EncoderLayer
from minibert.io import checkpoint
from minibert.io.files import atomic_directory
from minibert.io.hub import locate


class BertOutput(NamedTuple):
    """``last_hidden_state`` (B, T, H) and ``pooler_output`` (B, H), None without a pooler."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None


class Pooler(nn.Module):
    """The [CLS] state through a linear map and tanh: what the next-sentence head was trained on.

    Not to be confused with pooling (``pooling.py``), which has no weights.

    Shapes: (B, T, H) → (B, H).
    """

    def __init__(self, config: BertConfig) -> None:
        """Make the linear map."""
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden: Tensor) -> Tensor:
        """Take the first token of every text."""
        return self.activation(self.dense(hidden[:, 0]))  # (B, T, H) → (B, H)


class Pretrained:
    """The two verbs every model has: `from_pretrained` and `save_pretrained`.

    A class that mixes this in says in ``names`` which rows of the checkpoint's name table are its
    own, and in ``optional`` which parts it does without where the file has none.
    """

    names: tuple[tuple[str, str], ...] = ()
    optional: tuple[str, ...] = ()
    config: BertConfig
    load_report: checkpoint.LoadReport | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        *,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | None = None,
        **overrides: object,
    ) -> Pretrained:
        """Build the model of a directory or a hub name, load its weights, and set it to ``eval()``.

        Args:
            name_or_path: a directory, or a name for ``hub.locate``; the four arguments after
                ``dtype`` go there too.
            dtype: what the weights are turned into; half-precision files come up as float32.
            overrides: config values that differ from the file's, such as ``num_labels=3``.

        Returns:
            The model. ``model.load_report`` accounts for every tensor; tensors that are new, and
            so untrained, are named in one warning.

        Raises:
            FileNotFoundError: no such model, or no weights in it.
            ValueError: a file is damaged, or config, weights and class do not fit each other.
        """
        directory = locate(
            name_or_path,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
        )
        in_file = BertConfig.from_pretrained(directory)
        config = in_file.replace(**overrides) if overrides else in_file
        tensors, metadata = checkpoint.read(directory)
        saved_with = json.loads(metadata.get("minibert.numbers", "{}"))
        changed = {k: v for k, v in saved_with.items() if numbers_of(in_file).get(k) != v}
        if changed:
            raise ValueError(
                f"{directory}/config.json differs from what its weights were saved with: "
                f"{changed}; put it back, or pass the new value to from_pretrained and save again"
            )
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

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write ``config.json`` and ``model.safetensors``, under the official names.

        Both are complete before the first one takes its place: a full disk leaves what was there.

        Raises:
            OSError: the directory cannot be written.
        """
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        config = self.config.replace(
            architectures=[type(self).__name__], dtype=dtype, torch_dtype=dtype
        )
        with atomic_directory(directory) as staging:
            config.save_pretrained(staging)
            checkpoint.save(
                staging,
                self.state_dict(),
                (*checkpoint.ENCODER_NAMES, *self.names),
                {"minibert.numbers": json.dumps(numbers_of(config))},
            )


class BertModel(Pretrained, nn.Module):
    """BERT without a head: ids in, one vector for every token out.

    >>> model = BertModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> model(torch.tensor([[101, 7592, 102]])).last_hidden_state.shape
    torch.Size([1, 3, 384])
    """

    optional = ("pooler",)

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        """Make a model with random weights (`from_pretrained` loads official ones)."""
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if add_pooling_layer else None
        initialise(self, config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> BertOutput:
        """Encode a batch of texts.

        Shapes:
            input_ids: (B, T), from the tokenizer.
            attention_mask: (B, T), 1 or True = real token; None = all are real.
            token_type_ids: (B, T), 0 = first segment, 1 = second; None = all first.
            returns: last_hidden_state (B, T, H), pooler_output (B, H).

        A text that is padding alone gives finite numbers that mean nothing: its tokens attend to
        all positions equally.

        Raises:
            ValueError: shapes do not fit, too many tokens, or an id that has no row in its table.
        """
        check_inputs(self.config, input_ids, attention_mask, token_type_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)  # (B, T)
        hidden = self.embeddings(input_ids, token_type_ids)  # (B, T, H)
        mask = None if attention_mask is None else additive_mask(attention_mask, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, mask)  # (B, T, H)
        return BertOutput(hidden, None if self.pooler is None else self.pooler(hidden))


def numbers_of(config: BertConfig) -> dict:
    """What of a config the numbers depend on, while training too: all but the names of the labels.

    It is saved beside the weights, because no shape shows it if one of these is changed.
    """
    known = config.to_dict()
    return {name: known[name] for name in config.names() if name != "id2label"}


def check_inputs(
    config: BertConfig,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
) -> None:
    """Refuse a batch that the model cannot read, and say why.

    Raises:
        ValueError: what came, what is allowed, what to do.
    """
    if input_ids.dim() != 2 or input_ids.shape[1] == 0:
        raise ValueError(
            f"input_ids is {tuple(input_ids.shape)}; (texts, tokens) is needed, with at least one "
            "token: ids.unsqueeze(0) for one text"
        )
    for name, ids in (("input_ids", input_ids), ("token_type_ids", token_type_ids)):
        if ids is not None and ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} is {ids.dtype}; whole numbers (torch.int64) are needed")
    for name, other in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if other is not None and other.shape != input_ids.shape:
            raise ValueError(
                f"{name} is {tuple(other.shape)}, input_ids is {tuple(input_ids.shape)}; "
                "they must have the same shape"
            )
    T, P = input_ids.shape[1], config.max_position_embeddings
    if T > P:
        raise ValueError(
            f"{T} tokens, but this model has {P} positions; pass max_length={P} to the tokenizer, "
            'or on_long="window" to SentenceEncoder.encode'
        )
    for name, ids, rows in (
        ("input_ids", input_ids, config.vocab_size),
        ("token_type_ids", token_type_ids, config.type_vocab_size),
    ):
        if ids is None or not ids.numel():
            continue
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= rows:
            raise ValueError(
                f"{name} has {low if low < 0 else high}; this model knows 0 to {rows - 1}. Is the "
                "tokenizer that of the model?"
            )


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
