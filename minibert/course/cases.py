"""The twelve exercises: the inputs and the expected answers of their parts.

What an exercise says is in ``exercise_texts/NAME.md``: its title, the code to start from, its parts
and its hints. A part is a title, its points and settings, from which the function of that name here
makes inputs and answers. Numbers are drawn from a seed, such that no part is blind to a mistake:
lengths are unequal, no bias is zero, no norm is the identity, and no size is equal to another one.
"""

from __future__ import annotations

import ast
import json
import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import mul
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.course import checks, text_mistakes
from minibert.course.checks import Case, Stage, tensors
from minibert.course.run_submission import Classifier
from minibert.parity.probes import example
from minibert.parity.steps import Computation, Inputs

# ------------------------------------------------------------------------- 1 and 2: from a text

WORDS = "The old House of Anna Berg stood near a River and Nobody knew why".split()
CAFE = "Café Déjà Naïve Señor Zürich Ålesund Škoda Façade Łódź Élan".split()
POOLS = {
    "Word": WORDS, "word": list(map(str.lower, WORDS)), "WORD": list(map(str.upper, WORDS)),
    "Café": CAFE, "café": list(map(str.lower, CAFE)), "CAFÉ": list(map(str.upper, CAFE)),
    "中": "中文字国語学水火山豈㐂𠀀",
}  # fmt: skip
VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] {a}{b} {a}{b}{c} {d}{e} {d}{e}{a}{b} {a} {d} {b} "
    "##{c} ##{a} ##{b} ##{c}{d} ##{c}{d}{e} ##{e} {b}{c}"
).split()  # every rule matters in it


def fill(template: str, draw: Callable[[str], str]) -> str:
    """A text from a template: ``{word}`` is drawn, ``{a*3}`` three times the same."""
    return re.sub(r"\{(\w+)\*?(\d*)\}", lambda m: draw(m[1]) * int(m[2] or 1), template)


def each_text(call: Callable, args: tuple) -> list:
    """Call the function once for each text."""
    return [call(text, *args[1:]) for text in args[0]]


def clean_and_split(seed: int, texts: Sequence[str]) -> dict:
    """Texts from templates."""
    choice = random.Random(seed).choice
    filled = [fill(text, lambda pool: choice(POOLS[pool])) for text in texts]
    right = [text_mistakes.words_of(text) for text in filled]
    return {"args": (filled,), "checks": [checks.same_words], "expected": right, "run": each_text}


def wordpiece(seed: int, words: Sequence[str]) -> dict:
    """Words over six letters."""
    drawn = random.Random(seed).sample(string.ascii_lowercase, 6)
    letters = dict(zip("abcdex", drawn, strict=True))
    vocab = {fill(entry, letters.get): number for number, entry in enumerate(VOCABULARY)}
    filled = [fill(word, letters.get) for word in words]
    right = [text_mistakes.pieces_of(word, vocab) for word in filled]
    return {
        "args": (filled, vocab), "checks": [checks.same_words], "expected": right, "run": each_text
    }


# ----------------------------------------------------------------- 3 to 8: the parts of the model


def stage(
    known: Sequence[str], name: str, what: str, args: Callable[..., tuple]
) -> Callable[..., dict]:
    """Parts that lead from the tensors ``known`` of a tiny BERT to the tensor ``name``.

    ``args`` makes the arguments of the function from the `Inputs` and the known tensors. Settings
    of a part: those of `example`; ``fixed``, weights and inputs with numbers of their own;
    ``check``, the names of the checks.
    """

    def make(seed: int, check=("near",), fixed: Mapping | None = None, **settings: Any) -> dict:
        inputs = example(seed, layers=1, **settings)
        for place, numbers in (fixed or {}).items():
            tensor = inputs.weights[place] if place in inputs.weights else inputs.batch[place]
            tensor.view(-1, len(numbers))[:] = torch.tensor(numbers)
        run = Computation(inputs, dtype=torch.float32)
        values = {key: run[key].contiguous() for key in known}
        return {
            "args": args(inputs, *values.values()),
            "checks": [getattr(checks, name) for name in check],
            "expected": Stage(inputs, values, [name]),
            "what": what,
        }

    return make


def weights_of(inputs: Inputs, prefix: str) -> dict[str, Tensor]:
    """The weights of a part of the model, by their short names."""
    weights = inputs.weights.items()
    return {k.removeprefix(prefix): v for k, v in weights if k.startswith(prefix)}


def norm_of(inputs: Inputs, norm: str) -> tuple[Tensor, Tensor, float]:
    """Gain, bias and eps of a LayerNorm."""
    weights = weights_of(inputs, f"{norm}.")
    return weights["weight"], weights["bias"], inputs.config.layer_norm_eps


def embedding_arguments(inputs: Inputs) -> tuple:
    """The arguments of the exercise embeddings."""
    ids, types = inputs.batch["input_ids"], inputs.batch["token_type_ids"]
    weights = weights_of(inputs, "embeddings.")
    tables = [weights[f"{name}.weight"] for name in ("word", "segment", "position")]
    return ids, types, *tables, *norm_of(inputs, "embeddings.norm")


