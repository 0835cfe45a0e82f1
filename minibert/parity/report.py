"""Parity: two sets of tensors, stage by stage → the first one that differs, shown and explained.

`compare` holds tensors against reference tensors. `examine` judges somebody's tensors by what
should have come out of their own inputs, so that the first fault is found and not its
consequences, and asks the catalogue which mistake it is. Both return a `Report`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.parity.diagnosis import Diagnosis, Judge, canonical, diagnose
from minibert.parity.steps import Computation, Inputs, parse_name
from minibert.trace import trace

BAD = ("differs", "shape", "missing")


@dataclass
class Row:
    """One tensor of a comparison.

    ``verdict``: equal, differs, padding (only padding differs), follows (differs because what goes
    in differs), shape, missing. ``largest`` and ``mean`` are absolute differences from the
    reference; ``place`` says in words where the largest one is. ``bitwise``: the same bits, after
    rounding to the coarser precision of the two.
    """

    name: str
    shape: tuple[int, ...]
    verdict: str
    largest: float = 0.0
    mean: float = 0.0
    place: str = ""
    tolerance: float = 0.0
    reason: str = ""
    bitwise: bool = False


@dataclass
class Report:
    """What a comparison found. ``first`` is the first row that is bad, in order of computation."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    diagnosis: Diagnosis | None = None

    @property
    def first(self) -> Row | None:
        """The first bad row."""
        return next((row for row in self.rows if row.verdict in BAD), None)

    @property
    def passed(self) -> bool:
        """Whether there is none."""
        return self.first is None and bool(self.rows)

    def __str__(self) -> str:
        """The table, the first difference, and the diagnosis."""
        return "\n".join([self.title, "", *table(self.rows), *self.ending()])

    def ending(self) -> list[str]:
        """What stands below the table."""
        lines = ["", *self.notes] if self.notes else []
        bad = [row for row in self.rows if row.verdict in BAD]
        if not self.rows:
            return [*lines, "", "FAILED: there was nothing to compare"]
        if not bad:
            exact = sum(row.bitwise for row in self.rows)
            lines += ["", f"PASSED: {len(self.rows)} tensors, {exact} of them bit for bit"]
        else:
            lines += ["", f"FAILED: the first difference is in {self.first.name}", *self.shown]
        if self.diagnosis is not None:
            lines += ["", "Which mistake it is:", *indent(str(self.diagnosis))]
        return lines

    def to_dict(self) -> dict:
        """For JSON."""
        return {
            "title": self.title,
            "passed": self.passed,
            "first": self.first.name if self.first else None,
            "rows": [asdict(row) for row in self.rows],
            "notes": self.notes,
            "shown": self.shown,
            "diagnosis": self.diagnosis.to_dict() if self.diagnosis else None,
        }


def indent(text: str) -> list[str]:
    """Lines, moved in."""
    return [f"  {line}" for line in text.splitlines()]


def table(rows: Sequence[Row], worst_of: Sequence[str] = ("gradient of ", "after ")) -> list[str]:
    """One line for each row; of many gradients and parameters only the worst, if all is well."""
    lines = [f"{'':10}{'tensor':42}{'largest':>10}{'mean':>10}{'allowed':>10}  bitwise  where"]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        start = next((start for start in worst_of if row.name.startswith(start)), None)
        key = row.name if start is None or row.verdict in BAD else " ".join(
            row.name.split()[: 2 if start == "gradient of " else 3])
        groups.setdefault(key, []).append(row)
    for key, group in groups.items():
        row = max(group, key=lambda row: row.largest)
        many = len(group) > 1
        name = f"{key} {len(group)} parameters" if many else row.name
        note = f"{row.name.split()[-1]}: " if many else ""
        mark = {"equal": "OK", "padding": "ok"}.get(row.verdict, row.verdict.upper())
        exact = all(row.bitwise for row in group)
        lines.append(
            f"{mark:10}{name:42}{row.largest:10.1e}{row.mean:10.1e}{row.tolerance:10.1e}  "
            f"{'yes' if exact else 'no':7}  {note}{row.place}".rstrip()
        )
    return lines


