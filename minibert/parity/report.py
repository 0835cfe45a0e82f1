"""Parity: two sets of tensors, stage by stage → the first one that differs, shown and explained.

`compare` holds tensors against reference tensors. `examine` judges somebody's tensors by what
should have come out of their own inputs, so that the first fault is found and not its
consequences, and asks the catalogue which mistake it is. Both return a `Report`.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.io.language import say
from minibert.model import BertModel
from minibert.parity.diagnosis import Diagnosis, Judge, canonical, diagnose
from minibert.parity.differences import describe, difference, in_words, unravel
from minibert.parity.steps import Computation, Inputs, model_inputs, parse_name
from minibert.pretrained import NoInitialisation
from minibert.trace import trace

BAD = ("differs", "shape", "missing", "raised")
HEADS = "tensor, largest, mean, allowed, bitwise, where, shape"
PARTS = r"gradient of|after \d+ steps?:|layers\.\d+|[^.:, ]+"  # how the name of a tensor begins


@dataclass
class Row:
    """One tensor of a comparison.

    ``verdict``: equal, differs, padding (only padding differs), follows (differs because what goes
    in differs), shape, missing, raised (the code gave no numbers, ``reason`` says why).
    ``largest`` and ``mean`` are absolute differences from the reference; ``place`` says in words
    where the largest one is. ``bitwise``: the same bits, after rounding to the coarser precision of
    the two.
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
    rows: list[Row] = field(default_factory=list)
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

    @property
    def raised(self) -> bool:
        """Whether the code raised an error, so that there are no numbers for a table."""
        return self.first is not None and self.first.verdict == "raised"

    def __str__(self) -> str:
        """What a reader needs, in this order: first difference, mistake and cure, table."""
        lines = [self.title, "", self.verdict(), *self.shown]
        if self.diagnosis is not None:
            lines += ["", "Which mistake it is:"]
            lines += [f"  {line}" for line in str(self.diagnosis).splitlines()]
        lines += ["", *table(self.folded())] if self.rows and not self.raised else []
        return say("\n".join([*lines, "", *self.remarks()]).rstrip())

    def verdict(self) -> str:
        """The finding in a line."""
        if not self.rows:
            return "FAILED: there was nothing to compare"
        if self.raised:
            return f"FAILED: {self.first.reason}"
        if self.first:
            return f"FAILED: the first difference is in {self.first.name}"
        exact = sum(row.bitwise for row in self.rows)
        return f"PASSED: {len(self.rows)} tensors, {exact} of them bit for bit"

    def remarks(self) -> list[str]:
        """The notes, and why so much is allowed as the table says."""
        reasons = dict.fromkeys(row.reason for row in self.rows if row.reason and not self.raised)
        return self.notes + ([f"allowed: {'; '.join(reasons)}"] if reasons else [])

    def folded(self) -> list[Row]:
        """The rows as a reader needs them: rows that say the same one after the other are one.

        Where everything agrees there is one for each part of the model.
        """
        def part(row: Row) -> str:
            return row.verdict if self.first else re.match(PARTS, row.name)[0]

        folded: list[Row] = []
        for name, run in itertools.groupby(self.rows, part):
            rows = list(run)
            if name in BAD:  # by themselves; where what goes in is not looked at, all that follows
                folded += rows[:3] if len(rows) > 4 else rows
                rows = rows[3:] if len(rows) > 4 else []
            if len(rows) < 2:
                folded += rows
                continue
            label = f"{name} {len(rows)} tensors"
            if self.first:
                says = {"equal": " agree" if folded else " before it agree",
                        "padding": " differ on padding", "follows": ": what goes in differs"}
                label = f"{len(rows)} tensors{says.get(name, ' after it, too')}"
            worst = max(rows, key=lambda row: row.largest / (row.tolerance or 1))
            exact = all(row.bitwise for row in rows)
            folded.append(replace(worst, name=label, shape=(), bitwise=exact, place=worst.name))
        return folded

    def to_dict(self) -> dict:
        """For JSON."""
        first = self.first.name if self.first else None
        diagnosis = self.diagnosis.to_dict() if self.diagnosis else None
        rows = [asdict(row) for row in self.rows]
        found = {"passed": self.passed, "first": first, "rows": rows, "diagnosis": diagnosis}
        return {**vars(self), **found}

    def add_shape(self, name: str, got: Tensor, expected: Tensor) -> None:
        """A row for a tensor of the wrong shape."""
        self.rows.append(Row(name, tuple(got.shape), "shape"))
        self.shown = self.shown or [
            f"  shape {tuple(got.shape)}, the reference has {tuple(expected.shape)}"
        ]


