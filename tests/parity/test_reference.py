"""The same numbers as the reference, to the last bit: transformers' BERT with eager attention.

Each row of the table that ``pytest tests/parity/test_reference.py -s -m ""`` prints is a
configuration in a dtype: all seven classes (for the kinds of mask, the encoder), every intermediate
tensor of the forward pass, its gradient, and the gradient of every parameter. All parameters are
perturbed, texts have padding, segments and unequal lengths unless the configuration says otherwise.
"""

import dataclasses
import re
import warnings

import pytest
import torch
from support.tiny import build, in_reference, perturb, ragged_batch, tiny_config
from torch import nn

from minibert import heads
from minibert.model import BertModel
from minibert.parity.reference import reference_parameters, side_by_side

pytestmark = pytest.mark.parity

HEADS = (
    heads.BertForMaskedLM, heads.BertForNextSentencePrediction, heads.BertForPreTraining,
    heads.BertForSequenceClassification, heads.BertForTokenClassification,
    heads.BertForQuestionAnswering,
)
CLASSES = (BertModel, *HEADS)
DTYPES = (torch.float32, torch.float64)

GROUPS = {  # column of the table: the names that belong to it
    "embeddings": r"embeddings",
    "attention": r"layers\.\d+\.attention\.(?!probabilities)",
    "probabilities": r"layers\.\d+\.attention\.probabilities",
    "feed-forward": r"layers\.\d+\.feed_forward\.",
    "sums, norms": r"layers\.\d+\.(attention|feed_forward)_",
    "pooler": r"pooler",
    "heads": r"predictions|seq_relationship|classifier|qa_outputs|.*logits",
    "gradients inside": r".*\.grad$",
    "parameter gradients": r"gradient of ",
}


# ------------------------------------------------------------------------------- the comparison


def compare(ours, theirs, batch):
    """{name: largest difference, None where all bits are the same} for everything there is."""
    mine, reference = side_by_side(ours, theirs, batch)
    assert mine.keys() == reference.keys()
    return {name: difference(mine[name], reference[name]) for name in mine}


def same_bits(a, b):
    """Whether two tensors have the same dtype and the same bits (so 0.0 is not -0.0)."""
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}[a.dtype]
    return a.dtype == b.dtype and torch.equal(a.view(bits), b.view(bits))


def difference(a, b):
    """None for the same bits, else the largest absolute difference; NaN is as large as can be."""
    return None if same_bits(a, b) else (a - b).abs().nan_to_num(nan=torch.inf).max().item()


