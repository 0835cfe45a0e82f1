"""Embeddings: a table one can check by hand, the order of the sum, what is learned."""

import math

import torch
from support.tiny import build, tiny_config

from minibert.embeddings import Embeddings, sinusoidal_positions
from minibert.model import BertModel

# ------------------------------------------------------------------------------- sinusoidal table


def test_sinusoidal_table_by_hand():
    table = sinusoidal_positions(3, 4)  # wavelengths 2π and 100 · 2π
    assert table.shape == (3, 4)
    expected = [
        [0, 1, 0, 1],
        [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)],
        [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)],
    ]
    torch.testing.assert_close(table, torch.tensor(expected))


def test_sinusoidal_table_with_an_odd_number_of_columns_ends_with_a_sine():
    table = sinusoidal_positions(2, 3)
    expected = torch.tensor([[0, 1, 0], [math.sin(1), math.cos(1), math.sin(10000 ** (-2 / 3))]])
    torch.testing.assert_close(table, expected)


def test_a_sinusoidal_model_starts_with_the_table_and_trains_it():
    config = tiny_config(position_embedding_type="sinusoidal")
    position = BertModel(config).embeddings.position.weight
    table = sinusoidal_positions(config.max_position_embeddings, config.hidden_size)
    assert torch.equal(position, table)
    assert position.requires_grad
    learned = BertModel(config.replace(position_embedding_type="absolute")).embeddings
    assert learned.position.weight.std() < 0.05


def test_a_trained_table_is_loaded_as_it_is(tmp_path):
    model = build(BertModel, tiny_config(position_embedding_type="sinusoidal"))
    model.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path, position_embedding_type="sinusoidal")
    assert torch.equal(again.embeddings.position.weight, model.embeddings.position.weight)


# ------------------------------------------------------------------------------- the sum


def small() -> Embeddings:
    """Two columns, and tables with numbers one can add up in the head."""
    config = tiny_config(
        vocab_size=3, hidden_size=2, num_attention_heads=1, max_position_embeddings=3
    )
    embeddings = Embeddings(config).eval()
    with torch.no_grad():
        embeddings.word.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [5.0, 3.0]]))
        embeddings.segment.weight.copy_(torch.tensor([[0.0, 10.0], [0.0, 20.0]]))
        embeddings.position.weight.copy_(torch.tensor([[100.0, 0.0], [200.0, 0.0], [300.0, 0.0]]))
        embeddings.norm.weight.copy_(torch.tensor([2.0, 3.0]))
        embeddings.norm.bias.copy_(torch.tensor([7.0, 8.0]))
    return embeddings


def sum_of(embeddings: Embeddings, ids: list[int], types: list[int]) -> list:
    """What goes into the norm for one text."""
    sums = []
    embeddings.norm.register_forward_pre_hook(lambda module, inputs: sums.append(inputs[0]))
    embeddings(torch.tensor([ids]), torch.tensor([types]))
    return sums[0].tolist()


def test_sum_by_hand():
    assert sum_of(small(), [2, 1, 1], [0, 0, 1]) == [[[105.0, 13.0], [201.0, 12.0], [301.0, 22.0]]]


def test_norm_by_hand():
    # Two numbers minus their mean, over their deviation, are 1 and -1 (the larger one is 1).
    out = small()(torch.tensor([[2, 1]]), torch.tensor([[0, 0]]))
    torch.testing.assert_close(out, torch.tensor([[[2.0 + 7, -3 + 8], [2 + 7, -3 + 8]]]))


# ------------------------------------------------------------------------------- training


def test_the_padding_row_is_not_trained_by_lookups():
    config = tiny_config(pad_token_id=4)
    embeddings = build(Embeddings, config)
    ids = torch.tensor([[4, 5, 4]])
    (embeddings(ids, torch.zeros_like(ids)) ** 3).sum().backward()
    gradient = embeddings.word.weight.grad
    assert gradient[4].abs().max() == 0
    assert gradient[5].abs().max() > 0
    assert embeddings.word.weight[4].abs().max() > 0  # and the row is used as it is