# ------------------------------------------------------------------------------- two tensors


def difference(mine: Tensor, reference: Tensor) -> Tensor:
    """Absolute differences, infinite where only one of the two is a number."""
    mine, reference = mine.detach().double(), reference.detach().double()
    same = (mine == reference) | (mine.isnan() & reference.isnan())
    return torch.where(same, 0.0, (mine - reference).abs().nan_to_num(float("inf"), float("inf")))


def compare(
    title: str,
    mine: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    tolerance: Callable[[str, Tensor], tuple[Tensor | float, str]],
    batch: Mapping[str, Tensor] | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
) -> Report:
    """Hold each tensor against the reference's of that name, in the order of the reference.

    Padding counts as everything else: this is for code that should do just what the reference does.

    ``tolerance`` gives, for a name and its reference tensor, what may differ (one number, or one
    for each element) and why it is that.
    """
    report = Report(title, [])
    for name, expected in reference.items():
        if name not in mine:
            report.rows.append(Row(name, tuple(expected.shape), "missing"))
            continue
        got = mine[name].detach()
        if got.shape != expected.shape:
            report.rows.append(Row(name, tuple(got.shape), "shape"))
            report.shown = report.shown or [
                f"  shape {tuple(got.shape)}, the reference has {tuple(expected.shape)}"
            ]
            continue
        allowed, reason = tolerance(name, expected)
        row = measure(name, got, expected, batch, tokens)
        off = difference(canonical(name, got), canonical(name, expected))
        row.tolerance = float(torch.as_tensor(allowed).max())
        row.reason = reason
        row.verdict = "equal" if bool((off <= allowed).all()) else "differs"
        report.rows.append(row)
        if row.verdict == "differs" and not report.shown:
            report.shown = describe(name, got, expected, allowed, batch, tokens)
    return report


def measure(name, got: Tensor, expected: Tensor, batch=None, tokens=None) -> Row:
    """A row with the differences of two tensors of one shape; the verdict is still to come."""
    off = difference(canonical(name, got), canonical(name, expected))
    row = Row(name, tuple(got.shape), "equal", bitwise=same_bits(got, expected))
    if off.numel():
        row.largest, row.mean = float(off.max()), float(off.mean())
    if row.largest:
        row.place = in_words(name, unravel(int(off.argmax()), off.shape), off.shape, batch, tokens)
    return row


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are the same in the coarser of their two precisions (NaN = NaN)."""
    coarse = min(one.dtype, two.dtype, key=lambda dtype: dtype.itemsize)
    return not bool(difference(one.to(coarse), two.to(coarse)).any())


def unravel(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    """A flat position as one number for each axis."""
    place = []
    for size in reversed(shape):
        flat, rest = divmod(flat, size)
        place.append(rest)
    return tuple(reversed(place))


def axes(name: str, shape: Sequence[int], batch: Mapping[str, Tensor] | None) -> list[str]:
    """What each axis of a tensor stands for."""
    if batch is None or name.startswith(("steps.", "gradient", "after")):
        return [f"axis {i}" for i in range(len(shape))]
    B, T = batch["input_ids"].shape
    if len(shape) == 4:
        keys = "key" if shape[3] == T and not name.endswith("_heads") else "feature"
        return ["text", "head", "token", keys]
    if len(shape) == 3 and tuple(shape[:2]) == (B, T):
        return ["text", "token", "feature"]
    if len(shape) == 2 and tuple(shape) == (B, T):
        return ["text", "token"]
    if len(shape) == 2 and shape[0] == B:
        return ["text", "feature"]
    if len(shape) == 2 and shape[0] == T:
        return ["token", "feature"]
    return [f"axis {i}" for i in range(len(shape))]


def in_words(name, place: Sequence[int], shape, batch=None, tokens=None) -> str:
    """A position in words: text 1, head 2, token 3 "cat", ..."""
    words, text = [], 0
    for axis, i in zip(axes(name, shape, batch), place, strict=True):
        if axis == "text":
            text = i
        word = f"{axis} {i}"
        if axis in ("token", "key") and batch is not None:
            word += f" {token_name(batch, tokens, text, i)}"
        words.append(word)
    return ", ".join(words)


def token_name(batch, tokens, text: int, i: int) -> str:
    """A token's text, or its id; and whether it is padding."""
    name = repr(tokens[text][i]) if tokens else f"(id {int(batch['input_ids'][text, i])})"
    mask = batch.get("attention_mask")
    return name if mask is None or mask[text, i] else f"{name} = padding"


