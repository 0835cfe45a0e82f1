"""What you read is what runs: with every engine, `encode` is the model and pooling, by hand."""

import random

import numpy as np
import pytest
import torch
from support import small
from support.small import bert, encoder
from support.tiny import perturb
from torch import nn

from minibert.attention import MultiHeadSelfAttention
from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import int8, packed
from minibert.training.adapt import add_lora

ENGINES = ["textbook", "sdpa", "int8"] + ["bf16"] * (packed.no_bfloat16() is None)
ENGINES += ["packed"] * packed.available()
ATOL = {"bf16": 0.02}  # three digits; of the others, 2e-6
TEXTS = [text for text, _ in small.sentences(20)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    encoder(bert()).save_pretrained(directory)
    return directory


@pytest.fixture(params=ENGINES)
def ours(home, request, monkeypatch) -> SentenceEncoder:
    monkeypatch.setattr(int8, "unsupported", lambda: None)
    one = SentenceEncoder.from_pretrained(home, engine=request.param)
    assert one.engine == request.param and f"{request.param} on cpu" in repr(one)
    one.encode(TEXTS)  # whatever is laid out once is laid out now
    return one


def by_hand(one: SentenceEncoder) -> np.ndarray:
    """Each text by itself: ids, the model, the mean of the hidden states, length 1."""
    vectors = []
    for text in TEXTS:
        ids = one.tokenizer(text)["input_ids"]
        with torch.no_grad():
            hidden = one.model(ids.repeat(2, 1)).last_hidden_state[:1]  # int8: as several texts
        vectors.append(nn.functional.normalize(hidden.mean(1).float(), dim=1))
    return torch.cat(vectors).numpy()


def own_attention(one: SentenceEncoder) -> None:
    """Somebody's own, in the place of ours."""
    one.model.layers[1].attention = attention = nn.Module()
    attention.forward = lambda hidden, mask: -hidden.roll(1, -1)


def halve(one: SentenceEncoder) -> None:
    state = one.model.state_dict().items()
    one.model.load_state_dict({name: value * 0.5 for name, value in state})


def step(one: SentenceEncoder) -> None:
    """A fused optimizer step, which torch does not count as a change of the weights."""
    parameters = list(one.model.requires_grad_().parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.05, fused=True)
    one.model(one.tokenizer(TEXTS[:1])["input_ids"]).last_hidden_state.square().sum().backward()
    optimizer.step()


def lora(one: SentenceEncoder) -> None:
    add_lora(one.model, 2)
    for name, parameter in one.model.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter)


def hook(one: SentenceEncoder) -> None:
    one.model.layers[1].register_forward_hook(lambda layer, inputs, output: output * 2 + 1)


CHANGES = {
    "a hook": hook,
    "a weight": lambda one: one.model.layers[0].attention.value.weight.mul_(2),
    "an attention of one's own": own_attention,
    "load_state_dict": halve,
    "an optimizer step": step,
    "fewer layers": lambda one: setattr(one.model, "layers", one.model.layers[:1]),
    "another model": lambda one: setattr(one, "model", perturb(bert(), 1)),
    "float64": lambda one: one.model.to(torch.float64),
    "LoRA": lora,
}
NOT_IN_INT8 = ("an optimizer step", "float64", "LoRA")  # its layers are not trained


@pytest.mark.parametrize(
    "ours, change",
    [(e, name) for e in ENGINES for name in CHANGES if e != "int8" or name not in NOT_IN_INT8],
    indirect=["ours"],
)
def test_every_change_counts_at_the_next_call(ours, change):
    atol, before = ATOL.get(ours.engine, 2e-6), ours.encode(TEXTS)
    assert np.allclose(before, by_hand(ours), atol=atol)
    with torch.no_grad():
        if change in ("an optimizer step", "LoRA"):
            torch.set_grad_enabled(True)
        CHANGES[change](ours)
    after = ours.encode(TEXTS)
    assert np.allclose(after, by_hand(ours), atol=atol)
    if change != "float64":
        assert np.abs(after - before).max() > max(1e-3, 2 * atol)


def test_a_print_in_the_code_sees_the_own_text_in_each_call(ours, monkeypatch):
    """Six layers print six times (here two), the shape of the text that was given."""
    seen: list = []
    forward = MultiHeadSelfAttention.forward

    def print_and_attend(self, hidden, mask):
        seen.append(tuple(hidden.shape))
        return forward(self, hidden, mask)

    monkeypatch.setattr(MultiHeadSelfAttention, "forward", print_and_attend)
    T = len(ours.tokenizer.ids("good film")) + 2
    texts = 2 if ours.engine == "int8" else 1  # a single text is computed twice there
    for _ in range(2):
        ours.encode("good film")
    if ours.engine == "sdpa":  # an attention of its own: the README says so
        assert seen == []
        return
    assert seen == [(texts, T, 64)] * 2 * len(ours.model.layers)


def test_the_same_vector_in_any_company(ours):
    """Promise 3: alone, in batches of all sizes, in other orders, beside longer texts."""
    most = {"int8": 0}.get(ours.engine, ATOL.get(ours.engine, 2e-6))
    texts = [*TEXTS, "", "good " * 37]
    alone = np.stack([ours.encode(text) for text in texts])
    for seed, (size, tokens) in enumerate([(None, 1024), (7, 200), (2, 1024), (None, 33)]):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        together = ours.encode([texts[i] for i in order], batch_size=size, batch_tokens=tokens)
        assert np.abs(together - alone[order]).max() <= most


def test_the_textbook_is_the_model_bit_for_bit(home):
    one = SentenceEncoder.from_pretrained(home, engine="textbook")
    assert not any(hasattr(type(part), "engine") for part in one.model.modules())
    alone = np.stack([one.encode(text) for text in TEXTS])
    for row, text in zip(alone, TEXTS, strict=True):
        with torch.no_grad():
            hidden = one.model(**one.tokenizer(text)).last_hidden_state
        assert np.array_equal(row, nn.functional.normalize(hidden.mean(1), dim=1)[0].numpy())


def test_an_engine_that_does_not_fit_is_refused(home):
    for options, message in [
        ({"engine": "fast"}, "no engine is named 'fast'; there are"),
        ({"precision": "int4"}, "no engine is named 'int4'; there are"),
        ({"engine": "packed", "dtype": torch.float64}, '"packed" needs a CPU and float32'),
        ({"engine": "bf16", "dtype": torch.float64}, '"bf16" needs a CPU and float32'),
        ({"precision": "int8", "dtype": torch.float64}, "float32, not cpu and torch.float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            SentenceEncoder.from_pretrained(home, **options)
    assert SentenceEncoder.from_pretrained(home).engine == ENGINES[-1]
    half = SentenceEncoder.from_pretrained(home, dtype=torch.bfloat16)
    assert half.engine == "textbook" and half.encode(TEXTS).dtype == np.float32


def test_bfloat16_where_it_is_slow_is_a_warning(home, monkeypatch):
    monkeypatch.setattr(packed, "no_bfloat16", lambda: "no such instructions")
    with pytest.warns(UserWarning, match="no such instructions: the model computes in float32"):
        one = SentenceEncoder.from_pretrained(home, engine="bf16")
    assert one.engine == SentenceEncoder.from_pretrained(home).engine
    assert one.model.embeddings.word.weight.dtype == torch.float32