def table(rows: Sequence[Row]) -> list[str]:
    """A line for each row."""
    lines = [in_columns("", *heads()[:-1])]
    for row in rows:
        mark = {"equal": "OK", "padding": "ok"}.get(row.verdict, row.verdict.upper())
        own = "; right for what goes in" * (
            row.verdict == "equal" and row.largest > row.tolerance)
        numbers = (f"{number:.1e}" for number in (row.largest, row.mean, row.tolerance))
        exact = "yes" if row.bitwise else "no"
        lines.append(in_columns(*map(say, (mark, row.name, *numbers, exact, row.place + own))))
    return lines


def heads() -> list[str]:
    """What stands above the columns."""
    return re.split("[,，] ?", say(HEADS))


def in_columns(*cells: str) -> str:
    """A line of the table; an ideograph is as wide as two letters."""
    def padded(cell: str, width: int) -> str:
        wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in cell)
        return cell.rjust(width - wide) if width == 10 else cell.ljust(-width - wide)

    widths = (-10, -42, 10, 10, 10, -11, 0)
    mark, name, *numbers, exact, place = cells
    cells = (mark, name, *numbers, f"  {exact}", place)
    return "".join(map(padded, cells, widths)).rstrip()


# ------------------------------------------------------------------------------- two tensors


def compare(
    title: str,
    mine: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    tolerance: Callable[[str, Tensor], tuple[Tensor | float, str]],
    batch: Mapping[str, Tensor] | None = None,
) -> Report:
    """Hold each tensor against the reference's of that name, in the order of the reference.

    Padding counts like everything else: this is for code that should do just what the reference
    does.

    ``tolerance`` gives, for a name and its reference tensor, what may differ (one number, or one
    for each element) and why it is that. ``batch``: the inputs, to say in words where a difference
    is.
    """
    report = Report(title)
    for name, expected in reference.items():
        if name not in mine:
            report.rows.append(Row(name, tuple(expected.shape), "missing"))
            continue
        got = mine[name].detach()
        if got.shape != expected.shape:
            report.add_shape(name, got, expected)
            continue
        allowed, reason = tolerance(name, expected)
        off = difference(canonical(name, got), canonical(name, expected))
        row = measure(name, got, expected, batch)
        row.tolerance, row.reason = float(torch.as_tensor(allowed).max()), reason
        row.verdict = "equal" if bool((off <= allowed).all()) else "differs"
        report.rows.append(row)
        if row.verdict == "differs" and not report.shown:
            report.shown = describe(name, got, expected, allowed, batch)
    return report


