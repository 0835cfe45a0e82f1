"""The twelve exercises: the inputs and the expected answers of their parts.

What an exercise says is in its file in ``exercise_texts/``: its title, the code to start from, its
parts and its hints; in Chinese in ``exercise_texts/zh/``, but for the parts. A part has a title,
points, and settings from which the function of that name here makes inputs and answers; or `stage`,
for a part of the model. Numbers are drawn from a seed, such that no part is blind to a mistake:
lengths are unequal, no bias is zero, no norm is the identity, and no size is equal to another one.
"""

from __future__ import annotations

import ast
import json
import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from minibert.course import checks, text_mistakes
from minibert.course.checks import Case, Stage, tensors
from minibert.course.run_submission import Classifier, InvalidReturn
from minibert.io.language import learn, phrases
from minibert.parity.probes import example
from minibert.parity.steps import Computation

# ------------------------------------------------------------------------- 1 and 2: from a text


def fill(template: str, draw: Callable[[str], str]) -> str:
    """A text from a template: ``{word}`` is drawn, ``{a*3}`` three times the same."""
    return re.sub(r"\{(\w+)\*?(\d*)\}", lambda m: draw(m[1]) * int(m[2] or 1), template)


def each_text(call: Callable, args: tuple) -> list:
    """Call the function once for each text."""
    return [call(text, *args[1:]) for text in args[0]]


def clean_and_split(seed: int, texts: Sequence[str], pools: Mapping[str, Sequence[str]]) -> dict:
    """Texts from templates; of ``{Word}`` there are ``{word}`` and ``{WORD}``, too."""
    choice, cases = random.Random(seed).choice, (str, str.lower, str.upper)
    pools = {case(name): list(map(case, pools[name])) for name in pools for case in cases}
    args = ([fill(text, lambda pool: choice(pools[pool])) for text in texts],)
    right = [text_mistakes.words_of(text) for text in args[0]]
    return {"args": args, "checks": [checks.same_words], "expected": right, "run": each_text}


def wordpiece(seed: int, words: Sequence[str], vocabulary: Sequence[str]) -> dict:
    """Words over six letters, and a vocabulary in which every rule matters."""
    drawn = random.Random(seed).sample(string.ascii_lowercase, 6)
    letters = dict(zip("abcdex", drawn, strict=True))
    vocab = {fill(entry, letters.get): number for number, entry in enumerate(vocabulary)}
    args = ([fill(word, letters.get) for word in words], vocab)
    right = [text_mistakes.pieces_of(word, vocab) for word in args[0]]
    return {"args": args, "checks": [checks.same_words], "expected": right, "run": each_text}


# ----------------------------------------------------------------- 3 to 8: the parts of the model


def stage(
    seed: int, returns: str, what: str, arguments: Sequence[str], check: Sequence[str] = ("near",),
    fixed: Mapping[str, Sequence] | None = None, padded: float = 1.0, **settings: Any,
) -> dict:
    """A part that leads to a tensor of a tiny BERT.

    Args:
        returns, what: the name of that tensor; what it should be, in words.
        arguments: of the function: names of tensors, inputs, weights (with a dot at the end, of all
            weights of a module) or settings of the configuration.
        check: the names of the checks.
        fixed: weights and inputs with numbers of their own, which are repeated.
        padded: makes the vectors of padded tokens so much larger, so that a mask must be strong.
        settings: those of `example`.
    """
    inputs = example(seed, layers=1, **settings)
    given = {**vars(inputs.config), **inputs.weights, **inputs.batch}
    for name, numbers in (fixed or {}).items():
        given[name].view(-1, len(numbers))[:] = torch.tensor(numbers)
    run = Computation(inputs, dtype=torch.float32)
    known = {}
    real = given["attention_mask"].bool()[:, None, :, None]  # (B, 1, T, 1)
    for name in arguments:
        if name.endswith("."):
            inside = [key for key in inputs.weights if key.startswith(name)]
            given[name] = {key.removeprefix(name): given[key] for key in inside}
        elif name not in given:
            vectors = run[name]
            if padded != 1:  # of heads, (B, N, T, D)
                vectors = torch.where(real, vectors, padded * vectors)
            given[name] = known[name] = vectors.contiguous()
    return {
        "args": tuple(given[name] for name in arguments),
        "checks": [getattr(checks, name) for name in check],
        "expected": Stage(inputs, known, [returns]),
        "what": what,
    }


