"""Several seeds, and baselines: is a figure luck?"""

from __future__ import annotations

import statistics
import warnings
from pathlib import Path

import torch
from torch import nn

from minibert.io.files import read_json, sha256, write_json
from minibert.sentence_encoder import SentenceEncoder
from minibert.training import data, metrics
from minibert.training.data import Say, silent
from minibert.training.finetune import finetune, read_data
from minibert.training.settings import Settings
from minibert.training.tasks import task_class


def several(settings: Settings, out: str | Path, seeds: int, *, say: Say = silent) -> dict:
    """The same run with ``seeds`` seeds, in ``out/seed-0`` and so on; ``out/seeds.json`` sums up.

    A finished run is not repeated, a stopped one is resumed. A classifier has failed when it is no
    better than always naming the most frequent class.
    """
    part, best = "test" if settings.test else "dev", task_class(settings.task).best
    runs = []
    for seed in range(settings.seed, settings.seed + seeds):
        result = begin_or_resume(settings.replace(seed=seed), Path(out) / f"seed-{seed}", say)
        runs.append({"seed": seed, **result["after"]})
        say(f"seed {seed}: {part} {best} {runs[-1][f'{part}_{best}']:.4f}")
    scores = [run[f"{part}_{best}"] for run in runs]
    summary = {
        "measure": f"{part} {best}",
        "mean": statistics.fmean(scores),
        "sd": statistics.stdev(scores) if seeds > 1 else None,
        "worst": min(scores),
        "runs": runs,
    }
    if settings.task == "classify":
        summary["baselines"] = found = baselines(settings)
        summary["failed"] = sum(score <= found["majority class"] for score in scores)
    write_json(Path(out) / "seeds.json", summary)
    return summary


def begin_or_resume(settings: Settings, out: Path, say: Say) -> dict:
    """`finetune`; a run that stands in ``out`` is resumed, or not repeated if it is finished.

    Raises:
        ValueError: that run has other settings or data.
    """
    begun = (out / "run" / "settings.json").exists()
    before = read_json(out / "run" / "versions.json")["sha256"] if begun else {}
    for name in settings.files if begun else ():
        if sha256(data.locate(settings.files[name])) != before.get(name):
            raise ValueError(
                f"the run in {out} was begun with another {name} file than {settings.files[name]} "
                "is now; name another directory"
            )
    return finetune(settings, out, resume=begun, say=say)


def baselines(settings: Settings) -> dict[str, float]:
    """Accuracies that a classifier must beat: the commonest class; a head on frozen vectors.

    The vectors are the means of the untouched model's last states, standardised; the head is
    logistic regression with a little weight decay, fitted until it stands still.
    """
    sets = read_data(settings, silent)
    train, test = sets["train"], sets.get("test", sets["dev"])
    names = data.class_names(train)
    labels, truth = ([names.index(e.values["label"]) for e in part] for part in (train, test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = SentenceEncoder.from_pretrained(settings.base)
        texts = ([" ".join(example.texts) for example in part] for part in (train, test))
        seen, unseen = (torch.from_numpy(encoder.encode(part)) for part in texts)
    mean, spread = seen.mean(0), seen.std(0) + 1e-9  # (H,) each
    seen, unseen = (seen - mean) / spread, (unseen - mean) / spread  # (n, H)
    linear = nn.Linear(seen.shape[1], len(names))
    nn.init.zeros_(linear.weight)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(linear(seen), torch.tensor(labels))
        loss = loss + 0.01 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    commonest = max(set(labels), key=labels.count)
    return {
        "majority class": metrics.accuracy(truth, [commonest] * len(test)),
        "frozen encoder": metrics.accuracy(truth, linear(unseen).argmax(-1).tolist()),
    }
