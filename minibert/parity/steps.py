"""BERT restated as a list of small steps: one name, one line, in the order of computation.

The one place beside ``model.py`` that states BERT's arithmetic, because the modules cannot do two
things that parity needs: compute a single stage from given inputs, whatever came before it, in any
precision; and compute it with one step exchanged for a wrong one. That the two statements agree
bit for bit is a test. Nothing here is ever run to encode a text.

Names are those of the trace; those of a layer come after ``layers.{i}.``. A few steps have no
module of their own and so no trace: ``attention.heads``, ``products``, ``scaled``, ``mask``,
``weights``, ``mixed``, ``embeddings.position_ids``, ``pooler.first``, ``pooling.mask``.

Source: Vaswani 2017, §3; Devlin 2019, §3; AdamW: Loshchilov & Hutter 2019, algorithm 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.config import BertConfig
from minibert.encoder import activation


class Inputs(NamedTuple):
    """A model and what goes into it; everything that a computation starts from."""

    config: BertConfig
    weights: Mapping[str, Tensor]  # by our names, those of heads too
    batch: Mapping[str, Any]  # input_ids and so on; for a loss or an optimizer more, see there


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The part of a batch that the model's forward takes."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: batch[name] for name in names if name in batch}


def check_inputs(batch: Mapping[str, Any], config: BertConfig) -> None:
    """Refuse inputs that the model cannot take.

    Raises:
        ValueError: another shape than (texts, tokens), too long, or an id out of range.
    """
    most = {"input_ids": config.vocab_size, "token_type_ids": config.type_vocab_size,
            "attention_mask": 2}  # fmt: skip
    shape = batch["input_ids"].shape if "input_ids" in batch else None
    for name, values in model_inputs(batch).items():
        if values.dim() != 2 or not values.numel() or values.shape != (shape or values.shape):
            raise ValueError(
                f"{name} has the shape {tuple(values.shape)}; (texts, tokens) is needed, the same "
                "for all inputs"
            )
        if values.shape[1] > config.max_position_embeddings:
            raise ValueError(
                f"{name} has {values.shape[1]} tokens, the model {config.max_position_embeddings} "
                "positions"
            )
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= most[name]:
            raise ValueError(f"{name} has {low} to {high}; 0 to {most[name] - 1} is allowed")


class Here:
    """What a step sees: values, weights and inputs by name, from its own layer.

    ``here["attention.query"]`` is a value of the same layer (computed if it is not known),
    ``here.input`` what goes into the layer, ``here.weight("attention.query.bias")`` a weight.
    """

    def __init__(self, run: Computation, name: str) -> None:
        self.run, self.config, self.batch = run, run.inputs.config, run.inputs.batch
        self.group, self.number, self.step = parse_name(name)
        self.prefix = f"{self.group}.{self.number}." if self.group else ""

    @property
    def right(self) -> Tensor:
        """What this step should give."""
        return STEPS[self.step](self)

    def __getitem__(self, name: str) -> Tensor:
        """A value from the same place, or of the model."""
        return self.run[self.prefix + name if name in GROUPS.get(self.group, ()) else name]

    @property
    def input(self) -> Tensor:
        """What goes into this layer; outside of the layers, what comes out of the last one."""
        before = self.number if self.group == "layers" else self.config.num_hidden_layers
        names = ["embeddings", *(f"layers.{i}.feed_forward_norm" for i in range(before))]
        known = [i for i, name in enumerate(names) if name in self.run.values]
        for name in names[max(known, default=0) :]:  # upwards: no recursion through all layers
            value = self.run[name]
        return value

    def weight(self, name: str) -> Tensor:
        """A parameter of this layer, or of the model, in the precision of the run."""
        return self.run.weight(self.prefix + name)

    def linear(self, name: str, x: Tensor, bias: bool = True) -> Tensor:
        """X Wᵀ + b with the weights of a linear layer."""
        b = self.weight(f"{name}.bias") if bias else None
        return F.linear(x, self.weight(f"{name}.weight"), b)

    def norm(self, name: str, x: Tensor, eps: float | None = None) -> Tensor:
        """LayerNorm with the weights of a norm."""
        eps = self.config.layer_norm_eps if eps is None else eps
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def activate(self, x: Tensor) -> Tensor:
        """The activation that the config names."""
        return activation(self.config.hidden_act)(x)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, H) → (B, N, T, D)."""
        return x.unflatten(2, (self.config.num_attention_heads, -1)).transpose(1, 2)

    @property
    def head_size(self) -> int:
        """D."""
        return self.config.hidden_size // self.config.num_attention_heads

    @property
    def ids(self) -> Tensor:
        """The ids, (B, T)."""
        return self.batch["input_ids"]

    @property
    def positions(self) -> Tensor:
        """The position ids, (T,) or (B, T); in a dump they may be floats."""
        return self["embeddings.position_ids"].long()

    @property
    def types(self) -> Tensor:
        """The segment of every token, (B, T)."""
        return self.batch.get("token_type_ids", torch.zeros_like(self.ids))

    @property
    def real(self) -> Tensor:
        """1 = real token, 0 = padding, (B, T), in the precision of the run."""
        return self.batch.get("attention_mask", torch.ones_like(self.ids)).to(self.run.dtype)

    # -- of an optimizer step

    def before(self, name: str) -> Tensor:
        """A value of the step before this one; before the first, parameters of the batch or 0."""
        if self.number > 1:
            return self.run[f"steps.{self.number - 1}.{name}"]
        parameters = self.run.cast(self.batch["parameters"])
        return parameters if name == "parameters" else torch.zeros_like(parameters)

    def setting(self, name: str) -> float:
        """A setting of the optimizer; of a list, the entry for this step."""
        value = self.batch["settings"][name]
        return value[self.number - 1] if isinstance(value, (list, tuple)) else value

    def average(self, beta: str, new: Tensor) -> Tensor:
        """The running average of this step's name, with one number more."""
        beta = self.setting(beta)
        return beta * self.before(self.step) + (1 - beta) * new

    def clip_factor(self, gradient: Tensor) -> Tensor:
        """What clipping multiplies a gradient by that is too long."""
        return self.setting("max_norm") / (gradient.norm() + 1e-6)

    @property
    def gradients(self) -> Tensor:
        """The mean gradient of each micro-batch of this step, (M, n)."""
        return self.run.cast(self.batch["gradients"][self.number - 1])

    @property
    def previous(self) -> Tensor:
        """The parameters before this step, (n,)."""
        return self.before("parameters")


