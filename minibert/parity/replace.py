"""Bring your own: a learner's module, function or dump of tensors, held against the reference.

What can be brought, and its signature (weights are copied in by our names):

    embeddings     Class(config); forward(input_ids, token_type_ids) -> (B, T, H)
    attention      Class(config); forward(hidden, mask) -> (B, T, H), mask (B, 1, 1, T) to be added
    feed_forward   Class(config); forward(hidden) -> (B, T, H)
    layer          Class(config); forward(hidden, mask) -> (B, T, H)
    pooler         Class(config); forward(hidden) -> (B, H)
    pooling        function(hidden, attention_mask) -> (B, H)
    loss           function(logits, labels) -> one number; labels of -100 do not count
    optimizer      Class(parameters, lr, betas, eps, weight_decay) with step(), as torch's AdamW

A class may name and lay out its parameters as it likes: what is what is found out where it can be
(`settle`), or said by ``names = {"its": "ours"}`` on the class or in a JSON file (see
``parameters.py``); a method ``take_weights(weights)`` may do the copying itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.io.checkpoint import read_safetensors
from minibert.io.files import no_such_file
from minibert.model import BertModel
from minibert.parity.catalogue import BY_KEY
from minibert.parity.diagnosis import HALF, Diagnosis, Judge, diagnose, precision
from minibert.parity.differences import in_words
from minibert.parity.parameters import DoNotFit, copy_weights, written
from minibert.parity.probes import example, probes
from minibert.parity.report import (
    Report,
    Row,
    can_be_named,
    examine,
    examine_stages,
    model_of,
    our_name,
    own_run,
    same_bits,
)
from minibert.parity.steps import Computation, Inputs, check_inputs, model_inputs
from minibert.parity.user_code import NoSuchName, blame, load_object
from minibert.trace import trace

MODULES = {  # kind → where it is in a BertModel, and the name of its output there
    "embeddings": ("embeddings", ""),
    "attention": ("layers.{}.attention", ".output"),
    "feed_forward": ("layers.{}.feed_forward", ".contract"),
    "layer": ("layers.{}", ".feed_forward_norm"),
    "pooler": ("pooler", ""),
}
FUNCTIONS = {  # kind → the tensor that goes in, and what of the batch goes in beside it
    "pooling": ("last_hidden_state", "attention_mask"),
    "loss": ("predictions", "labels"),
}
KINDS = (*MODULES, *FUNCTIONS, "optimizer")
ERRORS = (
    NotImplementedError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
    AssertionError,
)
COARSE = (  # {}: a precision
    "Yours computes in {}, whose rounding alone differs from the reference by this much or more. "
    "To have a mistake found, let it compute in float32."
)


# ------------------------------------------------------------------------------ a learner's code


def load(spec: str) -> Callable:
    """The class or function that ``my_file.py:Name`` names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the spec has no name, the file has no such name, or does not run.
    """
    path, _, name = spec.rpartition(":")
    if not path or not name:
        raise ValueError(f"{spec!r}; give a file and a name in it: my_attention.py:MyAttention")
    try:
        return load_object(path, name)
    except (FileNotFoundError, NoSuchName):
        raise
    except Exception as error:
        raise ValueError(f"{path} does not run: {blame(error, path)}") from error


def places_of(kind: str, config: BertConfig) -> list[str]:
    """The names of the modules of a kind in a BertModel."""
    place = MODULES[kind][0]
    return [place.format(i) for i in range(config.num_hidden_layers if "{}" in place else 1)]


def replaced(
    inputs: Inputs,
    replacements: Mapping[str, type],
    names: Mapping[str, Mapping[str, str]] | None = None,
) -> BertModel:
    """A BertModel with a learner's modules in every place of their kind, and the weights in it.

    ``names``: kind → mapping.
    """
    (config, weights, _), model = inputs, model_of(inputs)
    for kind, make in replacements.items():
        for place in places_of(kind, config):
            module, start = made(kind, make, config), place + "."
            part = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            said = names.get(kind) if names else None
            copy_weights(module, part, said, place, config.num_attention_heads)
            make_guest(module)
            parent, _, last = place.rpartition(".")
            setattr(model.get_submodule(parent), last, module)
    return model.to(next(iter(weights.values())).dtype).eval()


class NotAsNeeded(TypeError):
    """What a learner gives is of another kind than what is asked for."""


def made(kind: str, make: Callable, config: BertConfig) -> nn.Module:
    """A learner's module.

    Raises:
        NotAsNeeded: none is made, and what should make it is no class of modules.
    """
    try:
        module = make(config)
    except ERRORS as error:
        if isinstance(make, type) and issubclass(make, nn.Module):
            raise
        module = error
    if isinstance(module, nn.Module):
        return module
    name = getattr(make, "__name__", make)
    what = "a class, but no nn.Module" if isinstance(make, type) else "no class"
    raise NotAsNeeded(f"{name} is {what}; for {kind} a class is needed: "
                      f"class {name}(nn.Module), made as {name}(config)")


def needs_tensor(returned: object, who: str) -> None:
    """Raise NotAsNeeded unless it is a tensor."""
    if not isinstance(returned, Tensor):
        what = "None (is there a return?)" if returned is None else f"a {type(returned).__name__}"
        raise NotAsNeeded(f"your {who} returned {what}; a tensor is needed")


def make_guest(module: nn.Module) -> None:
    """Let a module write into its inputs, return a tuple, and compute in half precision."""

    def copied(_: nn.Module, given: tuple) -> tuple:
        return tuple(x.clone() if isinstance(x, Tensor) else x for x in given)

    def first_of(_: nn.Module, given: tuple, returned: object) -> object:
        first = returned[0] if isinstance(returned, (tuple, list)) and returned else returned
        needs_tensor(first, "forward")
        if first.dtype not in HALF:
            return first
        return first.to(given[0].dtype if given[0].is_floating_point() else torch.float32)

    module.register_forward_pre_hook(copied)
    module.register_forward_hook(first_of)


def comes_from(name: str, kinds: Collection[str], output: bool = True) -> bool:
    """Whether a tensor comes from code of these kinds; ``output``: also as what it returns."""
    number = name.split(".")[1] if name.startswith("layers.") else ""
    for kind in kinds:
        place, end = MODULES.get(kind, ("steps" if kind == "optimizer" else kind, ""))
        place = place.format(number)
        if name == place + end:
            return output
        if name.startswith(place + "."):
            return True
    return False


def precision_of(value: Tensor) -> torch.dtype:
    """What a tensor was computed in, as far as its numbers, if there are enough of them, tell."""
    numbers = value[value.isfinite()].unique()
    known = value.dtype in HALF or len(numbers) < 50
    return value.dtype if known else precision({"": numbers})


# ------------------------------------------------------------------------------------ running it


def run_function(kind: str, function: Callable, inputs: Inputs) -> dict[str, Tensor]:
    """A pooling function or a loss, with the tensor that goes in."""
    name, beside = FUNCTIONS[kind]
    given = own_run(inputs, torch.float32)[our_name(name, inputs.config)]
    returned = function(given.clone(), inputs.batch[beside].clone())
    if returned is None:
        needs_tensor(returned, kind)
    return {name: given, kind: torch.as_tensor(returned)}


def steady(inputs: Inputs) -> Inputs:
    """The same with one learning rate for all optimizer steps."""
    settings = inputs.batch["settings"]
    settings = {**settings, "lr": settings["lr"][:1] * len(settings["lr"])}
    return inputs._replace(batch={**inputs.batch, "settings": settings})


def run_optimizer(make: Callable, inputs: Inputs) -> dict[str, Tensor]:
    """An optimizer over five steps, once for the parameters that decay and once for the others."""
    batch, right = inputs.batch, Computation(inputs, dtype=torch.float32)
    settings, decayed = batch["settings"], batch["decayed"].bool()
    mine = {}
    for step in range(1, len(settings["lr"]) + 1):
        mine[f"steps.{step}.clipped"] = right[f"steps.{step}.clipped"]
        mine[f"steps.{step}.parameters"] = torch.empty_like(batch["parameters"])
    rest = {"lr": settings["lr"][0], "eps": settings["eps"]}
    rest["betas"] = (settings["beta1"], settings["beta2"])
    for chosen, decay in ((decayed, settings["weight_decay"]), (~decayed, 0.0)):
        part = nn.Parameter(batch["parameters"][chosen].clone())
        optimizer = make([part], weight_decay=decay, **rest)
        for step, rate in enumerate(settings["lr"], 1):
            for group in getattr(optimizer, "param_groups", ()):
                group["lr"] = rate
            part.grad = mine[f"steps.{step}.clipped"][chosen].clone()
            optimizer.step()
            mine[f"steps.{step}.parameters"][chosen] = part.detach()
    return mine


def prepare(
    replacements: Mapping[str, Callable],
    inputs: Inputs,
    names: Mapping[str, Mapping[str, str]] | None = None,
) -> Callable[[], dict[str, Tensor]]:
    """Make a learner's classes; returns a function that runs them once → tensors, our names."""
    modules = {kind: make for kind, make in replacements.items() if kind in MODULES}
    model = replaced(inputs, modules, names) if modules else None
    known = set(Computation(inputs).steps())

    def once() -> dict[str, Tensor]:
        mine = {}
        if model:
            with torch.no_grad(), trace(model) as mine:
                model(**model_inputs(inputs.batch))
        for kind, thing in replacements.items():
            if kind in FUNCTIONS:
                mine |= run_function(kind, thing, inputs)
            elif kind == "optimizer":
                mine |= run_optimizer(thing, inputs)
        mine = {our_name(name, inputs.config): value for name, value in mine.items()}
        return {name: value for name, value in mine.items() if name in known}

    return once