# ----------------------------------------------------------------------- what a difference is


def on_padding(name: str, wrong: Tensor, batch: Mapping[str, Tensor]) -> bool:
    """Whether only rows of padding are wrong."""
    names = axes(name, wrong.shape, batch)
    mask = batch.get("attention_mask")
    if mask is None or names[:1] != ["text"] or "token" not in names:
        return False
    real = mask.bool()  # (B, T)
    for axis in range(1, len(names)):
        if names[axis] != "token":
            real = real.unsqueeze(axis)
    return bool(wrong.any()) and not bool((wrong & real).any())


def describe(name, got, expected, allowed, batch=None, tokens=None, heads: int = 0) -> list[str]:
    """Some lines: shape, the worst place, values side by side, where it sits, what kind it is."""
    got, expected = got.detach().double(), expected.detach().double()
    a, b = canonical(name, got), canonical(name, expected)
    off = difference(a, b)
    worst = unravel(int(off.argmax()), off.shape) if off.dim() else ()
    lines = [f"  shape {tuple(got.shape)}"]
    if off.dim():
        lines.append(f"  worst at {in_words(name, worst, off.shape, batch, tokens)}:")
        start = max(0, min(worst[-1] - 2, off.shape[-1] - 5))
        line = (*worst[:-1], slice(start, start + 5))
        mine, theirs = a[line].tolist(), b[line].tolist()
    else:
        mine, theirs = [float(a)], [float(b)]
    lines += [
        "    yours     " + " ".join(f"{x:12.6g}" for x in mine),
        "    reference " + " ".join(f"{x:12.6g}" for x in theirs),
    ]
    lines.append(f"  it sits {where(name, off > allowed, batch, heads)}")
    masked = (a <= -1e4) & (b <= -1e4)
    a, b = torch.where(masked, 0.0, a), torch.where(masked, 0.0, b)
    kind = pattern(a, b, float(torch.as_tensor(allowed).max()))
    if kind:
        lines.append(f"  it is {kind}")
    return lines


