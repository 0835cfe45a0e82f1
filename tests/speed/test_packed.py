"""PackedLinear: nn.Linear's numbers, laid out once, and anew whenever the weight has changed."""

import copy
import pickle

import pytest
import torch
from support.small import SHAPES, bert
from support.tiny import ragged_batch
from torch import nn

from minibert.speed import packed as packed_module
from minibert.speed.packed import PackedLinear, ShortSoftmax, available, pack

pytestmark = pytest.mark.skipif(
    not available(), reason="this build of torch has no oneDNN: nothing is packed here"
)


@pytest.fixture(autouse=True, params=["any number of tokens", "few tokens"])
def with_avx512_or_without(request, monkeypatch):
    """With AVX2 alone the copy serves few tokens only; both ways everywhere."""
    monkeypatch.setattr(packed_module, "MOST_TOKENS", 10**9 if "any" in request.param else 16)


@pytest.fixture
def both() -> tuple[nn.Linear, PackedLinear]:
    torch.manual_seed(0)
    linear = nn.Linear(48, 40)
    return linear, PackedLinear(linear)


def outputs(both) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, packed = (layer(x) for layer in both)
    assert torch.allclose(packed, plain, atol=2e-6)
    return plain, packed


def test_the_parameters_are_those_of_the_layer_it_stands_for(both):
    linear, packed = both
    assert packed.weight is linear.weight and packed.bias is linear.bias
    assert packed.state_dict().keys() == linear.state_dict().keys()
    assert isinstance(packed, nn.Linear) and repr(packed) == f"Packed{linear!r}"


def test_laid_out_once(both, monkeypatch):
    made, lay_out = [], torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_linear_weight", lambda *args: made.append(1) or lay_out(*args)
    )
    first = outputs(both)[1]
    assert torch.equal(outputs(both)[1], first) and len(made) == 1
    with torch.inference_mode():
        both[1](torch.ones(1, 48))
    assert len(made) == 1


CHANGES = {
    "one number": lambda linear: linear.weight[3, 3].add_(9),
    "through a view": lambda linear: linear.weight.T[0].fill_(1),
    "detached": lambda linear: linear.weight.detach().mul_(2),
    "other data": lambda linear: setattr(linear.weight, "data", torch.ones(40, 48)),
    "another parameter": lambda linear: setattr(linear, "weight", nn.Parameter(torch.ones(40, 48))),
    "bias": lambda linear: linear.bias.fill_(7),
    "assigned": lambda linear: linear.load_state_dict(nn.Linear(48, 40).state_dict(), assign=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_counts_at_the_next_call(both, change):
    linear, packed = both
    before = outputs(both)[1]
    with torch.no_grad():
        CHANGES[change](packed)
    linear.weight, linear.bias = packed.weight, packed.bias
    assert not torch.allclose(outputs(both)[1], before, atol=1e-3)


def test_where_gradients_are_wanted_it_is_nn_linear_bit_for_bit(both):
    x = torch.randn(5, 48, requires_grad=True)
    plain, packed = (layer(x) for layer in both)
    assert torch.equal(plain, packed)
    grads = [torch.autograd.grad(y.sum(), (x, layer.weight)) for y, layer in
             zip((plain, packed), both, strict=True)]  # fmt: skip
    assert all(map(torch.equal, *grads))


def test_autocast_and_inference_tensors(both):
    linear, packed = both
    outputs(both)
    x = torch.randn(3, 48)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert packed(x).dtype == torch.bfloat16 and torch.equal(packed(x), linear(x))
    with torch.inference_mode():
        frozen = nn.Linear(48, 40)
        assert torch.equal(PackedLinear(frozen)(x), frozen(x))


def test_copied_and_pickled_without_the_second_copy(both):
    plain = outputs(both)[0]
    for other in (copy.deepcopy(both[1]), pickle.loads(pickle.dumps(both[1]))):  # noqa: S301
        assert torch.allclose(outputs((other, other))[0], plain, atol=2e-6)
        with torch.no_grad():
            other.weight.mul_(3)
        assert torch.equal(outputs(both)[0], plain)


@pytest.mark.parametrize("hidden_act", SHAPES)
def test_a_packed_model_gives_the_numbers_of_the_textbook(hidden_act):
    """Every tensor of every layer, in a padded batch with two segments."""
    from minibert.trace import trace

    model = bert(hidden_act)
    packed, batch = pack(copy.deepcopy(model)), ragged_batch(model.config)
    with torch.inference_mode(), trace(model) as theirs, trace(packed) as ours:
        model(**batch), packed(**batch)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=1e-5), name


@pytest.mark.parametrize("keys", (1, 5, packed_module.LANES - 1, packed_module.LANES, 33))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_a_short_softmax_gives_the_numbers_of_the_softmax(keys, dtype):
    """Also where all keys but some are masked, all of them, or the scores are large."""
    scores = torch.randn(3, 4, 6, keys, generator=torch.Generator().manual_seed(0)).to(dtype) * 30
    scores[0, ..., keys // 2 :] = torch.finfo(dtype).min
    scores[1, 0] = torch.finfo(dtype).min
    plain = scores.softmax(-1)
    with torch.inference_mode():
        short = ShortSoftmax(-1)(scores.clone())
    assert short.dtype == dtype and short.shape == plain.shape
    least = 8 * torch.finfo(dtype).eps
    assert torch.allclose(short, plain, rtol=least, atol=torch.finfo(dtype).eps)
    assert torch.equal(ShortSoftmax(-1)(scores), plain)  # with gradients on, it is the softmax
    with torch.inference_mode():
        assert torch.equal(ShortSoftmax(0)(scores), scores.softmax(0))


def test_a_short_softmax_is_swapped_in_and_in_the_same_mode():
    """In another mode than its model it would make `encode` copy the model at every call."""
    model = pack(bert("gelu").eval())
    parts = [layer.attention.probabilities for layer in model.layers]
    assert all(type(part) is ShortSoftmax for part in parts)
    assert not any(part.training for part in model.modules())
    assert all(part.training for part in pack(bert("gelu").train()).modules())


def test_the_plain_model_can_be_exported():
    """`torch.export` follows the forward that one reads, checks of shapes and all."""
    model = bert()
    batch = ragged_batch(model.config)
    program = torch.export.export(model, (), batch)
    for ours, theirs in zip(program.module()(**batch), model(**batch), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_no_plain_linear_layer_stays():
    from minibert.training.adapt import add_lora

    model = bert()
    add_lora(model, 2)
    query = model.layers[0].attention.query
    assert pack(model).layers[0].attention.query is query
