import inspect
import itertools
import math

import pytest
import torch
from support import small as tiny
from support.tiny import build, tiny_config
from torch import nn

from minibert.heads import BertForSequenceClassification
from minibert.training.checkpoints import Diverged
from minibert.training.loader import BatchSampler, data_loader
from minibert.training.loop import Step, loop
from minibert.training.optim import linear, make_optimizer, parameter_groups

# ---------------------------------------------------------------------------- the loop by itself


def line_of_numbers(weights=(3, 1, 2)):
    """A model of one number w, examples x with the loss (w - x)², in unequal micro-batches."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    x = iter(torch.arange(1.0, 1 + sum(weights), dtype=torch.float64))
    return model, [torch.stack(list(itertools.islice(x, n))) for n in weights]


def run_loop(model, batches, **how):
    def loss(model, batch):
        return (model.weight - batch).square().mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = Step(**{"weight": len, "clip": 1e9, **how})
    return loop(model, batches, loss, optimizer, step=step)[:-1]


def test_unequal_micro_batches_take_the_step_of_the_large_batch():
    for accumulate, batches in ((3, line_of_numbers()[1]), (1, [torch.cat(line_of_numbers()[1])])):
        model, _ = line_of_numbers()
        (line,) = run_loop(model, batches, accumulate=accumulate)
        # The mean over the examples 1 to 6 of (1 - x)² is 55/6, and of 2 (1 - x) it is -5.
        assert line["loss"] == pytest.approx(55 / 6, rel=1e-15)
        assert line["norm"] == pytest.approx(5, rel=1e-15)
        assert model.weight.item() == pytest.approx(1 + 0.1 * 5, rel=1e-15)


def test_the_last_step_is_a_short_one_and_no_gradient_stays_from_step_to_step():
    model, micro = line_of_numbers((2, 2, 2, 1, 1))
    lines = run_loop(model, micro[:4], accumulate=3)
    # w = 1; the mean of 2 (w - x) over 1..6 is -5 → w = 1.5; over 7 it is -11 → w = 2.6
    assert [line["step"] for line in lines] == [1, 2]
    assert model.weight.item() == pytest.approx(2.6, rel=1e-15)


def test_a_first_try_needs_a_model_batches_a_loss_and_an_optimizer():
    model = nn.Linear(1, 1)
    data = torch.utils.data.TensorDataset(torch.arange(8.0)[:, None], torch.ones(8, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    lines = loop(model, loader, lambda m, b: (m(b[0]) - b[1]).square().mean(), optimizer, epochs=50)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 100 and losses[-1] < losses[0] / 10


@pytest.mark.parametrize("size", [3, 10])  # 10: a batch, 3: the last one is short
def test_a_loop_in_a_notebook_takes_the_steps_of_plain_torch(size):
    """Somebody's loader, loss and AdamW. The mean over a batch is the loss as it is everywhere."""
    rows = [{"text": text, "label": label == "good"} for text, label in tiny.sentences(10)]
    tokenizer = tiny.tokenizer()
    config = tiny_config(vocab_size=len(tiny.VOCABULARY), id2label={0: "bad", 1: "good"})

    def collate(rows):
        batch = tokenizer([row["text"] for row in rows])
        return {"inputs": batch, "labels": torch.tensor([int(row["label"]) for row in rows])}

    def loss(model, batch):
        logits = model(**batch["inputs"]).logits
        return nn.functional.cross_entropy(logits, batch["labels"])

    def start():
        model = build(BertForSequenceClassification, config)
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        loader = torch.utils.data.DataLoader(rows, batch_size=size, collate_fn=collate)
        return model, loader, torch.optim.AdamW(model.parameters(), lr=1e-3)

    model, loader, optimizer = start()
    lines = loop(model, loader, loss, optimizer, epochs=2)
    expected = []
    other, loader, optimizer = start()
    other.train()
    for batch in [*loader, *loader]:
        value = loss(other, batch)
        value.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(value.item())
    assert [line["loss"] for line in lines if "loss" in line] == pytest.approx(expected)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_the_loop_has_few_arguments():
    assert len(inspect.signature(loop).parameters) <= 8