def settle(
    kind: str, make: Callable, inputs: Inputs, names: Mapping[str, str] | None
) -> tuple[Mapping[str, str] | None, str]:
    """Find out which parameters are which: by the mapping, or else by trying what may be meant.

    A guess that the names leave open is taken only if some of the numbers come out right, as they
    do not with wrong weights.

    Returns: the mapping, and what to tell about it.

    Raises:
        DoNotFit: no guess is sure enough.
    """
    try:
        replaced(inputs, {kind: make}, {kind: names})
        return names, ""
    except DoNotFit as error:
        problem, mappings, clear = error.problem, error.mappings, error.clear
        if names or getattr(make, "names", None):  # what is said is not replaced by a guess
            raise
    place, end = MODULES[kind]
    output = our_name(place.format(0) + end, inputs.config)
    exact, shares = Computation(inputs)[output], []
    for mapping in mappings:
        try:
            mine = prepare({kind: make}, inputs, {kind: mapping})()[output]
            near = (mine - exact).abs() <= 1e-4 * exact.abs() + 1e-6
            shares.append(float(near.double().mean()))
        except ERRORS:  # of another kind; the report will say it
            shares.append(0.0)
    best = sorted(zip(shares, mappings, strict=True), key=lambda one: -one[0])
    if not best or best[0][0] < 0.05 and not clear:
        raise DoNotFit(problem, [mapping for _, mapping in best])
    return best[0][1], f"the weights were copied in as {written(best[0][1])} says"


