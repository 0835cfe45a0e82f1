"""The self-check, the walk to the first difference, what is said about it, code and dumps."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from minibert import pooling
from minibert.attention import MultiHeadSelfAttention
from minibert.cli import main as cli
from minibert.config import BertConfig
from minibert.embeddings import Embeddings
from minibert.encoder import FeedForward
from minibert.model import BertModel
from minibert.parity import replace
from minibert.parity.catalogue import BY_KEY
from minibert.parity.differences import describe, pattern
from minibert.parity.goldens import GOLDENS, compare_goldens, compare_model, read_goldens
from minibert.parity.html import to_html
from minibert.parity.probes import example
from minibert.parity.replace import assert_parity, examine_code, examine_dump
from minibert.parity.report import compare, examine, model_of, our_name
from minibert.parity.steps import Computation, check_inputs, model_inputs
from minibert.trace import trace

EXAMPLE = example()


@pytest.fixture(scope="module")
def tensors():
    """What the model of the example gives."""
    model = model_of(EXAMPLE)
    with torch.no_grad(), trace(model) as tensors:
        model(**model_inputs(EXAMPLE.batch))
    return tensors


def keys(report):
    return [[mistake.key for mistake in answer] for answer in report.diagnosis.answers]


# --------------------------------------------------------------------------------- self-check


def test_goldens_hold_in_float64_and_float32():
    double, single = compare_goldens()
    for report in (double, single):
        assert report.passed, str(report)
        assert len(report.rows) >= 180
    assert "bitwise: after rounding to float32, as the golden file is" in double.notes
    assert any("not to be expected" in note for note in single.notes)
    exact = [sum(row.bitwise for row in report.rows) for report in (double, single)]
    assert exact[0] > len(double.rows) / 2 > exact[1]


def test_goldens_are_small_cover_every_stage_and_say_where_they_come_from():
    expected, batch, provenance = read_goldens(GOLDENS)
    assert sum(path.stat().st_size for path in GOLDENS.iterdir()) < 600_000
    assert {"transformers", "torch", "made by"} <= provenance.keys()
    assert (batch["attention_mask"].sum(1) == 0).any(), "a text of padding alone"
    for stage in ("query", "key", "value", "scores", "probabilities", "context", "output"):
        assert f"layers.0.attention.{stage}" in expected
    for name, _ in BertModel.from_pretrained(GOLDENS).named_parameters():
        assert f"gradient of {name}" in expected and f"after 5 steps: {name}" in expected
    assert sum(name.endswith(".loss") for name in expected) == 6


@pytest.mark.parity
def test_goldens_can_be_rebuilt(tmp_path):
    pytest.importorskip("transformers", reason="pip install transformers to rebuild the goldens")
    from support.make_goldens import make

    make(tmp_path)
    old, _, _ = read_goldens(GOLDENS)
    new, _, _ = read_goldens(tmp_path)
    assert list(old) == list(new)
    for name in old:
        torch.testing.assert_close(new[name], old[name], rtol=2**-23, atol=1e-10, msg=name)


@pytest.mark.parity
def test_live_transformers_agree_on_any_directory():
    pytest.importorskip("transformers", reason="pip install transformers for the live comparison")
    (report,) = compare_model(GOLDENS)
    assert report.passed, str(report)
    assert all(row.bitwise for row in report.rows), [r.name for r in report.rows if not r.bitwise]
    rows = {row.name for row in report.rows}
    for head in ("BertForMaskedLM", "BertForQuestionAnswering"):
        assert f"gradient of {head}.layers.0.attention.key.weight" in rows
    assert {"layers.1.attention.scores", "BertForSequenceClassification.logits"} <= rows


def test_without_transformers_a_directory_cannot_be_compared(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install transformers"):
        compare_model(GOLDENS)


def test_the_steps_are_the_model(tensors):
    report = examine("", EXAMPLE, tensors)
    assert report.passed and len(report.rows) == len(tensors), str(report)
    steps = Computation(EXAMPLE).steps()
    assert [row.name for row in report.rows] == [name for name in steps if name in tensors]


# ----------------------------------------------------------------------------------- bit for bit


def test_our_own_numbers_are_bit_for_bit_what_our_own_run_gives(tensors):
    """In the precision of the dump, though "largest" is the distance from the float64 numbers."""
    report = examine("", EXAMPLE, tensors)
    assert [row.name for row in report.rows if not row.bitwise] == []
    assert max(row.largest for row in report.rows) > 0
    assert "bitwise: the same bits as minibert's own run in float32" in str(report)
    assert "own run in float32</p>" in to_html([report])
    coarse = examine("", EXAMPLE, {name: value.bfloat16() for name, value in tensors.items()})
    assert [row.name for row in coarse.rows if not row.bitwise] == []
    assert "own run in float32, rounded to bfloat16" in str(coarse)


@pytest.mark.weights
def test_our_own_trace_of_the_official_model_is_bit_for_bit(official, tmp_path):
    """Of one text: then where a weight lies in memory decides over the pooler's last bit."""
    file, page = str(tmp_path / "trace.safetensors"), str(tmp_path / "page.html")
    model = ["--model", str(official)]
    assert cli.main(["trace", "Hello world, this is it.", "--out", file, *model]) == 0
    assert cli.main(["parity", file, "--html", page]) == 0
    assert "92 tensors, 92 of them bit for bit" in (tmp_path / "page.html").read_text()