def measure(name: str, got: Tensor, expected: Tensor, batch: Mapping | None = None) -> Row:
    """A row with the differences of two tensors of one shape; the verdict is still to come."""
    off = difference(canonical(name, got), canonical(name, expected))
    row = Row(name, tuple(got.shape), "equal", bitwise=same_bits(got, expected))
    if off.numel():
        row.largest, row.mean = float(off.max()), float(off.mean())
    if row.largest:
        row.place = in_words(name, unravel(off.argmax(), off.shape), off.shape, batch)
    return row


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are the same in the coarser of their two precisions (NaN = NaN)."""
    if one.shape != two.shape:
        return False
    coarse = min(one.dtype, two.dtype, key=lambda dtype: dtype.itemsize)
    return not bool(difference(one.to(coarse), two.to(coarse)).any())


# ----------------------------------------------------------------------------- somebody's code

ALIASES = {"attention": "attention.output", "feed_forward": "feed_forward.contract"}


def our_name(name: str, config: BertConfig) -> str:
    """The step behind a name: "layers.3" is layers.3.feed_forward_norm, and the like."""
    last = f"layers.{config.num_hidden_layers - 1}.feed_forward_norm"
    name = {"last_hidden_state": last, "pooler_output": "pooler"}.get(name, name)
    if re.fullmatch(r"layers\.\d+", name):
        return f"{name}.feed_forward_norm"
    group, number, step = parse_name(name)
    return f"layers.{number}.{ALIASES.get(step, step)}" if group == "layers" else name


def examine(title: str, inputs: Inputs, mine: Mapping[str, Tensor], **how: object) -> Report:
    """Judge somebody's tensors, each by its own inputs, and name the mistake.

    Args:
        title: the first line of the report.
        inputs: the model and what went into it.
        mine: the tensors to be judged, by our names.
        how: pairs and patience, as of `diagnose`.
    """
    report, judge = examine_stages(title, inputs, mine)
    if can_be_named(report, judge):
        report.diagnosis = diagnose([judge], **how)
    return report


def examine_stages(
    title: str, inputs: Inputs, mine: Mapping[str, Tensor], given: Collection[str] = ()
) -> tuple[Report, Judge]:
    """The report of somebody's tensors, in order of computation, and the judge who can name it.

    ``given``: names of tensors that went into somebody's code, and do not come from it.
    """
    report, usable, right = Report(title), {}, Computation(inputs)
    for name, value in mine.items():
        ours = our_name(name, inputs.config)
        try:
            expected = right[ours]
        except KeyError:
            report.notes.append(f"{name}: not one of our names, left out")
            continue
        if (fitted := fit(value, expected)) is None:
            report.add_shape(ours, value, expected)
        else:
            usable[ours] = fitted
    judge = Judge(inputs, usable, given)
    own, dtype = own_run(inputs, judge.dtype), str(judge.dtype)[6:]
    for name in judge.names:
        row = measure(name, usable[name], right[name], inputs.batch)
        row.bitwise = same_bits(usable[name].to(judge.dtype), own[name])
        row.verdict = judge.verdicts.get(name, "follows")
        row.tolerance = judge.noise(name, {})
        row.reason = f"the noise of {dtype} in this stage, from its own inputs"
        if row.verdict == "equal" and row.largest > 100 * row.tolerance and not judge.rounded:
            row.verdict = "follows" if judge.faults else "equal"
        report.rows.append(row)
    report.rows.sort(key=lambda row: judge.order[row.name])
    report.notes.insert(0,
        "largest, mean: the distance from the exact numbers, computed in float64; bitwise: the "
        f"same bits as minibert's own run in {str(own.dtype)[6:]}"
        + (f", rounded to {dtype}" if judge.rounded else "")
    )
    if judge.rounded:
        report.notes.append(f"Every number fits into {dtype}: they are taken as rounded to it.")
    if judge.faults and can_be_named(report, judge):
        first, heads = judge.faults[0], inputs.config.num_attention_heads
        exact, allowed = judge.predict(first, {}), report.first.tolerance
        report.shown = describe(first, usable[first], exact, allowed, inputs.batch, heads)
    return report, judge


def can_be_named(report: Report, judge: Judge) -> bool:
    """Whether the first thing wrong is a number, and not a shape."""
    return report.first is None or report.first.name in judge.faults


def own_run(inputs: Inputs, dtype: torch.dtype) -> Computation:
    """What minibert itself computes in a precision: its modules; what none of them does, in steps.

    Half precision is what float32 gives, rounded: that is how it is seen in dumps.
    """
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    model = model_of(inputs).to(dtype)
    with torch.no_grad(), trace(model) as tensors:
        model(**model_inputs(inputs.batch))
    known = {our_name(name, inputs.config): value for name, value in tensors.items()}
    return Computation(inputs, known, dtype=dtype)


def model_of(inputs: Inputs) -> BertModel:
    """The model of some inputs, with the very weights in it, not copies.

    Where a weight lies in memory can decide over the last bit of a product.
    """
    config, weights, _ = inputs
    with torch.device("meta"), NoInitialisation():  # no numbers of its own
        model = BertModel(config, add_pooling_layer="pooler.dense.weight" in weights)
    model.load_state_dict({n: weights[n].detach() for n in model.state_dict()}, assign=True)
    return model.eval()


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