# -------------------------------------------------------------------------------- examining it


def examine_code(
    replacements: Mapping[str, Callable],
    inputs: Inputs | None = None,
    *,
    names: Mapping[str, str] | None = None,
    pairs: bool = True,
) -> Report:
    """Put a learner's classes or functions in place of ours, and report.

    Args:
        replacements: kind → class or function; the module's docstring has the signatures.
        inputs: the model to put it into, and what goes in; None = `example` and `probes`.
        names: its parameter names → ours.
        pairs: whether to try pairs of mistakes too.
    """
    if unknown := replacements.keys() - set(KINDS):
        raise ValueError(f"{sorted(unknown)} cannot be replaced; these can: {', '.join(KINDS)}")
    title = "Yours: " + ", ".join(
        f"{kind} = {getattr(thing, '__name__', thing)}" for kind, thing in replacements.items()
    )
    tried = {"": inputs} if inputs else {"": example(), **probes(replacements)}
    seen, crash = [], None
    settled, told = {}, []
    for kind, make in replacements.items():
        if kind in MODULES:
            try:
                settled[kind], said = settle(kind, make, next(iter(tried.values())), names)
            except ERRORS as error:
                return crash_report(title, replacements, error)
            told += [said] * bool(said)
    for special, given in tried.items():
        name = f"{title}, tried on {special}" if special else title
        try:
            if "optimizer" in replacements and not hasattr(replacements["optimizer"](
                    [nn.Parameter(torch.zeros(1))], lr=0.1, betas=(0.9, 0.99), eps=1e-6,
                    weight_decay=0.0), "param_groups"):
                given = steady(given)  # its rate cannot be changed
            once = prepare(replacements, given, settled)
            mine = once()
            if not seen:
                again = once()
                if other := [name for name in mine if not same_bits(mine[name], again[name])]:
                    said = "the same input twice gave different numbers"
                    return random_report(title, other[0], mine[other[0]], said)
        except ERRORS as error:
            if not special:
                return crash_report(name, replacements, error)
            if all(bool(weight.isfinite().all()) for weight in given.weights.values()):
                crash = crash or crash_report(name, replacements, error)
            continue
        seen.append((name, given, mine))
    modules = replacements.keys() & MODULES.keys()
    inner = {name for name in seen[0][2] if comes_from(name, modules, output=False)}
    given = [name for name in seen[0][2] if not comes_from(name, replacements)]

    def looks(without: Collection[str]) -> list[tuple[Report, Judge]]:
        return [
            examine_stages(at, on, {n: v for n, v in mine.items() if n not in without}, given)
            for at, on, mine in seen
        ]

    report = first_failure(looks(without=inner), pairs)
    report.notes += told
    coarse = {precision_of(mine[name]) for _, _, mine in seen for name in mine
              if comes_from(name, replacements)} & set(HALF)
    if coarse and not report.passed:
        report.diagnosis = None
        report.notes.append(COARSE.format(str(coarse.pop())[6:]))
        return report
    if report.passed:
        if len(tried) > 1:
            report.notes.append(f"also tried on: {'; '.join(filter(None, tried))}")
        return crash or report
    if crash:
        report.notes.append(f"{crash.title}:  {crash.first.reason}")
    if report.diagnosis is None or not inner:
        return report
    closer = first_failure(looks(without=()), pairs)
    named = closer.diagnosis is not None and closer.diagnosis.answers
    return closer if named and not closer.diagnosis.partial else report