# ---------------------------------------------------------- 9 and 10: cosines, and masking for MLM


def cosine_similarity(seed: int, a: Sequence[float], b: Sequence[float]) -> dict:
    """Vectors of these lengths."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    args = tuple(F.normalize(draw(len(x), 6)) * torch.tensor(x)[:, None] for x in (a, b))
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
    found = {"args": args, "checks": [masking, by_chance], "expected": shares}
    return {**found, "run": twice} if "chosen" in shares else found


def twice(call: Callable, args: tuple) -> Any:
    """The result of the first of two calls.

    Raises:
        InvalidReturn: the second chooses the same tokens.
    """
    first, second = call(*args), call(*args)
    chosen, again = (tensors(got, 2, "two tensors")[1] != -100 for got in (first, second))
    if chosen.equal(again) and chosen.any() and not chosen.all():
        raise InvalidReturn("every call chooses the same tokens: draw anew each time, set no seed")
    return first


def masking(case: Case, got: Any) -> list[str]:
    """Some of the shares."""
    found = text_mistakes.shares(case.args, got)
    if "chosen" not in case.expected and not found["original"][1]:
        return ["  nothing is chosen: all labels are -100"]
    if "unlabelled" in case.expected and not found["unlabelled"][1]:
        return ["  everything is chosen: no label is -100"]
    return [
        f"  {100 * found[name][0]:.1f} % {words}; it should be {100 * right:g} %"
        for name, words in case.expected.items()
        if not text_mistakes.as_expected(found[name], right := text_mistakes.SHARES[name])
    ]


def by_chance(case: Case, got: Any) -> list[str]:
    """Each token has a draw of its own: no text, position or range of ids has more than a share."""
    ids, special, mask_id, vocab_size = case.args
    shown, labels = tensors(got, 2, case.what)
    chosen = (labels != -100) & ~special
    if "chosen" in case.expected and uneven(chosen, ~special, 0.15):
        return ["  some texts or positions have far more chosen tokens than others;",
                "  draw a number for each token of each text: torch.rand(shape)"]
    if "mask" not in case.expected:
        return []
    if uneven(shown == mask_id, chosen, 0.8):
        return ["  the chosen tokens of a text, or of a position, share their fate;",
                "  draw a number for each token of each text: torch.rand(shape)"]
    words = shown[chosen & (shown != mask_id) & (shown != ids)]
    counts = torch.histc(words.double(), bins=5, min=0, max=vocab_size)
    expected = len(words) / 5
    if ((counts - expected) ** 2 / expected).sum() > 50:  # chance: 4, and once in a billion 48
        return ["  the random words are not spread over all ids below vocab_size;",
                "  draw one for each token: torch.randint(vocab_size, shape)"]
    return []


def uneven(hit: Tensor, among: Tensor, share: float) -> bool:
    """Whether the hits per row, or per column, vary far more than independent draws do."""
    for axis in (0, 1):
        counts = among.sum(axis).double()
        expected, some = share * counts, counts > 0
        spread = ((hit & among).sum(axis) - expected) ** 2 / (expected * (1 - share))
        if spread[some].sum() > some.sum() + 10 * (2 * some.sum()) ** 0.5:
            return True
    return False


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
    settings.update(beta1=0.8, beta2=0.95, weight_decay=weight_decay)  # not torch's defaults
    run = Computation(inputs, dtype=torch.float32)
    known = {name: run[name] for name in in_each_step(5, "clipped")}
    names = in_each_step(5, "first", "second", "parameters")
    right = Stage(inputs, known, names, in_each_step(5, *counted))
    rest = [settings[name] for name in ("beta1", "beta2", "eps", "weight_decay")]
    args = (inputs.batch["parameters"], list(known.values()), settings["lr"], rest)
    return {"args": args, "checks": [moving, checks.near], "expected": right, "run": five_steps}


def moving(case: Case, got: Any) -> list[str]:
    """The running means are more than what they began with."""
    still = bool((tensors(got, len(case.expected.names), case.what)[0] == 0).all())
    return ["  the first running mean is still zero after a step: nothing moves"] if still else []


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
    model, counts = Classifier(weights), torch.tensor(sizes).double()
    batches, gradients, losses = [], [], []
    for step in range(steps):
        batch = [micro_batch(1000 * seed + 10 * step + i, size) for i, size in enumerate(sizes)]
        found = [F.cross_entropy(model(**inputs).logits, labels) for inputs, labels in batch]
        batches.append(batch)
        gradients.append(torch.stack([
            parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))
            for loss in found
        ]))  # (M, n)
        losses.append(float(torch.stack(found).detach() @ counts / counts.sum()))
    times = limits or [1e6] * steps
    norms = [float((counts / counts.sum() @ g.double()).norm()) for g in gradients]
    largest = [norm * part for norm, part in zip(norms, times, strict=True)]
    inputs, parameters = example(layers=1), torch.zeros_like(gradients[0][0])
    inputs.batch["settings"]["max_norm"] = largest
    inputs.batch.update(gradients=gradients, counts=counts, parameters=parameters)
    clipped = Stage(inputs, {}, in_each_step(steps, "clipped"))
    right = {"near": clipped, "mean_loss": losses, "training_mode": [1] * steps}

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


# ---------------------------------------------------------------------------------- the twelve

TEXTS = Path(__file__).with_name("exercise_texts")
FORM = re.compile(
    r"# (.*?)\n\n```python\n(.*?)```\n\n(?:## Parts\n\n```json\n(.*?)```\n\n)?## Hint 1\n\n(.*)\n",
    re.S,
)
MAKERS = (clean_and_split, wordpiece, cosine_similarity, mask_tokens, adamw_step, training_step)


def read_form(path: Path) -> list[str]:
    """Title, code, settings and hints of an exercise, as its file has them.

    Raises:
        ValueError: it has not.
    """
    form = FORM.fullmatch(path.read_text(encoding="utf-8"))
    if form is None:
        raise ValueError(f"{path} needs # and a title, ```python, ## Parts, ```json, ## Hint 1")
    *texts, hints = form.groups()
    return [*texts, *re.split(r"\n\n## Hint \d\n\n", hints)]


class Exercise:
    """One exercise, as its file says.

    Attributes:
        name, title, code, hints: the function, what it does, what to start from, three hints.
        parameters: the names of the function's parameters.
        settings: of all parts; ``repeatable``: false where the same arguments may give something
            else each time.
        parts: title, points and settings of each.
        leaves_arguments: whether the tenth point is for not writing to the arguments.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem.partition("_")[2]
        self.title, self.code, settings, *self.hints = read_form(path)
        self.parameters = [argument.arg for argument in ast.parse(self.code).body[-1].args.args]
        self.settings = json.loads(settings)
        self.parts = self.settings.pop("parts")
        self.repeatable = self.settings.pop("repeatable", True)
        self.leaves_arguments = sum(part["points"] for part in self.parts) == 9

    @cache  # noqa: B019 - there are twelve, and a whole class has the same inputs
    def cases(self, seed: int) -> list[Case]:
        """The parts, with other inputs for each seed."""
        make = {maker.__name__: maker for maker in MAKERS}.get(self.name, stage)
        found = []
        for number, part in enumerate(self.parts):
            settings = {**self.settings, **part}
            title, points = settings.pop("title"), settings.pop("points")
            found.append(Case(title, points, **make(seed + 100 * number, **settings)))
        return found


EXERCISES = {exercise.name: exercise for exercise in map(Exercise, sorted(TEXTS.glob("*.md")))}
"""All exercises by name, in the order of the course, which is that of their files."""
for path in TEXTS.glob("zh/*.md"):
    pairs = zip(read_form(TEXTS / path.name), read_form(path), strict=True)
    learn({english: chinese for english, chinese in pairs if chinese})
learn(phrases(Path(__file__).with_name("phrases.zh.txt")))