def test_one_bit_more_is_not_bit_for_bit(tensors):
    wrong = "layers.1.attention.context"
    nearly = {wrong: torch.nextafter(tensors[wrong], torch.tensor(9.0))}
    report = examine("", EXAMPLE, {**tensors, **nearly})
    assert report.passed and [row.name for row in report.rows if not row.bitwise] == [wrong]
    double = Computation(EXAMPLE)
    report = examine("", EXAMPLE, {name: double[name] for name in tensors})
    assert "own run in float64" in str(report) and report.rows[0].bitwise
    exact = torch.tensor([1 / 3, 0.5, float("nan")], dtype=torch.float64)
    assert compare("", {"x": exact}, {"x": exact.float()}, lambda *_: (1e-7, "")).rows[0].bitwise
    other = exact.float().nextafter(torch.tensor(1.0))
    report = compare("", {"x": exact}, {"x": other}, lambda *_: (1e-6, ""))
    assert report.passed and not report.rows[0].bitwise


@pytest.mark.parametrize("kind, thing", [
    ("attention", MultiHeadSelfAttention), ("pooling", pooling.mean_pooling)])
def test_our_own_parts_in_our_own_place_are_bit_for_bit(kind, thing):
    report = examine_code({kind: thing})
    assert report.passed and [row.name for row in report.rows if not row.bitwise] == []
    assert f"PASSED: {len(report.rows)} tensors, {len(report.rows)} of them bit" in str(report)


# ------------------------------------------------------------------------- the first difference


@pytest.mark.parametrize("merged", [False, True])
def test_the_first_difference_is_named_and_what_follows_is_not_blamed(tensors, merged):
    changes = {"attention.scaled": lambda s: s["attention.products"]}
    if merged:  # a second mistake, in another stage
        changes["attention.context"] = lambda s: (
            s["attention.mixed"].reshape(*s.ids.shape, -1))
    wrong = Computation(EXAMPLE, changes=changes, dtype=torch.float32)
    report = examine("", EXAMPLE, {name: wrong[name] for name in tensors})
    assert report.first.name == "layers.0.attention.scores"
    stages = ["scores", "context"] if merged else ["scores"]
    assert [row.name for row in report.rows if row.verdict == "differs"] == [
        f"layers.{i}.attention.{stage}" for i in (0, 1) for stage in stages]
    answers = [set(answer) for answer in keys(report)]
    assert answers == [{"no-scale", "merge-without-transpose"} if merged else {"no-scale"}]
    assert report.diagnosis.layers == [0, 1]
    assert "a constant factor: 2.44949 (inverse 0.408248" in str(report)


def test_a_report_says_first_what_a_reader_needs_and_folds_what_agrees(tensors):
    wrong = Computation(EXAMPLE, changes=BY_KEY["no-scale"].changes, dtype=torch.float32)
    report = examine("", EXAMPLE, {name: wrong[name] for name in tensors})
    said = str(report)
    wanted = ("FAILED: the first difference", "yours", "[no-scale]", "cure:", "OK", "largest, mean")
    places = [said.index(part) for part in wanted]
    assert places == sorted(places)
    assert [(row.verdict, row.name) for row in report.folded()] == [
        ("equal", "9 tensors before it agree"), ("differs", "layers.0.attention.scores"),
        ("follows", "13 tensors: what goes in differs"), ("differs", "layers.1.attention.scores"),
        ("follows", "12 tensors: what goes in differs")]
    assert said.count("the noise of float32 in this stage") == 1
    assert len(report.to_dict()["rows"]) == len(tensors)
    page = to_html([report])
    table, every = page.split("<details><summary>All 36 tensors</summary>")
    assert page.count("the noise of float32") == 1
    assert table.index("[no-scale]") < table.index("<table>")
    assert [part.count("<td class=\"name") for part in (table, every)] == [5, 36]


