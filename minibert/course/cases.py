"""The parts of the twelve exercises: their inputs, and what each judges.

Inputs are drawn from a seed, and are such that no part is blind: lengths are
unequal, no bias is zero, no norm is the identity, and no size is equal to another one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.course.grading import (
    TOLERANCE,
    Case,
    Stage,
    Unusable,
    by_catalogue,
    close_to,
    copied,
    finite,
    kind,
    near,
    ragged,
    same_words,
    stage,
    tensors,
)
from minibert.course.text_mistakes import (
    MASKING_MISTAKES,
    SHARES,
    cosine_table,
    pieces_of,
    unit,
    words_of,
)
from minibert.heads import BertForSequenceClassification
from minibert.parity.diagnosis import Diagnosis, find
from minibert.parity.probes import example
from minibert.parity.steps import Inputs

tiny = partial(example, layers=1)

# ------------------------------------------------------------------------- 1 and 2: from a text


def each_first(function: Callable, args: tuple) -> list:
    """Call it on every text of the first argument."""
    return [function(first, *args[1:]) for first in args[0]]


def text_one(args: tuple) -> tuple:
    """The arguments of one call, of a part that makes one for each text."""
    return (args[0][0], *args[1:])


WORDS = "The old House of Anna Berg stood near a River and Nobody knew why".split()
ACCENTED = "Café déjà naïve Señor Zürich Ålesund Škoda façade Łódź tiếng".split()
IDEOGRAPHS = "中文字国語学水火山豈㐂𠀀"
MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»¿¡—…、。"
BLANKS = " \t\n\r\u00a0\u2003\u3000"
CONTROLS = "\u0000\u0007\u00ad\u200b\u200d\u202a"


def clean_and_split_cases(seed: int) -> list[Case]:
    """Texts with one difficulty each, then with all."""
    draw = random.Random(f"clean {seed}")
    right = same_words(words_of)

    def plain(count: int) -> list[str]:
        return [word.lower() for word in draw.sample(WORDS, count)]

    def between(separators: str, words: list[str]) -> str:
        return "".join(word + draw.choice(separators) for word in words)

    blanks = list(BLANKS)
    draw.shuffle(blanks)
    spaced = [
        "".join(w + b for w, b in zip(plain(7), blanks, strict=True)),
        "  " + plain(1)[0],
        " ",
    ]
    cased = [" ".join(draw.sample(WORDS, 5)), draw.choice(WORDS).upper(), "McDonald iPhone"]
    marks = list(MARKS)
    draw.shuffle(marks)
    marked = [
        "".join(draw.choice(("ab", "c", " ", "")) + mark for mark in marks),
        "well... what?!",
        "snake_case costs 5€ or $6",
    ]
    accented = [" ".join(draw.sample(ACCENTED, 6)).lower(), "e\u0301te\u0301", "cafe\u0301"]
    hidden = [plain(1)[0] + c + plain(1)[0] for c in CONTROLS]
    cjk = [
        "".join(draw.sample(IDEOGRAPHS, 5)),
        "ab" + draw.choice(IDEOGRAPHS) + "cd",
        "".join(IDEOGRAPHS),
        "ひらかな中カタカナ",
    ]
    mixed = [
        f"  {draw.choice(ACCENTED)},\t{draw.choice(IDEOGRAPHS)}{draw.choice(ACCENTED).upper()}"
        f"{draw.choice('!?…')}\u200b{draw.choice(WORDS)}\n{draw.choice(marks)}"
        for _ in range(4)
    ]
    parts = (
        ("white space", 1, spaced),
        ("lower case", 1, cased),
        ("punctuation", 2, marked),
        ("accents", 2, accented),
        ("control characters", 1, hidden),
        ("CJK ideographs", 2, cjk),
        ("all of it together", 1, mixed),
    )
    return [
        Case(title, points, (texts,), right(texts), call=each_first, one=text_one)
        for title, points, texts in parts
    ]


def wordpiece_cases(seed: int) -> list[Case]:
    """Words over a small alphabet, and a vocabulary in which every rule matters."""
    draw = random.Random(f"wordpiece {seed}")
    a, b, c, d, e, x = draw.sample("abcdefghijklmnopqrstuvwxyz", 6)
    stems = [a + b, a + b + c, d + e, d + e + a + b]
    entries = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *stems,
        a,
        d,
        b,
        "##" + c,
        "##" + a,
        "##" + b,
        "##" + c + d,
        "##" + c + d + e,
        "##" + e,
        b + c,
    ]
    vocab = {entry: number for number, entry in enumerate(entries)}
    right = same_words(lambda word: pieces_of(word, vocab))
    parts = (
        ("words of the vocabulary stay whole", 2, [*stems, a, b + c]),
        (
            "the longest piece first",
            3,
            [a + b + c + c + d + e, d + e + a + b + c + d, a + b + c + a, d + e + a + b + b],
        ),
        ("pieces inside a word begin with ##", 2, [d + a, a + a, d + c + d, a + e + e]),
        (
            "a word that no pieces make up is [UNK] as a whole",
            2,
            [x, a + b + x, x + a + b, a + x + b, d + d, a + b + d],
        ),
        ("words of more than 100 characters", 1, [a + b * 99, a + b * 100, a * 150, a + b * 250]),
    )
    return [
        Case(title, points, (words, vocab), right(words), call=each_first, one=text_one)
        for title, points, words in parts
    ]


# ----------------------------------------------------------------- 3 to 8: the parts of the model


def model_case(
    title: str,
    points: int,
    model: Inputs,
    known: Sequence[str],
    name: str,
    args: Callable[..., tuple],
    what: str = "a tensor",
    judged: Callable[[Callable], Callable] = lambda wrong: wrong,
) -> Case:
    """A part that is a stage of a tiny BERT: from the tensors ``known`` to the tensor ``name``.

    ``args`` makes the arguments from the known tensors; ``judged`` adds to the judgement.
    """
    place = stage(model, known, name)
    given = args(*(place.known[key] for key in known))
    return Case(title, points, given, judged(near(place, what=what)), place)


def embeddings_cases(seed: int) -> list[Case]:
    """One text, two segments, ragged batches, small vectors."""
    cases = []
    for number, (title, points, lengths, segments, scale) in enumerate((
        ("one text of one segment", 3, (5,), False, 1.0),
        ("two segments", 2, (7,), True, 1.0),
        ("texts of unequal length", 2, (6, 3, 9, 2), True, 1.0),
        ("small vectors, where eps counts", 2, (4, 8), True, 0.01),
    )):
        config, weights, batch = tiny(seed + 100 * number, lengths=lengths, scale=scale)
        if not segments:
            batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
        weights["embeddings.norm.weight"] = weights["embeddings.norm.weight"] / scale
        names = ("word.weight", "segment.weight", "position.weight", "norm.weight", "norm.bias")
        tables = [weights[f"embeddings.{name}"] for name in names]
        given = (batch["input_ids"], batch["token_type_ids"], *tables, config.layer_norm_eps)
        model = Inputs(config, weights, batch)
        cases.append(model_case(title, points, model, [], "embeddings", lambda given=given: given))
    return cases


def attention_cases(seed: int) -> list[Case]:
    """One head, several, padding, padding alone."""
    cases = []
    for number, (title, points, heads, size, lengths, judged) in enumerate((
        ("every row sums to 1, nothing is negative", 2, 1, 6, (5, 5), lambda _: adds_up),
        ("one head, no padding", 2, 1, 6, (4, 4, 4), lambda wrong: wrong),
        ("several heads", 2, 3, 5, (4, 4, 4, 4), lambda wrong: wrong),
        ("padding", 2, 2, 7, (6, 3, 9), lambda wrong: wrong),
        ("a text of padding alone gives finite numbers", 1, 2, 6, (4, 0, 7), finite),
    )):
        model = tiny(seed + 100 * number, heads=heads, size=size, lengths=lengths)
        known = ["layers.0.attention.query_heads", "layers.0.attention.key_heads"]
        mask = model[2]["attention_mask"]
        cases.append(model_case(
            title, points, model, known, "layers.0.attention.weights",
            lambda query, key, mask=mask: (query, key, mask), "a (B, N, T, T) tensor", judged,
        ))
    return cases


def adds_up(got: Any) -> list[str]:
    """Judge that there are probabilities, whichever."""
    rows = tensors(got, 1, "a (B, N, T, T) tensor")[0]
    if rows.dim() != 4:
        return [f"  shape {tuple(rows.shape)}; (B, N, T, T) is needed"]
    sums = rows.sum(-1)
    if bool(((sums - 1).abs() <= TOLERANCE).all()) and bool((rows >= 0).all()):
        return []
    return [
        f"  the first rows sum to {', '.join(f'{x:.4g}' for x in sums.flatten()[:4].tolist())}; "
        f"the smallest number is {float(rows.min()):.4g}"
    ]


def weights_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of a part, by their short names."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def multi_head_attention_cases(seed: int) -> list[Case]:
    """One head, several, padding."""
    cases = []
    for number, (title, points, heads, size, lengths) in enumerate((
        ("one head, no padding", 3, 1, 6, (5, 5)),
        ("several heads", 3, 3, 4, (7, 7)),
        ("padding", 3, 2, 5, (6, 3, 8)),
    )):
        model = tiny(seed + 100 * number, heads=heads, size=size, lengths=lengths)
        rest = (model[2]["attention_mask"], heads, weights_of(model[1], "layers.0.attention."))
        cases.append(model_case(
            title, points, model, ["embeddings"], "layers.0.attention.output",
            lambda hidden, rest=rest: (hidden, *rest), "a (B, T, H) tensor",
        ))
    return cases


def add_and_norm_cases(seed: int) -> list[Case]:
    """Without gain and bias, with them, small numbers."""
    cases = []
    for number, (title, points, plain, scale) in enumerate((
        ("the sum, normalised", 3, True, 1.0),
        ("gain and bias", 3, False, 1.0),
        ("small numbers, where eps counts", 3, False, 0.01),
    )):
        model = config, weights, _ = tiny(seed + 100 * number, lengths=(5, 5, 5), scale=scale)
        gain, bias = "layers.0.attention_norm.weight", "layers.0.attention_norm.bias"
        if plain:
            weights[gain] = torch.ones_like(weights[gain])
            weights[bias] = torch.zeros_like(weights[bias])
        rest = (weights[gain], weights[bias], config.layer_norm_eps)
        cases.append(model_case(
            title, points, model, ["embeddings", "layers.0.attention.output"],
            "layers.0.attention_norm", lambda x, sublayer, rest=rest: (x, sublayer, *rest),
        ))
    return cases


def feed_forward_cases(seed: int) -> list[Case]:
    """Where GELU does next to nothing, where it bends, other sizes."""
    cases = []
    for number, (title, points, wide, shift) in enumerate((
        ("the two linear maps (numbers so large that GELU is x or 0)", 3, 20, 40.0),
        ("GELU, exact", 4, 20, 0.0),
        ("another size", 2, 7, 0.0),
    )):
        model = tiny(seed + 100 * number, wide=wide, lengths=(6, 6, 6))
        sign = torch.arange(wide) % 2 * 2 - 1
        model[1]["layers.0.feed_forward.expand.bias"] += shift * sign
        own = weights_of(model[1], "layers.0.feed_forward.")
        cases.append(model_case(
            title, points, model, ["layers.0.attention_norm"], "layers.0.feed_forward.contract",
            lambda hidden, own=own: (hidden, own),
        ))
    return cases


def mean_pooling_cases(seed: int) -> list[Case]:
    """No padding, padding, padding alone."""
    cases = []
    for number, (title, points, lengths, judged) in enumerate((
        ("no padding", 3, (5, 5), lambda wrong: wrong),
        ("padding", 4, (6, 3, 9, 1), lambda wrong: wrong),
        ("a text of padding alone gives zeros", 2, (4, 0, 7), lambda wrong: zeros(wrong, 1)),
    )):
        model = tiny(seed + 100 * number, lengths=lengths)
        mask = model[2]["attention_mask"]
        cases.append(model_case(
            title, points, model, ["layers.0.feed_forward_norm"], "pooling",
            lambda hidden, mask=mask: (hidden, mask), "a (B, H) tensor", judged,
        ))
    return cases


def zeros(then: Callable, row: int) -> Callable:
    """Judge that a row is zero; and the rest as usual."""

    def wrong(got: Any) -> list[str]:
        lines = then(got)
        values = tensors(got, 1, "a tensor")[0]
        if not lines and not bool((values[row] == 0).all()):
            return [
                f"  text {row} has no real token; its vector is {values[row, :4].tolist()} ..., "
                "not zeros:",
                "  divide by at least a tiny number, count.clamp(min=1e-9)",
            ]
        return lines

    return wrong


# ------------------------------------------------------------------------ 9: cosine similarity


def cosine_similarity_cases(seed: int) -> list[Case]:
    """Vectors of length 1, of any length, of length 0."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(5, 6, generator=generator), torch.randn(3, 6, generator=generator)
    lengths = torch.tensor([0.1, 2.0, 30.0, 0.5, 7.0])[:, None]
    with_zero = a.clone()
    with_zero[2] = 0
    parts = (
        ("vectors of length 1", 3, (unit(a), unit(b))),
        ("vectors of any length", 4, (a * lengths, b * lengths[1:4])),
        ("a vector of zeros gives 0, not NaN", 2, (with_zero, 3 * b)),
    )
    return [
        Case(title, points, args, close_to(cosine_table(args))) for title, points, args in parts
    ]