def test_the_first_step_has_factor_zero_of_a_warm_up_and_the_last_is_not_zero():
    model, _ = line_of_numbers()
    lines = run_loop(model, [torch.zeros(1, dtype=torch.float64)] * 4, schedule=linear(2, 4))
    assert [line["lr"] for line in lines] == [0.0, 0.05, 0.1, 0.05]


def test_long_gradients_are_cut_and_their_norm_is_told():
    model, _ = line_of_numbers()
    (line,) = run_loop(model, [torch.full((1,), 6.0)], clip=1.0)
    assert line["norm"] == pytest.approx(10.0)
    assert model.weight.item() == pytest.approx(1.1, abs=1e-6)  # the gradient -10 became -1


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nan_stops_the_run_before_it_gets_into_the_weights(poison):
    model, micro = line_of_numbers()
    with pytest.raises(Diverged, match="step 2.*learning rate"):
        run_loop(model, [micro[0] * 0 + 1, micro[1] * poison])
    assert model.weight.item() == 1.0


# ---------------------------------------------------------------------------------- the optimizer


def test_matrices_decay_alone_and_each_layer_learns_slower_than_the_one_above():
    model = build(BertForSequenceClassification, tiny_config())
    groups = {
        id(parameter): group
        for group in parameter_groups(model, 1.0, 0.01, 0.5)
        for parameter in group["params"]
    }
    rates = {"classifier": 1, "bert.pooler": 1, "bert.layers.1": 0.5, "bert.layers.0": 0.25}
    rates["bert.embeddings"] = 0.125
    for name, parameter in model.named_parameters():
        group = groups.pop(id(parameter))
        plain = name.endswith("bias") or "norm" in name
        assert group["weight_decay"] == (0.0 if plain else 0.01), name
        assert [group["lr"]] == [rate for start, rate in rates.items() if name.startswith(start)]
    assert not groups
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(model.requires_grad_(False), 1.0)


# ------------------------------------------------------------------------ the loop with the tasks


NAMES = ["classification", "weighted", "regression", "similarity", "mlm", "tokens"]


def make(name):
    """A task and 21 features: not a multiple of any batch size here."""
    task, examples = tiny.task(name, tiny.tokenizer(), tiny.sentences(21, seed=3))
    return task, task.encode(examples)


def model_for(task):
    config = tiny_config(vocab_size=len(tiny.VOCABULARY), **task.config)
    model = build(task.head, config, dtype=torch.float64)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return model


def train(task, features, size, accumulate=1, epochs=2):
    model = model_for(task)
    seeds = [(0, 0, i) for i in range(len(features))]
    batches = [
        task.collate(features[i : i + size], seeds[i : i + size])
        for i in range(0, len(features), size)
    ]
    optimizer = make_optimizer("sgd", parameter_groups(model, 0.01))
    step = Step(accumulate, task.weight)
    lines = loop(model, batches, task.loss, optimizer, epochs=epochs, step=step)
    return [line["loss"] for line in lines if "norm" in line], model


