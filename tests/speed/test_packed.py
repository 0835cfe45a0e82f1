"""The packed copy: the model's numbers within 2e-6, and never behind the back of whoever has it."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from support import small
from support.small import SHAPES, bert, encoder
from support.tiny import ragged_batch
from torch import nn

from minibert.attention import MultiHeadSelfAttention
from minibert.encoder import EncoderLayer
from minibert.model import BertModel
from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import packed
from minibert.training import adapt

pytestmark = pytest.mark.skipif(
    not packed.available(), reason="this build of torch has no oneDNN: nothing is packed here"
)
TEXTS = [text for text, _ in small.sentences(60)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    encoder(bert()).save_pretrained(directory)
    return directory


@pytest.fixture
def ours(home) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(home)


@pytest.fixture
def textbook(home) -> np.ndarray:
    """What the model itself gives for TEXTS."""
    plain = SentenceEncoder.from_pretrained(home)
    return SentenceEncoder(plain.model, plain.tokenizer, max_length=40).encode(TEXTS)


def is_packed(one: SentenceEncoder) -> bool:
    return isinstance(one._keeper.quickest(), packed.PackedBert)


@pytest.mark.parametrize("hidden_act", SHAPES)
def test_the_numbers_of_the_model(hidden_act):
    """Real tokens of a padded batch with two segments; padding gives zeros."""
    model = bert(hidden_act)
    batch = ragged_batch(model.config)
    real = batch["attention_mask"] != 0
    theirs = model(**batch).last_hidden_state
    states = packed.pack(model)(**batch).last_hidden_state
    assert torch.allclose(states[real], theirs[real], atol=2e-6)
    assert not states[~real].any()
    assert not torch.equal(states[real], theirs[real])  # it was computed in another way


def test_the_same_vector_in_any_company(ours, textbook):
    """Promise 3 for the copy: alone, in batches of all sizes, in other orders."""
    assert is_packed(ours)
    assert np.allclose(ours.encode(TEXTS), textbook, atol=2e-6)
    texts = [*TEXTS[:30], "", "good " * 37]
    alone = np.stack([ours.encode(text) for text in texts])
    for seed, (size, tokens) in enumerate([(None, 1024), (7, 200), (2, 1024), (None, 33)]):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        together = ours.encode([texts[i] for i in order], batch_size=size, batch_tokens=tokens)
        assert np.allclose(together, alone[order], atol=2e-6)


def test_made_once_and_the_same_bits_each_time(ours):
    first = ours.encode(TEXTS)
    kept = ours._keeper.quickest()
    assert np.array_equal(ours.encode(TEXTS), first) and ours._keeper.quickest() is kept


def test_who_asks_for_the_model_gets_its_bits(ours, textbook):
    """After the copy was in use; and for good."""
    assert not np.array_equal(ours.encode(TEXTS), textbook)
    model = ours.model
    assert np.array_equal(ours.encode(TEXTS), textbook)
    with torch.no_grad():
        model.layers[0].attention.value.weight[3, 3] += 9
    changed = ours.encode(TEXTS)
    assert np.abs(changed - textbook).max() > 1e-4
    seen: list = []
    model.layers[1].register_forward_hook(lambda part, x, y: seen.append(y.shape))
    ours.encode("a")
    assert seen == [(1, len(ours.rows(["a"])[0][0]), 64)]
    assert not is_packed(ours)


@pytest.mark.parametrize("way", ["given", "set", "subclass"])
def test_a_model_that_somebody_else_has_computes_itself(ours, textbook, home, way):
    if way == "given":
        one = SentenceEncoder(ours.model, ours.tokenizer, max_length=40)
    elif way == "set":
        one = SentenceEncoder.from_pretrained(home)
        one.model = ours.model
    else:

        class Curious(SentenceEncoder):
            def __init__(self, model, *args, **options):
                super().__init__(model, *args, **options)
                self.mine = model

        one = Curious.from_pretrained(home)
    assert np.array_equal(one.encode(TEXTS), textbook) and not is_packed(one)


def test_what_is_no_model_is_refused(ours):
    with pytest.raises(TypeError, match="the model is a int; a BertModel is needed"):
        ours.model = 3


def own_merge(self, x):
    """Heads in the wrong order."""
    return x.flip(1).transpose(1, 2).flatten(2)


def own_forward(self, hidden, mask):
    """Attention of somebody who forgot the scale."""
    query, key, value = (
        self.split_heads(part(hidden)) for part in (self.query, self.key, self.value)
    )
    return self.output(self.merge_heads((query @ key.transpose(2, 3)).softmax(-1) @ value))


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name, new", [("merge_heads", own_merge), ("forward", own_forward)])
def test_another_method_in_a_class_of_the_textbook(ours, textbook, monkeypatch, name, new, where):
    if where == "after":
        ours.encode(TEXTS)
    monkeypatch.setattr(MultiHeadSelfAttention, name, new)
    changed = ours.encode(TEXTS)
    assert np.abs(changed - textbook).max() > 1e-4
    assert not is_packed(ours)
    monkeypatch.undo()
    assert is_packed(ours) and np.allclose(ours.encode(TEXTS), textbook, atol=2e-6)


def test_one_who_only_looks_sees_the_real_texts(ours, monkeypatch):
    """It changes no number, so nothing but its presence tells that the model must compute."""
    ours.encode(TEXTS)
    length, seen, forward = len(ours.rows(["a"])[0][0]), [], EncoderLayer.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            EncoderLayer,
            "forward",
            lambda self, hidden, mask: seen.append(hidden.shape) or forward(self, hidden, mask),
        )
        ours.encode("a")
    hook = nn.modules.module.register_module_forward_hook(
        lambda part, x, y: seen.append(y.shape) if isinstance(part, EncoderLayer) else None
    )
    ours.encode("a")
    hook.remove()
    ours.encode("a")
    assert seen == [(1, length, 64)] * 2 * len(ours.model.layers)


def test_another_mask(ours, monkeypatch):
    """In the textbook's code only a text with padding shows it."""
    assert is_packed(ours)
    no_mask = lambda mask, dtype: torch.zeros(())  # noqa: E731
    monkeypatch.setattr("minibert.model.additive_mask", no_mask)
    assert not is_packed(ours)
    assert packed.pack(bert()) is None