Step = Callable[[Here], Tensor]


class Computation:
    """One computation: what is known, and the steps that lead from there to what is asked for.

    >>> run = Computation(Inputs(config, weights, batch))
    >>> run["layers.0.attention.probabilities"]  # (B, N, T, T)

    ``known`` values are taken as they are; ``changes`` puts other steps in place of the right ones
    (under "weights": another way to look up a weight).
    ``run.computed`` lists what was computed, in order; ``cache`` keeps converted weights for other
    computations over the same inputs.
    """

    def __init__(
        self,
        inputs: Inputs,
        known: Mapping[str, Tensor] | None = None,
        changes: Mapping[str, Step] | None = None,
        dtype: torch.dtype = torch.float64,
        cache: dict | None = None,
    ) -> None:
        self.inputs, self.dtype = inputs, dtype
        self.values = {name: self.cast(value) for name, value in (known or {}).items()}
        self.changes = changes or {}
        self.cache = {} if cache is None else cache
        self.computed: list[str] = []

    def cast(self, value: Tensor) -> Tensor:
        """In the precision of the run; whole numbers stay whole."""
        return value.to(self.dtype) if value.is_floating_point() else value

    def weight(self, name: str) -> Tensor:
        """A weight in the precision of the run."""
        load = self.changes.get("weights", lambda run, name: run.inputs.weights[name])
        key = (name, load if "weights" in self.changes else None)
        if key not in self.cache:
            self.cache[key] = load(self, name).detach()
        raw = self.cache[key]  # of many ways to look up a weight, most find the same tensors
        key = (raw.data_ptr(), raw.shape, raw.stride(), self.dtype)
        if key not in self.cache:
            self.cache[key] = self.cast(raw)
        return self.cache[key]

    def steps(self) -> list[str]:
        """The names that can be asked for, in the order of computation."""
        L, updates = self.inputs.config.num_hidden_layers, self.inputs.batch.get("gradients", ())
        layers = [f"layers.{i}.{name}" for i in range(L) for name in LAYER]
        training = [f"steps.{t + 1}.{name}" for t in range(len(updates)) for name in OPTIMIZER]
        return [*EMBEDDINGS, *layers, *ON_TOP, *training]

    def __getitem__(self, name: str) -> Tensor:
        """The value of a name: known, or computed now."""
        if name not in self.values:
            here = Here(self, name)
            if here.step not in STEPS:
                raise KeyError(f"no step is called {name!r}")
            self.values[name] = self.changes.get(here.step, STEPS[here.step])(here)
            self.computed.append(name)
        return self.values[name]