def where(name: str, wrong: Tensor, batch=None, heads: int = 0) -> str:
    """Where a difference sits, in words."""
    share = float(wrong.double().mean()) if wrong.numel() else 0.0
    names = axes(name, wrong.shape, batch)
    if not wrong.any():
        return "nowhere: all is within the tolerance"
    if batch is not None and names[:1] == ["text"]:
        if on_padding(name, wrong, batch):
            return "on padding only"
        mask = batch.get("attention_mask")
        real = torch.ones_like(batch["input_ids"]).bool() if mask is None else mask.bool()
        if "token" in names:
            axis = names.index("token")
            others = [i for i in range(wrong.dim()) if i not in (0, axis)]
            by_token = wrong.flatten().reshape(wrong.shape).any(dim=others[-1]) if others else wrong
            for i in reversed(others[:-1]):
                by_token = by_token.any(dim=i)
            if bool(by_token[:, 0].any()) and not bool(by_token[:, 1:].any()):
                return "on [CLS] only (the first token of each text)"
        if names[-1] == "key":
            padded_keys = ~real[:, None, None, :]
            if not bool((wrong & ~padded_keys).any()):
                return "on padded keys only: the mask"
        by_text = wrong.reshape(len(wrong), -1).any(1)
        if by_text.sum() == 1 and len(by_text) > 1:
            return f"in text {int(by_text.int().argmax())} only"
        padded = (~real).any(1)
        if padded.any() and not padded.all():
            rows = wrong.reshape(len(wrong), -1).any(1)
            if not bool((rows & ~padded).any()):
                return "only in texts that have padding"
        parts = None
        if "head" in names:
            parts = wrong.transpose(0, 1).reshape(wrong.shape[1], -1).any(1)
        elif heads and names[-1] == "feature" and wrong.shape[-1] % heads == 0:
            parts = wrong.reshape(-1, heads, wrong.shape[-1] // heads).any(2).any(0)
        if parts is not None and parts.sum() == 1 and len(parts) > 1:
            return f"in head {int(parts.int().argmax())} only"
    if share > 0.9:
        return "everywhere"
    return f"in {100 * share:.0f} % of the numbers"


def pattern(got: Tensor, expected: Tensor, allowed: float) -> str:
    """Whether a difference has a simple form: a factor, an offset, a transpose, a permutation."""
    if not (got.isfinite().all() and expected.isfinite().all()) or got.numel() < 4:
        return "not a number in some places" if not got.isfinite().all() else ""
    near = max(allowed, 1e-5 * float(got.abs().max()))
    square = float((expected * expected).sum())
    if square:
        factor = float((got * expected).sum()) / square
        if float((got - factor * expected).abs().max()) <= near and factor:
            root, inverse = math.sqrt(abs(factor)), 1 / factor
            return f"a constant factor: {factor:.6g} (inverse {inverse:.6g}, root {root:.6g})"
    gap = got - expected
    if float(gap.max() - gap.min()) <= near:
        return f"a constant offset: {float(gap.mean()):.6g}"
    if gap.dim() > 1:
        flat = gap.reshape(-1, gap.shape[-1])
        if float((flat.max(0).values - flat.min(0).values).max()) <= near:
            return "one offset vector, the same for every token: a bias?"
    for order in itertools.permutations(range(got.dim())):
        turned = expected.permute(order)
        if order != tuple(range(got.dim())) and turned.shape == got.shape:
            if float((got - turned).abs().max()) <= near:
                return f"a transpose: the axes stand in the order {order}"
    for axis in range(got.dim()):
        if 1 < got.shape[axis] <= 2048 and permuted(got, expected, axis, near):
            return f"a permutation along axis {axis}"
    if got.numel() <= 1 << 20:
        mine, theirs = got.flatten().sort().values, expected.flatten().sort().values
        if float((mine - theirs).abs().max()) <= near:
            return "the same numbers in another order: a view or reshape?"
    return ""


def permuted(got: Tensor, expected: Tensor, axis: int, near: float) -> bool:
    """Whether the slices along an axis are the reference's in another order."""
    mine = got.movedim(axis, 0).reshape(got.shape[axis], -1)
    theirs = expected.movedim(axis, 0).reshape(got.shape[axis], -1)
    distance = torch.cdist(mine, theirs)
    match = distance.argmin(1)
    if len(match.unique()) < len(match) or torch.equal(match, torch.arange(len(match))):
        return False
    return float((mine - theirs[match]).abs().max()) <= near


# ----------------------------------------------------------------------------- somebody's code

ALIASES = {
    "attention": "attention.output",
    "feed_forward": "feed_forward.contract",
}


def our_name(name: str, config: BertConfig) -> str:
    """The step behind a name: "layers.3" is layers.3.feed_forward_norm, and the like."""
    last = f"layers.{config.num_hidden_layers - 1}.feed_forward_norm"
    name = {"last_hidden_state": last, "pooler_output": "pooler"}.get(name, name)
    if re.fullmatch(r"layers\.\d+", name):
        return f"{name}.feed_forward_norm"
    group, number, step = parse_name(name)
    return f"layers.{number}.{ALIASES.get(step, step)}" if group == "layers" else name


def examine(
    title: str,
    inputs: Inputs,
    mine: Mapping[str, Tensor],
    *,
    tokens: Sequence[Sequence[str]] | None = None,
    pairs: bool = True,
) -> Report:
    """Judge somebody's tensors, each by its own inputs, and name the mistake.

    Args:
        title: the first line of the report.
        inputs: the model and what went into it.
        mine: the tensors to be judged, by our names.
        tokens: the texts of the tokens, for words instead of ids.
        pairs: whether to try pairs of mistakes too.
    """
    report, judge = look(title, inputs, mine, tokens)
    report.diagnosis = diagnose([judge], pairs) if can_be_named(report, judge) else None
    return report


def can_be_named(report: Report, judge: Judge) -> bool:
    """Whether the first thing wrong is a number, and not a shape."""
    return report.first is None or report.first.name in judge.faults


def own_run(inputs: Inputs, dtype: torch.dtype) -> Computation:
    """What minibert itself computes in a precision: its modules; what none of them does, in steps.

    Half precision is what float32 gives, rounded: that is how it is seen in dumps.
    """
    config, weights, batch = inputs
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.device("meta"):  # no numbers of its own: the very weights are put in, not copies,
        model = BertModel(config, add_pooling_layer="pooler.dense.weight" in weights)
    # because where a weight lies in memory can decide over the last bit of a product.
    model.load_state_dict({n: weights[n].detach() for n in model.state_dict()}, assign=True)
    names = ("input_ids", "attention_mask", "token_type_ids")
    with torch.no_grad(), trace(model.to(dtype).eval()) as tensors:
        model(**{name: batch[name] for name in names if name in batch})
    known = {our_name(name, config): value for name, value in tensors.items()}
    return Computation(inputs, known, dtype=dtype)


def look(
    title: str,
    inputs: Inputs,
    mine: Mapping[str, Tensor],
    tokens: Sequence[Sequence[str]] | None = None,
) -> tuple[Report, Judge]:
    """The report of somebody's tensors, in the order of computation; not yet which mistake it is.

    Also returns the judge, who knows.
    """
    usable, (config, _, batch) = {}, inputs
    right = Judge(inputs, {}).right
    report = Report(title, [])
    for name, value in mine.items():
        ours = our_name(name, config)
        try:
            expected = right[ours]
        except KeyError:
            report.notes.append(f"{name}: not one of our names, left out")
            continue
        fitted = fit(value, expected)
        if fitted is not None:
            usable[ours] = fitted
            continue
        report.rows.append(Row(ours, tuple(value.shape), "shape"))
        report.shown = report.shown or [
            f"  shape {tuple(value.shape)}, the reference has {tuple(expected.shape)}"
        ]
    judge = Judge(inputs, usable)
    own = own_run(inputs, judge.dtype)
    for name in judge.names:
        got, expected = usable[name], right[name]
        row = measure(name, got, expected, batch, tokens)
        row.bitwise = same_bits(got.to(judge.dtype), own[name])
        row.verdict = judge.verdicts.get(name, "follows")
        exact = judge.predict(name, {})
        row.tolerance = judge.noise(name, exact, judge.predict(name, {}, torch.float32))
        row.reason = f"the noise of {str(judge.dtype)[6:]} in this stage, from its own inputs"
        if row.verdict == "equal" and row.largest > 100 * row.tolerance and not judge.rounded:
            row.verdict = "follows" if judge.faults else "equal"
        report.rows.append(row)
    report.rows.sort(key=lambda row: judge.order[row.name])
    report.notes.insert(0,
        "largest, mean: the distance from the exact numbers, computed in float64; bitwise: the "
        f"same bits as minibert's own run in {str(own.dtype)[6:]}"
        + (f", rounded to {str(judge.dtype)[6:]}" if judge.rounded else "")
    )
    if judge.rounded:
        report.notes.append(
            f"All numbers fit into {str(judge.dtype)[6:]}: taken as rounded to it at the end."
        )
    if judge.faults and can_be_named(report, judge):
        first = judge.faults[0]
        report.shown = describe(
            first, usable[first], judge.predict(first, {}), report.first.tolerance, batch, tokens,
            config.num_attention_heads,
        )
    return report, judge


def fit(value: Tensor, expected: Tensor) -> Tensor | None:
    """A tensor in the reference's shape where only axes of size 1 or a repeated batch differ."""
    if value.shape == expected.shape:
        return value
    if value.numel() == expected.numel() and value.squeeze().shape == expected.squeeze().shape:
        return value.reshape(expected.shape)
    if value.dim() == expected.dim() + 1 and value.shape[1:] == expected.shape:
        if bool((value == value[:1]).all()):  # positions, repeated for each text
            return value[0]
    return None
