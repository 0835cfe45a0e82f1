"""What a pre-training begins with: frequencies, and heads that look at neighbours."""

import numpy as np
import pytest
import torch

from minibert.config import BertConfig
from minibert.heads import BertForMaskedLM
from minibert.trace import trace
from minibert.training.beginning import begin_with_frequencies, begin_with_neighbours


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = BertConfig.of_size("2x256", vocab_size=50, max_position_embeddings=40)
    return BertForMaskedLM(config.replace(initializer_range=0.02)).eval()


def test_heads_look_one_and_two_places_away(model):
    ids = torch.randint(0, 50, (8, 40))
    with trace(model.bert) as before:
        model.bert(ids)
    begin_with_neighbours(model)
    with trace(model.bert) as after:
        model.bert(ids)

    def looked(steps, layer, head, places):  # (B, N, T, T): the mean share of that place
        weights = steps[f"layers.{layer}.attention.probabilities"][:, head]
        return weights.diagonal(offset=places, dim1=-2, dim2=-1).mean().item()

    for layer in (0, 1):
        for head, places in enumerate((-1, 1, -2, 2)):
            assert looked(before, layer, head, places) < 0.05
            assert looked(after, layer, head, places) > 0.25
            assert all(looked(after, layer, head, n) < 0.05 for n in range(-4, 5) if n != places)


def test_positions_are_as_large_as_words_and_other_weights_stay(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    begin_with_neighbours(model)
    changed = {name for name, value in model.state_dict().items()
               if not torch.equal(value, before[name])}  # fmt: skip
    assert changed == {"bert.embeddings.position.weight"} | {
        f"bert.layers.{n}.attention.{part}.weight" for n in (0, 1) for part in ("query", "key")
    }
    spread = model.bert.embeddings.position.weight.square().mean().sqrt().item()
    assert spread == pytest.approx(0.02, rel=1e-3)


def test_the_first_guess_is_how_often_a_token_comes(model):
    share = (np.arange(50) + 1) / 1275
    model.bert.embeddings.word.weight.data.zero_()
    begin_with_frequencies(model, share)
    hidden = model.bert(torch.zeros(1, 3, dtype=torch.long)).last_hidden_state
    guess = model.predictions(hidden, model.bert.embeddings.word.weight).softmax(-1)[0, 0]
    assert np.allclose(guess.detach().numpy(), share, atol=1e-6)
