"""The catalogue: known mistakes in hand-written BERTs, each a small change of one or two steps.

A mistake is what ``steps.py`` says, with a step done differently. So it can be put into any stage,
alone or with another one, and its result compared with what somebody's code gave. The code is
here; title, effect and cure stand under the same key in ``mistakes.md``, in Chinese in
``mistakes.zh.md``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.config import BertConfig
from minibert.embeddings import sinusoidal_positions
from minibert.io.language import learn, phrases
from minibert.parity.steps import STEPS, Computation, Here, Step


@dataclass(frozen=True)
class Mistake:
    """One known mistake.

    ``changes``: name of a step → the wrong step. ``effect``: what it does to the numbers, or what
    a learner sees. ``source``: where it really happened, if we know.
    """

    key: str
    title: str
    changes: Mapping[str, Any] = field(hash=False)
    effect: str
    cure: str
    source: str = ""
    section: str = ""


def read_mistakes(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> tuple[Mistake, ...]:
    """Join the texts in a file with the code of each mistake, by key, in the order of the file.

    The same texts in Chinese are in the file of that name with ``.zh``.

    Raises:
        ValueError: a key that has no text, or no code.
    """
    texts, chinese = texts_in(path), texts_in(path.with_suffix(".zh.md"))
    for key in texts.keys() - changes.keys():
        raise ValueError(f"{path.name} has the text of {key!r}, for which there is no code")
    if missing := changes.keys() - texts.keys():
        raise ValueError(f"{path.name} has no text for {', '.join(sorted(missing))}")
    for key in texts.keys() & chinese.keys():
        ours, theirs = texts[key], chinese[key]
        learn({ours[name]: theirs[name] for name in ours.keys() & theirs.keys()})
    return tuple(Mistake(key, changes=changes[key], **texts[key]) for key in texts)


def texts_in(path: Path) -> dict[str, dict[str, str]]:
    """For each key of a file of mistakes its section, title, effect, cure and, if known, source.

    The file is Markdown: ``## Section``, ``### key``, the title on the next line, then a list of
    ``- effect:``, ``- cure:`` and, if known, ``- source:``. Lines may be wrapped.

    Raises:
        ValueError: two texts with one key.
    """
    found, section = {}, ""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for entry in re.split(r"^##", text, flags=re.M)[1:]:
        heading, _, body = entry.partition("\n")
        if not heading.startswith("# "):
            section = heading.strip()
            continue
        title, *fields = (" ".join(part.split()) for part in re.split(r"\n- (\w+):", body))
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        key = heading.removeprefix("# ").strip()
        if key in found:
            raise ValueError(f"{path.name} has two texts of {key!r}")
        found[key] = {"section": section, "title": title, **named}
    return found


# ---------------------------------------------------------------- what the changes are made of

QKV = ("attention.query", "attention.key", "attention.value")
HEADS = ("attention.query_heads", "attention.key_heads", "attention.value_heads")
NORMS = ("embeddings.norm", "attention_norm", "feed_forward_norm", "predictions.norm")
CLASSIFIERS = ("classifier", "token_classifier")
GELUS = ("feed_forward.activation", "predictions.activation")
ON_INPUT = (*QKV, "predictions.dense", "token_classifier", "qa_outputs")  # read the input itself
ORDER = list(STEPS)


def into(s: Here) -> Tensor:
    """What goes into a step, mostly what the step before it gives; as a step, the step left out."""
    if s.step in ON_INPUT:
        return s.input
    if s.step in HEADS:
        return s[s.step.removesuffix("_heads")]
    return s[ORDER[ORDER.index(s.step) - 1]]


def zeros(s: Here) -> Tensor:
    """Nothing, where there should be something to add."""
    return torch.zeros_like(s.right)


def no_bias(s: Here) -> Tensor:
    """A linear layer without its bias."""
    return s.linear(s.step, into(s), bias=False)


def transposed(s: Here) -> Tensor:
    """A linear layer with W in the place of Wᵀ."""
    return into(s) @ s.weight(f"{s.step}.weight") + s.weight(f"{s.step}.bias")


def weights_of(name: str) -> Step:
    """A linear layer or a LayerNorm with the weights of another one."""
    return lambda s: (s.norm if "norm" in name else s.linear)(name, into(s))


def swapped(one: str, two: str) -> dict[str, Step]:
    """Two linear layers or LayerNorms, each with the weights of the other one."""
    return {one: weights_of(two), two: weights_of(one)}


def plain_norm(s: Here) -> Tensor:
    """LayerNorm without weight and bias."""
    return F.layer_norm(into(s), into(s).shape[-1:], eps=s.config.layer_norm_eps)


def norm_over(*axes: int, correction: int = 0) -> Step:
    """LayerNorm over other axes, or with another variance."""

    def norm(s: Here) -> Tensor:
        x = into(s)
        variance = x.var(axes, correction=correction, keepdim=True)
        plain = (x - x.mean(axes, keepdim=True)) / (variance + s.config.layer_norm_eps).sqrt()
        return plain * s.weight(f"{s.step}.weight") + s.weight(f"{s.step}.bias")

    return norm


def norm_plus_eps(eps: float | None = None, correction: int = 0) -> Step:
    """LayerNorm with eps outside the square root; None = the config's."""

    def norm(s: Here) -> Tensor:
        x, add = into(s), s.config.layer_norm_eps if eps is None else eps
        deviation = x.std(-1, correction=correction, keepdim=True)
        plain = (x - x.mean(-1, keepdim=True)) / (deviation + add)
        return plain * s.weight(f"{s.step}.weight") + s.weight(f"{s.step}.bias")

    return norm