def test_where_everything_agrees_each_part_is_a_line(tensors):
    said = str(examine("", EXAMPLE, tensors)).splitlines()
    assert said[2] == "PASSED: 36 tensors, 36 of them bit for bit"
    assert [line[10:52].strip() for line in said if line.startswith("OK")] == [
        "embeddings 6 tensors", "layers.0 14 tensors", "layers.1 14 tensors", "pooler 2 tensors"]


def test_what_differs_all_the_way_down_is_folded_after_three():
    right = {f"layers.{i}.attention.query": torch.ones(2) for i in range(20)}
    wrong = {name: value + (name > "layers.12") for name, value in right.items()}
    report = compare("", wrong, dict(sorted(right.items())), lambda *_: (1e-6, "because"))
    assert [row.name for row in report.folded()] == [
        "4 tensors before it agree",
        *(f"layers.{i}.attention.query" for i in (12, 13, 14)), "13 tensors after it, too"]
    assert str(report).count("DIFFERS") == 4 and len(report.to_dict()["rows"]) == 20


def test_where_a_difference_is():
    def said(place, value, name="layers.0.attention.output"):
        right = Computation(EXAMPLE)[name]
        wrong = right.clone()
        wrong[place] = value
        return "\n".join(describe(name, wrong, right, 1e-6, EXAMPLE.batch, heads=4))

    every = slice(None)
    assert "on [CLS] only" in said((every, 0), 9.0)
    assert "on padding only" in said((2, slice(5, None)), 9.0)
    assert "in text 1 only" in said((1, slice(0, 3)), 9.0)
    assert "in head 2 only" in said((..., slice(12, 18)), 9.0)
    scores = "layers.0.attention.scores"
    assert "on padded keys only" in said((2, ..., slice(5, None)), 0.0, scores)
    assert "in head 3 only" in said((every, 3), 0.5, scores)
    assert "worst at text 1, token 2 (id" in said((1, 2, 7), 99.0)


def test_the_number_at_the_worst_place_is_marked_and_what_is_no_number_is_counted():
    right = torch.arange(12.0).view(2, 6)
    for place, yours in ((0, "[9] 1"), (4, "3 [9] 5"), (5, "4 [9]")):
        wrong = right.clone()
        wrong[0, place] = 9
        said = [line.split() for line in describe("x", wrong, right, 1e-6)]
        assert yours in " ".join(said[2]) and f"[{place}]" in said[3]
    right[1] = torch.nan
    assert pattern(right, torch.ones(2, 6), 1e-6) == "not a number in 50 % of the places"


def test_what_kind_a_difference_is():
    x = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert "factor: 2.5" in pattern(2.5 * x, x, 1e-9)
    assert "offset: -1.5" in pattern(x - 1.5, x, 1e-9)
    assert "one offset vector" in pattern(x + torch.arange(5), x, 1e-9)
    assert "transpose" in pattern(x.transpose(1, 2), x, 1e-9)
    assert "permutation along axis 2" in pattern(x[..., [1, 0, 2, 4, 3]], x, 1e-9)
    assert "another order" in pattern(x.reshape(5, 3, 5).transpose(0, 1), x, 1e-9)
    assert pattern(x + x**2, x, 1e-9) == ""


def test_compare_says_missing_shape_and_tolerance():
    reference = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}
    mine = {"a": torch.full((2,), 1e-3), "b": torch.zeros(3)}
    report = compare("title", mine, reference, lambda name, t: (1e-4, "because"))
    assert [row.verdict for row in report.rows] == ["differs", "shape", "missing"]
    assert report.rows[0].largest == pytest.approx(1e-3) and report.rows[0].reason == "because"
    assert not report.passed and report.first.name == "a"
    assert compare("", mine, {"a": reference["a"]}, lambda n, t: (1e-2, "")).passed
    assert not compare("", {}, {}, lambda n, t: (0, "")).passed  # nothing compared is no success
    nan = {"a": torch.full((2,), float("nan"))}
    assert not compare("", nan, {"a": reference["a"]}, lambda n, t: (1.0, "")).passed


