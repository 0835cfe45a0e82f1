import re

import pytest
import torch
from support.tiny import build, ragged_batch, tiny_config

from minibert.heads import BertForSequenceClassification
from minibert.training import adapt
from minibert.training.optim import make_optimizer, parameter_groups

CONFIG = tiny_config(num_labels=3)


def classifier(seed=0):
    return build(BertForSequenceClassification, CONFIG, seed)


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def start(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "what, frozen", [("embeddings", ()), (1, ("bert.layers.0",)), ("encoder", ("bert.layers",))]
)
def test_freezing(what, frozen):
    model = classifier()
    adapt.freeze(model, what)
    frozen = ("bert.embeddings", *frozen)
    expected = {name for name, _ in model.named_parameters() if not name.startswith(frozen)}
    assert trainable(model) == expected and expected
    with pytest.raises(ValueError, match="0 to 2 layers"):
        adapt.freeze(model, 3)


def test_only_the_pooler_and_the_top_layers_begin_anew():
    model = classifier()
    before = start(model)
    adapt.reinitialise(model, 1)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    fresh = ("bert.pooler", "bert.layers.1")
    assert changed == {n for n in before if n.startswith(fresh)}
    assert (model.bert.layers[1].attention_norm.weight == 1).all()
    with pytest.raises(ValueError, match="has 2"):
        adapt.reinitialise(model, 3)


def test_lora_begins_without_a_change_and_its_merge_changes_nothing():
    model, batch = classifier(), ragged_batch(CONFIG)
    names = list(model.state_dict())
    before = model(**batch).logits
    adapt.add_lora(model, 2)
    assert torch.equal(model(**batch).logits, before)
    learns = re.compile(r"bert\.pooler|classifier|.*\.(down|up)$")
    assert trainable(model) == {name for name in start(model) if learns.match(name)}
    for name, parameter in model.named_parameters():
        if name.endswith("up"):
            torch.nn.init.normal_(parameter, std=0.1)
    tuned = model(**batch).logits
    assert (tuned - before).abs().max() > 1e-2
    adapt.merge_lora(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(**batch).logits, tuned, rtol=1e-5, atol=1e-5)


def test_the_pull_goes_back_to_the_start_by_its_share():
    model = classifier()
    origin = start(model.bert)
    with torch.no_grad():
        for parameter in model.bert.parameters():
            parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer("sgd", parameter_groups(model, 0.1, 0.0))
    adapt.pull_to_start(optimizer, adapt.encoder_of(model).parameters(), 2.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    head = model.classifier.weight.detach().clone()
    optimizer.step()
    for name, parameter in model.bert.named_parameters():
        torch.testing.assert_close(parameter, origin[name] + 0.8)  # 1 - 0.1 · 2
    assert torch.equal(model.classifier.weight, head)


def test_blending():
    head = torch.ones(1)
    base, tuned = {"a": torch.tensor([0.0, 2.0])}, {"a": torch.tensor([4.0, 2.0]), "b": head}
    for alpha, mixed in ((0, [0, 2]), (0.25, [1, 2]), (1, [4, 2])):
        found = adapt.blend(base, tuned, alpha)
        assert found["a"].tolist() == mixed and found["b"] is head
    for wrong, alpha, message in (
        (base, 1.5, "0 is the base"),
        ({"a": torch.zeros(1)}, 0.5, r"a is \(1,\) in base"),
        ({"x": torch.zeros(1)}, 0.5, "no tensor in common"),
    ):
        with pytest.raises(ValueError, match=message):
            adapt.blend(wrong, tuned, alpha)