class Table:
    """The parity table: a row for each configuration and dtype, printed at the end."""

    def __init__(self):
        self.rows = []
        self.gradients = self.tensors = self.models = 0

    def add(self, title, dtype, results):
        """One row out of the results of several models; returns what is not the same bits."""
        columns = {column: [] for column in GROUPS}
        for (_, name), worst in results.items():
            columns[column_of(name)].append(worst)
        cells = []
        for column, found in columns.items():
            unequal = [worst for worst in found if worst is not None]
            differ = f"{len(unequal)}/{len(found)} {max(unequal):.0e}" if unequal else ""
            cells.append(differ or str(len(found)))
            self.gradients += len(found) if "gradients" in column else 0
            self.tensors += 0 if "gradients" in column else len(found)
        self.models += len({model for model, _ in results})
        self.rows.append([title, str(dtype).removeprefix("torch."), *cells])
        return {name: worst for name, worst in results.items() if worst is not None}

    def __str__(self):
        rows = [["configuration", "dtype", *GROUPS], *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        unequal = sum("/" in cell for row in self.rows for cell in row[2:])
        return "\n".join([
            "", "A number alone: so many tensors, all of them the same bits. k/n d: k of n differ, "
            "by at most d.", *lines,
            f"{len({row[0] for row in self.rows})} configurations, {len(self.rows)} rows, "
            f"{self.models} models; {self.tensors} forward tensors and {self.gradients} gradients "
            f"compared; cells that are not bitwise: {unequal}",
        ])


def column_of(name):
    """The column of the table that a name belongs to."""
    if name.startswith("gradient of "):
        return "parameter gradients"
    if name.endswith(".grad"):
        return "gradients inside"
    return next(column for column, pattern in GROUPS.items() if re.match(pattern, name))


@pytest.fixture(scope="module")
def table():
    table = Table()
    yield table
    print(table)


# ------------------------------------------------------------------------------- configurations


@dataclasses.dataclass
class Case:
    """A configuration, the lengths of its texts, how the mask is given, and the classes."""

    title: str
    config: dict = dataclasses.field(default_factory=dict)
    lengths: tuple = (7, 3, 11, 1)
    mask: object = "int64"  # a dtype, or "none"
    train: bool = False
    classes: tuple = CLASSES


def drawn(seed):
    """A configuration in which everything is drawn at random."""
    random = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[torch.randint(len(choices), (), generator=random)]

    N, size = pick(1, 2, 3, 4, 6), pick(1, 2, 5, 8, 16)
    lengths = tuple(pick(*range(1, 25)) for _ in range(pick(1, 2, 3, 5)))
    return Case(
        f"drawn, seed {seed}",
        {
            "vocab_size": pick(11, 50, 101),
            "hidden_size": N * size,
            "num_attention_heads": N,
            "num_hidden_layers": pick(1, 2, 3),
            "intermediate_size": pick(1, 7, 64),
            "max_position_embeddings": pick(24, 33),
            "type_vocab_size": pick(1, 2, 3, 5),
            "hidden_act": pick("gelu", "relu", "gelu_new", "gelu_pytorch_tanh"),
            "layer_norm_eps": pick(1e-12, 1e-7, 1e-5),
            "pad_token_id": pick(None, 0, 3),
            "num_labels": pick(1, 2, 7),
        },
        lengths,
        pick("int64", "bool", "float32", "none"),
    )


CASES = [
    Case("plain"),
    Case("one head", {"num_attention_heads": 1}),
    Case("head size 1", {"hidden_size": 8, "num_attention_heads": 8}),
    Case("hidden size 1", {"hidden_size": 1, "num_attention_heads": 1}),
    Case("odd sizes", {"hidden_size": 21, "num_attention_heads": 3, "intermediate_size": 13}),
    Case("official width", {"hidden_size": 384, "num_attention_heads": 12}),
    Case("12 layers", {"num_hidden_layers": 12}),
    Case("T = 1", lengths=(1, 1, 1)),
    Case("T = 512", {"max_position_embeddings": 512, "hidden_size": 16, "num_hidden_layers": 1},
         lengths=(512, 100)),
    Case("one text", lengths=(9,)),
    Case("very unequal lengths", lengths=(1, 2, 40, 3)),
    *(Case(act, {"hidden_act": act}) for act in ("relu", "gelu_new", "gelu_pytorch_tanh")),
    Case("eps 1e-5", {"layer_norm_eps": 1e-5}),
    Case("one segment type", {"type_vocab_size": 1}),
    Case("three segment types", {"type_vocab_size": 3}),
    Case("pad_token_id null", {"pad_token_id": None}),
    Case("pad_token_id 7", {"pad_token_id": 7}),
    Case("sinusoidal start", {"position_embedding_type": "sinusoidal"}),
    Case("one label", {"num_labels": 1}),
    Case("a row of padding alone", lengths=(5, 0, 8)),
    Case("no mask", lengths=(6, 6), mask="none", classes=(BertModel,)),
    Case("mask of ones", lengths=(6, 6), classes=(BertModel,)),
    *(Case(f"mask of {dtype}", mask=dtype, classes=(BertModel,))
      for dtype in ("bool", "int32", "float32", "float64")),
    *(drawn(seed) for seed in range(1, 9)),
    Case("training, dropout", {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2,
                               "classifier_dropout": 0.5}, train=True),
    Case("training, one dropout rate", {"hidden_dropout_prob": 0.3}, train=True),
]


def batch_for(case, config):
    """The inputs of a case."""
    batch = ragged_batch(config, case.lengths)
    if case.mask == "none":
        del batch["attention_mask"]
    else:
        batch["attention_mask"] = batch["attention_mask"].to(getattr(torch, case.mask))
    return batch


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("case", [
    *CASES,
    *(pytest.param(dataclasses.replace(case, classes=HEADS), marks=pytest.mark.slow)
      for case in CASES if case.classes != CLASSES),
], ids=lambda case: f"{case.title}{', heads' * (case.classes == HEADS)}")
def test_same_bits_in_all_classes(case, dtype, table):
    config = tiny_config(**case.config)
    batch = batch_for(case, config)
    results = {}
    for model_class in case.classes:
        ours = build(model_class, config, dtype=dtype).train(case.train)
        compared = compare(ours, in_reference(ours), batch)
        results.update({(model_class.__name__, name): r for name, r in compared.items()})
    assert not table.add(case.title, dtype, results)


# ------------------------------------------------------------------------------- the real weights

TEXTS = [  # pairs and single texts, of 4 to 36 tokens
    ("A man is playing a guitar.", "Someone plays an instrument."),
    ("The stock market fell.", ""),
    ("Where did the encoder that turns every token of a text into a vector come from?",
     "It was trained on a billion pairs of sentences that mean the same."),
    ("Yes", ""),
]


@pytest.fixture(scope="module")
def real_batch(official):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(official)
    firsts, seconds = zip(*TEXTS, strict=True)
    return dict(tokenizer(firsts, seconds, padding=True, return_tensors="pt"))


@pytest.mark.weights
@pytest.mark.parametrize("classes, dtype", [
    ((BertModel,), torch.float32),
    pytest.param(HEADS, torch.float32, marks=pytest.mark.slow),
    pytest.param(CLASSES, torch.float64, marks=pytest.mark.slow),
], ids=["float32", "heads, float32", "all classes, float64"])
def test_same_bits_on_the_real_weights(official, real_batch, classes, dtype, table):
    results = {}
    for model_class in classes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the file has no heads
            ours = model_class.from_pretrained(official, dtype=dtype)
        for name, part in ours.named_children():
            if model_class is not BertModel and name != "bert":
                perturb(part)
        compared = compare(ours, in_reference(ours), real_batch)
        results.update({(model_class.__name__, name): r for name, r in compared.items()})
    assert not table.add("all-MiniLM-L6-v2", dtype, results)


def test_same_bits_with_two_threads():
    """The other tests run with one, and it is the same number of threads that gives the same bits.

    A LayerNorm's gradient, for one, is summed over the tokens thread by thread: with another number
    of threads it is rounded otherwise, in the reference as here.
    """
    config = tiny_config(hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    ours = build(heads.BertForPreTraining, config)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compared = compare(ours, in_reference(ours), ragged_batch(config, (40, 9, 33)))
    finally:
        torch.set_num_threads(threads)
    assert not [name for name, worst in compared.items() if worst is not None]


# ------------------------------------------------------------------------------- training


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_training_takes_the_same_path(dtype):
    """Dropout at the same places, drawn in the same order: after 5 steps every bit is the same."""
    config = tiny_config(attention_probs_dropout_prob=0.2, classifier_dropout=0.5, num_labels=3)
    ours = build(heads.BertForSequenceClassification, config, dtype=dtype).train()
    theirs = in_reference(ours)
    batch, labels = ragged_batch(config), torch.tensor([0, 2, 1, 1])
    paths = []
    for model in (ours, theirs):
        torch.manual_seed(11)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(**batch).logits, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        paths.append(losses)
    assert paths[0] == paths[1]
    assert paths[0][-1] != paths[0][0]
    after = reference_parameters(theirs, ours)
    for name, parameter in ours.named_parameters():
        assert same_bits(parameter.detach(), after[name.removeprefix("bert.")].detach()), name
