"""Twelve exercises, from a string to a fine-tuning step, and how they are judged.

Each asks for one function. It is judged by the numbers it returns, part by part, never by reading
its source: loops, einsum, fused or numpy, all are right where the numbers are. What is wrong is
named where a known mistake explains all that was seen, and shown side by side in any case.

    from minibert.course.exercises import check
    check("attention", my_function)  # or a file: check("attention", "attention.py")
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from minibert.course import cases as parts
from minibert.course import runner as sandbox
from minibert.course import text_mistakes as slips
from minibert.course.grading import (
    Case,
    Exercise,
    Judgement,
    by_catalogue,
    by_steps,
    copied,
    judgement,
    observe,
    within,
)
from minibert.io.files import write_text

# -------------------------------------------------------------------------------- the verbs


def find(name: str) -> Exercise:
    """The exercise of that name; hyphens count as underscores.

    Raises:
        ValueError: there is none of that name.
    """
    key = name.replace("-", "_")
    if key not in EXERCISES:
        raise ValueError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    return EXERCISES[key]


@cache
def cases_of(exercise: Exercise, seed: int) -> list[Case]:
    """The parts of an exercise; they are the same for a whole class, so they are made once."""
    return exercise.cases(seed)


def check(
    name: str, solution: Callable | str | os.PathLike, *, seed: int = 0, hint: int = 0
) -> None:
    """Judge a function (here and now) or a file (in a process of its own); print the report.

    >>> check("attention", my_attention)
    """
    print(judge(name, solution, seed=seed))
    if hint:
        print(f"\n{hint_text(name, hint)}")


def judge(
    name: str,
    solution: Callable | str | os.PathLike,
    *,
    seed: int = 0,
    seconds: float = 10,
    megabytes: int = 2000,
) -> Judgement:
    """Judge a function, or a file within these limits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such exercise.
    """
    exercise = find(name)
    if callable(solution):
        source = getattr(solution, "__name__", type(solution).__name__)
        cases = cases_of(exercise, seed)
        observed = list(observe(exercise, solution, cases))
        return judgement(exercise, cases, observed, source)
    path = Path(solution)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file (looked from {Path.cwd()}); write one: "
            f"minibert check {name} --start {path}"
        )
    observed, stopped, printed = sandbox.run(
        exercise.name, path, seed=seed, seconds=seconds, megabytes=megabytes
    )
    cases = cases_of(exercise, seed)
    return judgement(exercise, cases, observed, str(path), stopped, printed)


def hint_text(name: str, number: int) -> str:
    """One of the three hints of an exercise, each more concrete than the one before.

    Raises:
        ValueError: there is none of that name or number.
    """
    hints = find(name).hints.strip().split("\n\n")
    if not 1 <= number <= len(hints):
        raise ValueError(f"hint {number}; there are hints 1 to {len(hints)}")
    return f"Hint {number} of {len(hints)}:\n{hints[number - 1]}"


def inputs(name: str, part: int = 1, *, seed: int = 0) -> tuple:
    """What the function is called with in a part, to try it: ``my_function(*inputs(...))``."""
    cases = cases_of(find(name), seed)
    if not 1 <= part <= len(cases):
        raise ValueError(f"part {part}; {name} has parts 1 to {len(cases)} with inputs")
    case = cases[part - 1]
    return case.one(copied(case.args))


def start(name: str, path: str | os.PathLike) -> None:
    """Write the file that a learner starts from.

    Raises:
        FileExistsError: there is a file; nothing is overwritten.
    """
    if Path(path).exists():
        raise FileExistsError(f"{path} is there already and is not overwritten; name another file")
    write_text(path, find(name).starting_file())


# ------------------------------------------------------------------------------ a class of them


def submission(directory: str | os.PathLike, **limits: Any) -> dict[str, Judgement]:
    """Judge a directory with files named like the exercises; a missing file has no points."""
    found = {}
    for name, exercise in EXERCISES.items():
        path = Path(directory, f"{name}.py")
        if path.is_file():
            found[name] = judge(name, path, **limits)
        else:
            cases = cases_of(exercise, 0)
            found[name] = judgement(exercise, cases, [], str(path), f"there is no {name}.py")
    return found


def submissions(
    directory: str | os.PathLike, workers: int | None = None, **limits: Any
) -> dict[str, dict[str, Judgement]]:
    """Judge a directory: one submission, or a folder of them, one directory for each student.

    Raises:
        ValueError: no file in it, nor one level below, is named like an exercise.
    """
    home = Path(directory)
    if has_exercises(home):
        students = [home]
    else:
        students = sorted(path for path in home.glob("*/") if has_exercises(path))
    if not students:
        raise ValueError(
            f"{home} has no exercises in it; files are named {next(iter(EXERCISES))}.py and so on, "
            "in the directory itself or in one directory for each student"
        )
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(lambda path: submission(path, **limits), students)
        return {path.resolve().name: found for path, found in zip(students, results, strict=True)}


def has_exercises(directory: Path) -> bool:
    """Whether a file in the directory is named like an exercise."""
    return any((directory / f"{name}.py").is_file() for name in EXERCISES)


def class_table(results: Mapping[str, Mapping[str, Judgement]]) -> list[list]:
    """Rows of a table, student × exercise, with a head and the sums."""
    rows: list[list] = [["student", *EXERCISES, "sum"]]
    for student, found in results.items():
        points = [found[name].points for name in EXERCISES]
        rows.append([student, *points, sum(points)])
    return rows


def one_table(found: Mapping[str, Judgement]) -> str:
    """One submission: a line for each exercise, with what is wrong."""
    lines = [
        f"{name:<22} {one.points:>3} of {one.out_of}  {one.summary}" for name, one in found.items()
    ]
    points, out_of = (
        sum(one.points for one in found.values()),
        sum(one.out_of for one in found.values()),
    )
    return "\n".join([*lines, f"{'':<22} {points:>3} of {out_of}"])


def as_csv(rows: Sequence[Sequence]) -> str:
    """A table as csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def as_text(rows: Sequence[Sequence]) -> str:
    """A table for the eye, a column for each student's exercise, heads upright and short."""
    head, *students = rows
    width = max(len(str(row[0])) for row in rows)
    heads = [head[0], *(str(number) for number in range(1, len(head) - 1)), head[-1]]
    lines = [
        "".join([f"{row[0]:<{width}}", *(f"{cell:>5}" for cell in row[1:])])
        for row in (heads, *students)
    ]
    key = [f"{number:>3}  {name}" for number, name in enumerate(head[1:-1], 1)]
    return "\n".join([*lines, "", "Exercises, 10 points each:", *key])


