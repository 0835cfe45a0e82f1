"""Commands for what a fine-tuning has left: compare runs, hand a model on."""

from __future__ import annotations

import argparse
from pathlib import Path

from minibert.cli.common import Result, option, table, writes


@option("runs", nargs="+", metavar="RUN", help="what `minibert finetune` has written or is writing;"
        " a directory of several (--seeds, --sweep) stands for all of them")
@writes("--svg", ending=".svg", help="draw the curves of all into one picture")
def compare(args: argparse.Namespace) -> Result:
    """Put two or more fine-tunings side by side: the settings in which they differ, their measures
    and, in one picture, their curves.

    Example: minibert compare my-model other-model --svg both.svg
    """
    from minibert.training.history import compare as side_by_side

    value = {"runs": side_by_side(args.runs, args.svg), "picture": args.svg}
    return Result(value, compare_text)


def compare_text(value: dict) -> str:
    """A column for each run; a row for each setting that differs, then for each measure."""
    runs = value["runs"]
    rows = [["", *(run["run"] for run in runs)], ["state", *(run["state"] for run in runs)]]
    measured = dict.fromkeys(name for run in runs for name in run["measures"])
    asked = [name for name in runs[0]["settings"] if name not in measured]  # steps: those taken
    for part, names, form in (("settings", asked, "g"), ("measures", measured, ".4f")):
        for name in names:
            cells = [run[part].get(name, "-") for run in runs]
            rows.append([name, *(f"{c:{form}}" if isinstance(c, float) else str(c) for c in cells)])
    drawn = f"\n{value['picture']}: the curves of all" if value["picture"] else ""
    return table(rows) + drawn


@option("directory", metavar="DIR", help="a model: what minibert, or another library, has written")
@option("name", metavar="OWNER/NAME", help="where; the repository is made if it is not there")
@option("--private", action="store_true", help="make a repository that only you can see")
def push(args: argparse.Namespace) -> Result:
    """Upload a model to the Hugging Face hub, with its card.

    Example: minibert push my-model my-name/my-model --private

    Log in first (hf auth login), or set HF_TOKEN. A run that is unfinished or has failed is
    refused; checkpoints of the optimizer stay here. run/settings.json, which goes along, names the
    data files; --json lists what was uploaded.
    """
    from minibert.training.push import push as upload

    value = upload(args.directory, args.name, private=args.private)
    return Result(value, lambda value: f"{value['url']}: {len(value['files'])} files")


@option("model", metavar="MODEL", help="directory or hub name, of any model")
@writes("--onnx", ending=".onnx", required=True, help="file to write")
def export(args: argparse.Namespace) -> Result:
    """Write a model as an ONNX file, and compare it with ONNX Runtime if that is installed.

    Example: minibert export my-model --onnx my-model.onnx

    Needs pip install "minibert-torch[onnx]". The inputs are input_ids, attention_mask and
    token_type_ids, (texts, tokens) each, any number of both. A sentence encoder gives its vectors,
    pooled (and normalised, if it does that); a model with a head gives its logits. The exit status
    is 1 if a number is further than 1e-4 from ours.
    """
    from minibert.cli.models import load_model
    from minibert.io.directory import open_directory
    from minibert.sentence_encoder import SentenceEncoder
    from minibert.speed.onnx_export import TOLERANCE
    from minibert.speed.onnx_export import export as to_onnx

    directory = open_directory(args.model)
    if directory.has("modules.json"):
        model = SentenceEncoder.from_pretrained(directory, device="cpu", engine="textbook")
    else:
        model = load_model(directory)
    value = {"model": args.model, "onnx": args.onnx, **to_onnx(model, args.onnx)}
    value["bytes"] = Path(args.onnx).stat().st_size
    far = max((value["differences"] or {"": 0.0}).values())
    return Result(value, export_text, passed=far <= TOLERANCE)


def export_text(value: dict) -> str:
    """What was written, and how far each output is from ours."""
    said = f"{value['onnx']}: {value['bytes'] / 1e6:.1f} MB, gives {', '.join(value['outputs'])}"
    if value["differences"] is None:
        return said + "\nnot compared: onnxruntime is not installed"
    rows = [(name, f"{far:.1e}") for name, far in value["differences"].items()]
    return f"{said}\n{table([('output', 'largest difference to ONNX Runtime'), *rows])}"