def attention_arguments(inputs: Inputs, hidden: Tensor) -> tuple:
    """The arguments of the exercise multi_head_attention."""
    weights = weights_of(inputs, "layers.0.attention.")
    return hidden, inputs.batch["attention_mask"], inputs.config.num_attention_heads, weights


# ---------------------------------------------------------- 9 and 10: cosines, and masking for MLM


def cosine_similarity(seed: int, a: Sequence[float], b: Sequence[float]) -> dict:
    """Vectors of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    args = tuple(
        text_mistakes.unit(torch.randn(len(lengths), 6, generator=generator))
        * torch.tensor(lengths)[:, None]
        for lengths in (a, b)
    )
    right = text_mistakes.cosine_table(args)
    return {"args": args, "checks": [checks.close_to], "expected": right}


def mask_tokens(seed: int, shares: Mapping[str, str]) -> dict:
    """Three hundred texts: enough to count. The shares that are looked at are given in words."""
    generator = torch.Generator().manual_seed(seed)
    B, T, vocab_size, mask_id = 300, 80, 500, 4
    ids = torch.randint(5, vocab_size, (B, T), generator=generator)
    length, place = torch.randint(25, T + 1, (B, 1), generator=generator), torch.arange(T)
    ids = torch.where(place < length - 1, ids, torch.where(place == length - 1, 3, 0))
    ids[:, 0] = 2
    args = (ids, ids < 5, mask_id, vocab_size)
    return {"args": args, "checks": [masking, anew], "expected": shares}


def masking(case: Case, got: Any) -> list[str]:
    """Some of the shares."""
    found = text_mistakes.shares(case.args, got)
    if "chosen" not in case.expected and not found["original"][1]:
        return ["  nothing is chosen: all labels are -100"]
    return [
        f"  {100 * found[name][0]:.1f} % {words}; it should be {100 * right:g} %"
        for name, words in case.expected.items()
        if not text_mistakes.as_expected(found[name], right := text_mistakes.SHARES[name])
    ]


def anew(case: Case, got: Any) -> list[str]:
    """Different places are chosen in each text."""
    chosen = tensors(got, 2, case.what)[1] != -100
    same = "chosen" in case.expected and (chosen[:, 1:20] == chosen[:1, 1:20]).all()
    hint = "draw for each token of each text: torch.rand(input_ids.shape)"
    return [f"  the same places in every text; {hint}"] if same else []


# ------------------------------------------------------------------------------- 11: AdamW


def in_each_step(steps: int, *names: str) -> list[str]:
    """The names of tensors in optimizer steps."""
    return [f"steps.{step}.{name}" for step in range(1, steps + 1) for name in names]


def adamw_step(seed: int, counted: Sequence[str], weight_decay: float = 0.0) -> dict:
    """Five steps in a row; what is ``counted`` is looked at."""
    inputs = example(seed, layers=1)
    inputs.batch["gradients"] *= 10.0 ** -(torch.arange(40) % 7)  # small ones show eps
    inputs.batch["decayed"].fill_(1)
    settings = inputs.batch["settings"]
    settings["weight_decay"] = weight_decay
    run = Computation(inputs, dtype=torch.float32)
    known = {name: run[name] for name in in_each_step(5, "clipped")}
    names = in_each_step(5, "first", "second", "parameters")
    right = Stage(inputs, known, names, in_each_step(5, *counted))
    rest = [settings[name] for name in ("beta1", "beta2", "eps", "weight_decay")]
    args = (inputs.batch["parameters"], list(known.values()), settings["lr"], rest)
    return {"args": args, "checks": [checks.near], "expected": right, "run": five_steps}


def five_steps(call: Callable, args: tuple) -> list:
    """Five steps, each from what the one before returned: first, second and parameter of each."""
    parameter, gradients, rates, rest = args
    first = second = torch.zeros_like(parameter)
    found = []
    for step, (gradient, lr) in enumerate(zip(gradients, rates, strict=True), 1):
        got = call(parameter, gradient, first, second, step, lr, *rest)
        parameter, first, second = tensors(got, 3, "three tensors: parameter, first, second")
        found += [first, second, parameter]
    return found


# ------------------------------------------------------------------------- 12: one training step

SHAPES = {"word": (50, 6), "segment": (2, 6), "hidden": (6, 5), "classifier": (5, 3), "bias": (3,)}


def training_step(
    seed: int, steps: int, sizes: Sequence[int], limits: Sequence[float] = (), check: str = "near"
) -> dict:
    """A small classifier is trained (see `training_steps`) with micro-batches of these sizes.

    ``limits``: the largest norm allowed in each step, as a multiple of the norm that there is.
    """
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = {name: draw(shape) for name, shape in SHAPES.items()}
    model, batches, gradients, losses = Classifier(weights), [], [], []
    for step in range(steps):
        batch = [micro_batch(1000 * seed + 10 * step + i, size) for i, size in enumerate(sizes)]
        found = [F.cross_entropy(model(**inputs).logits, labels) for inputs, labels in batch]
        batches.append(batch)
        gradients.append(torch.stack([gradient_of(loss, model) for loss in found]))
        losses.append(sum(map(mul, map(Tensor.item, found), sizes)) / sum(sizes))
    norms = [float(gradient[0].norm()) for gradient in gradients]
    largest = [norm * part for norm, part in zip(norms, limits or [1e6] * steps, strict=True)]
    inputs, names = example(layers=1), in_each_step(steps, "clipped")
    inputs.batch["settings"]["max_norm"] = largest
    inputs.batch.update(
        gradients=torch.stack(gradients),  # (steps, M, n)
        counts=torch.tensor(sizes),
        zeros=torch.zeros_like(gradients[0][0]),
    )
    right = {
        "near": Stage(inputs, {}, names), "mean_loss": losses, "training_mode": [1] * steps
    }

    def run(call: Callable, args: tuple) -> Any:
        found = call(*args)[check]
        return found[0] if check == "near" and steps == 1 else list(found)

    args = (weights, batches, largest)
    return {"args": args, "checks": [getattr(checks, check)], "expected": right[check], "run": run}


def micro_batch(seed: int, size: int) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and labels of some texts."""
    batch = example(seed, layers=1, lengths=[3 + (i + seed) % 4 for i in range(size)]).batch
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: batch[name] for name in names}, batch["input_ids"].sum(1) % 3


