"""The packed copy: the model's numbers within 2e-6, and never those of a model that has changed."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn

from minibert import adapt, packed
from minibert.attention import MultiHeadSelfAttention
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.sentence_encoder import SentenceEncoder
from tests import small
from tests.test_quantize import SHAPES, bert, encoder
from tests.tiny import SIZES, build, ragged_batch

pytestmark = pytest.mark.skipif(
    not packed.available(), reason="this build of torch has no oneDNN: nothing is packed here"
)
TEXTS = [text for text, _ in small.sentences(60)]


@pytest.fixture
def ours() -> SentenceEncoder:
    return encoder(bert())


def textbook(ours: SentenceEncoder, texts: list[str]) -> np.ndarray:
    ours.packing = False
    try:
        return ours.encode(texts)
    finally:
        ours.packing = True


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


def test_the_same_vector_in_any_company(ours):
    """Promise 3 for the copy: alone, in batches of all sizes, in other orders."""
    texts = [*TEXTS[:30], "", "good " * 37]
    alone = np.stack([ours.encode(text) for text in texts])
    assert np.allclose(alone, textbook(ours, texts), atol=2e-6)
    for seed, (size, tokens) in enumerate([(None, 1024), (7, 200), (2, 1024), (None, 33)]):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        together = ours.encode([texts[i] for i in order], batch_size=size, batch_tokens=tokens)
        assert np.allclose(together, alone[order], atol=2e-6)


def test_it_is_made_once(ours):
    ours.encode(TEXTS[:2])
    first = ours._packer.copy
    assert isinstance(first, packed.PackedBert)
    ours.encode(TEXTS)
    assert ours._packer.copy is first


def own_forward(self, hidden, mask):
    """Attention of somebody who forgot the scale."""
    query, key, value = (
        self.split_heads(part(hidden)) for part in (self.query, self.key, self.value)
    )
    return self.output(self.merge_heads((query @ key.transpose(2, 3)).softmax(-1) @ value))


def step(model: BertModel) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.tensor([[1, 2, 3]])).last_hidden_state.square().sum().backward()
    optimizer.step()


def value_of(model: BertModel) -> nn.Linear:
    return model.layers[0].attention.value


def lora(model: BertModel) -> None:
    adapt.add_lora(model, 2)
    for name, parameter in model.named_parameters():
        if name.endswith(".up"):
            nn.init.ones_(parameter)


def another(name: str, new):
    return lambda model: setattr(model.layers[0].get_submodule(name), "weight", new)


CHANGES = {
    "a step of training": step,
    "written to": lambda model: model.layers[1].feed_forward.expand.weight.detach().mul_(2),
    "behind torch's back": lambda model: model.layers[1].attention.key.weight.data.mul_(2),
    "one weight": lambda model: value_of(model).weight.detach()[3, 3:4].add_(9),
    "one bias behind torch's back": lambda model: value_of(model).bias.data[3:4].add_(9),
    "one weight behind torch's back": lambda model: value_of(model).weight.data[3, 3:4].add_(9),
    "another parameter": another("attention.query", nn.Parameter(torch.ones(64, 64) / 9)),
    "another state": lambda model: model.load_state_dict(
        {name: tensor * 1.5 for name, tensor in model.state_dict().items()}, assign=True
    ),
    "another part": lambda model: setattr(
        model.layers[0].feed_forward, "activation", nn.Tanh()
    ),
    "a layer less": lambda model: model.layers.pop(1),
    "LoRA": lora,
    "another setting": lambda model: vars(model.layers[0].attention).update(heads=2, head_size=32),
    "a setting of a norm": lambda model: setattr(model.layers[0].attention_norm, "eps", 0.5),
    "a hook": lambda model: model.layers[0].register_forward_hook(lambda part, x, y: y * 2),
    "a hook before": lambda model: model.layers[1].attention.output.register_forward_pre_hook(
        lambda part, x: (x[0] * 2,)
    ),
    "a method of one's own": lambda model: setattr(
        model.layers[0].attention, "forward", own_forward.__get__(model.layers[0].attention)
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_computed_as_it_is(ours, change):
    """After the copy was made, and before it was made."""
    before = ours.encode(TEXTS)
    assert ours._packer.copy is not None
    with torch.enable_grad():
        CHANGES[change](ours.model)
    fresh = SentenceEncoder(ours.model, small.tokenizer(), max_length=40)
    expected = textbook(ours, TEXTS)
    assert np.abs(expected - before).max() > 1e-4  # else there would be nothing to notice
    for someone in (ours, fresh):
        for texts in (TEXTS * 4, TEXTS):  # many first: of few not all numbers are looked at
            assert np.allclose(someone.encode(texts), textbook(someone, texts), atol=2e-6)


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"one weight behind torch's back"}))
def test_few_texts_are_enough_to_notice(ours, change):
    """All but a number inside a matrix, written to behind torch's back."""
    ours.encode(TEXTS)
    with torch.enable_grad():
        CHANGES[change](ours.model)
    assert np.allclose(ours.encode(TEXTS[:2]), textbook(ours, TEXTS[:2]), atol=2e-6)