def test_code_or_parts_that_differ_are_not_packed(monkeypatch):
    """As after an edit of attention.py, before anything was imported."""
    model = bert()
    assert packed.pack(model) is not None
    adapt.add_lora(model, 2)
    for name, parameter in model.named_parameters():
        if name.endswith(".up"):
            nn.init.ones_(parameter)
    assert packed.pack(model) is None
    less = bert()
    less.layers[1].feed_forward.contract = nn.Identity()
    assert packed.pack(less) is None
    monkeypatch.setattr(MultiHeadSelfAttention, "forward", own_forward)
    assert packed.pack(bert()) is None


def test_where_it_is_not_to_be_had(ours, textbook, home, monkeypatch):
    assert packed.pack(bert().double()) is None
    assert packed.pack(bert().to(torch.bfloat16)) is None
    half = SentenceEncoder.from_pretrained(home, dtype=torch.bfloat16)
    assert not is_packed(half) and half.encode(TEXTS).shape == textbook.shape
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert packed.pack(bert()) is None
    assert np.array_equal(ours.encode(TEXTS), textbook)


def test_autocast_is_heard(ours):
    assert is_packed(ours)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_packed(ours)
    assert is_packed(ours)


def test_moved_with_the_model(ours, textbook):
    """The copy does not stay behind on the device that the model has left."""
    ours.encode(TEXTS)
    kept = ours._keeper.quickest()
    assert ours.to("cpu")._keeper.copy is None
    assert np.allclose(ours.encode(TEXTS), textbook, atol=2e-6)
    assert ours._keeper.quickest() is not kept


def test_copied_and_pickled_without_it(ours, textbook):
    vectors = ours.encode(TEXTS)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):  # noqa: S301
        assert np.array_equal(other.encode(TEXTS), vectors)
        with torch.no_grad():
            other.model.layers[0].attention.output.weight.mul_(3)
        assert np.array_equal(ours.encode(TEXTS), vectors)
        assert np.abs(other.encode(TEXTS) - textbook).max() > 1e-4
    twin = copy.copy(ours)  # has the same model
    with torch.no_grad():
        twin.model.layers[0].attention.output.weight.mul_(3)
    assert np.abs(ours.encode(TEXTS) - textbook).max() > 1e-4


@pytest.mark.weights
@pytest.mark.data
def test_the_official_model(official, data):
    """500 sentences of the STS benchmark."""
    from minibert.training.data import read

    rows = read(data / "stsb" / "dev.csv", ["text", "pair", "score"])
    texts = [row.values["text"] for row in rows[:500]]
    ours = SentenceEncoder.from_pretrained(official)
    vectors = ours.encode(texts)
    assert is_packed(ours)
    assert isinstance(ours.model, BertModel)
    assert np.allclose(vectors, ours.encode(texts), atol=1e-6)
    assert not np.array_equal(vectors, ours.encode(texts))
