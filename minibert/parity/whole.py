"""A whole model of somebody's, with their names and their layouts, held against the reference.

``build()`` returns the model, loaded with their own weights of the same checkpoint; it is called as
``model(input_ids, attention_mask)``, with token_type_ids as the third if its signature takes them.
First its weights are matched with ours by their numbers (`loaded`), then every tensor that it
computes (`recording`, `walk`). The report speaks in their names.
"""

from __future__ import annotations

import inspect
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from minibert.io.checkpoint import read_pickle
from minibert.io.files import no_such_file
from minibert.parity.catalogue import CATALOGUE, numbered
from minibert.parity.diagnosis import HALF, Answer, Diagnosis, Judge, Patience, diagnose
from minibert.parity.layouts import QKV, Layout, layouts
from minibert.parity.loaded import (
    Loaded,
    called_in_attention,
    examine_weights,
    said,
    weights_in_modules,
)
from minibert.parity.probes import ragged_batch
from minibert.parity.recording import Recorder, Seen, same, weights_of
from minibert.parity.replace import COARSE, ERRORS, crash_report, load, random_report, read_dump
from minibert.parity.report import Report, Row, can_be_named, examine_stages
from minibert.parity.steps import Inputs, parse_name
from minibert.parity.walk import HEADS, SAME, Walk, nameless, roles_of

IN_HEADS = (*QKV, *HEADS)


