"""What runs leave behind: the log as a table, and several runs side by side.

A run directory is what `finetune` writes; its log is ``run/log.jsonl``, a line for every step and
one for every evaluation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minibert.io.files import csv_text, need_ending, read_json, read_text, write_text
from minibert.training.plots import curves, smooth
from minibert.training.tasks import task_class
from minibert.training.tasks.base import failures

AnyPath = str | os.PathLike
Points = list[tuple[int, float]]


def as_csv(lines: Sequence[dict]) -> str:
    """The lines of a log as a csv table: a row each, a column for everything that was logged."""
    cells = [{k: v for k, v in line.items() if not isinstance(v, list)} for line in lines]
    names = dict.fromkeys(name for line in cells for name in line)
    return csv_text([names, *([line.get(name) for name in names] for line in cells)])


def curve(lines: Sequence[dict], name: str) -> Points:
    """The points (step, value) of something that was logged."""
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


class History(NamedTuple):
    """A run as it can be read afterwards, or while it is going on.

    ``state``: finished, failed, or how far it has come. ``measures``: those of ``metrics.json``, or
    of the last evaluation so far. ``lines``: its log.
    """

    directory: Path
    state: str
    settings: dict
    measures: dict[str, float]
    lines: list[dict]


def read_run(directory: AnyPath) -> History:
    """Read the settings, the measures and the log of a run directory.

    Raises:
        FileNotFoundError: there is no run in it.
        ValueError: a file of it is damaged.
    """
    here = Path(directory) / "run"
    if not (here / "log.jsonl").is_file():
        raise FileNotFoundError(f"{directory} holds no run: {here / 'log.jsonl'} is not there")
    # A process that was killed may have left half a line at the end.
    whole = [line for line in read_text(here / "log.jsonl").splitlines(True) if line[-1] == "\n"]
    lines = [json.loads(line) for line in whole]
    if (here / "metrics.json").exists():
        result = read_json(here / "metrics.json")
        state, measures = "failed" if failures(result) else "finished", result["after"]
    else:
        evaluations = [line for line in lines if "norm" not in line] or [{}]
        state = f"unfinished, step {lines[-1]['step'] if lines else 0}"
        measures = {k: v for k, v in evaluations[-1].items() if k not in ("step", "epoch")}
    return History(Path(directory), state, read_json(here / "settings.json"), measures, lines)


def read_runs(directories: Sequence[AnyPath]) -> list[History]:
    """Read several runs; a directory of runs (several seeds, a sweep) stands for all in it."""
    found: list[AnyPath] = []
    for directory in map(Path, directories):
        inside = sorted(path.parents[1] for path in directory.glob("*/run/log.jsonl"))
        found += [directory] if (directory / "run").exists() else inside or [directory]
    return [read_run(directory) for directory in dict.fromkeys(found)]


def compare(directories: Sequence[AnyPath], svg: AnyPath | None = None) -> list[dict]:
    """Two or more runs side by side; their curves in one picture if ``svg`` names a file.

    Returns:
        For each run ``run`` (its directory), ``state``, ``settings`` (those in which the runs
        differ) and ``measures``.

    Raises:
        FileNotFoundError: a directory without a run in it.
        ValueError: fewer than two runs, or ``svg`` is no name of an SVG file.
    """
    if svg:
        need_ending(svg, ".svg")
    runs = read_runs(directories)
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run; at least two are needed to compare")
    if svg:
        write_text(svg, draw(runs))
    asked = {name: [run.settings.get(name) for run in runs] for name in runs[0].settings}
    different = [name for name, values in asked.items() if values.count(values[0]) < len(values)]
    return [
        {
            "run": str(run.directory),
            "state": run.state,
            "settings": {name: run.settings.get(name) for name in different},
            "measures": run.measures,
        }
        for run in runs
    ]


def draw(runs: Sequence[History]) -> str:
    """The curves of several runs as SVG: training loss, dev loss, and what each was chosen by."""
    names = short_names([run.directory for run in runs])
    tasks = dict.fromkeys(run.settings.get("task") for run in runs)
    scores = [f"dev_{task_class(task).best}" for task in tasks if task]
    panels = {}
    for key in dict.fromkeys(["loss", "dev_loss", *scores, "general_spearman"]):
        each = zip(names, runs, strict=True)
        found = {name: smooth(curve(run.lines, key)) for name, run in each}
        if any(found.values()):
            panels["train loss" if key == "loss" else key.replace("_", " ")] = found
    return curves(f"{len(runs)} runs", "step", panels)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of some paths, as many as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len({*names}) == len(names):
            break
    return names
