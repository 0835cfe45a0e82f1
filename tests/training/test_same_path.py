"""The loop beside transformers' models with torch's AdamW: the same path, step by step.

The other side is written as its documentation says: the model computes its own (mean) loss, two
decay groups by name, the linear schedule stepped after the optimizer.
"""

import pytest
import torch
from support import small
from support.tiny import in_reference

from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training.loader import data_loader
from minibert.training.loop import Step, loop
from minibert.training.optim import SCHEDULES, linear, make_optimizer, parameter_groups
from minibert.training.tasks.tokens import IGNORE

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
STEPS, WARMUP, LR, DECAY = 50, 5, 2e-4, 0.05


def ours(model, task, loader, lr):
    """The losses of our loop."""
    optimizer = make_optimizer("adamw", parameter_groups(model, lr, DECAY))
    plan = loader.batch_sampler
    step = Step(weight=task.weight, schedule=linear(WARMUP, plan.steps))
    lines = loop(model, loader, task.loss, optimizer, epochs=len(plan.plan), step=step)
    return [line["loss"] for line in lines if "norm" in line]


def labels_of(batch):
    """The labels as transformers' models take them."""
    if "places" in batch:  # masked LM
        labels = torch.full(batch["places"].shape, IGNORE)
        return labels.masked_scatter(batch["places"], batch["targets"])
    return batch["targets"]


def theirs(model, task, loader, lr):
    """Losses of the usual loop around a model of transformers."""
    plain = [n for n, _ in model.named_parameters() if "bias" in n or "LayerNorm.weight" in n]
    groups = [
        {"params": [p for n, p in model.named_parameters() if n not in plain]},
        {"params": [p for n, p in model.named_parameters() if n in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=DECAY)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, WARMUP, loader.batch_sampler.steps
    )
    dtype = next(model.parameters()).dtype
    losses = []
    model.train()
    for epoch in range(len(loader.batch_sampler.plan)):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            labels = labels_of(batch)
            labels = labels.to(dtype) if labels.is_floating_point() else labels
            loss = model(**batch["inputs"], labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def start(name, directory, texts, dtype=torch.float64, dropout=0.0):
    """Our model, theirs with the same numbers, the task and its features."""
    task, examples = small.task(name, BertTokenizer.from_pretrained(directory), texts)
    torch.manual_seed(1)
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with pytest.warns(UserWarning, match="untrained"):
        model = task.head.from_pretrained(directory, dtype=dtype, **dropouts, **task.config)
    return model, in_reference(model), task, task.encode(examples)


def same_path(name, directory, texts, lr, size, steps=STEPS):
    """Losses and parameters of the steps in float64.

    A key bias is compared absolutely: its gradient is zero in theory (the softmax is blind to it),
    so what Adam makes of it are roundings, blown up.
    """
    model, reference, task, features = start(name, directory, texts)
    loader = data_loader(task, features, steps=steps, size=size)
    found, expected = ours(model, task, loader, lr), theirs(reference, task, loader, lr)
    assert len(found) == len(expected) == steps
    assert abs(found[0] - found[-1]) > 0.01  # something was learnt
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    trained = in_reference(model).named_parameters()  # our numbers under their names
    for (key, a), (other, b) in zip(trained, reference.named_parameters(), strict=True):
        assert key == other
        scale = 1.0 if key.endswith("key.bias") else b.abs().max().item()
        assert (a - b).abs().max().item() <= 1e-12 * scale, key


NAMES = ["classification", "regression", "mlm"]
QUICK = [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]


@pytest.mark.parametrize("name", QUICK)
def test_fifty_steps_in_float64_go_the_same_path(name, tmp_path):
    # 45 texts: the last batch of an epoch is short
    same_path(name, small.base(tmp_path), small.sentences(45), LR, size=8)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", NAMES[::2])
def test_from_the_official_weights(name, official):
    rate = 2e-5 if name != "mlm" else 1e-4
    same_path(name, official, small.sentences(14), rate, size=4, steps=8)


@pytest.mark.parametrize("name", QUICK)
def test_with_dropout_and_one_seed_the_losses_agree(name, tmp_path):
    base, texts = small.base(tmp_path), small.sentences(45)
    model, reference, task, features = start(name, base, texts, torch.float32, 0.1)
    loader = data_loader(task, features, steps=STEPS, size=8)
    torch.manual_seed(7)
    found = ours(model, task, loader, 1e-4)
    torch.manual_seed(7)
    expected = theirs(reference, task, loader, 1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("warmup, total", [(0, 7), (3, 10), (5, 5), (1, 1), (10, 4)])
def test_the_schedules_are_those_of_transformers(warmup, total):
    references = {
        "linear": transformers.get_linear_schedule_with_warmup,
        "cosine": transformers.get_cosine_schedule_with_warmup,
        "constant": lambda o, warmup, _: transformers.get_constant_schedule_with_warmup(o, warmup),
    }
    for name, mine in SCHEDULES.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = references[name](optimizer, warmup, total)
        for step in range(total):
            assert mine(warmup, total)(step) == pytest.approx(schedule.get_last_lr()[0], abs=1e-15)
            optimizer.step()
            schedule.step()