def first_failure(looks: Sequence[tuple[Report, Judge]], pairs: bool) -> Report:
    """Of the reports on the same code, the first that fails, with the mistake named."""
    report, judge = next((one for one in looks if not one[0].passed), looks[0])
    if can_be_named(report, judge):
        report.diagnosis = diagnose([judge for _, judge in looks], pairs)
        unnamed = report.diagnosis is not None and not report.diagnosis.answers
        if unnamed and re.match(r"layers\.\d+\.(attention|feed_forward_norm)", report.first.name):
            mine, right = judge.mine[report.first.name], judge.predict(report.first.name, {})
            if right.isfinite().all() and not mine.isfinite().all():
                report.shown += ["  the mask is to be added to the scores: it is 0 for real "
                                 "tokens, the dtype's minimum for padding"]
    return report


def crash_report(title: str, kinds: Collection[str], error: Exception) -> Report:
    """The report for code that does not run to its end."""
    said, *shown = (str(error) if isinstance(error, NotAsNeeded)
                    else f"your code raised {blame(error)}").split("\n")
    return Report(title, [Row(next(iter(kinds)), (), "raised", reason=said)], shown=shown)


def random_report(title: str, name: str, value: Tensor, said: str) -> Report:
    """The report for code whose tensor of that name has different numbers each time."""
    row = Row(name, tuple(value.shape), "differs")
    diagnosis = Diagnosis(name, [(BY_KEY["dropout-left-on"],)])
    return Report(title, [row], shown=[f"  {said}"], diagnosis=diagnosis)


