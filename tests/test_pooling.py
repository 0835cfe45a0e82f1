import pytest
import torch

from minibert.pooling import POOLING

# Two texts, three columns, two components; the second text has two real tokens.
HIDDEN = torch.tensor([[[1.0, -2], [4, 2], [4, 6]], [[3, -1], [1, -3], [9, 9]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("name, expected", [
    ("cls", [[1, -2], [3, -1]]),
    ("lasttoken", [[4, 6], [1, -3]]),
    ("max", [[4, 6], [3, -1]]),
    ("mean", [[3, 2], [2, -2]]),
    ("mean_sqrt_len_tokens", [[9 / 3**0.5, 6 / 3**0.5], [4 / 2**0.5, -4 / 2**0.5]]),
    ("weightedmean", [[21 / 6, 20 / 6], [5 / 3, -7 / 3]]),
])
def test_the_values_one_gets_by_hand(name, expected):
    result = POOLING[name](HIDDEN, MASK)
    assert torch.allclose(result, torch.tensor(expected).float(), rtol=1e-6)


def random_batch(dtype=torch.float32, seed=0, tokens=33):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(8, tokens, 48, generator=generator).to(dtype)
    lengths = torch.tensor([1, 2, 5, 9, 16, 17, tokens - 1, tokens])
    return hidden, (torch.arange(tokens) < lengths[:, None]).long()


def theirs(hidden, mask, mode, **features):
    st = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    module = st.Pooling(hidden.shape[-1], mode, include_prompt="prompt_length" not in features)
    features["token_embeddings"] = hidden.clone()
    if mask is not None:
        features["attention_mask"] = mask.clone()
    return module(features)["sentence_embedding"]


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", POOLING)
def test_bit_for_bit_sentence_transformers(name, dtype):
    hidden, mask = random_batch(dtype)
    for m in (mask, mask.bool(), mask.to(dtype), None):
        assert torch.equal(POOLING[name](hidden, m), theirs(hidden, m, name))
    if name != "weightedmean":  # counts columns, for the prompts below
        left = mask.flip(1)
        assert torch.equal(POOLING[name](hidden, left), theirs(hidden, left, name))


@pytest.mark.parity
@pytest.mark.parametrize("name", POOLING)
def test_a_prompt_left_out_is_a_mask_with_its_columns_at_zero(name):
    hidden, mask = random_batch()
    hidden, mask = hidden[3:], mask[3:]  # texts longer than the prompt
    without = mask.clone()
    without[:, :4] = 0
    expected = theirs(hidden, mask, name, prompt_length=4)
    assert torch.equal(POOLING[name](hidden, without), expected)


@pytest.mark.parity
def test_the_names_and_their_order_are_those_of_sentence_transformers():
    hidden, mask = random_batch()
    joined = torch.cat([pool(hidden, mask) for pool in POOLING.values()], dim=-1)
    assert torch.equal(joined, theirs(hidden, mask, list(POOLING)))
    st = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    assert tuple(POOLING) == st.Pooling.POOLING_MODES


@pytest.mark.parametrize("name", POOLING)
def test_padding_never_reaches_the_result(name):
    hidden, mask = random_batch()
    clean = POOLING[name](hidden, mask)
    for poison in (1e30, float("inf"), float("nan")):
        poisoned = hidden.masked_fill(mask[..., None] == 0, poison)
        assert torch.equal(POOLING[name](poisoned, mask), clean)


@pytest.mark.parametrize("name", POOLING)
def test_a_text_has_the_same_vector_in_any_company(name):
    hidden, mask = random_batch()
    together = POOLING[name](hidden, mask)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        alone = POOLING[name](hidden[row : row + 1, :length])
        assert (alone[0] - together[row]).abs().max().item() <= 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", POOLING)
def test_a_row_of_padding_alone_gives_zeros_and_the_gradient_reaches_real_tokens_only(name, dtype):
    hidden, mask = random_batch(dtype)
    mask[2] = 0
    before = hidden.clone(), mask.clone()
    vectors = POOLING[name](hidden.requires_grad_(), mask)
    assert torch.equal(vectors[2], torch.zeros(48, dtype=dtype))
    vectors.square().sum().backward()
    assert hidden.grad.isfinite().all()
    assert (hidden.grad[mask == 0] == 0).all()
    assert (hidden.grad[0, 0] != 0).all()
    assert torch.equal(hidden, before[0]) and torch.equal(mask, before[1])


@pytest.mark.parametrize("name", POOLING)
def test_a_batch_may_be_empty_and_no_result_is_a_view(name):
    hidden, mask = random_batch()
    before = hidden.clone()
    POOLING[name](hidden, mask).zero_()
    assert torch.equal(hidden, before)
    assert POOLING[name](hidden[:0], mask[:0]).shape == (0, 48)


@pytest.mark.parametrize("name", POOLING)
def test_wrong_shapes_are_named(name):
    hidden, mask = random_batch()
    for arguments, said in (
        ((hidden[:, 0],), r"\(8, 48\).*last_hidden_state"),
        ((hidden[:, :0],), r"\(8, 0, 48\)"),
        ((hidden, mask[:, 1:]), r"\(8, 32\).*\(8, 33, 48\)"),
        ((hidden, mask[:, None, None]), r"\(8, 1, 1, 33\)"),
    ):
        with pytest.raises(ValueError, match=said):
            POOLING[name](*arguments)