def gradient_of(loss: Tensor, model: torch.nn.Module) -> Tensor:
    """The gradient of a loss, over all parameters laid end to end, (n,)."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


# ---------------------------------------------------------------------------------- the twelve

TEXTS = Path(__file__).with_name("exercise_texts")
FORM = re.compile(
    r"# (.*?)\n\n```python\n(.*?)```\n\n## Parts\n\n```json\n(.*?)```\n\n## Hint 1\n\n(.*)\n", re.S
)


@dataclass(frozen=True)
class Exercise:
    """One exercise; ``make`` makes a `Case` from a seed and the settings of a part."""

    name: str
    make: Callable[..., dict]
    steps: Sequence[str] = ()  # only mistakes in these steps are looked for; () = in any
    leaves_arguments: bool = True  # worth a point: the tensors that were given are not written to
    repeatable: bool = True  # the same arguments give the same result

    def __post_init__(self) -> None:
        """Read what the file says: the title, the code to start from, the parts and the hints."""
        text = (TEXTS / f"{self.name}.md").read_text(encoding="utf-8")
        title, code, parts, hints = FORM.fullmatch(text).groups()
        hints = re.split(r"\n\n## Hint \d\n\n", hints)
        vars(self).update(title=title, code=code, parts=json.loads(parts), hints=hints)

    @property
    def parameters(self) -> list[str]:
        """The names of the function's parameters."""
        return [argument.arg for argument in ast.parse(self.code).body[-1].args.args]

    @cache  # noqa: B019 - there are twelve, and a whole class has the same inputs
    def cases(self, seed: int) -> list[Case]:
        """The parts, with other inputs for each seed."""
        found = []
        for number, part in enumerate(self.parts):
            settings = {key: part[key] for key in part if key not in ("title", "points")}
            fields = self.make(seed + 100 * number, **settings)
            found.append(Case(part["title"], part["points"], **fields))
        return found


ATTENTION = "layers.0.attention."
_ALL = (
    Exercise("clean_and_split", clean_and_split, leaves_arguments=False),
    Exercise("wordpiece", wordpiece, leaves_arguments=False),
    Exercise("embeddings", stage([], "embeddings", "a (B, T, H) tensor", embedding_arguments)),
    Exercise("attention", stage(
        [ATTENTION + "query_heads", ATTENTION + "key_heads"], ATTENTION + "weights",
        "a (B, N, T, T) tensor",
        lambda inputs, query, key: (query, key, inputs.batch["attention_mask"]))),
    Exercise("multi_head_attention", stage(
        ["embeddings"], ATTENTION + "output", "a (B, T, H) tensor", attention_arguments)),
    Exercise("add_and_norm", stage(
        ["embeddings", ATTENTION + "output"], "layers.0.attention_norm", "a (B, T, H) tensor",
        lambda inputs, *known: (*known, *norm_of(inputs, "layers.0.attention_norm")))),
    Exercise("feed_forward", stage(
        ["layers.0.attention_norm"], "layers.0.feed_forward.contract", "a (B, T, H) tensor",
        lambda inputs, hidden: (hidden, weights_of(inputs, "layers.0.feed_forward.")))),
    Exercise("mean_pooling", stage(
        ["layers.0.feed_forward_norm"], "pooling", "a (B, H) tensor",
        lambda inputs, hidden: (hidden, inputs.batch["attention_mask"]))),
    Exercise("cosine_similarity", cosine_similarity),
    Exercise("mask_tokens", mask_tokens, repeatable=False),
    Exercise("adamw_step", adamw_step, (
        "first", "second", "first_corrected", "second_corrected", "update", "decay", "parameters")),
    Exercise("training_step", training_step, ("total", "gradient", "clipped"), False, False),
)
EXERCISES = {exercise.name: exercise for exercise in _ALL}
"""All exercises by name, in the order of a course."""