def root_mean_square(s: Here) -> Tensor:
    """RMSNorm: no mean is subtracted, and there is no bias."""
    x = into(s)
    mean = (x * x).mean(-1, keepdim=True)
    return x / (mean + s.config.layer_norm_eps).sqrt() * s.weight(f"{s.step}.weight")


def each(steps: Sequence[str], change: Step) -> dict[str, Step]:
    """The same change of several steps."""
    return dict.fromkeys(steps, change)


def minimum(s: Here) -> float:
    """What the reference adds to the score of a padded key."""
    return torch.finfo(s.run.dtype).min


def keys_real(s: Here) -> Tensor:
    """1 = real token, 0 = padding, on the axis of the keys, (B, 1, 1, T)."""
    return s.real[:, None, None]


def masked(value: float, where: int = 0) -> Step:
    """The scores of padded keys (where=1: of real ones) set to a number, instead of added to."""
    return lambda s: s["attention.scaled"].masked_fill(keys_real(s) == where, value)


def scaled_by(factor: Callable[[Here], float]) -> dict[str, Step]:
    """Scores times another factor than 1 / √D."""
    return {"attention.scaled": lambda s: into(s) * factor(s)}


def split_by_head(s: Here) -> Tensor:
    """The heads of query, key or value as cut out of each head's part of all three in one."""
    together = torch.cat([s[name] for name in QKV], -1)
    return s.split(together).chunk(3, -1)[HEADS.index(s.step)]


def looked_up(table: str, choose: Callable[[Here], Tensor]) -> dict[str, Step]:
    """Other rows of a table of vectors."""
    return {f"embeddings.{table}": lambda s: s.weight(f"embeddings.{table}.weight")[choose(s)]}


def position_ids(choose: Callable[[Here], Tensor]) -> dict[str, Step]:
    """Other positions, as far as the table goes."""
    last = "max_position_embeddings"
    return {"embeddings.position_ids": lambda s: choose(s).clamp(max=getattr(s.config, last) - 1)}


def roberta_positions(s: Here) -> Tensor:
    """Positions counted over the real tokens from pad_token_id + 1, as RoBERTa does."""
    real = s.real.long()
    return real.cumsum(1) * real + (s.config.pad_token_id or 0)


def mean_real(s: Here) -> Tensor:
    """The mean over the real tokens, (B, H)."""
    return (s.input * s.real[..., None]).sum(1) / s.real.sum(1, keepdim=True)


def last_real(s: Here) -> tuple[Tensor, Tensor]:
    """Where the last real token of each text stands, (B,) twice."""
    return torch.arange(len(s.real)), s.real.sum(1).long().sub(1).clamp(min=0)


def before_last(s: Here) -> Tensor:
    """What comes out of the last layer but one."""
    last = s.config.num_hidden_layers - 2
    return s.run[f"layers.{last}.feed_forward_norm" if last >= 0 else "embeddings"]


def without(s: Here, first: bool = False, last: bool = False) -> Tensor:
    """The mask without the first or the last real token, or both."""
    real = s.real.clone()
    if last:
        real[last_real(s)] = 0
    if first:
        real[:, 0] = 0
    return real