# ------------------------------------------------------------------ 10: masking for a masked LM

MASK_ID, VOCABULARY = 4, 500


def shares(args: tuple, got: Any) -> dict[str, tuple[float, int]]:
    """What came of the tokens: each share, and how many tokens it is a share of."""
    ids, special, *_ = args
    shown, labels = tensors(got, 2, "two tensors, inputs and labels,")
    for tensor in (shown, labels):
        if tensor.shape != ids.shape:
            raise Unusable(f"shape {tuple(tensor.shape)}, but {tuple(ids.shape)} is needed")
    chosen = labels != -100

    def share(of: Tensor, among: Tensor) -> tuple[float, int]:
        return float(of[among].double().mean()) if among.any() else 0.0, int(among.sum())

    words = chosen & ~special
    return {
        "chosen": share(chosen, ~special),
        "special": share(chosen, special),
        "mask": share(shown == MASK_ID, words),
        "random": share((shown != MASK_ID) & (shown != ids), words),
        "kept": share(shown == ids, words),
        "original": share(labels == ids, words),
        "unlabelled": share(shown != ids, ~chosen),
    }


def expected_share(found: Mapping[str, tuple[float, int]], name: str, share: float) -> bool:
    """Whether a share is what it should be, to within five standard deviations of chance.

    A right solution misses one of these once in a million times. Another word is the same word once
    in so many: one in 500 here.
    """
    value, count = found[name]
    if share in (0.0, 1.0):
        return value == share
    return count > 0 and abs(value - share) <= 5 * math.sqrt(share * (1 - share) / count) + 0.002


