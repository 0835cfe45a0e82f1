"""The catalogue: known mistakes in hand-written BERTs, each a small change of one or two steps.

A mistake is what `steps.py` says, with a step done differently. So it can be put into any stage,
alone or with another one, and its result compared with what a learner's code gave. What a learner
sees is measured on the official all-MiniLM-L6-v2 where numbers stand: the largest change of the
last hidden state, and the lowest cosine between the right and the wrong sentence vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.embeddings import sinusoidal_positions
from minibert.parity.steps import STEPS, Computation, Here, Step

NORMS = ("embeddings.norm", "attention_norm", "feed_forward_norm", "predictions.norm")
SUMS = {
    "embeddings.norm": "embeddings.sum",
    "attention_norm": "attention_sum",
    "feed_forward_norm": "feed_forward_sum",
    "predictions.norm": "predictions.activation",
}
QKV = ("attention.query", "attention.key", "attention.value")
HEADS = ("attention.query_heads", "attention.key_heads", "attention.value_heads")
GELUS = {
    "feed_forward.activation": "feed_forward.expand",
    "predictions.activation": "predictions.dense",
}


@dataclass(frozen=True)
class Mistake:
    """One known mistake.

    ``changes``: name of a step → the wrong step. ``effect``: what a learner sees. ``source``: where
    it really happened, if we know.
    """

    key: str
    title: str
    changes: dict[str, Step]
    effect: str
    cure: str
    source: str = ""

    @property
    def area(self) -> str:
        """Where it belongs: embeddings, attention, feed_forward, norm, pooler, ..."""
        first = next(iter(self.changes), "attention")  # dropout is found by running twice
        if first in NORMS or first.endswith("_sum"):
            return "residual and norm"
        if first in STEPS and first.split(".")[0] == first:
            return "optimizer" if first in OPTIMIZER_STEPS else "pooling and heads"
        return first.split(".")[0]


OPTIMIZER_STEPS = (
    "total", "gradient", "clipped", "first", "second", "first_corrected", "second_corrected",
    "rate", "update", "decay", "parameters",
)


# ----------------------------------------------------------------- small functions used below


def each(steps, change: Callable[[Here, str], Tensor]) -> dict[str, Step]:
    """The same change of several steps; it is told which one it stands for."""
    return {step: (lambda s, step=step: change(s, step)) for step in steps}


def norm_over(s: Here, step: str, axes: tuple[int, ...], correction: int = 0) -> Tensor:
    """LayerNorm over other axes, or with another variance."""
    x = s[SUMS[step]]
    centred = x - x.mean(axes, keepdim=True)
    below = (x.var(axes, correction=correction, keepdim=True) + s.config.layer_norm_eps).sqrt()
    return centred / below * s.weight(f"{step}.weight") + s.weight(f"{step}.bias")


def plain_norm(s: Here, step: str) -> Tensor:
    """LayerNorm without gain and bias."""
    return F.layer_norm(s[SUMS[step]], s[SUMS[step]].shape[-1:], eps=s.config.layer_norm_eps)


def transposed(s: Here, name: str, x: Tensor) -> Tensor:
    """A linear map with W where Wᵀ belongs."""
    return x @ s.weight(f"{name}.weight") + s.weight(f"{name}.bias")


def no_mask(s: Here) -> Tensor:
    """Zeros to add to the scores."""
    return torch.zeros_like(STEPS["attention.mask"](s))


def minimum(s: Here) -> float:
    """What the reference adds to the score of a padded key."""
    return torch.finfo(s.run.dtype).min


def padded_positions(s: Here) -> Tensor:
    """Positions counted over the real tokens from pad_token_id + 1, as RoBERTa does."""
    real = s.real.long()
    places = real.cumsum(1) * real + (s.config.pad_token_id or 0)
    return places.clamp(max=s.config.max_position_embeddings - 1)


def before_last(s: Here) -> Tensor:
    """What comes out of the last layer but one."""
    last = s.config.num_hidden_layers - 2
    return s.run[f"layers.{last}.feed_forward_norm" if last >= 0 else "embeddings"]


def without_ends(s: Here) -> Tensor:
    """The mask without the first and the last real token."""
    real = s.real.clone()
    real[torch.arange(len(real)), real.sum(1).long().sub(1).clamp(min=0)] = 0
    real[:, 0] = 0
    return real


def last_real(s: Here) -> Tensor:
    """The state of the last real token."""
    x = s.input
    return x[torch.arange(len(x)), s.real.sum(1).long().sub(1).clamp(min=0)]


def with_penalty(s: Here) -> Tensor:
    """The gradient of the loss plus half the decay times the squared weights."""
    decay = s.setting("weight_decay") * s.run.batch["decayed"]
    return s["clipped"] + decay * s.before("parameters", "parameters")


def other_layer(run: Computation, name: str, choose: Callable[[int, int], int]) -> Tensor:
    """A weight from another layer."""
    if name.startswith("layers."):
        _, number, rest = name.split(".", 2)
        name = f"layers.{choose(int(number), run.inputs.config.num_hidden_layers)}.{rest}"
    return run.inputs.weights[name]


def identity_norms(run: Computation, name: str) -> Tensor:
    """Gains 1 and biases 0 for every LayerNorm."""
    weight = run.inputs.weights[name]
    if "norm." in name:
        return torch.ones_like(weight) if name.endswith("weight") else torch.zeros_like(weight)
    return weight


# -------------------------------------------------------------------------------- embeddings

EMBEDDINGS = (
    Mistake(
        "no-position", "the position vectors are not added",
        {"embeddings.position": lambda s: torch.zeros_like(STEPS["embeddings.position"](s))},
        "word order no longer matters: two texts with the same words get the same vector "
        "(change 1.9, cosine 0.65)",
        "add position(arange(T)) to word + segment before the norm",
    ),
    Mistake(
        "position-from-one", "positions are counted from 1 instead of 0",
        {"embeddings.places": lambda s: (
            STEPS["embeddings.places"](s) + 1).clamp(max=s.config.max_position_embeddings - 1)},
        "every position vector is that of the next token (change 1.3, cosine 0.87)",
        "positions are 0, 1, 2, ...: torch.arange(T)",
    ),
    Mistake(
        "position-like-roberta", "positions start after the padding id, as in RoBERTa",
        {"embeddings.places": padded_positions},
        "like positions from 1, and padding gets a position of its own",
        "BERT counts all columns from 0, padding too: torch.arange(T)",
        "the position rule of RoBERTa's reference code, carried over to BERT",
    ),
    Mistake(
        "position-along-batch", "positions are counted along the batch instead of the tokens",
        {"embeddings.position": lambda s: (
            s.weight("embeddings.position.weight")[
                torch.arange(len(s.run.ids)).clamp(max=s.config.max_position_embeddings - 1)
            ][:, None].expand(-1, s.run.ids.shape[1], -1))},
        "all tokens of a text share one position vector; the same text changes with its row",
        "take the length from input_ids.shape[1], not shape[0]",
    ),
    Mistake(
        "sinusoidal", "sinusoidal positions where the checkpoint has learned ones",
        {"embeddings.position": lambda s: sinusoidal_positions(
            s.config.max_position_embeddings, s.config.hidden_size
        ).to(s.run.dtype)[s["embeddings.places"]]},
        "outputs are unusable (change 5.5, cosine 0.08): the table in the file is never read",
        "BERT learns its positions: nn.Embedding(P, H), loaded like the word table (Devlin 2019, "
        "appendix A.2); the sines are those of Vaswani 2017",
    ),
    Mistake(
        "words-scaled", "word vectors are multiplied by √H",
        {"embeddings.word": lambda s: (
            STEPS["embeddings.word"](s) * math.sqrt(s.config.hidden_size))},
        "positions and segments drown in the words (change 1.6, cosine 0.81)",
        "leave √H out: Vaswani 2017 §3.4 has it, BERT has not",
    ),
    Mistake(
        "no-segment", "the segment (token type) vectors are not added",
        {"embeddings.segment": lambda s: torch.zeros_like(STEPS["embeddings.segment"](s))},
        "wrong even for single texts, whose segment 0 has a vector too (change 7.0, cosine 0.53)",
        "add segment(token_type_ids); zeros mean the first row of the table, not nothing",
    ),
    Mistake(
        "segments-ignored", "every token gets the vector of segment 0",
        {"embeddings.segment": lambda s: (
            s.weight("embeddings.segment.weight")[torch.zeros_like(s.run.types)])},
        "single texts are right; only pairs show it (cosine 0.997)",
        "pass token_type_ids through to the embedding",
        "the hand-out code of CMU's minbert assignment never passes the segment ids it reads",
    ),
    Mistake(
        "no-embedding-norm", "the LayerNorm after the embeddings is missing",
        {"embeddings.norm": lambda s: s["embeddings.sum"]},
        "everything after it gets inputs of the wrong size (change 7.2, cosine 0.14)",
        "norm(word + segment + position), then dropout",
    ),
    Mistake(
        "position-after-norm", "the positions are added after the LayerNorm",
        {
            "embeddings.sum": lambda s: s["embeddings.word"] + s["embeddings.segment"],
            "embeddings.norm": lambda s: (
                s.norm("embeddings.norm", s["embeddings.sum"]) + s["embeddings.position"]),
        },
        "close to right for the first words, off everywhere",
        "add all three vectors first, then normalise",
    ),
    Mistake(
        "padding-vector-zeroed", "the word vector of padding is taken as zero",
        {"embeddings.word": lambda s: STEPS["embeddings.word"](s) * s.real[..., None]},
        "only padded columns differ; harmless as long as the mask is right",
        "look padding up like any word; padding_idx only stops its gradient",
    ),
)

# --------------------------------------------------------------------------------- attention

ATTENTION = (
    Mistake(
        "no-qkv-bias", "query, key and value maps have no bias",
        each(QKV, lambda s, step: s.linear(step, s.input, bias=False)),
        "change 1.8, cosine 0.77; a fresh model, whose biases are zero, hides it",
        "nn.Linear(H, H) with its default bias=True, and load all three biases",
    ),
    Mistake(
        "no-query-bias", "the query map has no bias",
        {"attention.query": lambda s: s.linear("attention.query", s.input, bias=False)},
        "attention prefers other keys; a fresh model, whose biases are zero, hides it",
        "load attention.query.bias",
    ),
    Mistake(
        "no-key-bias", "the key map has no bias",
        {"attention.key": lambda s: s.linear("attention.key", s.input, bias=False)},
        "nothing at all in the output: it adds the same number to a whole row of scores, and the "
        "softmax does not see that. Only the keys and scores themselves differ",
        "load attention.key.bias",
    ),
    Mistake(
        "no-value-bias", "the value map has no bias",
        {"attention.value": lambda s: s.linear("attention.value", s.input, bias=False)},
        "the context is off by one constant vector, the same for every token",
        "load attention.value.bias",
    ),
    Mistake(
        "qkv-transposed", "query, key and value weights are not transposed (x W instead of x Wᵀ)",
        each(QKV, lambda s, step: transposed(s, step, s.input)),
        "no error, as the matrices are square; outputs are unusable (change 2.2, cosine 0.13)",
        "nn.Linear stores (out, in): F.linear(x, W), or x @ W.T",
        "weights of TensorFlow are (in, out); converters must transpose them",
    ),
    Mistake(
        "query-key-swapped", "query and key weights are swapped",
        {
            "attention.query": lambda s: s.linear("attention.key", s.input),
            "attention.key": lambda s: s.linear("attention.query", s.input),
        },
        "who looks at whom is turned round (change 2.0, cosine 0.32)",
        "check the order in which the three maps are loaded and unpacked: q, k, v",
    ),
    Mistake(
        "key-value-swapped", "key and value weights are swapped",
        {
            "attention.key": lambda s: s.linear("attention.value", s.input),
            "attention.value": lambda s: s.linear("attention.key", s.input),
        },
        "outputs are unusable (change 2.9, cosine -0.09)",
        "check the order in which the three maps are loaded and unpacked: q, k, v",
    ),
    Mistake(
        "query-value-swapped", "query and value weights are swapped",
        {
            "attention.query": lambda s: s.linear("attention.value", s.input),
            "attention.value": lambda s: s.linear("attention.query", s.input),
        },
        "outputs are unusable",
        "check the order in which the three maps are loaded and unpacked: q, k, v",
    ),
    Mistake(
        "key-is-query", "the key is made with the query's weights",
        {"attention.key": lambda s: s.linear("attention.query", s.input)},
        "the scores are symmetric: i looks at j exactly as much as j at i, before the softmax",
        "self.key(hidden), not self.query(hidden): a line copied and not changed",
    ),
    Mistake(
        "value-is-key", "the value is made with the key's weights",
        {"attention.value": lambda s: s.linear("attention.key", s.input)},
        "probabilities are right, the context is not",
        "self.value(hidden), not self.key(hidden): a line copied and not changed",
    ),
    Mistake(
        "view-without-transpose", "heads are cut by view(B, N, T, D) without a transpose",
        each(HEADS, lambda s, step: (
            s[step.removesuffix("_heads")].reshape(
                len(s.run.ids), -1, s.run.ids.shape[1], s.head_size)
        )),
        "shapes fit, but a head is a stretch of tokens, not of features (change 2.3, cosine 0.39)",
        "view(B, T, N, D).transpose(1, 2)",
        "reczoo/FuxiCTR#30",
    ),
    Mistake(
        "heads-interleaved", "heads take every N-th feature: view(B, T, D, N)",
        each(HEADS, lambda s, step: (
            s[step.removesuffix("_heads")].unflatten(2, (s.head_size, -1)).permute(0, 3, 1, 2)
        )),
        "features of all heads are mixed (change 1.5, cosine 0.72)",
        "head n owns features n·D to (n + 1)·D: view(B, T, N, D)",
    ),
    Mistake(
        "one-head", "one head of size H instead of N heads of size D",
        {
            **each(HEADS, lambda s, step: s[step.removesuffix("_heads")][:, None]),
            "attention.scaled": lambda s: s["attention.products"] * s.config.hidden_size**-0.5,
        },
        "every token has one distribution instead of N (change 7.3, cosine 0.48)",
        "cut query, key and value into num_attention_heads heads before the scores",
    ),
    Mistake(
        "scores-transposed", "the scores are K Qᵀ instead of Q Kᵀ",
        {"attention.products": lambda s: (
            s["attention.key_heads"] @ s["attention.query_heads"].transpose(-1, -2))},
        "the same output as swapped query and key weights",
        "scores[i, j] is query i with key j: query @ key.transpose(-1, -2)",
    ),
    Mistake(
        "no-scale", "the scores are not divided by √D",
        {"attention.scaled": lambda s: s["attention.products"]},
        "the softmax is too sharp (change 1.8, cosine 0.81)",
        "divide by √D before the mask and the softmax (Vaswani 2017 §3.2.1)",
        "mlc-ai/mlc-llm#3426",
    ),
    Mistake(
        "scale-hidden", "the scores are divided by √H instead of √D",
        {"attention.scaled": lambda s: s["attention.products"] * s.config.hidden_size**-0.5},
        "the softmax is too flat (change 1.4, cosine 0.77)",
        "D is the size of one head, H / N",
        "karpathy/ng-video-lecture#6",
    ),
    Mistake(
        "scale-heads", "the scores are divided by √N instead of √D",
        {"attention.scaled": lambda s: (
            s["attention.products"] * s.config.num_attention_heads**-0.5)},
        "the softmax is too sharp or too flat; right by chance where N = D",
        "D is the size of one head, not the number of heads",
        "tenstorrent/tt-metal#56789",
    ),
    Mistake(
        "scale-length", "the scores are divided by √T instead of √D",
        {"attention.scaled": lambda s: s["attention.products"] * s.run.ids.shape[1] ** -0.5},
        "a text's vector changes with the length of the batch it is in",
        "take D from the last axis of the query, not T",
    ),
    Mistake(
        "scale-multiplied", "the scores are multiplied by √D",
        {"attention.scaled": lambda s: s["attention.products"] * s.head_size**0.5},
        "the softmax is nearly a maximum (change 1.6, cosine 0.76)",
        "divide by √D, or multiply by D**-0.5",
        "esceptico/perceiver-io#9 (a scale, already inverted, divided by)",
    ),
    Mistake(
        "scale-not-rooted", "the scores are divided by D instead of √D",
        {"attention.scaled": lambda s: s["attention.products"] / s.head_size},
        "the softmax is too flat; the same where both query and scores are scaled",
        "one division by √D",
    ),
    Mistake(
        "scale-64", "the scores are divided by 8, right only for heads of size 64",
        {"attention.scaled": lambda s: s["attention.products"] / 8},
        "right on BERT-base, wrong on MiniLM, whose heads have size 32",
        "compute √D from the config",
    ),
    Mistake(
        "no-mask", "padding is not masked",
        {"attention.mask": no_mask},
        "texts change with the padding of their batch (change 0.88, cosine 0.987); the longest "
        "text of a batch is right",
        "add the dtype's minimum to the scores of padded keys",
    ),
    Mistake(
        "mask-flipped", "the mask is turned round: real tokens are masked, padding is not",
        {"attention.mask": lambda s: s.real[:, None, None] * minimum(s)},
        "padded texts look only at padding (change 2.5, cosine 0.06)",
        "in attention_mask 1 means real token: masked_fill(attention_mask == 0, minimum); in a "
        "mask that is to be added 0 does: just add it",
    ),
    Mistake(
        "mask-flipped-infinite", "the mask is turned round, and masked with minus infinity",
        {"attention.scores": lambda s: s["attention.scaled"].masked_fill(
            s.real[:, None, None] == 1, float("-inf"))},
        "texts without padding become NaN, all others look only at padding",
        "key_padding_mask of nn.MultiheadAttention is True where a key is left out, attn_mask of "
        "F.scaled_dot_product_attention is True where it takes part",
    ),
    Mistake(
        "mask-added-raw", "the mask of 0 and 1 is added to the scores as it is",
        {"attention.mask": lambda s: s.real[:, None, None] + no_mask(s)},
        "padding is only slightly less attended (change 0.54, cosine 0.998)",
        "turn it into 0 and minus a lot first",
    ),
    Mistake(
        "mask-multiplied", "scores of padded keys are set to 0 instead of minus a lot",
        {"attention.scores": lambda s: s["attention.scaled"] * s.real[:, None, None]},
        "a score of 0 is an average key, not a missing one (change 0.53, cosine 0.998)",
        "masked_fill with the dtype's minimum, not with 0",
    ),
    Mistake(
        "mask-after-softmax", "the mask is applied after the softmax",
        {
            "attention.mask": no_mask,
            "attention.weights": lambda s: s["attention.probabilities"] * s.real[:, None, None],
        },
        "rows no longer sum to 1 (change 0.65, cosine 0.985)",
        "mask the scores, before the softmax",
    ),
    Mistake(
        "mask-on-queries", "the mask stands on the query axis",
        {"attention.mask": lambda s: (1 - s.real[:, None, :, None]) * minimum(s)},
        "real tokens still look at padding (change 1.3, cosine 0.970)",
        "mask[:, None, None, :]: the last axis of the scores is the key",
    ),
    Mistake(
        "mask-on-both", "the mask stands on both axes, queries and keys",
        {"attention.mask": lambda s: (
            1 - s.real[:, None, :, None] * s.real[:, None, None]) * minimum(s)},
        "only padded rows differ; harmless, but they become uniform (or NaN with -inf)",
        "mask the keys only",
    ),
    Mistake(
        "causal", "a causal mask hides the tokens to the right",
        {"attention.scores": lambda s: (
            s["attention.scaled"] + s["attention.mask"]).masked_fill(
                torch.ones(2 * s.run.ids.shape[1:], dtype=torch.bool).triu(1), minimum(s))},
        "[CLS] sees nothing but itself (change 1.1, cosine 0.86)",
        "BERT looks both ways; causal masks belong to decoders",
    ),
    Mistake(
        "mask-repeated-wrongly", "the mask is repeated over heads in another order than the batch",
        {"attention.mask": lambda s: (
            (1 - s.real.repeat(s.config.num_attention_heads, 1).unflatten(0, (len(s.real), -1)))
            [:, :, None] * minimum(s))},
        "each head masks the padding of another text; a batch of one is right",
        "repeat_interleave, or better: keep the heads on an axis of their own and broadcast",
        "lsdefine/attention-is-all-you-need-keras#36",
    ),
    Mistake(
        "mask-from-ids", "the mask is derived from input_ids != padding instead of passed",
        {"attention.mask": lambda s: (
            (s.run.ids == (s.config.pad_token_id or 0))[:, None, None].to(s.run.dtype)
            * minimum(s))},
        "differs only where a text contains a literal [PAD], or padding has another id",
        "use attention_mask",
    ),
    Mistake(
        "mask-infinite", "padding is masked with minus infinity",
        {"attention.scores": lambda s: s["attention.scaled"].masked_fill(
            s.real[:, None, None] == 0, float("-inf"))},
        "the same, except that a text of padding alone becomes NaN",
        "use torch.finfo(dtype).min",
    ),
    Mistake(
        "softmax-over-queries", "the softmax runs over the queries (dim=-2)",
        {"attention.probabilities": lambda s: s["attention.scores"].softmax(-2)},
        "columns sum to 1 instead of rows (change 2.2, cosine 0.52)",
        "softmax(dim=-1): over the keys",
        "labmlai/annotated_deep_learning_paper_implementations#146: trained well all the same",
    ),
    Mistake(
        "softmax-over-heads", "the softmax runs over the heads (dim=1)",
        {"attention.probabilities": lambda s: s["attention.scores"].softmax(1)},
        "change 1.5, cosine 0.78",
        "softmax(dim=-1): over the keys; dim=1 was right before there were heads",
        "fastnlp/fastNLP#254 (dim=2 with a batch of heads)",
    ),
    Mistake(
        "softmax-over-batch", "the softmax runs over the batch (dim=0)",
        {"attention.probabilities": lambda s: s["attention.scores"].softmax(0)},
        "a single text attends to everything with weight 1; texts influence each other",
        "softmax(dim=-1): over the keys",
        "PetrochukM/PyTorch-NLP#2",
    ),
    Mistake(
        "no-softmax", "the softmax is forgotten",
        {
            "attention.scores": lambda s: (
                s["attention.scaled"].masked_fill(s.real[:, None, None] == 0, 0)),
            "attention.probabilities": lambda s: s["attention.scores"],
        },
        "outputs are unusable (change 6.6, cosine -0.04)",
        "probabilities = scores.softmax(-1)",
    ),
    Mistake(
        "sigmoid", "a sigmoid stands where the softmax belongs",
        {"attention.probabilities": lambda s: s["attention.scores"].sigmoid()},
        "rows do not sum to 1",
        "probabilities = scores.softmax(-1)",
    ),
    Mistake(
        "probabilities-transposed", "the probabilities are transposed before the weighted sum",
        {"attention.mixed": lambda s: (
            s["attention.weights"].transpose(-1, -2) @ s["attention.value_heads"])},
        "each token collects from those that look at it, not from those it looks at",
        "weights @ value: the keys are the last axis of the weights",
    ),
    Mistake(
        "merge-without-transpose", "heads are merged by view without transposing back",
        {"attention.context": lambda s: (
            s["attention.mixed"].reshape(len(s.run.ids), s.run.ids.shape[1], -1))},
        "shapes fit, but a token's vector is made of several tokens (change 1.8, cosine 0.57)",
        "transpose(1, 2) before the view back to (B, T, H)",
        "jsbaan/transformer-from-scratch#6: passed its training test for years",
    ),
    Mistake(
        "merge-interleaved", "heads are merged feature by feature instead of side by side",
        {"attention.context": lambda s: s["attention.mixed"].permute(0, 2, 3, 1).flatten(2)},
        "the output map reads every feature at the wrong place",
        "(B, T, N, D) → (B, T, N·D): the head is the slower axis",
    ),
    Mistake(
        "dropout-left-on", "dropout works outside of training too", {},
        "the same text gives other numbers each time (change 0.62, cosine 0.988)",
        "model.eval(), and F.dropout(x, p, training=self.training)",
        "huggingface/transformers#695",
    ),
    Mistake(
        "no-output-map", "the output map after the heads is missing",
        {"attention.output": lambda s: s["attention.context"]},
        "heads are added to the residual unmixed",
        "output(merged heads): W^O of Vaswani 2017 §3.2.2",
    ),
    Mistake(
        "no-output-bias", "the output map has no bias",
        {"attention.output": lambda s: (
            s.linear("attention.output", s["attention.context"], bias=False))},
        "off by one constant vector, the same for every token",
        "load attention.output.bias",
    ),
    Mistake(
        "output-transposed", "the output map's weight is not transposed",
        {"attention.output": lambda s: transposed(s, "attention.output", s["attention.context"])},
        "no error, as the matrix is square; outputs are unusable",
        "nn.Linear stores (out, in): F.linear(x, W), or x @ W.T",
    ),
    Mistake(
        "attention-adds-input", "the attention adds its input to its output itself",
        {"attention.output": lambda s: STEPS["attention.output"](s) + s.input},
        "the residual comes twice, as the layer adds it too",
        "return output(merged heads); the residual is the layer's",
        "transformers' BertAttention has the residual and the norm inside (BertSelfOutput)",
    ),
    Mistake(
        "attention-adds-and-norms", "the attention has the residual and the LayerNorm inside",
        {"attention.output": lambda s: s.norm(
            "attention_norm", STEPS["attention.output"](s) + s.input)},
        "both come twice, as the layer has them too",
        "return output(merged heads); residual and norm are the layer's",
        "transformers' BertAttention has the residual and the norm inside (BertSelfOutput)",
    ),
)

# ------------------------------------------------------------------- residuals and LayerNorms

RESIDUAL_AND_NORM = (
    Mistake(
        "no-residual", "no residual connections",
        {
            "attention_sum": lambda s: s["attention.output"],
            "feed_forward_sum": lambda s: s["feed_forward.contract"],
        },
        "change 5.9, cosine -0.02; deep models do not train",
        "norm(x + sublayer(x)), both times",
    ),
    Mistake(
        "no-attention-residual", "the residual around the attention is missing",
        {"attention_sum": lambda s: s["attention.output"]},
        "a token forgets itself in every layer",
        "attention_norm(hidden + attention(hidden))",
    ),
    Mistake(
        "no-feed-forward-residual", "the residual around the feed-forward network is missing",
        {"feed_forward_sum": lambda s: s["feed_forward.contract"]},
        "the result of the attention is lost in every layer",
        "feed_forward_norm(hidden + feed_forward(hidden))",
    ),
    Mistake(
        "residual-from-the-layer", "the second residual adds the layer's input",
        {"feed_forward_sum": lambda s: s["feed_forward.contract"] + s.input},
        "the result of the attention reaches the output only through the feed-forward network",
        "the second residual adds what went into the feed-forward network: the attention_norm",
    ),
    Mistake(
        "norm-before-add", "the norm comes before the residual is added: x + norm(sublayer(x))",
        {
            "attention_norm": lambda s: s.norm("attention_norm", s["attention.output"]) + s.input,
            "feed_forward_norm": lambda s: (
                s.norm("feed_forward_norm", s["feed_forward.contract"]) + s["attention_norm"]),
        },
        "hidden states grow from layer to layer (change 62, cosine 0.08)",
        "norm(x + sublayer(x))",
    ),
    Mistake(
        "pre-norm", "pre-norm layers, as in GPT: x + sublayer(norm(x))",
        {
            **each(QKV, lambda s, step: s.linear(step, s.norm("attention_norm", s.input))),
            "attention_norm": lambda s: s["attention_sum"],
            "feed_forward.expand": lambda s: s.linear(
                "feed_forward.expand", s.norm("feed_forward_norm", s["attention_sum"])),
            "feed_forward_norm": lambda s: s["feed_forward_sum"],
        },
        "hidden states grow from layer to layer (change 220, cosine 0.15)",
        "BERT is post-norm: norm(x + sublayer(x))",
        "the Annotated Transformer prints the post-norm formula above pre-norm code",
    ),
    Mistake(
        "norms-swapped", "the two LayerNorms of a layer are swapped",
        {
            "attention_norm": lambda s: s.norm("feed_forward_norm", s["attention_sum"]),
            "feed_forward_norm": lambda s: s.norm("attention_norm", s["feed_forward_sum"]),
        },
        "a fresh model, whose norms are the identity, hides it (change 13, cosine 0.10)",
        "attention.output.LayerNorm belongs after the attention, output.LayerNorm after the "
        "feed-forward network",
    ),
    Mistake(
        "norm-shared", "the first LayerNorm of a layer is used twice",
        {"feed_forward_norm": lambda s: s.norm("attention_norm", s["feed_forward_sum"])},
        "a fresh model, whose norms are the identity, hides it",
        "each layer has two LayerNorms with weights of their own",
    ),
    Mistake(
        "norm-shared-second", "the second LayerNorm of a layer is used twice",
        {"attention_norm": lambda s: s.norm("feed_forward_norm", s["attention_sum"])},
        "a fresh model, whose norms are the identity, hides it",
        "each layer has two LayerNorms with weights of their own",
    ),
    Mistake(
        "no-attention-norm", "the LayerNorm after the attention is missing",
        {"attention_norm": lambda s: s["attention_sum"]},
        "the feed-forward network gets inputs of the wrong size",
        "attention_norm(hidden + attention(hidden))",
    ),
    Mistake(
        "no-final-norm", "the LayerNorm after the feed-forward network is missing",
        {"feed_forward_norm": lambda s: s["feed_forward_sum"]},
        "in the last layer alone: change 11, cosine 0.84",
        "feed_forward_norm(hidden + feed_forward(hidden)), in the last layer too",
    ),
    *(
        Mistake(
            f"norm-eps-{eps:g}", f"eps of the LayerNorm is {eps:g} instead of the config's",
            each(NORMS, lambda s, step, eps=eps: s.norm(step, s[SUMS[step]], eps)),
            seen,
            "nn.LayerNorm(H, eps=config.layer_norm_eps)",
            source,
        )
        for eps, seen, source in (
            (1e-5, "tiny: change 8.8e-4, cosine 1.0000; up to 1e-2 where states have a small "
             "deviation. It is torch's default", "keras-team/keras-hub#642"),
            (1e-6, "tiny: change 1e-4; the default of some libraries and of ViT", ""),
            (1e-3, "change 0.1; the default of Keras's LayerNormalization", ""),
        )
    ),
    Mistake(
        "norm-unbiased", "the LayerNorm divides by the unbiased deviation (H - 1)",
        each(NORMS, lambda s, step: norm_over(s, step, (-1,), correction=1)),
        "small: change 1.1e-2, cosine 1.0000; all states are too small by √((H-1)/H)",
        "x.var(-1, correction=0)",
        "the LayerNorm of the Annotated Transformer",
    ),
    Mistake(
        "norm-std-plus-eps", "eps stands outside the root, and is 1e-6: (x - mean) / (std + eps)",
        each(NORMS, lambda s, step: (
            (s[SUMS[step]] - s[SUMS[step]].mean(-1, keepdim=True))
            / (s[SUMS[step]].std(-1, keepdim=True) + 1e-6)
            * s.weight(f"{step}.weight") + s.weight(f"{step}.bias"))),
        "small: change 1.1e-2, cosine 1.0000 (torch's std is the unbiased one)",
        "(x - mean) / sqrt(var + eps) with the biased variance",
        "the LayerNorm of the Annotated Transformer",
    ),
    Mistake(
        "norm-over-tokens", "the LayerNorm runs over the tokens (dim=1)",
        each(NORMS, lambda s, step: norm_over(s, step, (1,))),
        "a text's states depend on its length and padding (change 12, cosine 0.07)",
        "normalise every token by itself: over the last axis",
    ),
    Mistake(
        "norm-over-text", "the LayerNorm runs over tokens and features together",
        each(NORMS, lambda s, step: norm_over(s, step, (-2, -1))),
        "a text's states depend on its length and padding",
        "nn.LayerNorm(H), not nn.LayerNorm((T, H))",
    ),
    Mistake(
        "norm-without-gain-and-bias", "gain and bias of the LayerNorms are not used",
        each(NORMS, plain_norm),
        "a fresh model hides it; with weights from a file it is far off. Old files name them "
        "gamma and beta: not found, not loaded",
        "load LayerNorm.weight and .bias, or gamma and beta",
        "huggingface/transformers: names gamma and beta in files turned from TensorFlow",
    ),
    Mistake(
        "norm-without-bias", "the LayerNorms have no bias",
        each(NORMS, lambda s, step: s.norm(step, s[SUMS[step]]) - s.weight(f"{step}.bias")),
        "off by one constant vector for every token; a fresh model hides it",
        "load LayerNorm.bias (beta)",
    ),
    Mistake(
        "norm-without-gain", "the LayerNorms have no gain",
        each(NORMS, lambda s, step: plain_norm(s, step) + s.weight(f"{step}.bias")),
        "every feature is off by its own factor; a fresh model hides it",
        "load LayerNorm.weight (gamma)",
    ),
    Mistake(
        "norm-gain-plus-one", "the gain of the LayerNorms is 1 + weight",
        each(NORMS, lambda s, step: s.norm(step, s[SUMS[step]]) + plain_norm(s, step)),
        "far off: the files store the gain itself, not its distance from 1",
        "multiply by the weight",
    ),
)

# -------------------------------------------------------------------------------- feed-forward

FEED_FORWARD = (
    Mistake(
        "gelu-tanh", "GELU in its tanh form where the config wants the exact one",
        each(GELUS, lambda s, step: F.gelu(s[GELUS[step]], approximate="tanh")),
        "tiny: change 2.4e-3, cosine 1.0000",
        'F.gelu(x): "gelu" is the erf form; "gelu_new" and "gelu_pytorch_tanh" are the tanh form',
        "Blaizzy/mlx-embeddings#81",
    ),
    Mistake(
        "gelu-exact", "GELU in its exact form where the config wants the tanh one",
        each(GELUS, lambda s, step: F.gelu(s[GELUS[step]])),
        "tiny; seen only with hidden_act gelu_new or gelu_pytorch_tanh",
        "read hidden_act from the config",
        "kyutai-labs/pocket-tts#278",
    ),
    Mistake(
        "gelu-quick", "quick GELU: x sigmoid(1.702 x)",
        each(GELUS, lambda s, step: s[GELUS[step]] * (1.702 * s[GELUS[step]]).sigmoid()),
        "change 0.16, cosine 0.998",
        "F.gelu(x); the quick form is CLIP's",
    ),
    Mistake(
        "gelu-without-root-two", "GELU with erf(x) instead of erf(x / √2)",
        each(GELUS, lambda s, step: s[GELUS[step]] * 0.5 * (1 + torch.erf(s[GELUS[step]]))),
        "a slightly steeper curve",
        "x / 2 · (1 + erf(x / √2))",
    ),
    Mistake(
        "silu", "SiLU (swish) instead of GELU",
        each(GELUS, lambda s, step: F.silu(s[GELUS[step]])),
        "off everywhere, texts stay similar",
        "F.gelu(x)",
    ),
    Mistake(
        "relu", "ReLU instead of GELU",
        each(GELUS, lambda s, step: F.relu(s[GELUS[step]])),
        "the activation of Vaswani 2017; off everywhere",
        "F.gelu(x) (Devlin 2019, appendix A.2)",
    ),
    Mistake(
        "no-activation", "no activation between the two linear maps",
        each(GELUS, lambda s, step: s[GELUS[step]]),
        "the feed-forward network is one linear map",
        "contract(gelu(expand(x)))",
    ),
    Mistake(
        "activation-last", "the activation comes after the second linear map",
        {
            "feed_forward.activation": lambda s: s["feed_forward.expand"],
            "feed_forward.contract": lambda s: s.activate(
                s.linear("feed_forward.contract", s["feed_forward.activation"])),
        },
        "what the network adds is hardly ever negative",
        "contract(gelu(expand(x)))",
    ),
    Mistake(
        "no-expand-bias", "the first linear map of the feed-forward network has no bias",
        {"feed_forward.expand": lambda s: (
            s.linear("feed_forward.expand", s["attention_norm"], bias=False))},
        "a fresh model, whose biases are zero, hides it",
        "load intermediate.dense.bias",
    ),
    Mistake(
        "no-contract-bias", "the second linear map of the feed-forward network has no bias",
        {"feed_forward.contract": lambda s: (
            s.linear("feed_forward.contract", s["feed_forward.activation"], bias=False))},
        "off by one constant vector; a fresh model, whose biases are zero, hides it",
        "load output.dense.bias",
    ),
    Mistake(
        "feed-forward-on-layer-input", "the feed-forward network reads the layer's input",
        {"feed_forward.expand": lambda s: s.linear("feed_forward.expand", s.input)},
        "attention and feed-forward network stand side by side instead of one after the other",
        "feed the normalised sum of the attention into it",
    ),
    Mistake(
        "no-feed-forward", "the feed-forward network is left out",
        {"feed_forward.contract": lambda s: torch.zeros_like(s["attention_norm"])},
        "the second residual adds nothing",
        "feed_forward_norm(hidden + feed_forward(hidden))",
    ),
    Mistake(
        "feed-forward-adds-input", "the feed-forward network adds its input to its output itself",
        {"feed_forward.contract": lambda s: (
            STEPS["feed_forward.contract"](s) + s["attention_norm"])},
        "the residual comes twice, as the layer adds it too",
        "return contract(gelu(expand(x))); the residual is the layer's",
        "transformers' BertOutput has the residual and the norm inside",
    ),
    Mistake(
        "feed-forward-adds-and-norms",
        "the feed-forward network has the residual and the LayerNorm inside",
        {"feed_forward.contract": lambda s: s.norm(
            "feed_forward_norm", STEPS["feed_forward.contract"](s) + s["attention_norm"])},
        "both come twice, as the layer has them too",
        "return contract(gelu(expand(x))); residual and norm are the layer's",
        "transformers' BertOutput has the residual and the norm inside",
    ),
)

# ------------------------------------------------------------------- pooler, pooling and heads

POOLING_AND_HEADS = (
    Mistake(
        "pooler-no-tanh", "the pooler has no tanh",
        {"pooler": lambda s: s["pooler.dense"]},
        "values beyond 1 and -1; the hidden states are right",
        "tanh(dense(hidden[:, 0]))",
    ),
    Mistake(
        "pooler-relu", "the pooler has a ReLU instead of tanh",
        {"pooler": lambda s: s["pooler.dense"].relu()},
        "no negative values",
        "tanh(dense(hidden[:, 0]))",
    ),
    Mistake(
        "pooler-mean", "the pooler reads the mean over all tokens",
        {"pooler.first": lambda s: (
            (s.input * s.real[..., None]).sum(1) / s.real.sum(1, keepdim=True))},
        "the pooler was trained on [CLS]",
        "tanh(dense(hidden[:, 0])); mean pooling is another thing",
    ),
    Mistake(
        "pooler-mean-padding", "the pooler reads the mean over all columns, padding too",
        {"pooler.first": lambda s: s.input.mean(1)},
        "the pooler was trained on [CLS]",
        "tanh(dense(hidden[:, 0])); mean pooling is another thing",
    ),
    Mistake(
        "pooler-last", "the pooler reads the last column",
        {"pooler.first": lambda s: s.input[:, -1]},
        "it reads [SEP], or padding",
        "hidden[:, 0]",
    ),
    Mistake(
        "pooler-last-real", "the pooler reads the last real token",
        {"pooler.first": last_real},
        "it reads [SEP]",
        "hidden[:, 0]",
    ),
    Mistake(
        "pooler-first-text", "the pooler reads the first text instead of the first token",
        {"pooler.first": lambda s: (
            s.input[0, torch.arange(len(s.input)).clamp(max=s.input.shape[1] - 1)])},
        "shapes may even fit; all vectors come from the first text",
        "hidden[:, 0], not hidden[0]",
    ),
    Mistake(
        "pooler-no-bias", "the pooler's linear map has no bias",
        {"pooler.dense": lambda s: s.linear("pooler.dense", s["pooler.first"], bias=False)},
        "a fresh model, whose biases are zero, hides it",
        "load pooler.dense.bias",
    ),
    Mistake(
        "pooler-transposed", "the pooler's weight is not transposed",
        {"pooler.dense": lambda s: transposed(s, "pooler.dense", s["pooler.first"])},
        "no error, as the matrix is square",
        "nn.Linear stores (out, in): F.linear(x, W), or x @ W.T",
    ),
    Mistake(
        "pooler-no-dense", "the pooler's linear map is left out",
        {"pooler.dense": lambda s: s["pooler.first"]},
        "the [CLS] state itself, or its tanh, where heads expect the pooler's output",
        "tanh(dense(hidden[:, 0]))",
    ),
    Mistake(
        "pooling-padding", "the mean runs over padding too",
        {
            "pooling.sum": lambda s: s.input.sum(1),
            "pooling.count": lambda s: torch.full_like(s.real[:, :1], s.real.shape[1]),
        },
        "a text's vector changes with the longest text of its batch",
        "sum over the real tokens, divided by their number",
        "huggingface/transformers#17463",
    ),
    Mistake(
        "pooling-wrong-count", "the sum over real tokens is divided by the padded length",
        {"pooling.count": lambda s: torch.full_like(s.real[:, :1], s.real.shape[1])},
        "too short vectors; normalisation and cosine hide it",
        "divide by mask.sum(1)",
    ),
    Mistake(
        "pooling-sum-unmasked", "the sum runs over padding, the count over real tokens only",
        {"pooling.sum": lambda s: s.input.sum(1)},
        "a text's vector changes with the longest text of its batch",
        "multiply by the mask before the sum",
    ),
    Mistake(
        "pooling-sum", "the sum instead of the mean",
        {"pooling.count": lambda s: torch.ones_like(s.real[:, :1])},
        "long texts get long vectors; normalisation and cosine hide it",
        "divide by mask.sum(1)",
    ),
    Mistake(
        "pooling-root-length", "the sum is divided by the root of the number of tokens",
        {"pooling.count": lambda s: s.real.sum(1, keepdim=True).sqrt()},
        "long texts get long vectors; normalisation and cosine hide it",
        "divide by mask.sum(1); this is mean_sqrt_len, another mode",
    ),
    Mistake(
        "pooling-cls", "the [CLS] state instead of the mean",
        {"pooling": lambda s: s.input[:, 0]},
        "another vector; the similarities of MiniLM get worse",
        "the pooling a model was trained with stands in 1_Pooling/config.json",
    ),
    Mistake(
        "pooling-max", "the maximum instead of the mean",
        {"pooling": lambda s: s.input.masked_fill(s.real[..., None] == 0, -1e9).amax(1)},
        "another vector",
        "the pooling a model was trained with stands in 1_Pooling/config.json",
    ),
    Mistake(
        "pooling-without-ends", "[CLS] and [SEP] are left out of the mean",
        {"pooling.mask": without_ends},
        "slightly other vectors",
        "sentence-transformers averages over all real tokens, the special ones too",
    ),
    Mistake(
        "pooling-layer-before", "the mean over the last layer but one",
        {"pooling.sum": lambda s: (before_last(s) * s["pooling.mask"][..., None]).sum(1)},
        "another vector",
        "average the last hidden state",
        "the default of bert-as-service",
    ),
    Mistake(
        "not-normalised", "the sentence vector is not normalised",
        {"sentence": lambda s: s["pooling"]},
        "dot products are not cosines",
        "divide by the Euclidean length where modules.json has a Normalize module",
    ),
    Mistake(
        "normalised-over-batch", "the vectors are normalised over the batch",
        {"sentence": lambda s: F.normalize(s["pooling"], dim=0)},
        "a text's vector changes with its batch; a batch of one gives only 1 and -1",
        "normalise over the last axis",
    ),
    Mistake(
        "normalised-l1", "the vectors are divided by the sum of magnitudes",
        {"sentence": lambda s: F.normalize(s["pooling"], p=1, dim=-1)},
        "dot products are not cosines",
        "divide by the Euclidean length",
    ),
    Mistake(
        "mlm-no-bias", "the masked-LM decoder has no bias",
        {"predictions": lambda s: F.linear(
            s["predictions.norm"], s.weight("embeddings.word.weight"))},
        "rare words are as likely as frequent ones",
        "add cls.predictions.bias, one number for each word",
    ),
    Mistake(
        "mlm-no-transform", "the masked-LM head has no transform",
        {
            "predictions.dense": lambda s: s.input,
            "predictions.activation": lambda s: s["predictions.dense"],
            "predictions.norm": lambda s: s["predictions.activation"],
        },
        "the hidden state is compared with the words directly",
        "norm(gelu(dense(hidden))) comes first",
    ),
    Mistake(
        "mlm-no-norm", "the masked-LM transform has no LayerNorm",
        {"predictions.norm": lambda s: s["predictions.activation"]},
        "scores of the wrong size",
        "norm(gelu(dense(hidden)))",
    ),
    Mistake(
        "mlm-norm-first", "the masked-LM transform normalises before the activation",
        {
            "predictions.activation": lambda s: s.activate(
                s.norm("predictions.norm", s["predictions.dense"])),
            "predictions.norm": lambda s: s["predictions.activation"],
        },
        "scores of the wrong size",
        "norm(gelu(dense(hidden)))",
    ),
    Mistake(
        "mlm-scaled", "the masked-LM scores are divided by √H",
        {"predictions": lambda s: STEPS["predictions"](s) * s.config.hidden_size**-0.5},
        "the right words, with too even probabilities",
        "no scale in BERT",
    ),
    Mistake(
        "mlm-softmax", "the masked-LM head returns probabilities instead of scores",
        {"predictions": lambda s: STEPS["predictions"](s).softmax(-1)},
        "the right words; the loss, which takes a softmax itself, hardly falls",
        "return logits",
    ),
    Mistake(
        "mlm-log-softmax", "the masked-LM head returns log-probabilities instead of scores",
        {"predictions": lambda s: STEPS["predictions"](s).log_softmax(-1)},
        "the right words and even the right loss: log_softmax twice is log_softmax once",
        "return logits",
    ),
    Mistake(
        "nsp-on-cls", "the next-sentence head reads the [CLS] state, not the pooler",
        {"seq_relationship": lambda s: s.linear("seq_relationship", s.input[:, 0])},
        "no better than guessing",
        "seq_relationship(pooler_output)",
    ),
    Mistake(
        "nsp-swapped", "the two columns of the next-sentence head are swapped",
        {"seq_relationship": lambda s: STEPS["seq_relationship"](s).flip(-1)},
        "exactly wrong",
        "column 0 means: it follows",
    ),
    Mistake(
        "classifier-on-cls", "the classifier reads the [CLS] state, not the pooler",
        {"classifier": lambda s: s.linear("classifier", s.input[:, 0])},
        "other scores from a checkpoint; training from scratch works nearly as well",
        "classifier(dropout(pooler_output))",
    ),
    Mistake(
        "classifier-on-mean", "the classifier reads the mean of the tokens, not the pooler",
        {"classifier": lambda s: s.linear(
            "classifier", (s.input * s.real[..., None]).sum(1) / s.real.sum(1, keepdim=True))},
        "other scores from a checkpoint; training from scratch works nearly as well",
        "classifier(dropout(pooler_output))",
    ),
    Mistake(
        "classifier-no-bias", "the classifier has no bias",
        {
            "classifier": lambda s: s.linear("classifier", s["pooler"], bias=False),
            "token_classifier": lambda s: s.linear("classifier", s.input, bias=False),
        },
        "every class is off by its own constant",
        "load classifier.bias",
    ),
    Mistake(
        "classifier-softmax", "the classifier returns probabilities instead of scores",
        {
            "classifier": lambda s: STEPS["classifier"](s).softmax(-1),
            "token_classifier": lambda s: STEPS["token_classifier"](s).softmax(-1),
        },
        "the right classes; the loss, which takes a softmax itself, hardly falls",
        "return logits",
    ),
    Mistake(
        "span-swapped", "start and end scores are swapped",
        {
            "start_logits": lambda s: s["qa_outputs"][..., 1],
            "end_logits": lambda s: s["qa_outputs"][..., 0],
        },
        "answers end before they start",
        "column 0 is the start",
    ),
    Mistake(
        "span-masked", "scores of padding in the question-answering head are set to minus a lot",
        {"qa_outputs": lambda s: STEPS["qa_outputs"](s).masked_fill(
            s.real[..., None] == 0, minimum(s))},
        "only padding differs; sensible for search, but the reference does not do it",
        "mask when you search for the span, not in the head",
    ),
)

# ------------------------------------------------------------------------------ loss, gradient

LOSS = (
    Mistake(
        "softmax-before-loss", "softmax before the cross-entropy, which takes one itself",
        {"loss.logits": lambda s: s["predictions"].softmax(-1)},
        "the loss starts near ln C and hardly falls",
        "give the loss logits",
    ),
    Mistake(
        "nothing-ignored", "labels of -100 are taken as word 0",
        {"loss.asked": lambda s: torch.ones_like(STEPS["loss.asked"](s))},
        "the model learns to predict [PAD] everywhere",
        "ignore_index=-100",
    ),
    Mistake(
        "loss-over-all", "the sum of the asked positions is divided by all positions",
        {"loss": lambda s: s["loss.tokens"].sum() / s["loss.asked"].numel()},
        "a loss about 7 times too small where 15 % of the words are asked for",
        "divide by the number of labels that count",
    ),
    Mistake(
        "loss-over-batch", "the sum of the asked positions is divided by the number of texts",
        {"loss": lambda s: s["loss.tokens"].sum() / len(s["loss.asked"])},
        "a loss that grows with the number of asked words; long texts weigh more",
        "divide by the number of labels that count",
    ),
    Mistake(
        "loss-sum", "the sum of the losses instead of the mean",
        {"loss": lambda s: s["loss.tokens"].sum()},
        "the learning rate depends on the batch size",
        "divide by the number of labels that count",
    ),
    Mistake(
        "loss-mean-of-means", "the mean per text first, then over the texts",
        {"loss": lambda s: (
            s["loss.tokens"].sum(1) / s["loss.asked"].sum(1).clamp(min=1)).mean()},
        "texts with few asked words weigh too much",
        "one mean over all labels that count",
    ),
    Mistake(
        "labels-shifted", "the labels are shifted by one, as for a language model that reads on",
        {"loss.labels": lambda s: F.pad(s.run.batch["labels"][:, 1:], (0, 1), value=-100)},
        "the loss does not fall below guessing",
        "a masked LM predicts the word at the same position",
    ),
    Mistake(
        "loss-log-of-logits", "the logarithm of the logits' magnitude, without a softmax",
        {"loss.log_probabilities": lambda s: s["loss.logits"]},
        "a loss that can be negative",
        "log_softmax, or F.cross_entropy",
    ),
    Mistake(
        "loss-base-two", "the loss is in bits instead of nats",
        {"loss.tokens": lambda s: STEPS["loss.tokens"](s) / math.log(2)},
        "a constant factor of 1.4427",
        "the natural logarithm",
    ),
)

# ----------------------------------------------------------------------------------- optimizer

OPTIMIZER = (
    Mistake(
        "mean-of-means", "the gradients of micro-batches of different size get the same weight",
        {"gradient": lambda s: s.run.cast(s.run.batch["gradients"][s.number - 1]).mean(0)},
        "the short last batch counts as much as a full one",
        "weight each micro-batch by its number of examples (or of labels)",
        "meta-pytorch/torchtune#1875, huggingface/trl#2175",
    ),
    Mistake(
        "accumulation-not-divided", "the gradients of micro-batches are summed, not averaged",
        {"gradient": lambda s: s.run.cast(s.run.batch["gradients"][s.number - 1]).sum(0)},
        "clipping bites where it should not; without it Adam hides the factor",
        "divide the loss of each micro-batch by their number",
    ),
    Mistake(
        "no-zero-grad", "the gradients are never cleared: they pile up from step to step",
        {"total": lambda s: (
            STEPS["total"](s) + s.before("clipped", "zeros") * s.run.batch["counts"].sum())},
        "the first step is right, all others are not",
        "optimizer.zero_grad(), before the first backward of a step or after its last line",
    ),
    Mistake(
        "last-micro-batch", "only the last micro-batch counts",
        {"gradient": lambda s: s.run.cast(s.run.batch["gradients"][s.number - 1][-1])},
        "the others are computed in vain",
        "zero_grad once for a step, not for every micro-batch",
    ),
    Mistake(
        "last-share", "only the last micro-batch counts, with its share of the whole",
        {"total": lambda s: (
            s.run.batch["counts"][-1] * s.run.cast(s.run.batch["gradients"][s.number - 1][-1]))},
        "the others are computed in vain",
        "zero_grad once for a step, not for every micro-batch",
    ),
    Mistake(
        "loss-summed", "the loss is summed over the examples, not averaged",
        {"gradient": lambda s: s["total"]},
        "larger steps with larger batches",
        "divide by the number of examples of the whole step",
    ),
    Mistake(
        "no-clipping", "the gradient is not clipped",
        {"clipped": lambda s: s["gradient"]},
        "right as long as the norm stays below the limit; then single batches throw it off",
        "clip_grad_norm_(parameters, max_norm) before the step",
    ),
    Mistake(
        "clip-by-value", "each number is clipped instead of the norm",
        {"clipped": lambda s: s["gradient"].clamp(-s.setting("max_norm"), s.setting("max_norm"))},
        "the direction of the gradient changes",
        "clip_grad_norm_, not clip_grad_value_",
    ),
    Mistake(
        "clip-always", "the gradient is always scaled to the limit, short ones too",
        {"clipped": lambda s: (
            s["gradient"] * s.setting("max_norm") / (s["gradient"].norm() + 1e-6))},
        "small gradients near the optimum are blown up",
        "min(1, max_norm / norm)",
    ),
    Mistake(
        "clip-before-unscale", "the gradient is clipped before it is divided",
        {
            "gradient": lambda s: s["total"] * (
                s.setting("max_norm") / (s["total"].norm() + 1e-6)).clamp(max=1),
            "clipped": lambda s: s["gradient"] / s.run.batch["counts"].sum(),
        },
        "the limit is too strict by the factor of the division",
        "undo every scale (accumulation, mixed precision) first, then clip",
    ),
    Mistake(
        "no-bias-correction", "Adam without bias correction",
        {
            "first_corrected": lambda s: s["first"],
            "second_corrected": lambda s: s["second"],
        },
        "the first steps have the wrong size; fine-tuning on little data becomes unstable "
        "(Mosbach 2021)",
        "divide by 1 - beta^t",
        "BERTAdam of google-research/bert and its ports",
    ),
    Mistake(
        "no-first-correction", "the mean of the gradients is not bias-corrected",
        {"first_corrected": lambda s: s["first"]},
        "the first steps are ten times too small",
        "divide by 1 - beta1^t",
    ),
    Mistake(
        "no-second-correction", "the mean of the squares is not bias-corrected",
        {"second_corrected": lambda s: s["second"]},
        "the first steps are thirty times too large",
        "divide by 1 - beta2^t",
    ),
    Mistake(
        "correction-stands-still", "the step counter of the bias correction never advances",
        {
            "first_corrected": lambda s: s["first"] / (1 - s.setting("beta1")),
            "second_corrected": lambda s: s["second"] / (1 - s.setting("beta2")),
        },
        "the first step is right, later ones drift away",
        "state['step'] += 1, before it is used",
    ),
    Mistake(
        "betas-swapped", "beta1 and beta2 are swapped",
        {
            "first": lambda s: (
                s.setting("beta2") * s.before("first", "zeros")
                + (1 - s.setting("beta2")) * s["clipped"]),
            "second": lambda s: (
                s.setting("beta1") * s.before("second", "zeros")
                + (1 - s.setting("beta1")) * s["clipped"] ** 2),
        },
        "the gradients are averaged over a thousand steps, the squares over ten",
        "beta1 = 0.9 for the mean, beta2 = 0.999 for the squares",
    ),
    Mistake(
        "momentum-undamped", "the new gradient enters the mean without the factor 1 - beta1",
        {"first": lambda s: s.setting("beta1") * s.before("first", "zeros") + s["clipped"]},
        "steps ten times too large",
        "beta1 m + (1 - beta1) g",
    ),
    Mistake(
        "second-not-squared", "the gradient's magnitude instead of its square is averaged",
        {"second": lambda s: (
            s.setting("beta2") * s.before("second", "zeros")
            + (1 - s.setting("beta2")) * s["clipped"].abs())},
        "steps depend on the size of the gradient",
        "beta2 v + (1 - beta2) g²",
    ),
    Mistake(
        "no-root", "the update is divided by the mean of squares, not by its root",
        {"update": lambda s: s["first_corrected"] / (s["second_corrected"] + s.setting("eps"))},
        "explodes where gradients are small",
        "m / (sqrt(v) + eps)",
    ),
    Mistake(
        "ascent", "the update is added instead of subtracted",
        {"parameters": lambda s: (
            s.before("parameters", "parameters") - s["decay"] + s["rate"] * s["update"])},
        "the loss rises",
        "p - lr · update",
    ),
    Mistake(
        "eps-in-root", "eps stands under the root",
        {"update": lambda s: (
            s["first_corrected"] / (s["second_corrected"] + s.setting("eps")).sqrt())},
        "parameters with small gradients hardly move",
        "sqrt(v) + eps, not sqrt(v + eps)",
    ),
    Mistake(
        "no-rate", "the update is not multiplied by the learning rate",
        {"parameters": lambda s: s.before("parameters", "parameters") - s["decay"] - s["update"]},
        "explodes at once",
        "p - lr · update",
    ),
    Mistake(
        "decay-after", "the decay is taken of the parameters after the update",
        {"parameters": lambda s: (
            (s.before("parameters", "parameters") - s["rate"] * s["update"])
            * (1 - s["rate"] * s.setting("weight_decay") * s.run.batch["decayed"]))},
        "differs in the fourth digit",
        "decay the parameters as they came in, before the update",
    ),
    Mistake(
        "decay-sign", "the decay makes the parameters larger",
        {"decay": lambda s: -STEPS["decay"](s)},
        "weights grow",
        "p - lr · decay · p",
    ),
    Mistake(
        "l2-instead-of-decay", "L2 regularisation in the gradient instead of decoupled decay",
        {
            "first": lambda s: (
                s.setting("beta1") * s.before("first", "zeros")
                + (1 - s.setting("beta1")) * with_penalty(s)),
            "second": lambda s: (
                s.setting("beta2") * s.before("second", "zeros")
                + (1 - s.setting("beta2")) * with_penalty(s) ** 2),
            "decay": lambda s: torch.zeros_like(s.before("parameters", "parameters")),
        },
        "weights with large gradients are hardly decayed",
        "p - lr · decay · p, apart from the gradient (Loshchilov & Hutter 2019)",
        "torch.optim.Adam(weight_decay=...)",
    ),
    Mistake(
        "decay-without-rate", "the decay is not multiplied by the learning rate",
        {"decay": lambda s: (
            s.setting("weight_decay") * s.run.batch["decayed"]
            * s.before("parameters", "parameters"))},
        "weights vanish within some hundred steps",
        "p - lr · decay · p",
    ),
    Mistake(
        "no-decay", "no weight decay",
        {"decay": lambda s: torch.zeros_like(s.before("parameters", "parameters"))},
        "moves the loss by some 1e-5 in 50 steps: a loss curve does not show it",
        "p - lr · decay · p",
    ),
    Mistake(
        "decay-on-everything", "biases and LayerNorms are decayed too",
        {"decay": lambda s: (
            s["rate"] * s.setting("weight_decay") * s.before("parameters", "parameters"))},
        "moves the loss by 2e-5 in 50 steps: a loss curve does not show it",
        "two parameter groups: weights with decay, biases and norms without",
        "huggingface/transformers#4360",
    ),
    Mistake(
        "decay-groups-inverted", "biases and LayerNorms are decayed, the weights are not",
        {"decay": lambda s: (
            s["rate"] * s.setting("weight_decay") * (1 - s.run.batch["decayed"])
            * s.before("parameters", "parameters"))},
        "a loss curve does not show it",
        "check which of the two lists gets weight_decay=0",
    ),
    Mistake(
        "scheduler-first", "the scheduler steps before the optimizer: each rate is the next one",
        {"rate": lambda s: torch.tensor(
            s.run.batch["settings"]["lr"][
                min(s.number, len(s.run.batch["settings"]["lr"]) - 1)
            ], dtype=s.run.dtype)},
        "the first rate is never used",
        "optimizer.step(), then scheduler.step()",
    ),
    Mistake(
        "no-schedule", "the scheduler never steps: the rate stays the first one",
        {"rate": lambda s: torch.tensor(s.run.batch["settings"]["lr"][0], dtype=s.run.dtype)},
        "with warm-up the rate stays near zero",
        "scheduler.step() after every optimizer step",
    ),
)

# ------------------------------------------------------------------------------------- weights

WEIGHTS = (
    Mistake(
        "layers-off-by-one", "every layer has the weights of the next one",
        {"weights": lambda run, name: other_layer(run, name, lambda i, n: min(i + 1, n - 1))},
        "nothing fits from layer 0 on",
        "layers are numbered from 0 in the official file",
    ),
    Mistake(
        "layers-in-text-order", "layers are loaded in the order of their names as text: 1, 10, 2",
        {"weights": lambda run, name: other_layer(
            run, name, lambda i, n: sorted(range(n), key=str)[i])},
        "layers 0 and 1 are right, then none; models of at most 10 layers hide it",
        "sort by the number, not by the name",
    ),
    Mistake(
        "layers-reversed", "the layers are loaded in reverse order",
        {"weights": lambda run, name: other_layer(run, name, lambda i, n: n - 1 - i)},
        "nothing fits from layer 0 on",
        "layer 0 is the one next to the embeddings",
    ),
    Mistake(
        "one-layer-for-all", "all layers have the weights of layer 0",
        {"weights": lambda run, name: other_layer(run, name, lambda i, n: 0)},
        "layer 0 is right, then none: one module object in a list, N times",
        "make a new layer for each place: [Layer() for _ in range(n)], not [Layer()] * n",
    ),
    Mistake(
        "bfloat16-weights", "the weights have been rounded to bfloat16",
        {"weights": lambda run, name: run.inputs.weights[name].to(torch.bfloat16)},
        "change some 1e-2, cosine 1.000",
        "load in float32 a file that is stored in float32",
    ),
    Mistake(
        "float16-weights", "the weights have been rounded to float16",
        {"weights": lambda run, name: run.inputs.weights[name].to(torch.float16)},
        "change some 1e-3, cosine 1.0000",
        "load in float32 a file that is stored in float32",
    ),
    Mistake(
        "norm-weights-not-loaded", "gain and bias of every LayerNorm are those of a new model",
        {"weights": identity_norms},
        "far off; old files name them gamma and beta, which a plain loader does not find",
        "load strictly, and map gamma and beta to weight and bias",
    ),
    Mistake(
        "last-layer-missing", "the last layer is left out",
        {"feed_forward_norm": lambda s: (
            s.input if s.number == s.config.num_hidden_layers - 1
            else STEPS["feed_forward_norm"](s))},
        "change 4.4, cosine 0.57",
        "range(num_hidden_layers), not range(num_hidden_layers - 1)",
    ),
)

CATALOGUE: tuple[Mistake, ...] = (
    *EMBEDDINGS, *ATTENTION, *RESIDUAL_AND_NORM, *FEED_FORWARD, *POOLING_AND_HEADS, *LOSS,
    *OPTIMIZER, *WEIGHTS,
)
BY_KEY = {mistake.key: mistake for mistake in CATALOGUE}