def padded_length(s: Here) -> Tensor:
    """The number of columns, for each text, (B, 1)."""
    return torch.full_like(s.real[:, :1], s.real.shape[1])


def probabilities(s: Here) -> Tensor:
    """A softmax of the logits, (B, T, C)."""
    return s["predictions"].softmax(-1)


def logits(s: Here) -> Tensor:
    """What is taken for logits, (B, T, C)."""
    return s["loss.logits"]


def with_penalty(s: Here) -> Tensor:
    """The gradient of the loss plus half the decay times the squared weights."""
    return s["clipped"] + s.setting("weight_decay") * s.batch["decayed"] * s.previous


def rate_of(step: Callable[[Here], int]) -> dict[str, Step]:
    """The learning rate of another step, counted from 1."""

    def rate(s: Here) -> Tensor:
        rates = s.batch["settings"]["lr"]
        return torch.tensor(rates[min(step(s), len(rates)) - 1], dtype=s.run.dtype)

    return {"rate": rate}


def weights(change: Callable[[str, Tensor], Tensor]) -> dict[str, Callable]:
    """Every weight changed when it is looked up."""
    return {"weights": lambda run, name: change(name, run.inputs.weights[name])}


def layer(choose: Callable[[int, int], int]) -> dict[str, Callable]:
    """The weights of another layer, chosen from the number of the layer and how many there are."""

    def load(run: Computation, name: str) -> Tensor:
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            name = f"layers.{choose(int(number), run.inputs.config.num_hidden_layers)}.{rest}"
        return run.inputs.weights[name]

    return {"weights": load}


def identity_norms(name: str, weight: Tensor) -> Tensor:
    """Weights 1 and biases 0 for every LayerNorm."""
    if "norm." not in name:
        return weight
    return torch.ones_like(weight) if name.endswith("weight") else torch.zeros_like(weight)


NORM_BEFORE_ATTENTION_ADD = {  # a sum is what goes into a norm
    "attention_sum": into,
    "attention_norm": lambda s: s.norm("attention_norm", s["attention.output"]) + s.input,
}
NORM_BEFORE_FEED_FORWARD_ADD = {
    "feed_forward_sum": into,
    "feed_forward_norm": lambda s: (
        s.norm("feed_forward_norm", s["feed_forward.contract"]) + s["attention_norm"]),
}


# --------------------------------------------------------------------------------- the changes