def masking(names: Sequence[str], args: tuple) -> Callable:
    """Judge some of the shares."""
    said = {
        "chosen": "of the words have a label other than -100",
        "special": "of the special tokens have a label other than -100",
        "mask": "of the chosen are shown as [MASK]",
        "random": "of the chosen are shown as another word",
        "kept": "of the chosen are shown as they are",
        "original": "of the labels are the original word",
        "unlabelled": "of the tokens without a label are changed all the same",
    }

    def wrong(got: Any) -> list[str]:
        found = shares(args, got)
        if "chosen" not in names and not found["original"][1]:
            return ["  nothing is chosen: all labels are -100"]
        return [
            f"  {100 * found[name][0]:.1f} % {said[name]}; {100 * SHARES[name]:g} % are wanted"
            for name in names
            if not expected_share(found, name, SHARES[name])
        ]

    return wrong


def anew(args: tuple) -> Callable:
    """Judge that 15 % are chosen, and others in each text."""
    count = masking(["chosen"], args)

    def wrong(got: Any) -> list[str]:
        lines = count(got)
        chosen = tensors(got, 2, "")[1] != -100
        if not lines and bool((chosen[:, 1:20] == chosen[:1, 1:20]).all()):
            return [
                "  the same places in every text; draw for each token of each text: "
                "torch.rand(input_ids.shape)"
            ]
        return lines

    return wrong