def parse_name(name: str) -> tuple[str, int, str]:
    """Group, number, step: "layers.3.attention.query" → ("layers", 3, "attention.query")."""
    match = re.match(r"(layers|steps)\.(\d+)\.(.+)", name)
    return (match[1], int(match[2]), match[3]) if match else ("", 0, name)


EMBEDDINGS: dict[str, Step] = {
    "embeddings.position_ids": lambda s: torch.arange(s.ids.shape[1]),  # (T,)
    "embeddings.word": lambda s: s.weight("embeddings.word.weight")[s.ids],  # (B, T, H)
    "embeddings.segment": lambda s: s.weight("embeddings.segment.weight")[s.types],
    "embeddings.position": lambda s: (
        s.weight("embeddings.position.weight")[s.positions]),
    "embeddings.sum": lambda s: (
        s["embeddings.word"] + s["embeddings.segment"] + s["embeddings.position"]),
    "embeddings.norm": lambda s: s.norm("embeddings.norm", s["embeddings.sum"]),
    "embeddings": lambda s: s["embeddings.norm"],  # dropout does nothing outside of training
}

LAYER: dict[str, Step] = {
    "attention.query": lambda s: s.linear("attention.query", s.input),  # (B, T, H)
    "attention.key": lambda s: s.linear("attention.key", s.input),
    "attention.value": lambda s: s.linear("attention.value", s.input),
    "attention.query_heads": lambda s: s.split(s["attention.query"]),  # (B, N, T, D)
    "attention.key_heads": lambda s: s.split(s["attention.key"]),
    "attention.value_heads": lambda s: s.split(s["attention.value"]),
    "attention.products": lambda s: (
        s["attention.query_heads"] @ s["attention.key_heads"].mT),  # (B, N, T, T)
    "attention.scaled": lambda s: s["attention.products"] * s.head_size**-0.5,
    "attention.mask": lambda s: (1 - s.real[:, None, None]) * torch.finfo(s.run.dtype).min,
    "attention.scores": lambda s: s["attention.scaled"] + s["attention.mask"],
    "attention.probabilities": lambda s: s["attention.scores"].softmax(-1),
    "attention.weights": lambda s: s["attention.probabilities"],
    "attention.mixed": lambda s: s["attention.weights"] @ s["attention.value_heads"],
    "attention.context": lambda s: s["attention.mixed"].transpose(1, 2).flatten(2),  # (B, T, H)
    "attention.output": lambda s: s.linear("attention.output", s["attention.context"]),
    "attention_sum": lambda s: s["attention.output"] + s.input,
    "attention_norm": lambda s: s.norm("attention_norm", s["attention_sum"]),
    "feed_forward.expand": lambda s: s.linear("feed_forward.expand", s["attention_norm"]),
    "feed_forward.activation": lambda s: s.activate(s["feed_forward.expand"]),  # (B, T, F)
    "feed_forward.contract": lambda s: s.linear(s.step, s["feed_forward.activation"]),  # (B, T, H)
    "feed_forward_sum": lambda s: s["feed_forward.contract"] + s["attention_norm"],
    "feed_forward_norm": lambda s: s.norm("feed_forward_norm", s["feed_forward_sum"]),
}

