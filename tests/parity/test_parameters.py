"""Modules whose parameters have other names, shapes and orders than ours."""

import json
import re

import pytest
import torch
from torch import nn

from minibert.encoder import EncoderLayer
from minibert.parity.parameters import DoNotFit, copy_weights
from minibert.parity.probes import example
from minibert.parity.replace import examine_code

EXAMPLE = example()  # 4 heads of 6
START = "layers.0.attention."
WEIGHTS = {name.removeprefix(START): value for name, value in EXAMPLE.weights.items()
           if name.startswith(START)}


def raw(*shape):
    return nn.Parameter(torch.empty(shape).normal_())


class Attention(nn.Module):
    """Attention whose queries, keys and values, (B, N, T, D) each, are still to be made."""

    scale, masked = 6**-0.5, True

    def __init__(self, config):
        super().__init__()
        self.H, self.N = config.hidden_size, config.num_attention_heads
        self.make(self.H, self.N, self.H // self.N)

    def split(self, x):
        return x.unflatten(2, (self.N, -1)).transpose(1, 2)

    def forward(self, hidden, mask):
        query, key, value = self.three(hidden)
        scores = query @ key.mT * self.scale + (mask if self.masked else 0)
        return self.finish((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))

    def finish(self, x):
        return self.out(x)


class Fused(Attention):
    def make(self, H, N, D):
        self.qkv, self.out = nn.Linear(H, 3 * H), nn.Linear(H, H)

    def three(self, x):
        return map(self.split, self.qkv(x).chunk(3, -1))


class FusedInOut(Attention):
    def make(self, H, N, D):
        self.W, self.b, self.out = raw(H, 3 * H), raw(3 * H), nn.Linear(H, H)

    def three(self, x):
        return map(self.split, (x @ self.W + self.b).chunk(3, -1))


class Torch(Attention):
    def make(self, H, N, D):
        self.mha = nn.MultiheadAttention(H, N, batch_first=True)

    def forward(self, hidden, mask):
        padded = mask[:, 0, 0] < 0 if self.masked else None
        return self.mha(hidden, hidden, hidden, key_padding_mask=padded)[0].nan_to_num()


class ByHead(Attention):
    def make(self, H, N, D):
        self.heads = nn.ModuleList(
            nn.ModuleDict({part: nn.Linear(H, D) for part in "qkv"}) for _ in range(N))
        self.out = nn.Linear(H, H)

    def three(self, x):
        return (torch.stack([head[part](x) for head in self.heads], 1) for part in "qkv")


class OfHeads(Attention):
    """Three axes each, as in JAX: (head, in, feature), and (head, feature, out) at the end."""

    def make(self, H, N, D):
        for part in "qkv":
            setattr(self, f"W_{part}", raw(N, H, D))
            setattr(self, f"b_{part}", raw(N, D))
        self.W_o, self.b_o = raw(N, D, H), raw(H)

    def three(self, x):
        return (torch.einsum("bth,nhd->bntd", x, getattr(self, f"W_{part}"))
                + getattr(self, f"b_{part}")[:, None] for part in "qkv")

    def finish(self, x):
        return torch.einsum("btnd,ndh->bth", x.unflatten(2, (self.N, -1)), self.W_o) + self.b_o


class Raw(Attention):
    """x @ W: the matrices are square, so nothing but the numbers says that they are (in, out)."""

    def make(self, H, N, D):
        for part in "qkvo":
            setattr(self, f"W_{part}", raw(H, H))
            setattr(self, f"b_{part}", raw(H))

    def three(self, x):
        return (self.split(x @ getattr(self, f"W_{part}") + getattr(self, f"b_{part}"))
                for part in "qkv")

    def finish(self, x):
        return x @ self.W_o + self.b_o


class Numbered(Attention):
    def make(self, H, N, D):
        self.linears = nn.ModuleList(nn.Linear(H, H) for _ in range(4))

    def three(self, x):
        return (self.split(linear(x)) for linear in self.linears[:3])

    def finish(self, x):
        return self.linears[3](x)


def examined(thing, kind="attention", **wrong):
    return examine_code({kind: type("Mine", (thing,), wrong)}, EXAMPLE, pairs=False)


@pytest.mark.parametrize("form, lines", [
    (Fused, {"qkv": "query, key, value", "out": "output"}),
    pytest.param(FusedInOut, {"W": "query.weight, key.weight, value.weight",
                              "b": "query.bias, key.bias, value.bias", "out": "output"},
                 marks=pytest.mark.slow),
    (Torch, {"mha.in_proj_weight": "query.weight, key.weight, value.weight",
             "mha.in_proj_bias": "query.bias, key.bias, value.bias", "mha.out_proj": "output"}),
    pytest.param(ByHead, {"heads.*.q": "query", "heads.*.k": "key", "heads.*.v": "value",
                          "out": "output"}, marks=pytest.mark.slow),
    (OfHeads, None),
    (Raw, None),
    (Numbered, {"linears.0": "query", "linears.1": "key", "linears.2": "value",
                "linears.3": "output"}),
])
def test_parameters_of_any_shape_are_recognised_and_the_mapping_can_be_pasted(form, lines):
    report = examined(form)
    assert report.passed, str(report)
    told = re.search(r"copied in as names = (\{.*\}) says", str(report))
    mapping = json.loads(told[1])
    assert lines is None or mapping == lines
    pasted = examined(form, names=mapping)
    assert pasted.passed and "copied in as" not in str(pasted), str(pasted)
    for report in (examined(form, masked=False), examined(form, masked=False, names=mapping)):
        assert [m.key for m, in report.diagnosis.answers] == ["no-mask"], str(report)


def test_what_cannot_be_guessed_is_asked_for_with_lines_that_do():
    assert [m.key for m, in examined(Fused, scale=1).diagnosis.answers] == ["no-scale"]
    with pytest.raises(DoNotFit, match="Where a matrix M is used as x @ M") as caught:
        examined(Raw, scale=1)  # no number is right, so the layout cannot be tried out
    mapping = json.loads(re.search(r"names = (\{.*\})", str(caught.value))[1])
    turned = {name: "(in, out)" in said or name[0] == "b" for name, said in mapping.items()}
    mapping = {name: said if turned[name] else f"{said} (in, out)"
               for name, said in mapping.items()}
    assert [m.key for m, in examined(Raw, scale=1, names=mapping).diagnosis.answers] == ["no-scale"]


def test_a_mapping_with_a_mistake_in_it_is_not_replaced_by_a_guess():
    said = r'called key; it has qkv; names has kye, which ours does not\n(.|\n)*"query, key, value"'
    with pytest.raises(DoNotFit, match=said):
        examined(Fused, names={"qkv": "query, kye, value", "out": "output"})


class TorchLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        H, N, F = config.hidden_size, config.num_attention_heads, config.intermediate_size
        self.layer = nn.TransformerEncoderLayer(
            H, N, F, activation="gelu", layer_norm_eps=config.layer_norm_eps, batch_first=True)

    def forward(self, hidden, mask):
        return self.layer(hidden, src_key_padding_mask=mask[:, 0, 0] < 0).nan_to_num()


class Words(nn.Module):
    def __init__(self, config):
        super().__init__()
        H = config.hidden_size
        self.tok, self.pos = nn.Embedding(config.vocab_size, H), nn.Embedding(32, H)
        self.seg, self.ln = nn.Embedding(2, H), nn.LayerNorm(H, config.layer_norm_eps)

    def forward(self, ids, types):
        return self.ln(self.tok(ids) + self.seg(types) + self.pos.weight[: ids.shape[1]])


class SmallThenWide(nn.Module):
    def __init__(self, config):
        super().__init__()
        H, F = config.hidden_size, config.intermediate_size
        self.W1, self.b1, self.W2, self.b2 = raw(H, F), raw(F), raw(F, H), raw(H)

    def forward(self, hidden):
        return nn.functional.gelu(hidden @ self.W1 + self.b1) @ self.W2 + self.b2


@pytest.mark.parametrize("kind, thing", [
    ("layer", TorchLayer), ("embeddings", Words), ("feed_forward", SmallThenWide)])
def test_other_kinds_are_recognised_too(kind, thing):
    report = examined(thing, kind)
    assert report.passed and "copied in as" in str(report), str(report)


def test_weights_that_do_not_fit_are_listed():
    wrong = nn.ModuleDict({n: nn.Linear(24, 24) for n in ("query", "key", "value")})
    wrong["query"] = nn.Linear(24, 12)
    with pytest.raises(DoNotFit, match="it has nothing called output;") as caught:
        copy_weights(wrong, WEIGHTS, heads=4)
    assert "query.weight is (12, 24), ours is (24, 24)" in str(caught.value)
    assert '"qkv": "query, key, value"' in str(caught.value), "an example of a mapping"
    wrong["output"] = nn.Linear(24, 24, bias=False)
    with pytest.raises(DoNotFit, match="nothing called output.bias"):
        copy_weights(wrong, WEIGHTS, heads=4)
    with pytest.raises(ValueError, match="cannot be replaced"):
        examine_code({"attentoin": EncoderLayer})