def assert_parity(
    thing: Callable,
    kind: str,
    inputs: Inputs | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """For a test: fail with the whole report unless a class or function does what ours does.

    >>> def test_my_attention():
    ...     assert_parity(MyAttention, "attention")

    Raises:
        AssertionError: it does not; the message is the report.
    """
    report = examine_code({kind: thing}, inputs, names=names)
    if not report.passed:
        raise AssertionError(f"\n{report}")


# -------------------------------------------------------------------------------------- a dump


def read_dump(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a ``.safetensors`` or ``.npz`` file, and its metadata.

    Raises:
        FileNotFoundError, ValueError: no such file, damaged, or of another kind.
    """
    path = Path(path)
    if not path.exists():
        raise no_such_file(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".npz":
        import numpy as np

        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: torch.from_numpy(np.array(file[name])) for name in file.files}, {}
        except (ValueError, OSError, TypeError, EOFError, BadZipFile, AttributeError) as error:
            raise ValueError(f"{path} cannot be read as .npz of plain numbers: {error}") from None
    raise ValueError(f"{path}: a .safetensors or .npz file is needed")


def examine_dump(
    path: str | os.PathLike, inputs: Inputs, names: Mapping[str, str] | None = None, **how: object
) -> Report:
    """Compare a dump from any framework, by name.

    Args:
        path: the dump. It may hold ``input_ids``, ``attention_mask`` and ``token_type_ids`` too.
        inputs: the model it was made with, and the inputs, if the dump does not hold them.
        names: its names → ours.
        how: pairs and patience, as of `diagnose`.

    Raises:
        ValueError: no input ids anywhere, or no name in it is one of ours.
    """
    tensors, _ = read_dump(path)
    names = names or {}
    absent = [name for name in names if name not in tensors]
    tensors = {names.get(name, name): value for name, value in tensors.items()}
    stored = {name: tensors.pop(name).long() for name in model_inputs(tensors)}
    others = [name for name in stored if name in inputs.batch
              and not torch.equal(stored[name], inputs.batch[name].long())]
    asked = inputs.batch
    inputs = inputs._replace(batch={**inputs.batch, **stored})
    check_inputs(inputs.batch, inputs.config)
    if "input_ids" not in inputs.batch:
        raise ValueError(
            f"{path} has no input_ids; put them into it, or pass --trace with the file that "
            "`minibert trace` wrote for the same texts"
        )
    known = set(Computation(inputs).steps())
    if not any(our_name(name, inputs.config) in known for name in tensors):
        raise ValueError(
            f"{path}: none of its names is one of ours ({', '.join(list(tensors)[:5])}, ...); map "
            'them with --names names.json: {"your name": "our name"}; `minibert trace` lists ours'
        )
    report = examine(f"Dump {path}", inputs, tensors, **how)
    for name in reversed(others):  # said first: all the rest is about other texts
        mine, shape, where = stored[name], asked[name].shape, ""
        if mine.shape == shape:
            place = (mine != asked[name]).nonzero()[0].tolist()
            where = f" at {in_words(name, place, shape, asked)} and perhaps after it"
        report.rows.insert(0, Row(name, tuple(mine.shape), "differs", place=where))
        report.diagnosis, report.shown = None, [
            f"  {name} in the dump are not those of the inputs{where};",
            "  all that is in the dump belongs to other texts, and is compared with those",
        ]
    given = {row.name for row in report.rows}
    if absent:
        report.notes.append(f"named in the mapping, but not in the dump: {', '.join(absent)}")
    if wanted := [name for name in own_run(inputs, torch.float32).values if name not in given]:
        report.notes.append(
            f"not in the dump, so not examined by themselves: {len(wanted)} tensors "
            f"({', '.join(wanted[:4])}{', ...' if len(wanted) > 4 else ''})"
        )
    return report