def whole_batches(inputs: Inputs, segments: bool) -> list[dict[str, Tensor]]:
    """What a whole model is tried on: texts of unequal length, and a single short one.

    No two sizes are the same, so that a shape tells its axes; a [PAD] stands among the words.
    """
    config = inputs.config
    most = config.max_position_embeddings
    taken = {2, 3, config.num_attention_heads, config.hidden_size // config.num_attention_heads}
    B = next(size for size in (4, 5, 6, 7) if size not in taken)
    T = next((T for T in (13, 11, 9, 7) if T not in {*taken, B} and T <= most), most)
    lengths = (max(T // 3, 1), T, max(2 * T // 3, 1), max(T - 1, 1), min(2, T), 1, 1)
    several = ragged_batch(config, lengths[:B])
    several["input_ids"][1, 2 % T] = config.pad_token_id or 0
    found = [several, ragged_batch(config, (min(5, most),), seed=1)]
    if not segments:
        found = [batch | {"token_type_ids": 0 * batch["input_ids"]} for batch in found]
    return found


def parameters_of(model: Callable) -> list[str]:
    """The names of the parameters of a model's call."""
    try:
        target = model.forward if isinstance(model, nn.Module) else model
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []


def takes_segments(model: Callable) -> bool:
    """Whether a model takes segments as its third argument, or by name."""
    names = parameters_of(model)
    said = [name for name in names if "seg" in name or "type" in name]
    return bool(said) and (names.index(said[0]) == 2 or said[0] == "token_type_ids")


# ----------------------------------------------------------------------------------- the weights

WEIGHTS = (".safetensors", ".npz", ".bin", ".pt", ".pth")


def examine_spec(spec: str, inputs: Inputs, **how: object) -> Report:
    """What ``my.py:build`` returns, or the state dict in a file, held against the reference.

    ``how``: names, pairs and patience, as of `examine_whole`.

    Raises:
        FileNotFoundError, ValueError: no such file or name, or what is built cannot be called.
    """
    if Path(spec).suffix in WEIGHTS:
        return weights_report(f"Weights {spec}", read_weights(spec), inputs)
    title, build = f"Your whole model: {spec}", load(spec)
    try:
        model = build()
    except (*ERRORS, OSError, ValueError) as error:
        return crash_report(title, ["your model"], error)
    if not callable(model):
        raise ValueError(
            f"{spec} returns {type(model).__name__}; it should return a model that is called as "
            "model(input_ids, attention_mask) or model(input_ids, attention_mask, token_type_ids)"
        )
    return examine_whole(model, inputs, title, **how)


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """A state dict from a file: .safetensors, .npz, or what ``torch.save`` wrote."""
    path = Path(path)
    if not path.exists():
        raise no_such_file(path)
    tensors = read_pickle(path) if path.suffix in (".bin", ".pt", ".pth") else read_dump(path)[0]
    return {name: value for name, value in tensors.items() if value.is_floating_point()}


def weights_report(title: str, theirs: Mapping[str, Tensor], inputs: Inputs) -> Report:
    """The report on a state dict alone."""
    loaded, report = examine_weights(theirs, inputs), Report(title)
    for name in loaded.matches:
        value = theirs.get(name, theirs.get(name.partition("[")[0]))
        found = loaded.matches[name]
        verdict = "differs" if name in loaded.wrong or not found and loaded.findings else "equal"
        where = said(found[0].names) + f", as {found[0].layout}" if found else ""
        row = Row(name, tuple(value.shape), verdict, place=loaded.wrong.get(name, where))
        report.rows.append(row)
    if loaded.findings and report.first is None:
        report.rows.append(Row("weights", (), "missing", place=loaded.findings[0]))
    report.shown = [f"  {line}" for line in loaded.findings]
    report.notes = [share(loaded), *loaded.notes]
    return report


def share(loaded: Loaded) -> str:
    """How many weights were recognised."""
    found = sum(map(bool, loaded.matches.values()))
    if not loaded.matches:
        return "no weights found in your model: it keeps them where they cannot be seen"
    return f"{found} of {len(loaded.matches)} weights recognised by their numbers, without a map"


def examine_loaded(model: Callable, inputs: Inputs) -> Loaded:
    """The weights of a model; those of torch's linear layers must not lie (in, out)."""
    loaded = examine_weights(weights_of(model), inputs)
    if isinstance(model, nn.Module):
        linear = [f"{path}.weight" for path, module in model.named_modules()
                  if isinstance(module, nn.Linear)]
        weights_in_modules(loaded, linear)
    return loaded


# ----------------------------------------------------------------------- query, key, value in one


class Fused:
    """Query, key and value in one tensor: how it is taken apart, learnt from the first batch.

    ``ways``: a name without numbers → the dims of the layout, and which part is which.
    """

    def __init__(self, modules: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
        self.modules, self.ways = modules, {}

    def learn(self, one: Seen, walk: Walk) -> tuple | None:
        """By what layer 0 should give, else by the weights it was made with."""
        inputs, guess = walk.inputs, None
        steps = [step for path in one.output_of for step in self.modules.get(path, ("", ()))[1]]
        for count in (3, 2):
            for layout in layouts(one.value.shape, part_sizes(inputs, count)):
                found = [self.called(piece.flatten(2), walk) for piece in layout.read(one.value)]
                if len(set(filter(None, found))) >= 2:
                    rest = [step for step in QKV if step not in found]
                    return layout.dims, [step or rest.pop() for step in found]
                if len(steps) == count and guess is None:
                    guess = layout.dims, [parse_name(step.format(0))[2] for step in steps]
        return guess

    def called(self, piece: Tensor, walk: Walk) -> str:
        """Which of the three of layer 0 a part is."""
        sites = [(step, f"layers.0.{step}") for step in QKV]
        near = (step for step, site in sites if walk.distance(site, piece, walk.run[site]) < SAME)
        return next(near, "")

    def split(self, seen: Iterable[Seen], inputs: Inputs) -> tuple[list[Seen], dict[int, str]]:
        """Three tensors in place of each such one; and which is which, of those of modules."""
        walk, found, roles, times = Walk(inputs, []), [], {}, Counter()
        sizes = {math.prod(part_sizes(inputs, count).values()) for count in (2, 3)}
        for one in seen:
            key = nameless(one.name)
            if one.value.numel() in sizes and not one.result and key not in self.ways:
                self.ways[key] = self.learn(one, walk)
            if one.value.numel() not in sizes or not self.ways.get(key):
                found.append(one)
                continue
            dims, steps = self.ways[key]
            pieces = Layout(dims, part_sizes(inputs, len(steps))).read(one.value)
            for step, piece in zip(steps, pieces, strict=True):
                if one.output_of and times[step] < inputs.config.num_hidden_layers:
                    roles[len(found)] = f"layers.{times[step]}.{step}"
                    times[step] += 1
                name = f"{one.name} ({step.rpartition('.')[2]})"
                found.append(Seen(name, piece.flatten(2), one.line, packed=one.packed))
        return found, roles


def part_sizes(inputs: Inputs, parts: int) -> dict[str, int]:
    """The axes of several of query, key and value in one."""
    config, (B, T) = inputs.config, inputs.batch["input_ids"].shape
    N = config.num_attention_heads
    return {"part": parts, "text": B, "token": T, "head": N, "feature": config.hidden_size // N}


# ------------------------------------------------------------------- tensors as people cut them up


def unpacked(seen: list[Seen], inputs: Inputs) -> list[Seen]:
    """The same with the padding put back, where the real tokens of all texts lie in one axis."""
    real = inputs.batch["attention_mask"].bool()
    count = int(real.sum())
    for one in seen:
        if one.value.shape[0] == count < real.numel():
            whole = one.value.new_zeros(*real.shape, *one.value.shape[1:])
            whole[real] = one.value
            one.value, one.packed = whole, True
    return seen


def heads_together(seen: list[Seen], inputs: Inputs) -> list[Seen]:
    """One tensor with an axis of heads in place of one for each, where they come head by head.

    What a head computes is known by its size; all heads use the same names, but for the numbers.
    """
    config, (B, T) = inputs.config, inputs.batch["input_ids"].shape
    N = config.num_attention_heads
    sizes = {B * T * T, B * T * (config.hidden_size // N)}
    keys = [(nameless(one.name), one.value.shape) if one.value.numel() in sizes else None
            for one in seen]
    found, at = [], 0
    while at < len(seen):
        each = tensors_of_a_head(keys[at:], N) if keys[at] and N > 1 else 0
        for i in range(at, at + each):
            heads = seen[i : i + N * each : each]
            name = starred(heads[0].name, heads[1].name)
            value = torch.stack([head.value for head in heads], 1)
            found.append(Seen(name, value, heads[0].line, heads[0].output_of))
        found += [] if each else [seen[at]]
        at += N * each or 1
    return found


def tensors_of_a_head(keys: list[tuple | None], heads: int) -> int:
    """How many tensors come again and again, as often as there are heads; 0: none."""
    end = keys.index(None) if None in keys else len(keys)
    for each in range(end // heads, 0, -1):
        if all(keys[i] == keys[i - each] for i in range(each, each * heads)):
            return each
    return 0


def starred(one: str, other: str) -> str:
    """What two names have in common, and * for the number in which they differ.

    >>> starred("blocks.0.heads.0.key", "blocks.0.heads.1.key")
    'blocks.0.heads.*.key'
    """
    parts = zip(re.split(r"(\d+)", one), re.split(r"(\d+)", other), strict=True)
    return "".join(a if a == b else "*" for a, b in parts)


# ------------------------------------------------------------------------------------ the report


def examine_whole(
    model: Callable,
    inputs: Inputs,
    title: str = "Your whole model",
    *,
    names: Mapping[str, str] | None = None,
    pairs: bool = True,
    patience: Patience | None = None,
) -> Report:
    """Run somebody's model and the reference on the same texts, and report in their names.

    Args:
        model: called as the module's docstring says.
        inputs: the model that it should be; the batch in it is not used.
        names: what some of their tensors are, theirs → ours, where it cannot be found out.
        pairs, patience: as of `diagnosis.diagnose`.
    """
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    loaded, segments = examine_loaded(model, inputs), takes_segments(model)
    fused, tried = Fused(loaded.module_roles()), []
    for batch in whole_batches(inputs, segments):
        given = inputs._replace(batch=batch)
        try:
            seen = record(model, given, segments)
            if not tried and (other := differing(seen, record(model, given, segments))):
                said = f"`{other.name}`{at(other)} is the first that differs when the same input "
                return random_report(title, other.name, other.value, f"{said}comes twice")
        except ERRORS as error:
            if not tried:
                return crash_report(title, ["your model"], error)
            crash = crash_report(f"{title}, tried on a single short text", ["your model"], error)
            return crash if tried[0][0].passed else tried[0][0]
        if not any(one.result for one in seen):
            raise ValueError(f"{title} returns no tensor; it should return the last hidden state, "
                             "alone or in a tuple, a dict or an object with fields")
        seen, roles = fused.split(heads_together(unpacked(seen, given), given), given)
        if not tried:
            layers = inputs.config.num_hidden_layers
            roles |= roles_of(seen, loaded.module_roles(), layers)
            roles = {i: role + "_heads" * (role.endswith(QKV) and seen[i].value.dim() == 4)
                     for i, role in roles.items()}
            walk = Walk(given, seen, roles, names)
            walk.walk()
        mine = again(walk, seen, given) if tried else walk.known
        tried.append((*examine_stages(title, given, in_one_precision(mine)), given))
    report = in_their_names(walk, loaded, tried, pairs, patience)
    if training:
        report.notes.insert(0, "Your model came in training mode, where dropout changes its "
                            "numbers; it was examined in eval mode: call model.eval() after "
                            "loading it.")
    return report


def record(model: Callable, inputs: Inputs, segments: bool) -> list[Seen]:
    """Everything that a model computes on a batch; it is called by keyword where it can be."""
    recorder, names = Recorder(model), ["input_ids", "attention_mask", "token_type_ids"]
    values = {name: inputs.batch[name].clone() for name in names[: 2 + segments]}
    if set(values) <= set(parameters_of(model)):
        recorder.run(**values)
    else:
        recorder.run(*values.values())
    return recorder.seen


def differing(one: list[Seen], two: list[Seen]) -> Seen | None:
    """The first tensor that is another one in a second run on the same input."""
    for first, second in zip(one, two, strict=False):
        if first.value.shape != second.value.shape or not same(first.value, second.value):
            return first
    return None


def again(walk: Walk, seen: list[Seen], inputs: Inputs) -> dict[str, Tensor]:
    """The same tensors of theirs on another batch, as ours."""
    values = {one.name: one.value for one in seen}
    other, found = Walk(inputs, []), {}
    for site, number in walk.source.items():
        value = values.get(walk.seen[number].name)
        layout = Layout(walk.layout[site].dims, other.axes[site])
        if value is not None and value.numel() == math.prod(layout.sizes.values()):
            found[site] = layout.read(value)
    return found


def in_one_precision(mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where some are in float32, all in float32: a float64 that comes of it knows no more."""
    single = any(value.dtype == torch.float32 for value in mine.values())
    return {name: value.float() if single and value.dtype == torch.float64 else value
            for name, value in mine.items()}


def at(seen: Seen) -> str:
    """Where a variable stands."""
    return f" ({seen.line})" if seen.line else ""


def in_their_names(
    walk: Walk,
    loaded: Loaded,
    tried: list[tuple[Report, Judge, Inputs]],
    pairs: bool,
    patience: Patience | None,
) -> Report:
    """The report on the first batch that shows a difference: where, in their names, and which."""
    report, judge, _ = next((one for one in tried if not one[0].passed), tried[0])
    lost = [walk.seen[number] for number in walk.lost()]
    matched = len(walk.known) > len(walk.guessed)
    coarse = {value.dtype for value in walk.known.values()} & set(HALF)
    if coarse and not report.passed:
        report.notes.append(COARSE.format(str(coarse.pop())[6:]))
    elif can_be_named(report, judge) and not report.passed and (matched or not judge.rounded):
        judges = [one for _, one, _ in tried]
        report.diagnosis = there(name_mistake(judges, walk, pairs, patience), walk)
    theirs = {site: walk.seen[number] for site, number in walk.source.items()}
    if judge.faults and not report.passed:
        report.shown = [*located(judge.faults[0], theirs, report), *report.shown]
    elif report.passed and 3 * len(walk.known) < len(walk.sites):
        report.shown = [
            f"  It passed at the result; the inside was not compared: {len(walk.known)} of "
            f"{len(walk.sites)} steps could be seen in your code."]
    if lost and not judge.faults:
        report.shown = unlocated(walk, lost)
        report.rows += [Row(one.name, tuple(one.value.shape), "differs") for one in lost]
    for row in report.rows:
        row.name = theirs[row.name].name if row.name in theirs else row.name
    if report.diagnosis:
        rename(report.diagnosis, theirs)
    if loaded.findings:
        report.shown += ["  In the weights, found before anything ran:"] * (not report.passed)
        (report.notes if report.passed else report.shown).extend(f"  {x}" for x in loaded.findings)
    outputs = {i for i, one in enumerate(walk.seen) if one.output_of or one.result}
    report.notes += [
        share(loaded), *loaded.notes,
        f"{len(outputs & walk.placed.keys())} of {len(outputs)} outputs of your modules recognised "
        f"by their numbers, without a map; with variables they cover {len(walk.known)} of the "
        f"{len(walk.sites)} steps",
    ]
    report.names = {seen.name: site for site, seen in theirs.items()}
    return report


def located(first: str, theirs: Mapping[str, Seen], report: Report) -> list[str]:
    """Where it begins, in their names."""
    twice = [site for site, seen in theirs.items() if seen is theirs[first] and site != first]
    if twice:
        return [
            f"  Nothing in your model matches {said_site(first)}: in its place is "
            f"`{theirs[first].name}`{at(theirs[first])}, which is {said_site(twice[0])}.",
        ]
    before = list(itertools.takewhile(lambda row: row.name != first, report.rows))
    agrees = "nothing comes before it"
    if before:
        agrees = f"everything before it agrees ({len(before)} tensor{'s' * (len(before) > 1)})"
    return [
        f"  `{theirs[first].name}`{at(theirs[first])} is the first output that matches nothing; "
        f"{agrees}.",
        f"  It should equal {said_site(first)}.",
    ]


def said_site(site: str) -> str:
    """A step of ours in words."""
    group, number, step = parse_name(site)
    return f"{step} of layer {number}" if group else step


def unlocated(walk: Walk, lost: list[Seen]) -> list[str]:
    """What is said where the walk has no answer: the last that fits, and what comes after it."""
    last = max(walk.source, key=walk.source.__getitem__, default="")
    number = walk.source.get(last, -1)
    after = [one for i, one in enumerate(walk.seen) if i > number and i not in walk.placed][:5]
    lines = [f"  `{lost[0].name}`, which your model returns, matches nothing."]
    if last:
        lines.append(f"  The last that matches is `{walk.seen[number].name}`{at(walk.seen[number])}"
                     f" = {said_site(last)}.")
    return [
        *lines,
        "  After it come, in your order, and which of them is which step cannot be known:",
        *(f"    `{one.name}`{at(one)} {tuple(one.value.shape)}" for one in after),
        "  If you know, say so: --names FILE.json with " '{"your name": "our name"}',
    ]


def name_mistake(
    judges: list[Judge], walk: Walk, pairs: bool, patience: Patience | None
) -> Diagnosis | None:
    """Which mistake it is: what explains what the model returns is preferred to all else.

    Query, key and value are told apart by their weights, if no name says which is which. So where
    that leads nowhere, or products are transposed, what follows from them is asked without them;
    then what the model returns by itself, and pairs at last.
    """
    found = diagnose(judges, False, patience)
    if not found or found.harmless:
        return found
    results = only(judges, {walk.placed.get(i) for i, seen in enumerate(walk.seen) if seen.result})
    unnamed = {
        site for site, number in walk.source.items() if (step := parse_name(site)[2]) in IN_HEADS
        and called_in_attention(walk.seen[number].name) != step.removesuffix("_heads")
    }
    known = found.answers and all(mistake.key != "scores-transposed"
                                  for answer in found.answers for mistake in answer)
    if not known and unnamed:
        less = diagnose(only(judges, walk.known.keys() - unnamed), False, patience)
        found = less if less and less.answers else found
    if whole := explaining(results, found.answers):
        found.answers, found.beyond, found.partial = whole, "", False
    elif whole := explaining_all(results):
        found = Diagnosis(found.name, whole, residual=0.0)
    elif pairs and (found.partial or not found.answers):
        found = diagnose(judges, True, patience)
    return found


def explaining(judges: Iterable[Judge], answers: Iterable[Answer]) -> list[Answer]:
    """The answers that explain everything; on padding, too, if any does."""
    for judge in judges:
        answers = [one for one in answers if judge.names and judge.explains(one, judge.names)]
    exact = [one for one in answers
             if all(judge.explains(one, judge.names, everywhere=True) for judge in judges)]
    return exact or list(answers)


def explaining_all(results: list[Judge]) -> list[Answer]:
    """The mistakes that give what a model returns, if that is wrong; the shortest text first."""
    results = sorted(results, key=lambda judge: judge.inputs.batch["input_ids"].numel())
    if not any(judge.faults for judge in results):
        return []
    config = results[0].inputs.config
    known = [mistake for mistake in CATALOGUE if mistake.changes]
    other_forms = numbered(config, range(config.num_hidden_layers))
    for mistakes in (known, other_forms):
        if found := explaining(results, [(mistake,) for mistake in mistakes]):
            return list({one.title: (one,) for one, in found}.values())
    return []


def only(judges: Iterable[Judge], sites: Collection[str]) -> list[Judge]:
    """The same of some of the tensors."""
    return [Judge(judge.inputs, {name: value for name, value in judge.mine.items()
                                 if name in sites}) for judge in judges]


def there(diagnosis: Diagnosis | None, walk: Walk) -> Diagnosis | None:
    """Without the answers by which the feed-forward network is missing, if there is one."""
    wide = walk.inputs.batch["input_ids"].numel() * walk.inputs.config.intermediate_size
    if diagnosis and any(seen.value.numel() == wide for seen in walk.seen):
        diagnosis.answers = [answer for answer in diagnosis.answers
                             if all(mistake.key != "no-feed-forward" for mistake in answer)]
    return diagnosis


def rename(diagnosis: Diagnosis, theirs: Mapping[str, Seen]) -> None:
    """Put their names into a diagnosis."""
    def name(site: str) -> str:
        return theirs[site].name if site in theirs else site

    diagnosis.name, diagnosis.beyond = name(diagnosis.name), name(diagnosis.beyond)
    diagnosis.contradicted = {one: name(site) for one, site in diagnosis.contradicted.items()}
