"""Put a mistake of the catalogue into minibert's own modules, in memory.

    python tests/mutate.py      which mistakes do the golden files not notice?

The forward pass of each module is replaced by the same steps with the mistake in them
(``steps.py``), on the module's own weights. With no mistake the goldens must still pass: that is
the control.
"""

import contextlib
from unittest import mock

import torch

from minibert import heads
from minibert.model import BertModel, BertOutput
from minibert.parity.catalogue import CATALOGUE
from minibert.parity.goldens import GOLDENS, golden_tolerance, read_goldens
from minibert.parity.report import compare
from minibert.parity.steps import Computation, Inputs

MODEL_SIDE = [
    mistake
    for mistake in CATALOGUE
    if mistake.section not in ("Loss", "Optimizer") and mistake.changes
    and not any(step.startswith(("pooling", "sentence")) for step in mistake.changes)
]
# Mistakes that change no number that counts, and why.
EQUIVALENT = {
    "no-key-bias": "softmax(s + c) = softmax(s): no output changes. The keys themselves do, and "
    "the self-check compares them",
    "gelu-exact": "the golden model has hidden_act gelu: the exact form is right there",
    "layers-in-text-order": "for at most 10 layers the order as text is the order as numbers",
}


@contextlib.contextmanager
def planted(changes):
    """minibert's models with changed steps."""

    def compute(model, batch, dtype):
        weights = {n.removeprefix("bert."): p for n, p in model.state_dict().items()}
        return Computation(Inputs(model.config, weights, batch), changes=changes, dtype=dtype)

    def base(self, **batch):
        run = compute(self, batch, self.embeddings.word.weight.dtype)
        last = f"layers.{self.config.num_hidden_layers - 1}.feed_forward_norm"
        return BertOutput(run[last], run["pooler"] if self.pooler is not None else None)

    def head(fields, make):
        def forward(self, **batch):
            run = compute(self, batch, self.bert.embeddings.word.weight.dtype)
            return make(*(run[field] for field in fields))
        return forward

    with contextlib.ExitStack() as stack:
        patch = lambda where, how: stack.enter_context(  # noqa: E731
            mock.patch.object(where, "forward", how))
        patch(BertModel, base)
        patch(heads.BertForMaskedLM, head(["predictions"], heads.Logits))
        patch(heads.BertForNextSentencePrediction, head(["seq_relationship"], heads.Logits))
        patch(heads.BertForPreTraining, head(
            ["predictions", "seq_relationship"], heads.PreTrainingLogits))
        patch(heads.BertForSequenceClassification, head(["classifier"], heads.Logits))
        patch(heads.BertForTokenClassification, head(["token_classifier"], heads.Logits))
        patch(heads.BertForQuestionAnswering, head(
            ["start_logits", "end_logits"], heads.SpanLogits))
        yield


class Goldens:
    """The outputs among the goldens, and the models they are for."""

    def __init__(self):
        expected, self.batch, _ = read_goldens(GOLDENS)
        self.inputs = {
            name: self.batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        self.expected = {
            "last_hidden_state": expected["layers.1.feed_forward_norm"],
            "pooler_output": expected["pooler"],
        }
        self.expected |= {n: t for n, t in expected.items() if n.startswith("BertFor")
                          and not n.endswith("loss")}
        names = sorted({name.split(".")[0] for name in self.expected if "." in name})
        self.models = {n: getattr(heads, n).from_pretrained(GOLDENS, dtype=torch.float64)
                       for n in names}
        self.models["BertModel"] = BertModel.from_pretrained(GOLDENS, dtype=torch.float64)

    def report(self):
        """Hold what the models give now against the goldens."""
        mine = {}
        with torch.no_grad():
            for name, model in self.models.items():
                for field, value in model(**self.inputs)._asdict().items():
                    mine[field if name == "BertModel" else f"{name}.{field}"] = value
        return compare("", mine, self.expected, golden_tolerance, self.batch)


def survivors():
    """The mistakes that the goldens do not notice; and how many were put in."""
    goldens = Goldens()
    with planted({}):
        control = goldens.report()
    if not control.passed:
        raise AssertionError(f"the control fails:\n{control}")
    alive = []
    for mistake in MODEL_SIDE:
        with planted(mistake.changes):
            try:
                if goldens.report().passed:
                    alive.append(mistake.key)
            except (RuntimeError, IndexError):
                pass  # it does not even run: noticed
    return alive, len(MODEL_SIDE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    alive, total = survivors()
    print(f"{total} mistakes put in, {total - len(alive)} noticed")
    for key in alive:
        print(f"  {key}: {EQUIVALENT.get(key, 'NOT NOTICED, and not known to be equivalent')}")