def mask_tokens_cases(seed: int) -> list[Case]:
    """Three hundred texts: enough to count."""
    generator = torch.Generator().manual_seed(seed)
    B, T = 300, 80
    ids = torch.randint(5, VOCABULARY, (B, T), generator=generator)
    length = torch.randint(25, T + 1, (B, 1), generator=generator)
    place = torch.arange(T)
    ids = torch.where(place < length, ids, 0)
    ids = torch.where(place == length - 1, 3, ids)
    ids[:, 0] = 2
    args = (ids, ids < 5, MASK_ID, VOCABULARY)
    return [
        Case(
            "labels: the original word where chosen, else -100 and unchanged",
            3,
            args,
            masking(["original", "unlabelled"], args),
        ),
        Case("special tokens are never chosen", 1, args, masking(["special"], args)),
        Case("15 % of the words are chosen, others in each text", 2, args, anew(args)),
        Case(
            "of these 80 % [MASK], 10 % another word, 10 % as they are",
            3,
            args,
            masking(["mask", "random", "kept"], args),
        ),
    ]


def diagnose_masking(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
    """Name the mistake that explains all shares."""
    case, got = pairs[0]
    try:
        found = shares(case.args, got)
    except Unusable:
        return None

    def explains(answer: tuple) -> bool:
        shares = {**SHARES, **answer[0].changes}
        return all(expected_share(found, name, share) for name, share in shares.items())

    return find(MASKING_MISTAKES, explains, pairs=False)


# ------------------------------------------------------------------------------- 11: AdamW

ADAMW = ("first", "second", "first_corrected", "second_corrected", "update", "decay", "parameters")


def steps_stage(
    gradients: Tensor, counts: Tensor, names: Sequence[str], settings: Mapping[str, Any]
) -> Stage:
    """Optimizer steps as a stage: gradients (steps, M, n), and how many examples each has (M,)."""
    config, _, batch = tiny(lengths=(2,))
    n, generator = gradients.shape[-1], torch.Generator().manual_seed(1)
    batch |= {
        "gradients": gradients,
        "counts": counts,
        "zeros": torch.zeros(n),
        "parameters": torch.randn(n, generator=generator),
        "decayed": torch.ones(n).long(),
        "settings": {
            "lr": 1.0,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-6,
            "weight_decay": 0.0,
            "max_norm": 1e9,
            **settings,
        },
    }
    steps = range(1, len(gradients) + 1)
    names = [f"steps.{t}.{name}" for t in steps for name in names]
    return Stage(Inputs(config, {}, batch), {}, names)


def adamw_step_cases(seed: int) -> list[Case]:
    """The running means, the update, the decay; five steps in a row."""
    cases = []
    for number, (title, points, names, decay) in enumerate(
        (
            ("the running means", 3, ("first", "second"), 0.0),
            ("the update, with bias correction", 3, ("parameters",), 0.0),
            ("decoupled weight decay", 3, ("parameters",), 0.2),
        )
    ):
        generator = torch.Generator().manual_seed(seed + 100 * number)
        sizes = torch.tensor([3.0, 1.0, 0.1, 1e-3, 1e-5, 1e-6]).repeat(3)  # small ones show eps
        gradients = torch.randn(5, 1, 18, generator=generator) * sizes
        place = steps_stage(
            gradients,
            torch.ones(1),
            ("first", "second", "parameters"),
            {"lr": [0.1, 0.2, 0.3, 0.2, 0.1], "weight_decay": decay},
        )
        check = [name for name in place.names if name.split(".")[-1] in names]
        args = (place.inputs.batch["parameters"], gradients[:, 0], place.inputs.batch["settings"])
        wrong = near(place, check, "three tensors (parameter, first, second)")
        cases.append(Case(title, points, args, wrong, place, five_steps, adamw_one))
    return cases


def five_steps(function: Callable, args: tuple) -> list:
    """Five steps, each from what the one before returned: first, second and parameter of each."""
    parameter, gradients, settings = args
    first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
    rest = {key: settings[key] for key in ("beta1", "beta2", "eps", "weight_decay")}
    found = []
    for step, gradient in enumerate(gradients, 1):
        lr = settings["lr"][step - 1]
        got = function(parameter, gradient, first, second, step, lr, **rest)
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise TypeError(f"returned {kind(got)}; parameter, first, second are needed")
        parameter, first, second = (torch.as_tensor(entry) for entry in got)
        found += [first.clone(), second.clone(), parameter.clone()]
    return found


def adamw_one(args: tuple) -> tuple:
    """The arguments of the first of five steps."""
    parameter, gradients, settings = args
    zeros = torch.zeros_like(parameter)
    rest = (settings[key] for key in ("beta1", "beta2", "eps", "weight_decay"))
    return (parameter, gradients[0], zeros, zeros.clone(), 1, settings["lr"][0], *rest)


# ------------------------------------------------------------------------- 12: one training step

def tiny_classifier(seed: int) -> BertForSequenceClassification:
    """A tiny BERT with a classifier, without dropout, in float64."""
    config, *_ = tiny(heads=2, size=3, wide=5)
    config = config.replace(
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label={number: str(number) for number in range(3)},
    )
    model = BertForSequenceClassification(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(1 + 0.3 * noise if "norm.weight" in name else 0.5 * noise)
    return model


def training_step_cases(seed: int) -> list[Case]:
    """One batch; several of unequal size; long gradients; several steps in a row."""
    cases = []
    for number, (title, points, steps, sizes, max_norm, names) in enumerate(
        (
            ("one batch", 2, 1, (4,), 1e6, ("clipped",)),
            ("micro-batches of unequal size", 2, 1, (4, 4, 1), 1e6, ("clipped",)),
            ("gradients longer than max_norm, and shorter ones", 2, 3, (3,), 0.0, ("clipped",)),
            ("several steps in a row", 2, 3, (4, 2), 1e6, ("clipped",)),
            ("the mean loss is returned", 1, 2, (3, 1), 1e6, ("loss",)),
            ("training mode, and one optimizer step", 1, 2, (3, 1), 1e6, ("mode",)),
        )
    ):
        args = (seed + 100 * number, steps, sizes, max_norm)
        cases.append(training_case(title, points, args, names[0]))
    return cases


def training_case(title: str, points: int, args: tuple, what: str) -> Case:
    """One part: which model and batches, and which of the things seen is judged."""
    seed, steps, sizes, max_norm = args
    model = tiny_classifier(seed)
    batches = [micro_batches(seed + step, sizes) for step in range(steps)]
    gradients = torch.stack(
        [torch.stack([gradient_of(model, *batch) for batch in step]) for step in batches]
    )  # (steps, M, n)
    losses = [
        sum(loss_of(model, *batch).item() * len(batch[1]) for batch in step) / sum(sizes)
        for step in batches
    ]
    limits = [max_norm] * steps
    if not max_norm:  # one gradient is short enough, one is too long, one is far too long
        limits = (gradients[:, 0].norm(dim=-1) * torch.tensor([2.0, 0.5, 0.02])).tolist()
    place = steps_stage(gradients, torch.tensor(sizes), ("clipped",), {"max_norm": limits})
    judged = near(place)

    def wrong(seen: Any) -> list[str]:
        if what == "clipped":
            return judged(seen[0] if steps == 1 else seen[:steps])
        returned, modes, taken = seen[steps], seen[steps + 1], seen[steps + 2]
        if what == "mode":
            lines = [] if all(modes) else ["  the model was not in training mode: model.train()"]
            if taken != [1] * steps:
                lines.append(f"  optimizer.step() was called {taken} times; once for each step")
            return lines
        for mine, right in zip(returned, losses, strict=True):
            if not isinstance(mine, (int, float)) or abs(mine - right) > TOLERANCE * max(
                1.0, right
            ):
                return [
                    f"  yours     {mine if mine is not None else 'nothing (is there a return?)'}",
                    f"  reference {right:.6g}",
                    "  the sum over all examples of the step, divided by their number",
                ]
        return []

    def call(function: Callable, _: tuple) -> list:
        return watch(function, tiny_classifier(seed), batches, limits)

    def one(_: tuple) -> tuple:
        model = tiny_classifier(seed)
        return model, batches[0], Descent(model), limits[0]

    return Case(title, points, args, wrong, place if what == "clipped" else None, call, one)


def micro_batches(seed: int, sizes: Sequence[int]) -> list[tuple[dict, Tensor]]:
    """Inputs and labels of some micro-batches."""
    found = []
    for number, size in enumerate(sizes):
        lengths = [3 + (i + number) % 4 for i in range(size)]
        inputs = ragged(1000 * seed + number, lengths)
        labels = (inputs["input_ids"].sum(1) + number) % 3
        found.append((inputs, labels))
    return found


def loss_of(model: Callable, inputs: Mapping, labels: Tensor) -> Tensor:
    """The mean cross-entropy."""
    return F.cross_entropy(model(**inputs).logits, labels)


def gradient_of(model: torch.nn.Module, inputs: Mapping, labels: Tensor) -> Tensor:
    """The gradient of the mean loss of a micro-batch, laid end to end, (n,)."""
    gradients = torch.autograd.grad(
        loss_of(model, inputs, labels),
        list(model.parameters()),
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


class Descent:
    """Plain gradient descent with learning rate 1, used as any optimizer of torch.

    So a step is the gradient itself, and it can be seen.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Take all parameters; no step has been taken."""
        self.param_groups = [{"params": list(model.parameters()), "lr": 1.0}]
        self.taken = 0

    @torch.no_grad()
    def step(self) -> None:
        """Subtract the gradients."""
        self.taken += 1
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter -= parameter.grad

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None


def watch(
    function: Callable, model: torch.nn.Module, batches: list, limits: Sequence[float]
) -> list:
    """What training steps do: the gradients they go down, what they return, the mode, the steps.

    Every step begins with the same parameters; what an earlier one left in .grad stays there.
    """
    optimizer = Descent(model)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    modes: list[bool] = []
    taken: list[int] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    gradients, returned = [], []
    for batch, max_norm in zip(batches, limits, strict=True):
        model.eval()
        optimizer.taken = 0
        got = function(model, copied_batches(batch), optimizer, max_norm)
        got = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
        returned.append(got if isinstance(got, (int, float)) or got is None else kind(got))
        taken.append(optimizer.taken)
        with torch.no_grad():
            moved = [before - now for before, now in zip(start, model.parameters(), strict=True)]
            gradients.append(torch.cat([part.flatten() for part in moved]))
            for parameter, before in zip(model.parameters(), start, strict=True):
                parameter.copy_(before)
    return [*gradients, returned, modes, taken]


def copied_batches(batches: list) -> list:
    """Micro-batches of one's own."""
    return [(copied(inputs), labels.clone()) for inputs, labels in batches]


def diagnose_training(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
    """Name the mistake from the gradients of those parts that look at them."""
    return by_catalogue(("total", "gradient", "clipped"))(
        [
            (case, got[0] if len(case.stage.names) == 1 else got[: len(case.stage.names)])
            for case, got in pairs
            if case.stage
        ]
    )