@pytest.mark.parametrize("name", NAMES)
def test_accumulation_is_the_large_batch_and_every_task_learns(name):
    task, features = make(name)  # the last batch is short either way
    whole, one = train(task, features, size=8)
    parts, other = train(task, features, size=2, accumulate=4)
    assert len(whole) == 6
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    for (key, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-11, key
    losses, _ = train(task, features, size=21, epochs=30)
    assert losses[-1] < losses[0]


def test_segment_ids_reach_the_model():
    task, features = make("pairs")
    batch = task.collate(features)
    types = batch["inputs"]["token_type_ids"]
    assert types.sum() > 0
    model = model_for(task)
    with_segments = task.outputs(model, batch)
    batch["inputs"]["token_type_ids"] = torch.zeros_like(types)
    assert (task.outputs(model, batch) - with_segments).abs().max() > 1e-3


def test_evaluation_is_without_dropout_and_without_gradients_and_puts_the_mode_back():
    task, features = make("classification")
    config = tiny_config(vocab_size=len(tiny.VOCABULARY), hidden_dropout_prob=0.5)
    model = build(BertForSequenceClassification, config).train()
    seen = []
    model.register_forward_hook(lambda m, *_: seen.append((m.training, torch.is_grad_enabled())))
    assert task.evaluate(model, features) == task.evaluate(model, features)
    assert set(seen) == {(False, False)}
    assert model.training


def test_predictions_come_in_order_in_one_pass_and_do_not_depend_on_the_batches():
    task, features = make("similarity")
    model = model_for(task)
    shapes = []
    model.register_forward_hook(lambda m, i, output: shapes.append(output[0].shape[0]))
    together, loss = task.predict(model, features)
    assert shapes == [2 * len(features)]  # both sides at once
    alone = [task.predict(model, [feature], batch_tokens=1)[0][0] for feature in features]
    assert together == pytest.approx(alone, abs=1e-6)
    expected = sum((a - f.target) ** 2 for a, f in zip(together, features, strict=True))
    assert loss == pytest.approx(expected / len(features), rel=1e-5)


# --------------------------------------------------------------------------------------- batches

LENGTHS = torch.randint(3, 60, (203,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("how", [{}, {"size": 8, "tokens": 256}, {"size": None, "tokens": 256}])
def test_every_example_once_an_epoch_in_another_order_within_the_limits(how):
    sampler = BatchSampler(LENGTHS, epochs=2, seed=1, **how)
    for batches in sampler.plan:
        assert sorted(i for batch in batches for i in batch) == list(range(203))
        padded = [len(batch) * max(LENGTHS[i] for i in batch) for batch in batches]
        assert max(map(len, batches)) <= (how.get("size", 16) or 203)
        assert max(padded) <= how.get("tokens", 16 * 60) and sum(padded) < 1.15 * sum(LENGTHS)
    assert sampler.plan[0] != sampler.plan[1]
    assert sampler.plan == BatchSampler(LENGTHS, epochs=2, seed=1, **how).plan
    assert sampler.plan[0] != BatchSampler(LENGTHS, seed=2, **how).plan[0]


def test_shuffled_batches_do_not_look_at_lengths():
    plain = [BatchSampler(LENGTHS, epochs=2, seed=1, by_length=by).plan for by in (False, True)]
    for batches in plain[0]:
        assert sorted(i for batch in batches for i in batch) == list(range(203))
        assert [len(batch) for batch in batches] == [16] * 12 + [11]
    padded = [
        sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in plan[0]) for plan in plain
    ]
    assert padded[0] > 1.3 * padded[1]
    mixed = BatchSampler([5] * 50, seed=1, by_length=False).plan
    assert mixed == BatchSampler([*range(1, 51)], seed=1, by_length=False).plan


def test_batches_go_on_where_the_run_was():
    loader = data_loader(*make("mlm"), epochs=2, size=4, seed=5)
    found = []
    before = torch.get_rng_state()
    for done in (0, 2):
        loader.batch_sampler.set_epoch(1, done)
        found.append([batch["inputs"]["input_ids"] for batch in loader])
        assert len(found[-1]) == len(loader) == 6 - done
    for a, b in zip(found[0][2:], found[1], strict=True):
        assert torch.equal(a, b)  # masked alike, too
    assert torch.equal(torch.get_rng_state(), before), "a resumed run would draw other numbers"


def test_steps_instead_of_epochs_and_unusual_limits():
    assert BatchSampler([500], size=None, tokens=100).plan == [[[0]]]
    with pytest.raises(ValueError, match="a limit"):
        BatchSampler(LENGTHS, size=None)
    sampler = BatchSampler(LENGTHS[:21], steps=8, size=4)  # 6 batches an epoch
    assert [len(epoch) for epoch in sampler.plan] == [6, 2]
    sampler = BatchSampler(LENGTHS[:21], steps=5, size=4, accumulate=4)  # 2 steps an epoch
    assert [len(epoch) for epoch in sampler.plan] == [6, 6, 4] and sampler.steps == 5
