"""Mistakes put into minibert itself, in memory: into its source, and in the place of its steps.

`edited` changes a line of a module's own code. `planted` puts in any mistake of the catalogue: the
forward pass of each model is replaced by the same steps with the mistake in them (``steps.py``), on
the model's own weights. With no mistake the goldens must still pass: that is the control.
"""

import contextlib
import inspect
import sys
import textwrap
from unittest import mock

import torch

from minibert import heads
from minibert.attention import MultiHeadSelfAttention
from minibert.embeddings import Embeddings
from minibert.encoder import EncoderLayer, FeedForward
from minibert.model import BertModel, BertOutput, Pooler
from minibert.parity.catalogue import CATALOGUE
from minibert.parity.goldens import GOLDENS, golden_tolerance, read_goldens
from minibert.parity.report import compare
from minibert.parity.steps import Computation, Inputs, model_inputs

EMBED, POOL, PREDICT = Embeddings.forward, Pooler.forward, heads.MaskedLMHead.forward
ATTEND, LAYER, FEED = MultiHeadSelfAttention.forward, EncoderLayer.forward, FeedForward.forward
SPLIT, MERGE = MultiHeadSelfAttention.split_heads, MultiHeadSelfAttention.merge_heads
# (where, the code that stands there, the code instead, the mistake that this is)
EDITS = [
    (EMBED, "total = total + self.position(positions)", "pass", "no-position"),
    (EMBED, "torch.arange(", "1 + torch.arange(", "position-from-one"),
    (EMBED, " + self.segment(token_type_ids)", "", "no-segment"),
    (EMBED, "self.segment(token", "self.segment(0 * token", "segments-ignored"),
    (EMBED, "self.norm(total)", "total", "no-embedding-norm"),
    (ATTEND, " * self.head_size**-0.5", "", "no-scale"),
    (ATTEND, "self.head_size**-0.5", "self.heads**-0.5", "scale-heads"),
    (ATTEND, "scores = scores + mask", "pass", "no-mask"),
    (ATTEND, "scores + mask", "scores + mask.transpose(2, 3)", "mask-on-queries"),
    (ATTEND, "query @ key.trans", "key @ query.trans", "scores-transposed"),
    (ATTEND, "self.value(hidden)", "self.key(hidden)", "value-is-key"),
    (ATTEND, "weights @ value", "weights.mT @ value", "probabilities-transposed"),
    (ATTEND, "self.output(self.merge", "(self.merge", "no-output-projection"),
    (SPLIT, "view(B, T, self.heads, self.head_size).transpose(1, 2)",
     "reshape(B, self.heads, T, self.head_size)", "view-without-transpose"),
    (MERGE, "x.transpose(1, 2)", "x.reshape(len(x), x.shape[2], -1, 1)", "merge-without-transpose"),
    (FEED, "self.activation(self.expand(hidden))", "self.expand(hidden)", "no-activation"),
    (LAYER, "attention(hidden, mask)) + hidden", "attention(hidden, mask))",
     "no-attention-residual"),
    (LAYER, "forward(hidden)) + hidden", "forward(hidden))", "no-feed-forward-residual"),
    (LAYER, "self.feed_forward_norm(", "(", "no-final-norm"),
    (BertModel.forward, "in self.layers:", "in self.layers[:-1]:", "last-layer-missing"),
    (POOL, "hidden[:, 0]", "hidden[:, -1]", "pooler-last"),
    (POOL, "self.activation(", "(", "pooler-no-tanh"),
    (PREDICT, ", self.bias)", ")", "mlm-no-bias"),
    (PREDICT, "self.norm(self.activation(self.dense(hidden)))",
     "self.activation(self.norm(self.dense(hidden)))", "mlm-norm-first"),
]


@contextlib.contextmanager
def edited(method, old, new):
    """A method of minibert with a piece of its source replaced."""
    source = textwrap.dedent(inspect.getsource(method))
    assert source.count(old) == 1, f"{method.__qualname__} has not one {old!r}"
    module = sys.modules[method.__module__]
    made = dict(vars(module))
    exec(source.replace(old, new), made)  # noqa: S102  our own source
    owner = getattr(module, method.__qualname__.split(".")[0])
    with mock.patch.object(owner, method.__name__, made[method.__name__]):
        yield


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
    "norm-eps-1e-12": "the golden model has eps 1e-12: it is right there",
}


FIELDS = {  # what each model returns: names of steps, and the tuple that holds them
    BertModel: (["last", "pooler"], BertOutput),
    heads.BertForMaskedLM: (["predictions"], heads.Logits),
    heads.BertForNextSentencePrediction: (["seq_relationship"], heads.Logits),
    heads.BertForPreTraining: (["predictions", "seq_relationship"], heads.PreTrainingLogits),
    heads.BertForSequenceClassification: (["classifier"], heads.Logits),
    heads.BertForTokenClassification: (["token_classifier"], heads.Logits),
    heads.BertForQuestionAnswering: (["start_logits", "end_logits"], heads.SpanLogits),
}


@contextlib.contextmanager
def planted(changes):
    """minibert's models with changed steps."""

    def forward(self, **batch):
        fields, make = FIELDS[type(self)]
        weights = {n.removeprefix("bert."): p for n, p in self.state_dict().items()}
        dtype = weights["embeddings.word.weight"].dtype
        run = Computation(Inputs(self.config, weights, batch), changes=changes, dtype=dtype)
        last = f"layers.{self.config.num_hidden_layers - 1}.feed_forward_norm"
        return make(*(run[last if field == "last" else field] for field in fields))

    with contextlib.ExitStack() as stack:
        for model_class in FIELDS:
            stack.enter_context(mock.patch.object(model_class, "forward", forward))
        yield


class Goldens:
    """The outputs among the goldens, and the models they are for."""

    def __init__(self):
        expected, self.batch, _ = read_goldens(GOLDENS)
        self.expected = {n: t for n, t in expected.items() if n.startswith("BertFor")
                         and not n.endswith("loss")}
        self.expected["BertModel.last_hidden_state"] = expected["layers.1.feed_forward_norm"]
        self.expected["BertModel.pooler_output"] = expected["pooler"]
        self.models = {c.__name__: c.from_pretrained(GOLDENS, dtype=torch.float64) for c in FIELDS}

    def noticed(self):
        """Whether what the models give now is not what it should be."""
        mine = {}
        try:
            with torch.no_grad():
                for name, model in self.models.items():
                    for field, value in model(**model_inputs(self.batch))._asdict().items():
                        mine[f"{name}.{field}"] = value
        except (RuntimeError, IndexError):
            return True  # it does not even run
        return not compare("", mine, self.expected, golden_tolerance, self.batch).passed


def survivors(mistakes=MODEL_SIDE):
    """The mistakes that the goldens do not notice."""
    goldens, alive = Goldens(), []
    with planted({}):
        assert not goldens.noticed(), "the control fails"
    for mistake in mistakes:
        with planted(mistake.changes):
            if not goldens.noticed():
                alive.append(mistake.key)
    return alive