ON_TOP: dict[str, Step] = {
    # the pooler
    "pooler.first": lambda s: s.input[:, 0],  # (B, T, H) → (B, H)
    "pooler.dense": lambda s: s.linear("pooler.dense", s["pooler.first"]),
    "pooler": lambda s: s["pooler.dense"].tanh(),

    # a sentence vector
    "pooling.mask": lambda s: s.real,  # (B, T)
    "pooling.sum": lambda s: (s.input * s["pooling.mask"][..., None]).sum(1),  # (B, H)
    "pooling.count": lambda s: s["pooling.mask"].sum(1, keepdim=True).clamp(min=1e-9),  # (B, 1)
    "pooling": lambda s: s["pooling.sum"] / s["pooling.count"],
    "sentence": lambda s: F.normalize(s["pooling"], dim=-1),

    # the heads
    "predictions.dense": lambda s: s.linear("predictions.dense", s.input),
    "predictions.activation": lambda s: s.activate(s["predictions.dense"]),
    "predictions.norm": lambda s: s.norm("predictions.norm", s["predictions.activation"]),
    "predictions": lambda s: F.linear(
        s["predictions.norm"], s.weight("embeddings.word.weight"), s.weight("predictions.bias")
    ),  # (B, T, V)
    "seq_relationship": lambda s: s.linear("seq_relationship", s["pooler"]),  # (B, 2)
    "classifier": lambda s: s.linear("classifier", s["pooler"]),  # (B, C)
    "token_classifier": lambda s: s.linear("classifier", s.input),  # (B, T, C)
    "qa_outputs": lambda s: s.linear("qa_outputs", s.input),  # (B, T, 2)
    "start_logits": lambda s: s["qa_outputs"][..., 0],
    "end_logits": lambda s: s["qa_outputs"][..., 1],

    # the loss of a classification of each token: logits (B, T, C), labels (B, T), -100 = no label
    "loss.logits": lambda s: s["predictions"],
    "loss.labels": lambda s: s.batch["labels"],
    "loss.log_probabilities": lambda s: s["loss.logits"].log_softmax(-1),
    "loss.labelled": lambda s: (s["loss.labels"] != -100).to(s.run.dtype),
    "loss.tokens": lambda s: (
        -s["loss.log_probabilities"].gather(-1, s["loss.labels"].clamp(min=0)[..., None])[..., 0]
        * s["loss.labelled"]
    ),
    "loss": lambda s: s["loss.tokens"].sum() / s["loss.labelled"].sum(),
}

# One step of AdamW after the other, over all parameters laid end to end, n numbers. The batch holds
# "gradients" (steps, M, n), the mean gradients of M micro-batches; "counts" (M,), how many examples
# each has; "parameters" (n,); "decayed" (n,), 1 where weights decay; "settings" with
# lr (one for each step), beta1, beta2, eps, weight_decay, max_norm.
OPTIMIZER: dict[str, Step] = {
    "total": lambda s: s.batch["counts"].to(s.run.dtype) @ s.gradients,
    "gradient": lambda s: s["total"] / s.batch["counts"].sum(),
    "clipped": lambda s: s["gradient"] * s.clip_factor(s["gradient"]).clamp(max=1),
    "first": lambda s: s.average("beta1", s["clipped"]),
    "second": lambda s: s.average("beta2", s["clipped"] ** 2),
    "first_corrected": lambda s: s["first"] / (1 - s.setting("beta1") ** s.number),
    "second_corrected": lambda s: s["second"] / (1 - s.setting("beta2") ** s.number),
    "rate": lambda s: torch.tensor(s.setting("lr"), dtype=s.run.dtype),
    "update": lambda s: s["first_corrected"] / (s["second_corrected"].sqrt() + s.setting("eps")),
    "decay": lambda s: s["rate"] * s.setting("weight_decay") * s.batch["decayed"] * s.previous,
    "parameters": lambda s: s.previous - s["decay"] - s["rate"] * s["update"],
}
GROUPS = {"layers": LAYER, "steps": OPTIMIZER}
STEPS: dict[str, Step] = {**EMBEDDINGS, **LAYER, **ON_TOP, **OPTIMIZER}