CHANGES: dict[str, dict[str, Callable]] = {
    # Embeddings
    "no-position": {"embeddings.position": zeros},
    "position-from-one": position_ids(lambda s: s.right + 1),
    "position-from-two": position_ids(lambda s: s.right + 2),
    "position-like-roberta": position_ids(roberta_positions),
    "position-along-batch": position_ids(
        lambda s: torch.arange(len(s.ids))[:, None].expand(s.ids.shape)),
    "sinusoidal": {"embeddings.position": lambda s: s.run.cast(sinusoidal_positions(
        s.config.max_position_embeddings, s.config.hidden_size,
    ))[s.positions]},
    "words-scaled": {"embeddings.word": lambda s: s.right * math.sqrt(s.config.hidden_size)},
    "words-of-the-id-before": looked_up("word", lambda s: s.ids - 1),
    "words-of-the-next-id": {"embeddings.word": lambda s: (
        s.weight("embeddings.word.weight").roll(-1, 0)[s.ids])},
    "no-segment": {"embeddings.segment": zeros},
    "segments-ignored": looked_up("segment", lambda s: 0 * s.types),
    "segment-one": looked_up("segment", lambda s: 0 * s.types - 1),
    "segments-inverted": looked_up("segment", lambda s: 1 - s.types),
    "no-embedding-norm": {"embeddings.norm": into},
    "position-after-norm": {
        "embeddings.sum": lambda s: s["embeddings.word"] + s["embeddings.segment"],
        "embeddings.norm": lambda s: s.right + s["embeddings.position"],
    },
    "padding-vector-zeroed": {"embeddings.word": lambda s: s.right * s.real[..., None]},

    # Attention
    "no-qkv-bias": each(QKV, no_bias),
    "no-query-bias": {"attention.query": no_bias},
    "no-key-bias": {"attention.key": no_bias},
    "no-value-bias": {"attention.value": no_bias},
    "qkv-transposed": each(QKV, transposed),
    "query-transposed": {"attention.query": transposed},
    "key-transposed": {"attention.key": transposed},
    "value-transposed": {"attention.value": transposed},
    "query-key-swapped": swapped("attention.query", "attention.key"),
    "key-value-swapped": swapped("attention.key", "attention.value"),
    "query-value-swapped": swapped("attention.query", "attention.value"),
    "key-is-query": {"attention.key": weights_of("attention.query")},
    "value-is-key": {"attention.value": weights_of("attention.key")},
    "view-without-transpose": each(HEADS, lambda s: into(s).reshape(s.right.shape)),
    "qkv-split-by-head": each(HEADS, split_by_head),
    "heads-interleaved": each(HEADS, lambda s: (
        into(s).unflatten(2, (s.head_size, -1)).movedim(3, 1))),
    "one-head": each(HEADS, lambda s: into(s)[:, None]) | scaled_by(
        lambda s: s.config.hidden_size**-0.5),
    "scores-transposed": {"attention.products": lambda s: s.right.mT},
    "no-scale": {"attention.scaled": into},
    "scale-hidden": scaled_by(lambda s: s.config.hidden_size**-0.5),
    "scale-heads": scaled_by(lambda s: s.config.num_attention_heads**-0.5),
    "scale-length": scaled_by(lambda s: s.ids.shape[1] ** -0.5),
    "scale-multiplied": scaled_by(lambda s: s.head_size**0.5),
    "scale-not-rooted": scaled_by(lambda s: 1 / s.head_size),
    "scale-64": scaled_by(lambda s: 1 / 8),
    "scale-after-softmax": {
        "attention.scaled": into, "attention.weights": lambda s: s.right * s.head_size**-0.5},
    "no-mask": {"attention.mask": zeros},
    "mask-flipped": {"attention.mask": lambda s: keys_real(s) * minimum(s)},
    "mask-flipped-infinite": {"attention.scores": masked(-math.inf, where=1)},
    "mask-added-raw": {"attention.mask": keys_real},
    "mask-added-inverted": {"attention.mask": lambda s: 1 - keys_real(s)},
    "mask-minus-one": {"attention.mask": lambda s: keys_real(s) - 1},
    "mask-minus-ten": {"attention.mask": lambda s: 10 * (keys_real(s) - 1)},
    "mask-multiplied": {"attention.scores": lambda s: s["attention.scaled"] * keys_real(s)},
    "mask-after-softmax": {"attention.mask": zeros,
                           "attention.weights": lambda s: s.right * keys_real(s)},
    "mask-on-queries": {"attention.mask": lambda s: s.right.mT},
    "mask-on-both": {"attention.mask": lambda s: (1 - keys_real(s).mT * keys_real(s)) * minimum(s)},
    "causal": {"attention.scores": lambda s: s.right.masked_fill(
        torch.ones(s.right.shape[-2:], dtype=torch.bool).triu(1), minimum(s))},
    "mask-repeated-wrongly": {"attention.mask": lambda s: (
        (1 - s.real.repeat(s.config.num_attention_heads, 1).unflatten(0, (len(s.real), -1)))
        [:, :, None] * minimum(s))},
    "mask-from-ids": {"attention.mask": lambda s: minimum(s) * (
        s.ids == (s.config.pad_token_id or 0))[:, None, None].to(s.run.dtype)},
    "mask-infinite": {"attention.scores": masked(-math.inf)},
    "softmax-over-queries": {"attention.probabilities": lambda s: into(s).softmax(-2)},
    "softmax-over-heads": {"attention.probabilities": lambda s: into(s).softmax(1)},
    "softmax-over-batch": {"attention.probabilities": lambda s: into(s).softmax(0)},
    "no-softmax": {"attention.scores": masked(0), "attention.probabilities": into},
    "sigmoid": {"attention.probabilities": lambda s: into(s).sigmoid()},
    "probabilities-transposed": {"attention.weights": lambda s: s.right.mT},
    "merge-without-transpose": {"attention.context": lambda s: into(s).reshape(s.right.shape)},
    "merge-interleaved": {"attention.context": lambda s: into(s).permute(0, 2, 3, 1).flatten(2)},
    "dropout-left-on": {},  # found by running twice
    "no-output-projection": {"attention.output": into},
    "no-output-bias": {"attention.output": no_bias},
    "output-transposed": {"attention.output": transposed},
    "attention-adds-input": {"attention.output": lambda s: s.right + s.input},
    "attention-adds-and-norms": {"attention.output": lambda s: (
        s.norm("attention_norm", s.right + s.input))},

    # Residuals and LayerNorms
    "no-residual": {"attention_sum": into, "feed_forward_sum": into},
    "no-attention-residual": {"attention_sum": into},
    "no-feed-forward-residual": {"feed_forward_sum": into},
    "residual-from-the-layer": {"feed_forward_sum": lambda s: into(s) + s.input},
    "norm-before-add": NORM_BEFORE_ATTENTION_ADD | NORM_BEFORE_FEED_FORWARD_ADD,
    "attention-norm-before-add": NORM_BEFORE_ATTENTION_ADD,
    "feed-forward-norm-before-add": NORM_BEFORE_FEED_FORWARD_ADD,
    "pre-norm": {
        **each(QKV, lambda s: s.linear(s.step, s.norm("attention_norm", s.input))),
        "attention_norm": into,
        "feed_forward.expand": lambda s: s.linear(
            s.step, s.norm("feed_forward_norm", s["attention_sum"])),
        "feed_forward_norm": into,
    },
    "norms-swapped": swapped("attention_norm", "feed_forward_norm"),
    "norm-shared": {"feed_forward_norm": weights_of("attention_norm")},
    "norm-shared-second": {"attention_norm": weights_of("feed_forward_norm")},
    "no-attention-norm": {"attention_norm": into},
    "no-final-norm": {"feed_forward_norm": into},
    "extra-final-norm": {"feed_forward_norm": lambda s: (
        F.layer_norm(s.right, s.right.shape[-1:], eps=s.config.layer_norm_eps)
        if s.number == s.config.num_hidden_layers - 1 else s.right)},
    "norm-eps-1e-05": each(NORMS, lambda s: s.norm(s.step, into(s), eps=1e-5)),
    "norm-eps-1e-06": each(NORMS, lambda s: s.norm(s.step, into(s), eps=1e-6)),
    "norm-eps-0.001": each(NORMS, lambda s: s.norm(s.step, into(s), eps=1e-3)),
    "norm-unbiased": each(NORMS, norm_over(-1, correction=1)),
    "norm-std-plus-eps": each(NORMS, norm_plus_eps(1e-6, correction=1)),
    "norm-eps-outside": each(NORMS, norm_plus_eps()),
    "norm-unbiased-eps-outside": each(NORMS, norm_plus_eps(correction=1)),
    "norm-no-eps": each(NORMS, lambda s: s.norm(s.step, into(s), eps=0.0)),
    "norm-eps-1e-12": each(NORMS, lambda s: s.norm(s.step, into(s), eps=1e-12)),
    "norm-without-mean": each(NORMS, lambda s: (
        root_mean_square(s) + s.weight(f"{s.step}.bias"))),
    "rms-norm": each(NORMS, root_mean_square),
    "norm-over-tokens": each(NORMS, norm_over(1)),
    "norm-over-text": each(NORMS, norm_over(-2, -1)),
    "norm-without-weight-and-bias": each(NORMS, plain_norm),
    "norm-without-bias": each(NORMS, lambda s: s.right - s.weight(f"{s.step}.bias")),
    "norm-without-weight": each(NORMS, lambda s: plain_norm(s) + s.weight(f"{s.step}.bias")),
    "norm-weight-bias-swapped": each(NORMS, lambda s: (
        plain_norm(s) * s.weight(f"{s.step}.bias") + s.weight(f"{s.step}.weight"))),
    "norm-weight-plus-one": each(NORMS, lambda s: s.right + plain_norm(s)),

    # Feed-forward network
    "gelu-tanh": each(GELUS, lambda s: F.gelu(into(s), approximate="tanh")),
    "gelu-exact": each(GELUS, lambda s: F.gelu(into(s))),
    "gelu-quick": each(GELUS, lambda s: into(s) * (1.702 * into(s)).sigmoid()),
    "gelu-factors-swapped": each(GELUS, lambda s: (
        into(s) / 2 * (1 + (0.044715 * (into(s) + (2 / math.pi) ** 0.5 * into(s) ** 3)).tanh()))),
    "gelu-without-root-two": each(GELUS, lambda s: into(s) * 0.5 * (1 + torch.erf(into(s)))),
    "silu": each(GELUS, lambda s: F.silu(into(s))),
    "relu": each(GELUS, lambda s: F.relu(into(s))),
    "no-activation": each(GELUS, into),
    "activation-last": {"feed_forward.activation": into,
                        "feed_forward.contract": lambda s: s.activate(s.right)},
    "activation-twice": {"feed_forward.contract": lambda s: s.activate(s.right)},
    "no-expand-bias": {"feed_forward.expand": no_bias},
    "no-contract-bias": {"feed_forward.contract": no_bias},
    "feed-forward-on-layer-input": {"feed_forward.expand": lambda s: s.linear(s.step, s.input)},
    "no-feed-forward": {"feed_forward.contract": lambda s: torch.zeros_like(s["attention_norm"])},
    "feed-forward-adds-input": {"feed_forward.contract": lambda s: s.right + s["attention_norm"]},
    "feed-forward-adds-and-norms": {"feed_forward.contract": lambda s: (
        s.norm("feed_forward_norm", s.right + s["attention_norm"]))},

    # Pooler and pooling
    "pooler-no-tanh": {"pooler": into},
    "pooler-relu": {"pooler": lambda s: into(s).relu()},
    "pooler-mean": {"pooler.first": mean_real},
    "pooler-mean-padding": {"pooler.first": lambda s: s.input.mean(1)},
    "pooler-last": {"pooler.first": lambda s: s.input[:, -1]},
    "pooler-last-real": {"pooler.first": lambda s: s.input[last_real(s)]},
    "pooler-first-text": {"pooler.first": lambda s: (
        s.input[0, torch.arange(len(s.input)).clamp(max=s.input.shape[1] - 1)])},
    "pooler-no-bias": {"pooler.dense": no_bias},
    "pooler-transposed": {"pooler.dense": transposed},
    "pooler-no-dense": {"pooler.dense": into},
    "pooling-padding": {"pooling.sum": lambda s: s.input.sum(1), "pooling.count": padded_length},
    "pooling-wrong-count": {"pooling.count": padded_length},
    "pooling-sum-unmasked": {"pooling.sum": lambda s: s.input.sum(1)},
    "pooling-sum": {"pooling.count": lambda s: torch.ones_like(s.real[:, :1])},
    "pooling-root-length": {"pooling.count": lambda s: s.real.sum(1, keepdim=True).sqrt()},
    "pooling-cls": {"pooling": lambda s: s.input[:, 0]},
    "pooling-max": {"pooling": lambda s: s.input.masked_fill(s.real[..., None] == 0, -1e9).amax(1)},
    "pooling-without-ends": {"pooling.mask": lambda s: without(s, first=True, last=True)},
    "pooling-without-cls": {"pooling.mask": lambda s: without(s, first=True)},
    "pooling-without-sep": {"pooling.mask": lambda s: without(s, last=True)},
    "pooling-layer-before": {"pooling.sum": lambda s: (
        (before_last(s) * s["pooling.mask"][..., None]).sum(1))},
    "not-normalised": {"sentence": into},
    "normalised-over-batch": {"sentence": lambda s: F.normalize(into(s), dim=0)},
    "normalised-l1": {"sentence": lambda s: F.normalize(into(s), p=1, dim=-1)},

    # Heads
    "mlm-no-bias": {"predictions": lambda s: s.right - s.weight("predictions.bias")},
    "mlm-no-transform": {
        "predictions.dense": into, "predictions.activation": into, "predictions.norm": into},
    "mlm-no-norm": {"predictions.norm": into},
    "mlm-norm-first": {
        "predictions.activation": lambda s: s.activate(s.norm("predictions.norm", into(s))),
        "predictions.norm": into,
    },
    "mlm-scaled": {"predictions": lambda s: s.right * s.config.hidden_size**-0.5},
    "mlm-softmax": {"predictions": lambda s: s.right.softmax(-1)},
    "mlm-log-softmax": {"predictions": lambda s: s.right.log_softmax(-1)},
    "nsp-on-cls": {"seq_relationship": lambda s: s.linear(s.step, s.input[:, 0])},
    "nsp-swapped": {"seq_relationship": lambda s: s.right.flip(-1)},
    "classifier-on-cls": {"classifier": lambda s: s.linear(s.step, s.input[:, 0])},
    "classifier-on-mean": {"classifier": lambda s: s.linear(s.step, mean_real(s))},
    "classifier-no-bias": each(CLASSIFIERS, lambda s: s.right - s.weight("classifier.bias")),
    "classifier-softmax": each(CLASSIFIERS, lambda s: s.right.softmax(-1)),
    "span-swapped": {"start_logits": lambda s: s["qa_outputs"][..., 1],
                     "end_logits": lambda s: s["qa_outputs"][..., 0]},
    "span-masked": {"qa_outputs": lambda s: (
        s.right.masked_fill(s.real[..., None] == 0, minimum(s)))},

    # Loss
    "softmax-before-loss": {"loss.logits": probabilities},
    "loss-no-log": {"loss.logits": probabilities, "loss.log_probabilities": logits},
    "nothing-ignored": {"loss.labelled": lambda s: torch.ones_like(s.right)},
    "word-zero-ignored": {"loss.labelled": lambda s: s.right * (s["loss.labels"] != 0)},
    "loss-over-all": {"loss": lambda s: s["loss.tokens"].sum() / s["loss.labelled"].numel()},
    "loss-over-batch": {"loss": lambda s: s["loss.tokens"].sum() / len(s["loss.labelled"])},
    "loss-sum": {"loss": lambda s: s["loss.tokens"].sum()},
    "loss-mean-of-means": {"loss": lambda s: (
        s["loss.tokens"].sum(1) / s["loss.labelled"].sum(1).clamp(min=1)).mean()},
    "labels-shifted": {"loss.labels": lambda s: F.pad(s.right[:, 1:], (0, 1), value=-100)},
    "loss-log-of-logits": {"loss.log_probabilities": logits},
    "loss-base-two": {"loss.tokens": lambda s: s.right / math.log(2)},

    # Optimizer
    "mean-of-means": {"gradient": lambda s: s.gradients.mean(0)},
    "accumulation-not-divided": {"gradient": lambda s: s.gradients.sum(0)},
    "no-zero-grad": {"total": lambda s: s.right + s.before("clipped") * s.batch["counts"].sum()},
    "last-micro-batch": {"gradient": lambda s: s.gradients[-1]},
    "last-share": {"total": lambda s: s.batch["counts"][-1] * s.gradients[-1]},
    "loss-summed": {"gradient": lambda s: s["total"]},
    "no-clipping": {"clipped": lambda s: s["gradient"]},
    "clip-by-value": {"clipped": lambda s: (
        s["gradient"].clamp(-s.setting("max_norm"), s.setting("max_norm")))},
    "clip-always": {"clipped": lambda s: s["gradient"] * s.clip_factor(s["gradient"])},
    "clip-before-unscale": {
        "gradient": lambda s: s["total"] * s.clip_factor(s["total"]).clamp(max=1),
        "clipped": lambda s: s["gradient"] / s.batch["counts"].sum(),
    },
    "no-bias-correction": {"first_corrected": lambda s: s["first"],
                           "second_corrected": lambda s: s["second"]},
    "no-first-correction": {"first_corrected": lambda s: s["first"]},
    "no-second-correction": {"second_corrected": lambda s: s["second"]},
    "correction-stands-still": {
        "first_corrected": lambda s: s["first"] / (1 - s.setting("beta1")),
        "second_corrected": lambda s: s["second"] / (1 - s.setting("beta2")),
    },
    "betas-swapped": {"first": lambda s: s.average("beta2", s["clipped"]),
                      "second": lambda s: s.average("beta1", s["clipped"] ** 2)},
    "momentum-undamped": {"first": lambda s: s.setting("beta1") * s.before("first") + s["clipped"]},
    "second-not-squared": {"second": lambda s: s.average("beta2", s["clipped"].abs())},
    "no-root": {"update": lambda s: (
        s["first_corrected"] / (s["second_corrected"] + s.setting("eps")))},
    "ascent": {"parameters": lambda s: s.previous - s["decay"] + s["rate"] * s["update"]},
    "eps-in-root": {"update": lambda s: (
        s["first_corrected"] / (s["second_corrected"] + s.setting("eps")).sqrt())},
    "eps-uncorrected": {"update": lambda s: s["first_corrected"] * (
        1 - s.setting("beta2") ** s.number) ** 0.5 / (s["second"].sqrt() + s.setting("eps"))},
    "no-rate": {"parameters": lambda s: s.previous - s["decay"] - s["update"]},
    "decay-after": {"parameters": lambda s: (
        (s.previous - s["rate"] * s["update"])
        * (1 - s["rate"] * s.setting("weight_decay") * s.batch["decayed"]))},
    "decay-sign": {"decay": lambda s: -s.right},
    "l2-instead-of-decay": {"first": lambda s: s.average("beta1", with_penalty(s)),
                            "second": lambda s: s.average("beta2", with_penalty(s) ** 2),
                            "decay": zeros},
    "decay-without-rate": {"decay": lambda s: (
        s.setting("weight_decay") * s.batch["decayed"] * s.previous)},
    "no-decay": {"decay": zeros},
    "decay-on-everything": {"decay": lambda s: s["rate"] * s.setting("weight_decay") * s.previous},
    "decay-groups-inverted": {"decay": lambda s: (
        s["rate"] * s.setting("weight_decay") * (1 - s.batch["decayed"]) * s.previous)},
    "scheduler-first": rate_of(lambda s: s.number + 1),
    "no-schedule": rate_of(lambda s: 1),

    # Weights
    "layers-off-by-one": layer(lambda i, n: min(i + 1, n - 1)),
    "layers-in-text-order": layer(lambda i, n: sorted(range(n), key=str)[i]),
    "layers-reversed": layer(lambda i, n: n - 1 - i),
    "one-layer-for-all": layer(lambda i, n: 0),
    "bfloat16-weights": weights(lambda name, weight: weight.to(torch.bfloat16)),
    "float16-weights": weights(lambda name, weight: weight.to(torch.float16)),
    "norm-weights-not-loaded": weights(identity_norms),
    "last-layer-missing": {"feed_forward_norm": lambda s: (
        s.input if s.number == s.config.num_hidden_layers - 1 else s.right)},
    "layers-not-chained": {
        **each(QKV, lambda s: s.linear(s.step, s["embeddings"])),
        "attention_sum": lambda s: s["attention.output"] + s["embeddings"],
    },
    # Of these there are several, for each layer or each place to do it: see `numbered`.
    "scaled-twice": {},
    "layers-swapped": {},
    "layer-from-another": {},
    "norm-not-loaded": {},
}

