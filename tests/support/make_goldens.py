"""Make tests/goldens: what transformers gives for a seeded tiny BERT.

    python tests/support/make_goldens.py [DIRECTORY]

The tiny model is drawn by ``probes.example``: every parameter is perturbed, as a freshly
initialised model hides half of all mistakes. transformers computes in float64 and the results are
rounded to float32, so that another correct implementation can differ by that rounding alone.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from safetensors.torch import save_file

from minibert.heads import MASKED_LM_NAMES, NEXT_SENTENCE_NAMES
from minibert.io import checkpoint
from minibert.parity.goldens import GOLDENS, HEADS, Minibert, dropout_probe, gather
from minibert.parity.probes import example
from minibert.parity.reference import load_reference, reference_parameters, trace_reference
from minibert.parity.steps import model_inputs


class Transformers:
    """How goldens are computed with transformers: what ``Minibert`` is for minibert."""

    trace = staticmethod(trace_reference)

    def __init__(self, directory, dtype):
        self.directory, self.ours = directory, Minibert(directory, dtype)

    def load(self, name):
        return load_reference(self.directory, self.ours.load(name))

    def forward(self, model, batch):
        labels = {label: batch[label] for label in HEADS[type(model).__name__].values()}
        labels = {"labels" if n.endswith("_labels") else n: t for n, t in labels.items()}
        if type(model).__name__ == "BertForNextSentencePrediction":
            labels = {"labels": batch["next_sentence_label"]}
        output = model(**model_inputs(batch), **labels)
        return {name: value for name, value in output.items() if name != "loss"}, output.loss

    def parameters(self, model):
        return reference_parameters(model, self.ours.load(type(model).__name__))


def golden_batch():
    """Three ragged texts with two segments, one of padding alone, and labels for every head."""
    _, _, batch = example()
    batch = {
        key: torch.cat([batch[key], torch.full((1, 10), empty)])
        for key, empty in (
            ("input_ids", 0), ("attention_mask", 0), ("token_type_ids", 0), ("labels", -100)
        )
    }
    batch["next_sentence_label"] = torch.tensor([0, 1, 1, 0])
    batch["text_labels"] = torch.tensor([2, 0, 1, 2])
    batch["token_labels"] = torch.where(
        batch["attention_mask"] == 1, batch["input_ids"] % 3, torch.tensor(-100)
    )
    batch["start_positions"] = torch.tensor([3, 1, 2, 0])
    batch["end_positions"] = torch.tensor([5, 6, 2, 0])
    return batch


def write_model(directory: Path) -> None:
    """The tiny model, under the official names, with the weights of all heads."""
    config, weights, _ = example()
    config.save_pretrained(directory)
    names = (
        *checkpoint.ENCODER_NAMES, *MASKED_LM_NAMES, *NEXT_SENTENCE_NAMES,
        ("classifier", "classifier"), ("qa_outputs", "qa_outputs"),
    )
    state = {
        name if name.startswith(("predictions", "seq", "classifier", "qa")) else f"bert.{name}": w
        for name, w in weights.items()
    }
    checkpoint.save(directory, state, names)


def make(directory: Path) -> None:
    """Write config.json, model.safetensors and goldens.safetensors."""
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    write_model(directory)
    batch = golden_batch()
    found = gather(Transformers(directory, torch.float64), batch)
    found["probe"] = dropout_probe(torch.float64)
    tensors = {name: value.float().contiguous() for name, value in found.items()}
    tensors |= {f"batch.{name}": value for name, value in batch.items()}
    provenance = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "made by": "tests/support/make_goldens.py, computed in float64, rounded to float32",
        "order": list(found),
    }
    tensors = {name: value.clone() for name, value in tensors.items()}
    metadata = {"format": "pt", "provenance": json.dumps(provenance)}
    save_file(tensors, directory / "goldens.safetensors", metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=GOLDENS)
    make(parser.parse_args().directory)
