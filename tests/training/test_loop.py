import itertools
import math

import pytest
import torch
from support import small as tiny
from support.tiny import build, tiny_config
from torch import nn

from minibert.heads import BertForSequenceClassification
from minibert.model import BertModel
from minibert.training.checkpoints import Diverged, Run
from minibert.training.data import Example
from minibert.training.loop import (
    Batches,
    evaluate,
    linear,
    loop,
    make_optimizer,
    parameter_groups,
    predict,
)
from minibert.training.tasks import (
    Classification,
    MaskedLM,
    PairRegression,
    Similarity,
    TokenClassification,
)

# ---------------------------------------------------------------------------- the loop by itself


def line_of_numbers(weights=(3, 1, 2)):
    """A model of one number w, examples x with the loss (w - x)², in unequal micro-batches."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    x = iter(torch.arange(1.0, 1 + sum(weights), dtype=torch.float64))
    return model, [torch.stack(list(itertools.islice(x, n))) for n in weights]


def run_loop(model, steps, lr=0.1, schedule=lambda step: 1.0, clip=1e9, epochs=1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.param_groups[0]["peak_lr"] = lr
    run = Run(model, optimizer, epochs)

    def loss(model, batch):
        return (model.weight - batch).square().sum()

    loop(model, lambda e, done: steps[done:], loss, len, optimizer, schedule, dict, run, clip)
    return [line for line in run.lines if "norm" in line]


def test_unequal_micro_batches_take_the_step_of_the_large_batch():
    model, micro = line_of_numbers()
    (line,) = run_loop(model, [micro])
    # The mean over the examples 1 to 6 of (1 - x)² is 55/6, and of 2 (1 - x) it is -5.
    assert line["loss"] == pytest.approx(55 / 6, rel=1e-15)
    assert model.weight.item() == pytest.approx(1 + 0.1 * 5, rel=1e-15)
    other, _ = line_of_numbers()
    (whole,) = run_loop(other, [[torch.cat(micro)]])
    assert other.weight.item() == pytest.approx(model.weight.item(), rel=1e-15)
    assert whole["norm"] == pytest.approx(line["norm"], rel=1e-15)


def test_a_step_for_each_list_of_micro_batches_and_none_is_lost():
    model, micro = line_of_numbers((2, 2, 2, 1))
    lines = run_loop(model, [micro[:2], micro[2:]])  # the second step is a short one
    # w = 1; the mean of 2 (w - x) over 1..4 is -3 → w = 1.3; over 5, 6, 7 it is -9.4 → w = 2.24
    assert [line["step"] for line in lines] == [1, 2]
    assert model.weight.item() == pytest.approx(2.24, rel=1e-15)


def test_gradients_do_not_stay_from_step_to_step():
    model, micro = line_of_numbers((1, 1))
    run_loop(model, [[micro[1]], [micro[0]]])
    # x = 2: the gradient is -2, w = 1.2; x = 1: it is 0.4, w = 1.16. Both together were -1.6.
    assert model.weight.item() == pytest.approx(1.16, rel=1e-15)


def test_the_first_step_has_factor_zero_of_a_warm_up_and_the_last_is_not_zero():
    model, _ = line_of_numbers()
    steps = [[torch.zeros(1, dtype=torch.float64)]] * 4
    lines = run_loop(model, steps, schedule=linear(2, 4))
    assert [line["lr"] for line in lines] == [0.0, 0.05, 0.1, 0.05]


def test_long_gradients_are_cut_and_their_norm_is_told():
    model, micro = line_of_numbers((1, 1))
    (line,) = run_loop(model, [[micro[1] * 0 + 6.0]], clip=1.0)
    assert line["norm"] == pytest.approx(10.0)
    assert model.weight.item() == pytest.approx(1.1, abs=1e-6)  # the gradient -10 became -1


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nan_stops_the_run_before_it_gets_into_the_weights(poison):
    model, micro = line_of_numbers()
    with pytest.raises(Diverged, match="step 2.*learning rate"):
        run_loop(model, [[micro[0] * 0 + 1], [micro[1] * poison]])
    assert model.weight.item() == 1.0


def test_decay_leaves_biases_and_layer_norms_alone():
    model = build(BertForSequenceClassification, tiny_config())
    groups = parameter_groups(model, 1e-3, 0.01)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or "norm" in name
        assert decays.pop(id(parameter)) == (0.0 if plain else 0.01), name
    assert not decays


def test_each_layer_learns_slower_than_the_one_above():
    model = build(BertForSequenceClassification, tiny_config())
    rates = {
        id(p): group["lr"] for group in parameter_groups(model, 1.0, 0.0, 0.5)
        for p in group["params"]
    }
    named = dict(model.named_parameters())
    for name, rate in (
        ("classifier.weight", 1.0),
        ("bert.pooler.dense.bias", 1.0),
        ("bert.layers.1.attention.query.weight", 0.5),
        ("bert.layers.0.feed_forward_norm.bias", 0.25),
        ("bert.embeddings.word.weight", 0.125),
    ):
        assert rates[id(named[name])] == rate, name


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_the_first_adam_step_is_as_long_as_the_learning_rate(name):
    # With bias correction m / sqrt(v) is 1 at the first step; without it would be 0.1 / 0.0316.
    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    group = {"params": list(model.parameters()), "lr": 0.01, "peak_lr": 0.01, "weight_decay": 0}
    optimizer = make_optimizer(name, [group])
    model(torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    optimizer.step()
    assert torch.allclose((model.weight - before).abs(), torch.tensor(0.01), rtol=1e-5)


# ------------------------------------------------------------------------ the loop with the tasks


def examples(role, n=21):
    rows = tiny.sentences(2 * n, seed=3)
    makers = {
        "classify": lambda a, b: {"text": a[0], "label": a[1]},
        "pairs": lambda a, b: {"text": a[0], "pair": b[0], "label": str(a[1] == b[1])},
        "score": lambda a, b: {"text": a[0], "pair": b[0], "score": float(a[1] == b[1])},
        "text": lambda a, b: {"text": a[0]},
        "tokens": lambda a, b: {"tokens": a[0].split(), "tags": [w[0] for w in a[0].split()]},
    }
    pairs = zip(rows[:n], rows[n:], strict=True)
    return [Example(makers[role](a, b), f"row {i}") for i, (a, b) in enumerate(pairs)]


def tasks():
    tokenizer = tiny.tokenizer()
    letters = sorted({word[0] for text, _ in tiny.sentences(42, seed=3) for word in text.split()})
    return {
        "classification": (Classification(tokenizer, ["bad", "good"]), examples("classify")),
        "weighted": (
            Classification(
                tokenizer, ["bad", "good"], class_weights=[3.0, 0.5], label_smoothing=0.1
            ),
            examples("classify"),
        ),
        "regression": (PairRegression(tokenizer), examples("score")),
        "similarity": (Similarity(tokenizer), examples("score")),
        "mlm": (MaskedLM(tokenizer), examples("text")),
        "tokens": (TokenClassification(tokenizer, letters), examples("tokens")),
    }


def model_for(task, dtype=torch.float64):
    config = tiny_config(vocab_size=len(tiny.VOCABULARY), **getattr(task, "config", {}))
    model = build(getattr(task, "head", BertModel), config, dtype=dtype)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return model


def train(task, rows, **how):
    model = model_for(task)
    batches = Batches(task, task.encode(rows), **how)
    optimizer = make_optimizer("sgd", parameter_groups(model, 0.01))
    run = Run(model, optimizer, len(batches.plan))

    def loss(model, batch):
        return task.loss(task.outputs(model, batch), batch)

    loop(
        model, batches, loss, task.weight, optimizer, linear(0, batches.steps), dict, run
    )
    return [line["loss"] for line in run.lines if "norm" in line], model


@pytest.mark.parametrize("name", tasks())
def test_accumulation_is_the_large_batch(name):
    task, rows = tasks()[name]  # 21 rows: the last batch is short either way
    whole, one = train(task, rows, epochs=2, size=8, by_length=False)
    parts, other = train(task, rows, epochs=2, size=2, accumulate=4, by_length=False)
    assert len(whole) == len(parts) == 6
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    for (key, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-11, key


@pytest.mark.parametrize("name", tasks())
def test_every_task_learns(name):
    task, rows = tasks()[name]
    losses, _ = train(task, rows, steps=30, size=21, by_length=False)
    assert losses[-1] < losses[0]


def test_segment_ids_reach_the_model():
    task, rows = Classification(tiny.tokenizer(), ["False", "True"]), examples("pairs")
    batch = task.collate(task.encode(rows))
    types = batch["inputs"]["token_type_ids"]
    assert types.sum() > 0
    model = model_for(task)
    with_segments = task.outputs(model, batch)
    batch["inputs"]["token_type_ids"] = torch.zeros_like(types)
    assert (task.outputs(model, batch) - with_segments).abs().max() > 1e-3


def test_evaluation_is_without_dropout_and_without_gradients_and_puts_the_mode_back():
    task, rows = tasks()["classification"]
    config = tiny_config(vocab_size=len(tiny.VOCABULARY), hidden_dropout_prob=0.5)
    model = build(BertForSequenceClassification, config).train()
    seen = []
    model.register_forward_hook(
        lambda m, inputs, output: seen.append((m.training, torch.is_grad_enabled()))
    )
    features = task.encode(rows)
    first, again = evaluate(model, task, features), evaluate(model, task, features)
    assert first == again
    assert set(seen) == {(False, False)}
    assert model.training


def test_predictions_come_in_order_and_do_not_depend_on_the_batches():
    task, rows = tasks()["similarity"]
    model, features = model_for(task), task.encode(rows)
    together, loss = predict(model, task, features)
    alone = [predict(model, task, [feature], batch_tokens=1)[0][0] for feature in features]
    assert together == pytest.approx(alone, abs=1e-6)
    expected = sum((a - f.target) ** 2 for a, f in zip(together, features, strict=True))
    assert loss == pytest.approx(expected / len(features), rel=1e-5)


def test_both_sides_of_a_pair_go_through_in_one_pass():
    task, rows = tasks()["similarity"]
    model = model_for(task)
    shapes = []
    model.register_forward_hook(lambda m, i, output: shapes.append(output[0].shape[0]))
    task.outputs(model, task.collate(task.encode(rows)))
    assert shapes == [2 * len(rows)]


def test_batches_go_on_where_the_run_was_and_differ_between_epochs():
    task, rows = tasks()["classification"]
    batches = Batches(task, task.encode(rows), epochs=2, size=4, accumulate=2, seed=5)
    whole = [[b["inputs"]["input_ids"] for b in step] for step in batches(1, 0)]
    rest = [[b["inputs"]["input_ids"] for b in step] for step in batches(1, 1)]
    assert len(whole) == 3 and len(rest) == 2
    for a, b in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert batches.plan[0] != batches.plan[1]
    seen = sorted(i for step in batches.plan[0] for batch in step for i in batch)
    assert seen == list(range(21))


def test_steps_instead_of_epochs():
    task, rows = tasks()["classification"]
    batches = Batches(task, task.encode(rows), steps=8, size=4)  # 6 batches an epoch
    assert [len(epoch) for epoch in batches.plan] == [6, 2]
