"""The loop beside transformers' models with torch's AdamW: the same path, step by step.

The other side is written as its documentation says: the model computes its own (mean) loss, two
decay groups by name, the linear schedule stepped after the optimizer.
"""

import pytest
import torch
from support import small
from support.tiny import in_reference

from minibert.heads import BertForMaskedLM, BertForSequenceClassification
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training.checkpoints import Run
from minibert.training.data import Example
from minibert.training.loop import (
    Batches,
    linear,
    loop,
    make_optimizer,
    parameter_groups,
)
from minibert.training.tasks import IGNORE, Classification, MaskedLM, PairRegression

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
STEPS, WARMUP, LR, DECAY = 50, 5, 2e-4, 0.05


def case(name, tokenizer, texts):
    """The task, its model class and config, and examples."""
    if name == "mlm":
        task = MaskedLM(tokenizer, max_length=40)
        rows = [{"text": text} for text, _ in texts]
    elif name == "classification":
        task = Classification(tokenizer, ["bad", "good"], max_length=40)
        rows = [{"text": text, "label": label} for text, label in texts]
    else:
        task = PairRegression(tokenizer, max_length=40)
        rows = [
            {"text": a, "pair": b, "score": 0.9 if x == y else 0.2}
            for (a, x), (b, y) in zip(texts, texts[3:] + texts[:3], strict=True)
        ]
    return task, [Example(row, f"row {i}") for i, row in enumerate(rows)]


def ours(model, task, batches, lr, schedule=None):
    """Losses and gradient norms of the loop."""
    optimizer = make_optimizer("adamw", parameter_groups(model, lr, DECAY))
    run = Run(model, optimizer, len(batches.plan))

    def loss(model, batch):
        return task.loss(task.outputs(model, batch), batch)

    schedule = schedule or linear(WARMUP, batches.steps)
    loop(model, batches, loss, task.weight, optimizer, schedule, dict, run)
    return [line["loss"] for line in run.lines if "norm" in line]


def labels_of(task, batch):
    """The labels as transformers' models take them."""
    if isinstance(task, MaskedLM):
        labels = torch.full(batch["places"].shape, IGNORE)
        return labels.masked_scatter(batch["places"], batch["targets"])
    return batch["targets"]


def theirs(model, task, batches, lr, clip=1.0):
    """Losses of the usual loop around a model of transformers."""
    plain = [n for n, _ in model.named_parameters() if "bias" in n or "LayerNorm.weight" in n]
    groups = [
        {"params": [p for n, p in model.named_parameters() if n not in plain]},
        {"params": [p for n, p in model.named_parameters() if n in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=DECAY)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, batches.steps)
    dtype = next(model.parameters()).dtype
    losses = []
    model.train()
    for epoch in range(len(batches.plan)):
        for (batch,) in batches(epoch, 0):
            labels = labels_of(task, batch)
            labels = labels.to(dtype) if labels.is_floating_point() else labels
            loss = model(**batch["inputs"], labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def start(name, directory, dtype, dropout, texts):
    """Our model, theirs with the same numbers, the task and its features."""
    tokenizer = BertTokenizer.from_pretrained(directory)
    task, examples = case(name, tokenizer, texts)
    kind = BertForMaskedLM if name == "mlm" else BertForSequenceClassification
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="untrained"):
        model = kind.from_pretrained(
            directory,
            dtype=dtype,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **task.config,
        )
    return model, in_reference(model), task, task.encode(examples)


def parameters(model, reference):
    """Pairs of our and their parameters, by the copying order of ``in_reference``."""
    again = in_reference(model)  # our trained numbers under their names
    return zip(again.named_parameters(), reference.named_parameters(), strict=True)


def compare(model, reference, batches, task, lr):
    """The largest relative differences of losses and of parameters.

    A key bias is compared absolutely: its gradient is zero in theory (the softmax is blind to it),
    so what Adam makes of it are roundings, blown up.
    """
    found, expected = ours(model, task, batches, lr), theirs(reference, task, batches, lr)
    assert len(found) == len(expected) == batches.steps
    assert abs(found[0] - found[-1]) > 0.01  # something was learnt
    losses = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    far = (0.0, "none")
    for (name, a), (other, b) in parameters(model, reference):
        assert name == other
        scale = 1.0 if name.endswith("key.bias") else b.abs().max().item()
        far = max(far, ((a - b).abs().max().item() / scale, name))
    return losses, far


@pytest.mark.parametrize("name", ["classification", "regression", "mlm"])
def test_fifty_steps_in_float64_go_the_same_path(name, tmp_path):
    texts = small.sentences(45)  # the last batch of an epoch is short
    model, reference, task, features = start(
        name, small.base(tmp_path), torch.float64, 0.0, texts
    )
    batches = Batches(task, features, steps=STEPS, size=8)
    losses, far = compare(model, reference, batches, task, LR)
    print(f"losses {losses:.1e}, parameters {far[0]:.1e} ({far[1]})")  # pytest -s shows it
    assert losses <= 1e-12 and far[0] <= 1e-12


@pytest.mark.parametrize("name", ["classification", "regression", "mlm"])
def test_with_dropout_and_one_seed_the_losses_agree(name, tmp_path):
    texts = small.sentences(45)
    model, reference, task, features = start(
        name, small.base(tmp_path), torch.float32, 0.1, texts
    )
    batches = Batches(task, features, steps=STEPS, size=8)
    torch.manual_seed(7)
    found = ours(model, task, batches, 1e-4)
    torch.manual_seed(7)
    expected = theirs(reference, task, batches, 1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["classification", "regression", "mlm"])
def test_from_the_official_weights(name, official):
    texts = small.sentences(14)
    model, reference, task, features = start(name, official, torch.float64, 0.0, texts)
    batches = Batches(task, features, steps=STEPS, size=4)
    losses, far = compare(model, reference, batches, task, 2e-5 if name != "mlm" else 1e-4)
    print(f"losses {losses:.1e}, parameters {far[0]:.1e} ({far[1]})")  # pytest -s shows it
    assert losses <= 1e-12 and far[0] <= 1e-12


@pytest.mark.parametrize("warmup, total", [(0, 7), (3, 10), (5, 5), (1, 1), (10, 4)])
def test_the_schedules_are_those_of_transformers(warmup, total):
    from minibert.training.loop import constant, cosine

    for mine, reference in (
        (linear, transformers.get_linear_schedule_with_warmup),
        (cosine, transformers.get_cosine_schedule_with_warmup),
        (
            lambda warmup, total: constant(warmup, total),
            lambda o, warmup, total: transformers.get_constant_schedule_with_warmup(o, warmup),
        ),
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = reference(optimizer, warmup, total)
        for step in range(total):
            assert mine(warmup, total)(step) == pytest.approx(schedule.get_last_lr()[0], abs=1e-15)
            optimizer.step()
            schedule.step()