# ------------------------------------------------------------------------------ bring your own


class Renamed(nn.Module):
    names = {"W_q": "query", "W_k": "key", "W_v": "value", "W_o": "output"}

    def __init__(self, config):
        super().__init__()
        H, self.N = config.hidden_size, config.num_attention_heads
        self.W_q, self.W_k, self.W_v, self.W_o = (nn.Linear(H, H) for _ in range(4))

    def forward(self, hidden, mask):
        q, k, v = (w(hidden).unflatten(2, (self.N, -1)).transpose(1, 2)
                   for w in (self.W_q, self.W_k, self.W_v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.W_o(mixed.transpose(1, 2).flatten(2))


class SingleWeights(Renamed):
    names = {f"{a}.{w}": f"{b}.{w}" for w in ("weight", "bias") for a, b in Renamed.names.items()}


class NoMask(Renamed):
    def forward(self, hidden, mask):
        return super().forward(hidden, None)


class Restless(FeedForward):
    def forward(self, hidden):
        return nn.functional.dropout(super().forward(hidden), 0.1, training=True)


class WrongShape(Embeddings):
    def forward(self, input_ids, token_type_ids):
        return super().forward(input_ids, token_type_ids).transpose(0, 1)


class MaskedTimes(MultiHeadSelfAttention):
    def attend(self, scores, mask):
        return (scores * mask).softmax(-1)

    def forward(self, hidden, mask):
        q, k, v = (self.split_heads(part(hidden)) for part in (self.query, self.key, self.value))
        weights = self.attend(q @ k.transpose(2, 3) / q.shape[3] ** 0.5, mask)
        return self.output(self.merge_heads(weights @ v))


class OverQueries(MaskedTimes):
    def attend(self, scores, mask):
        return (scores + mask).softmax(-2)


class TooFlat(MaskedTimes):
    def attend(self, scores, mask):
        return (scores * 0.85 + mask).softmax(-1)


class NoReturn(MultiHeadSelfAttention):
    def forward(self, hidden, mask):
        super().forward(hidden, mask)


class NoModule:
    def __init__(self, config):
        pass


class Crash(MultiHeadSelfAttention):
    def forward(self, hidden, mask):
        return self.quary(hidden)


@pytest.mark.parametrize("thing, kind", [
    (Renamed, "attention"), (SingleWeights, "attention"), (torch.optim.AdamW, "optimizer")])
def test_assert_parity_passes_right_code(thing, kind):
    assert_parity(thing, kind)


def test_assert_parity_fails_with_the_report():
    with pytest.raises(AssertionError) as caught:
        assert_parity(NoMask, "attention")
    message = str(caught.value)
    assert "padding is not masked  [no-mask]" in message and "cure:" in message
    assert "FAILED: the first difference is in layers.0.attention.output" in message
    assert "only in texts that have padding" in message
    with pytest.raises(AssertionError, match="l2-instead-of-decay"):
        assert_parity(torch.optim.Adam, "optimizer")


def test_dropout_left_on_is_named():
    assert keys(examine_code({"feed_forward": Restless})) == [["dropout-left-on"]]


def test_wrong_shapes_and_crashes_are_reported_not_raised():
    assert not (report := examine_code({"attention": Crash})).passed
    assert "has no attribute 'quary'" in str(report)
    assert "return self.quary(hidden)" in str(report), "the learner's own line"
    assert "FAILED: your code raised AttributeError" in str(report)
    for said in (str(report), to_html([report])):
        assert "MISSING" not in said and "bitwise" not in said and "<table" not in said
    report = examine_code({"pooling": lambda hidden, mask: hidden[:, 0, :5]})
    assert report.first.verdict == "shape" and "(3, 5)" in str(report)
    assert not examine_code({"embeddings": WrongShape}).passed


@pytest.mark.parametrize("kind, thing, said", [
    ("attention", NoReturn, "your forward returned None (is there a return?); a tensor is needed"),
    ("pooling", lambda hidden, mask: None, "your pooling returned None (is there a return?)"),
    ("attention", lambda hidden, mask: hidden, "is no class; for attention a class is needed"),
    ("feed_forward", lambda hidden: hidden * 2, "is no class; for feed_forward a class is needed"),
    ("attention", NoModule, "NoModule is a class, but no nn.Module; for attention a class"),
])  # fmt: skip
def test_what_is_not_of_the_kind_that_is_needed_is_told(kind, thing, said):
    report = examine_code({kind: thing})
    assert not report.passed and said in report.verdict(), str(report)


def test_a_mask_that_makes_nan_is_told_how_it_is_meant():
    hint = "the mask is to be added to the scores: it is 0 for real tokens"
    assert hint in str(examine_code({"attention": MaskedTimes}))
    assert hint not in str(examine_code({"attention": TooFlat}))


def test_what_is_far_is_not_called_the_nearest():
    """The nearest there is leaves most of the difference."""
    report = examine_code({"attention": TooFlat})
    assert not report.diagnosis.answers and not report.diagnosis.nearest, str(report)
    assert "nothing in the catalogue comes near" in str(report)


def test_what_may_be_hidden_is_no_accusation():
    said = "hides:  if it is there, too, it can't be seen until this is fixed: the scores of padded"
    assert said in str(examine_code({"attention": OverQueries}))


def test_the_help_names_the_weights_of_each_kind(capsys):
    with pytest.raises(SystemExit):
        cli.main(["parity", "--help"])
    said = capsys.readouterr().out
    assert 'names = {"q_proj": "query"}' in said
    listed = said[said.index("the weights that are copied in"):]
    model = BertModel(EXAMPLE.config)
    for kind in replace.MODULES:
        part = model.get_submodule(replace.places_of(kind, EXAMPLE.config)[0])
        ours = [name for name, inner in part.named_modules() if inner._parameters]
        line = listed.replace("\n" + 16 * " ", " ").partition(f"\n  {kind} ")[2].splitlines()[0]
        assert line.replace(",", "").split() == ours


def test_files_that_cannot_be_used_are_called_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("class A: pass\n")
    (tmp_path / "broken.py").write_text("x = 1\nraise RuntimeError('oh')\n")
    for words in ("nofile", "--replace pooling=nofile:f", "x.npz --trace nofile",
                  "--replace pooling=mine.py:A --names nofile"):
        assert cli.main(["parity", *words.split()]) == 2
        assert f"nofile: no such file (looked from {tmp_path})" in capsys.readouterr().err
    assert replace.load("mine.py:A").__name__ == "A"
    for spec, said in (("no_name.py", "my_attention.py:MyAttention"),
                       ("mine.py:B", "has no 'B'; it has A"),
                       ("broken.py:A", r"RuntimeError: oh \(line 2")):
        with pytest.raises(ValueError, match=said):
            replace.load(spec)


# ----------------------------------------------------------------------------------------- dumps


THEIR_NAMES = {  # of somebody's code → ours
    "h0": "embeddings", "attention0": "layers.0.attention.output", "h1": "layers.0",
    "attention1": "layers.1.attention.output", "h2": "layers.1", "pooled": "pooler",
}  # fmt: skip


@pytest.fixture
def dump(tmp_path):
    """A dump under names of its own, with the inputs in it, of right code or with a mistake."""

    def write(mistake=None):
        changes = BY_KEY[mistake].changes if mistake else {}
        run = Computation(EXAMPLE, changes=changes, dtype=torch.float32)
        out = {name: run[our_name(ours, EXAMPLE.config)] for name, ours in THEIR_NAMES.items()}
        np.savez(tmp_path / "mine.npz", **out, **model_inputs(EXAMPLE.batch))
        return tmp_path / "mine.npz"

    return write


def test_a_dump_is_right_and_with_a_mistake_is_told_which(dump):
    inputs, mapping = EXAMPLE._replace(batch={}), {**THEIR_NAMES, "h9": "layers.9"}
    report = examine_dump(dump(), inputs, mapping)
    assert report.passed and len(report.rows) == 6, str(report)
    assert "named in the mapping, but not in the dump: h9" in report.notes
    assert any("not examined by themselves" in note for note in report.notes)
    report = examine_dump(dump("no-scale"), inputs, mapping)
    assert report.first.name == "layers.0.attention.output"
    assert keys(report) == [["no-scale"]] and report.diagnosis.layers == [0, 1]
    report = examine_dump(dump("norm-eps-1e-05"), inputs, mapping)
    assert report.first.name == "embeddings" and keys(report) == [["norm-eps-1e-05"]]


def test_dumps_that_cannot_be_compared_say_why(dump, tmp_path):
    with pytest.raises(ValueError, match="none of its names is one of ours"):
        examine_dump(dump(), EXAMPLE._replace(batch={}))
    np.savez(tmp_path / "bare.npz", embeddings=np.zeros((3, 10, 24)))
    with pytest.raises(ValueError, match="no input_ids"):
        examine_dump(tmp_path / "bare.npz", EXAMPLE._replace(batch={}))
    np.savez(tmp_path / "objects.npz", embeddings=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="plain numbers"):
        examine_dump(tmp_path / "objects.npz", EXAMPLE)
    with pytest.raises(FileNotFoundError):
        examine_dump(tmp_path / "none.npz", EXAMPLE)


@pytest.mark.parametrize("theirs, ours", [
    ("last_hidden_state", "layers.2.feed_forward_norm"), ("pooler_output", "pooler"),
    ("layers.1", "layers.1.feed_forward_norm"),
    ("layers.1.attention", "layers.1.attention.output"),
])
def test_names_people_use(theirs, ours):
    assert our_name(theirs, BertConfig(num_hidden_layers=3)) == ours


# ------------------------------------------------------------------- the page and the command


def test_the_page_stands_alone_and_escapes():
    report = examine_code({"attention": NoMask})
    report.notes.append("<script>alert(1)</script>")
    page = to_html([report])
    assert "no-mask" in page and "layers.0.attention.output" in page
    assert report.to_dict()["diagnosis"]["hidden"]["no-mask"] == ["no-key-bias"]
    assert "[no-key-bias]" not in page, "no output ever shows it"
    for outside in ("http:", "https:", "src=", "<script", "@import", "url("):
        assert outside not in page, outside
    json.dumps(report.to_dict())


def test_the_page_is_chinese_in_chinese(monkeypatch):
    monkeypatch.setenv("MINIBERT_LANG", "zh")
    page = to_html([examine_code({"attention": NoMask})])
    text = re.sub("<style>.*</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert 'lang="zh"' in page and "没有通过" in text and "最大差" in text and "受影响" in text
    assert not re.findall(r"[a-z]{2,} [a-z]{2,}", text.replace("minibert parity", ""))


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("def pool(hidden, mask):\n    return hidden.mean(1)\n")
    monkeypatch.chdir(tmp_path)
    words = ["--replace", "pooling=mine.py:pool", "--json", "--html", "page.html"]
    assert cli.main(["parity", *words]) == 1
    found = json.loads(capsys.readouterr().out)["reports"][0]["diagnosis"]["answers"]
    assert ["pooling-padding"] in found
    assert "pooling-padding" in (tmp_path / "page.html").read_text()
    assert cli.main(["parity", "--replace", "pooling"]) == 2


@pytest.mark.parametrize("ids, message", [
    ([[1, 99999]], "input_ids has 1 to 99999; 0 to"),
    ([[-1, 2]], "input_ids has -1 to 2"),
    ([1, 2], r"input_ids has the shape \(2,\); \(texts, tokens\)"),
    ([[]], r"input_ids has the shape \(1, 0\)"),
    ([[1] * 999], "input_ids has 999 tokens, the model"),
])  # fmt: skip
def test_inputs_that_the_model_cannot_take_are_told(ids, message):
    with pytest.raises(ValueError, match=message):
        check_inputs({"input_ids": torch.tensor(ids)}, EXAMPLE.config)


@pytest.mark.parametrize("words, message", [
    (["empty.npz"], "cannot be read as .npz"),
    (["array.npz"], "cannot be read as .npz"),
    (["mine.npz", "--names", "list.json"], "list.json: an object is needed"),
    (["--replace", "attention=.:A"], ". does not run"),
    (["--replace", "attention=list.json:A"], "list.json does not run"),
])  # fmt: skip
def test_files_that_are_none_are_told(model, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "empty.npz").touch()
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    np.savez(tmp_path / "mine.npz", input_ids=np.array([[1, 2]]))
    assert cli.main(["parity", *words, "--model", model]) == 2
    assert message in capsys.readouterr().err