def test_another_class_method_is_used(ours, monkeypatch):
    """A student edits the attention of the textbook; what `encode` gives is what it computes."""
    before = ours.encode(TEXTS)
    monkeypatch.setattr(MultiHeadSelfAttention, "forward", own_forward)
    expected = textbook(ours, TEXTS)
    assert np.abs(expected - before).max() > 1e-4
    assert np.array_equal(ours.encode(TEXTS), expected)
    assert packed.pack(ours.model) is None


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("who", ["hook", "pre-hook", "method", "class", "all modules"])
def test_one_who_only_looks_sees_the_real_texts(ours, monkeypatch, who, where):
    """It changes no number, so nothing but its presence tells that the model must compute."""
    if where == "after":
        ours.encode(TEXTS)
    attention, seen = ours.model.layers[0].attention, []
    forward = MultiHeadSelfAttention.forward

    def look(self, hidden, mask):
        seen.append(hidden)
        return forward(self, hidden, mask)

    def hook(part, inputs, output=None):
        if part is attention:
            seen.append(inputs[0])

    register = {
        "hook": attention.register_forward_hook,
        "pre-hook": attention.register_forward_pre_hook,
        "all modules": nn.modules.module.register_module_forward_hook,
    }
    if who in register:
        handle = register[who](hook)
    elif who == "method":
        monkeypatch.setattr(attention, "forward", look.__get__(attention))
    else:
        monkeypatch.setattr(MultiHeadSelfAttention, "forward", look)
    ours.encode(TEXTS[:1])
    lengths = [len(row) for row in ours.rows(TEXTS[:1])[0]]
    expected = [(1, lengths[0], 64)] * (2 if who == "class" else 1)  # there are two layers
    assert [tuple(hidden.shape) for hidden in seen] == expected
    if who in register:
        handle.remove()
    monkeypatch.undo()
    seen.clear()
    assert np.allclose(ours.encode(TEXTS), textbook(ours, TEXTS), atol=2e-6)
    assert not seen and ours._packer.copy is not None


def test_another_mask_is_used(ours, monkeypatch):
    """Only a text with padding shows it."""
    monkeypatch.setattr("minibert.model.additive_mask", lambda mask, dtype: torch.zeros(()))
    assert packed.pack(ours.model) is None


def test_another_model_is_another_model(ours):
    ours.encode(TEXTS)
    torch.manual_seed(5)
    ours.model = BertModel(ours.model.config).eval()
    assert np.allclose(ours.encode(TEXTS), textbook(ours, TEXTS), atol=2e-6)


def test_where_it_is_not_to_be_had(ours, monkeypatch):
    assert packed.pack(bert().double()) is None
    assert packed.pack(bert().to(torch.bfloat16)) is None
    odd = {**SIZES, "hidden_size": 15, "num_attention_heads": 3, "intermediate_size": 5}
    odd["vocab_size"] = len(small.VOCABULARY)
    half = encoder(build(BertModel, BertConfig.from_dict(odd)).to(torch.bfloat16))
    assert np.array_equal(half.encode(TEXTS * 4), textbook(half, TEXTS * 4))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert packed.pack(ours.model) is None
    assert np.array_equal(ours.encode(TEXTS), textbook(ours, TEXTS))


def test_autocast_is_heard(ours):
    ours.encode(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.quickest(9) is ours.model
    assert ours.quickest(9) is not ours.model


def test_a_model_that_trains_goes_on_training(ours):
    ours.model.train()
    ours.model.layers[0].eval()
    first = ours.encode(TEXTS)
    assert ours.model.layers[1].attention.training and not ours.model.layers[0].training
    assert isinstance(ours._packer.copy, packed.PackedBert)
    assert np.array_equal(ours.encode(TEXTS), first)  # no dropout in the copy


def test_copied_and_pickled_without_it(ours):
    vectors = ours.encode(TEXTS)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):  # noqa: S301
        assert np.array_equal(other.encode(TEXTS), vectors)
        with torch.no_grad():
            other.model.layers[0].attention.output.weight.mul_(3)
        assert np.array_equal(ours.encode(TEXTS), vectors)
        assert np.allclose(other.encode(TEXTS), textbook(other, TEXTS), atol=2e-6)


@pytest.mark.weights
@pytest.mark.data
def test_the_official_model(official, data):
    """500 sentences of the STS benchmark."""
    from minibert.data import read

    rows = read(data / "stsb" / "dev.csv", ["text", "pair", "score"])
    texts = [row.values["text"] for row in rows[:500]]
    ours = SentenceEncoder.from_pretrained(official)
    vectors = ours.encode(texts)
    assert isinstance(ours._packer.copy, packed.PackedBert)
    assert np.allclose(vectors, textbook(ours, texts), atol=1e-6)