# ---------------------------------------------------------------------------------- the twelve


_ALL = (
    Exercise(
        "clean_and_split",
        "Clean a text and split it into words, as BERT's uncased tokenizer does.",
        "clean_and_split(text: str) -> list[str]",
        """
Return the words of a text: cleaned, without accents, in lower case.

1. Control and format characters (Unicode categories Cc and Cf) are dropped, but tab, newline
   and return are white space, and all white space separates words.
2. CJK ideographs are words of their own: U+4E00-9FFF, 3400-4DBF, 20000-2A6DF, 2A700-2B73F,
   2B740-2B81F, 2B920-2CEAF, F900-FAFF, 2F800-2FA1F. Kana and hangul are not.
3. Accents are taken off: decompose (NFD), drop the non-spacing marks (category Mn).
4. Every character is lower-cased.
5. Every punctuation character is a word of its own: those of ASCII (all of
   string.punctuation) and those of the Unicode categories that begin with P.

clean_and_split("Café, naïve!") == ["cafe", ",", "naive", "!"]

Source: Devlin 2019, section 3; BasicTokenizer of google-research/bert, tokenization.py.
""",
        hints="""
Work on one character at a time and build a new text: some characters vanish, some become a
blank, some get blanks around them. Only then cut at the blanks.

unicodedata.category(c) tells Cc, Cf, Mn and P*; unicodedata.normalize('NFD', text) takes é
apart into e and a mark. In which order: white space, controls, CJK, accents, lower case,
punctuation.

For each character: in '\\t\\n\\r' or category Zs: ' '. Category Cc, Cf or (after NFD) Mn: ''.
Ideograph or punctuation: ' ' + c + ' '. Anything else: c.lower(). Join, then .split(' ') and
leave out the empty ones.
""",
        cases=parts.clean_and_split_cases,
        diagnose=by_steps(
            slips.CLEANING,
            lambda args, do: [slips.words_of(text, do) for text in args[0]],
            slips.CLEANING_MISTAKES,
            lambda right, got: right == got,
        ),
        leaves_arguments=False,
    ),
    Exercise(
        "wordpiece",
        "Cut a word into pieces of the vocabulary.",
        "wordpiece(word: str, vocab: dict[str, int]) -> list[str]",
        """
Return the pieces of a word, the longest that fits each time, from left to right.

A piece that does not begin the word is spelt with ## in the vocabulary, and is returned so.
Where at some place no piece fits, the whole word is ["[UNK]"]; so is a word of more than 100
characters. There is no going back to try a shorter piece.

wordpiece("running", {"run": 0, "##n": 1, "##ning": 2}) == ["run", "##ning"]

Source: Wu 2016, section 4.1; WordpieceTokenizer of google-research/bert, tokenization.py.
""",
        hints="""
Two loops: the outer one goes from piece to piece, the inner one looks for the longest piece
that begins at this place.

Keep start = 0. Try end = len(word), len(word) - 1, ..., start + 1. The candidate is
word[start:end], with '##' before it if start > 0.

Found: append the candidate and set start = end. Not found for any end: return ['[UNK]'] at
once, whatever was found before. The outer loop runs while start < len(word).
""",
        cases=parts.wordpiece_cases,
        diagnose=by_steps(
            slips.PIECES,
            lambda args, do: [slips.pieces_of(word, args[1], do) for word in args[0]],
            slips.PIECE_MISTAKES,
            lambda right, got: right == got,
        ),
        leaves_arguments=False,
    ),
    Exercise(
        "embeddings",
        "Turn ids into vectors: word + segment + position, then LayerNorm.",
        "embeddings(input_ids: Tensor, token_type_ids: Tensor, word: Tensor, segment: Tensor, "
        "position: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor",
        """
Return the embeddings of a batch of texts.

Shapes: input_ids and token_type_ids (B, T); the tables word (V, H), segment (S, H) and
position (P, H), P at least T; gain and bias (H,) of the LayerNorm; returns (B, T, H).

The positions of every text are 0, 1, 2, ... . LayerNorm: subtract the mean over the H
features, divide by the root of (variance + eps), the variance being the mean of the
squares; then times gain, plus bias. There is no dropout.

Source: Devlin 2019, section 3 and figure 2; Ba 2016 (LayerNorm), equation 4.
""",
        hints="""
Three tables, three look-ups, one sum. What is the index of each look-up?

table[ids] looks up a whole (B, T) tensor of ids at once. Positions do not depend on the text:
the first T rows of their table, the same for each.

x = word[input_ids] + segment[token_type_ids] + position[: input_ids.shape[1]]; then mean and
variance over the last axis, keepdim=True, with the divisor H (not H - 1).
""",
        cases=parts.embeddings_cases,
        diagnose=by_catalogue(),
    ),
    Exercise(
        "attention",
        "The probabilities of attention: scores, scale, mask, softmax.",
        "attention(query: Tensor, key: Tensor, mask: Tensor) -> Tensor",
        """
Return how much each token attends to each: softmax(Q K^T / sqrt(D)), padding masked.

Shapes: query and key (B, N, T, D), already cut into N heads of size D; mask (B, T), 1 = real
token, 0 = padding; returns (B, N, T, T), [b, n, i, j] = how much token i attends to token j.

Padded tokens get probability 0 as keys; what stands in the rows of padded queries does not
matter. A text of padding alone must give finite numbers.

Source: Vaswani 2017, section 3.2.1, equation 1.
""",
        hints="""
Four steps, each a line: products of all queries with all keys, scale, mask, softmax. Which axis
of the result stands for the keys?

The products are query @ key with its last two axes exchanged, (B, N, T, T). The last axis is
that of the keys: there the padded ones must go, and over that the softmax runs.

Divide by the root of D = query.shape[-1]. Add a very large negative, but finite number where
mask[:, None, None, :] is 0. Then softmax over the last axis.
""",
        cases=parts.attention_cases,
        diagnose=by_catalogue(),
    ),
    Exercise(
        "multi_head_attention",
        "Multi-head self-attention, whole: from hidden states to hidden states.",
        "multi_head_attention("
        "hidden: Tensor, mask: Tensor, heads: int, weights: dict[str, Tensor]) -> Tensor",
        """
Return what self-attention makes of the hidden states, without residual and norm.

Shapes: hidden (B, T, H); mask (B, T), 1 = real token, 0 = padding; weights has query.weight,
key.weight, value.weight, output.weight (H, H), stored as torch does: y = x W^T + b, and
query.bias, ... (H,); returns (B, T, H).

Head n of N = heads has the features n D to (n + 1) D - 1 of query, key and value, D = H / N.
There is no dropout. What stands in the rows of padded tokens does not matter.

Source: Vaswani 2017, section 3.2.2.
""",
        hints="""
Query, key and value are linear maps of hidden. Each is cut into heads, the heads attend by
themselves, and are put side by side again.

Cutting: (B, T, H) -> (B, T, N, D) -> (B, N, T, D): a view, then a transpose. Putting together
is the same backwards. A view straight to (B, N, T, D) mixes tokens with features.

F.linear(hidden, weights['query.weight'], weights['query.bias']).view(B, T, N, D).transpose(1,
2), likewise key and value; probabilities as in the exercise attention; times value;
transpose(1, 2).reshape(B, T, H); the linear map output.
""",
        cases=parts.multi_head_attention_cases,
        diagnose=by_catalogue(),
    ),
    Exercise(
        "add_and_norm",
        "The residual and the LayerNorm around each sub-layer.",
        "add_and_norm("
        "x: Tensor, sublayer: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor",
        """
Return LayerNorm(x + sublayer): post-norm, as in the original Transformer.

Shapes: x, what went into the sub-layer, and sublayer, what came out of it, (B, T, H); gain and
bias (H,); returns (B, T, H).

LayerNorm: subtract the mean over the H features, divide by the root of (variance + eps), the
variance being the mean of the squares; then times gain, plus bias. There is no dropout.

Source: Vaswani 2017, section 3.1; Ba 2016 (LayerNorm), equation 4.
""",
        hints="""
First add, then normalise the sum: of which numbers is the mean taken?

Mean and variance are those of one token: over the last axis, keepdim=True. eps stands under the
root, and is the one that is passed.

s = x + sublayer; centred = s - mean(s); variance = mean of centred squared (divisor H); centred
/ sqrt(variance + eps) * gain + bias.
""",
        cases=parts.add_and_norm_cases,
        diagnose=by_catalogue(),
    ),
    Exercise(
        "feed_forward",
        "The feed-forward network with GELU.",
        "feed_forward(hidden: Tensor, weights: dict[str, Tensor]) -> Tensor",
        """
Return contract(GELU(expand(hidden))), for each token by itself; no residual, no norm.

Shapes: hidden (B, T, H); weights has expand.weight (F, H), expand.bias (F,), contract.weight
(H, F), contract.bias (H,), stored as torch does: y = x W^T + b; returns (B, T, H).

GELU in its exact form: x times the probability that a standard normal number is below x.

Source: Vaswani 2017, section 3.3, equation 2; Hendrycks & Gimpel 2016.
""",
        hints="""
Two linear maps and one function between them; the width goes H -> F -> H.

The probability that a standard normal number is below x is (1 + erf(x / sqrt(2))) / 2. The form
with tanh is an approximation: close, and not the same.

hidden @ weights['expand.weight'].T + weights['expand.bias']; x * 0.5 * (1 + torch.erf(x / 2 **
0.5)); then the same with contract.
""",
        cases=parts.feed_forward_cases,
        diagnose=by_catalogue(),
    ),
    Exercise(
        "mean_pooling",
        "One vector for a text: the mean of its tokens.",
        "mean_pooling(hidden: Tensor, mask: Tensor) -> Tensor",
        """
Return the mean of the hidden states of the real tokens, [CLS] and [SEP] included.

Shapes: hidden (B, T, H); mask (B, T), 1 = real token, 0 = padding; returns (B, H).

A text of padding alone gives zeros.

Source: Reimers & Gurevych 2019 (Sentence-BERT), section 3.
""",
        hints="""
A mean is a sum divided by a count. Padding may be in neither.

Multiply by the mask with one more axis, (B, T, 1), and sum over the tokens. The count is that
of the ones in the mask, for each text its own.

(hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), and the count is at least a tiny
number so that 0 / 0 does not happen: .clamp(min=1e-9).
""",
        cases=parts.mean_pooling_cases,
        diagnose=by_catalogue(),
    ),
    Exercise(
        "cosine_similarity",
        "The cosine of the angle between vectors, for all pairs.",
        "cosine_similarity(a: Tensor, b: Tensor) -> Tensor",
        """
Return the table of cosines, [i][j] = row i of a against row j of b.

Shapes: a (n, H), b (m, H); returns (n, m). The cosine of two vectors is their dot product
divided by the product of their lengths. Against a vector of zeros it is 0.

Source: Salton 1975; Reimers & Gurevych 2019 (Sentence-BERT), section 3.
""",
        hints="""
If all vectors have length 1, the cosine is the dot product.

Divide each row by its own length, then one matrix product gives the whole table.

length = a.norm(dim=-1, keepdim=True).clamp(min=1e-12), likewise b; the table is (a / length of
a) @ (b / length of b).T
""",
        cases=parts.cosine_similarity_cases,
        diagnose=by_steps(slips.COSINE, slips.cosine_table, slips.COSINE_MISTAKES, within),
    ),
    Exercise(
        "mask_tokens",
        "Masking for a masked language model.",
        "mask_tokens(input_ids: Tensor, special: Tensor, mask_id: int, vocab_size: int) "
        "-> tuple[Tensor, Tensor]",
        """
Return (inputs, labels) for training a masked language model.

Shapes: input_ids (B, T); special (B, T), True where [CLS], [SEP] or [PAD] stands; returns two
tensors (B, T) of whole numbers.

Of the tokens that are not special, 15 % are chosen by chance, each for itself, anew in each
call. labels has the original id where a token is chosen, -100 elsewhere. inputs has, where a
token is chosen, mask_id in 80 % of cases, a random id below vocab_size in 10 %, the original
in 10 %; elsewhere it is unchanged. Draw with torch, numpy or random; set no seed.

Source: Devlin 2019, section 3.1 (task 1) and appendix A.1.
""",
        hints="""
Draw a number between 0 and 1 for each token: it is chosen where that is below 0.15 and it is
not special. A second number decides what becomes of the chosen.

labels first, from the untouched ids: where(chosen, input_ids, -100). Then inputs, a copy of
them. Of the chosen: second number below 0.8, between 0.8 and 0.9, above.

chosen = (torch.rand(shape) < 0.15) & ~special; fate = torch.rand(shape); inputs[chosen & (fate
< 0.8)] = mask_id; where chosen and 0.8 <= fate < 0.9 take torch.randint(vocab_size, shape).
""",
        cases=parts.mask_tokens_cases,
        diagnose=parts.diagnose_masking,
        repeatable=False,
    ),
    Exercise(
        "adamw_step",
        "One step of AdamW.",
        "adamw_step(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, "
        "lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) "
        "-> tuple[Tensor, Tensor, Tensor]",
        """
Return (parameter, first, second) after one step of AdamW, as new tensors.

Shapes: all tensors (n,). first and second are the running means of the gradient and of its
square, zeros before the first step; step counts from 1.

Both means start at zero and are therefore too small: before use they are divided by
1 - beta^step (what is returned is not). The update is first / (root of second + eps). Weight
decay is decoupled: lr times weight_decay times the parameter as it came in is subtracted.

Units: lr per step.
Source: Loshchilov & Hutter 2019, algorithm 2; Kingma & Ba 2015, algorithm 1.
""",
        hints="""
Four lines: the two running means, the two corrections, the update, the new parameter.

mean = beta * mean + (1 - beta) * new. The corrected means are used in the update only; the next
step needs the uncorrected ones.

m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g²; m' = m / (1 - beta1^step), v' = v /
(1 - beta2^step); p - lr · weight_decay · p - lr · m' / (sqrt(v') + eps); return p, m, v.
""",
        cases=parts.adamw_step_cases,
        diagnose=by_catalogue((*parts.ADAMW, "clipped")),
    ),
    Exercise(
        "training_step",
        "One step of fine-tuning.",
        "training_step(model: torch.nn.Module, micro_batches: list[tuple[dict, Tensor]], "
        "optimizer: torch.optim.Optimizer, max_norm: float) -> float",
        """
Do one step of fine-tuning a classifier on the whole batch; return the mean loss.

The batch comes in micro-batches, a list of (inputs, labels): model(**inputs).logits is (b, C),
labels is (b,), and b may differ. The loss is the cross-entropy, averaged over ALL examples of
the step. The model comes in evaluation mode, and has to be trained in training mode.

The gradient of that loss is clipped to the norm max_norm, over all parameters together, and
the optimizer steps once. Nothing of it may leak into the next call. Nothing is averaged over
micro-batches: one of 4 examples counts four times as much as one of 1.

Units: the loss in nats.
Source: Devlin 2019, appendix A.3; Pascanu 2013 (clipping), algorithm 1.
""",
        hints="""
Gradients of several backward passes add up in .grad. What must each loss be multiplied with, so
that the sum is the gradient of the mean over all examples?

model.train(); for each micro-batch: the sum of its losses, divided by the number of examples of
the whole step, backward; then clip once, step once, clear the gradients.

total = sum(len(labels) for _, labels in micro_batches); F.cross_entropy(logits, labels,
reduction='sum') / total, .backward(), add .item();
torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm); optimizer.step();
optimizer.zero_grad().
""",
        cases=parts.training_step_cases,
        diagnose=parts.diagnose_training,
        leaves_arguments=False,
        repeatable=False,
    ),
)
EXERCISES = {exercise.name: exercise for exercise in _ALL}
"""All exercises by name, in the order of a course."""