CATALOGUE = read_mistakes(Path(__file__).with_name("mistakes.md"), CHANGES)
BY_KEY = {mistake.key: mistake for mistake in CATALOGUE}
learn(phrases(Path(__file__).with_name("phrases.zh.txt")))


def numbered(config: BertConfig, layers: range) -> list[Mistake]:
    """Mistakes tried where nothing of the catalogue fits, as their keys in other forms.

    They are those in the weights of one or two layers, for each of some layers; and what is done
    in a step of its own in the catalogue, done in the line before it.

    Args:
        layers: one of them is at fault; none = the embeddings are.
    """
    everything = range(config.num_hidden_layers)

    once = [{step: lambda s: s.right * s.head_size**-0.5} for step in (QKV[0], HEADS[0])]
    earlier = [
        (mistake.key, {step.replace("attention.weights", "attention.probabilities"): change
                       for step, change in mistake.changes.items()})
        for mistake in CATALOGUE if "attention.weights" in mistake.changes
    ]

    def one(key: str, changes: Mapping[str, Callable], **names: Any) -> Mistake:
        known = BY_KEY[key]
        return replace(known, title=known.title.format(**names), changes=changes)

    norms = {f"layers.{i}.{norm}": f"{norm} of layer {i}"
             for i in layers for norm in ("attention_norm", "feed_forward_norm")}
    return [
        *(one("scaled-twice", changes) for changes in once),
        *(one(*form) for form in earlier),
        *(one("layers-swapped", layer(lambda k, _, to={i: j, j: i}: to.get(k, k)), i=i, j=j)
          for i in layers for j in everything if i < j),
        *(one("layer-from-another", layer(lambda k, _, i=i, j=j: j if k == i else k), i=i, j=j)
          for i in layers for j in everything if i != j),
        *(one("norm-not-loaded", weights(lambda name, weight, norm=norm: (
            identity_norms(name, weight) if name.startswith(norm) else weight)), norm=title)
          for norm, title in (norms or {"embeddings.norm": "embeddings.norm"}).items()),
    ]
