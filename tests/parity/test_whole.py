"""Whole models of somebody's: recognised without a map, mistakes found in their names."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support.whole_models import STYLES, build

from minibert.cli.main import main
from minibert.model import BertModel
from minibert.parity.loaded import examine_weights
from minibert.parity.probes import example
from minibert.parity.recording import weights_of
from minibert.parity.whole import examine_whole

INPUTS = example(5)
THREE = example(5, layers=3)
ALL = [pytest.param(style, marks=pytest.mark.parity) if style == "transformers" else style
       for style in STYLES]


def keys(report):
    return {mistake.key for answer in report.diagnosis.answers for mistake in answer}


def swapped(weights, one, two):
    """Weights with those of two layers, or two parts, changing places."""
    def other(name):
        return name.replace(one, "?").replace(two, one).replace("?", two)

    return {name: weights[other(name)] for name in weights}


def new_norm(weights, name="layers.1.attention_norm"):
    return weights | {f"{name}.{kind}": torch.full_like(weights[f"{name}.{kind}"], value)
                      for kind, value in (("weight", 1.0), ("bias", 0.0))}


@pytest.mark.parametrize("style", ALL)
def test_a_right_model_passes_whatever_its_names_and_layouts(style):
    report = examine_whole(build(style, INPUTS), INPUTS)
    assert report.passed, str(report)
    recognised = " ".join(report.notes)
    weights = len(weights_of(build(style, INPUTS)))
    assert f"{weights} of {weights} weights recognised" in recognised
    outputs = next(note for note in report.notes if "outputs of your modules" in note).split()
    assert outputs[0] == outputs[2] and len(report.names) >= 20


@pytest.mark.parametrize("style, wrong, where, step, key", [
    ("course", "mask", "bert_layers.0.self_attention.scores", "attention.scores", "no-mask"),
    pytest.param("course", "gelu", "bert_layers.0.gelu.result", "feed_forward.activation",
                 "gelu-tanh", marks=pytest.mark.slow),
    pytest.param("a head at a time", "mask", "bert_layers.0.self_attention.heads.*.wei[0]",
                 "attention.scores", "no-mask", marks=pytest.mark.slow),
    pytest.param("list of linears", "mask", "model.attention[0].scores", "attention.scores",
                 "no-mask", marks=pytest.mark.slow),
    pytest.param("packed", "gelu", "bert_layers.0.gelu.result", "feed_forward.activation",
                 "gelu-tanh", marks=pytest.mark.slow),
    pytest.param("list of linears", "eps", "first_norm", "embeddings.norm", "norm-eps-0.001",
                 marks=pytest.mark.slow),
    ("torch's encoder", "mask", "encoder.layers.0.self_attn[0]", "attention.output", "no-mask"),
    pytest.param("torch's encoder", "gelu", "encoder.layers.0.dropout", "feed_forward.activation",
                 "gelu-tanh", marks=pytest.mark.slow),
    ("fused", "mask", "model.attend[0].att[0]", "attention.scores", "no-mask"),
    pytest.param("fused", "eps", "ln_0", "embeddings.norm", "norm-eps-0.001",
                 marks=pytest.mark.slow),
    pytest.param("fused, (in, out)", "gelu", "model.gelu[0].result", "feed_forward.activation",
                 "gelu-tanh", marks=pytest.mark.slow),
    ("functions", "mask", "apply.encoder_layer[0].self_attention.logits", "attention.scores",
     "no-mask"),
    pytest.param("functions", "eps", "apply.layer_norm.result", "embeddings.norm", "norm-eps-0.001",
                 marks=pytest.mark.slow),
    ("numpy", "gelu", "__call__.encoder_layer[0].gelu.result", "feed_forward.activation",
     "gelu-tanh"),
    pytest.param("transformers", "mask", "encoder.layer.0.attention.self.attn_output[0]",
                 "attention.mixed", "no-mask", marks=pytest.mark.parity),
    pytest.param("transformers", "eps", "embeddings.LayerNorm", "embeddings.norm",
                 "norm-eps-0.001", marks=[pytest.mark.parity, pytest.mark.slow]),
], ids=lambda value: value if value in STYLES or value in ("mask", "eps", "gelu") else "")
def test_a_mistake_in_the_code_is_found_at_its_place_in_their_names(style, wrong, where, step, key):
    report = examine_whole(build(style, INPUTS, [wrong]), INPUTS, pairs=False)
    assert report.first.name == where and keys(report) == {key}, str(report)
    assert f"`{where}`" in report.shown[0] and step in "".join(report.shown[:2])


@pytest.mark.parametrize("style, change, where, key, said", [
    pytest.param("course", lambda w: swapped(w, "layers.0", "layers.1"),
                 "bert_layers.0.self_attention.query", "layers-reversed",
                 "layers 0 and 1 have each other's weights", marks=pytest.mark.slow),
    pytest.param("fused", lambda w: swapped(w, "layers.0", "layers.1"), "h.0.qkv (query)",
                 "layers-reversed", "layers 0 and 1 have each other's weights",
                 marks=pytest.mark.slow),
    ("list of linears", new_norm, "layers.1.sublayer.0", "norm-not-loaded",
     "`layers.1.sublayer.0.a_2` is all 1: not loaded; by its place it should be attention_norm of "
     "layer 1"),
    pytest.param("course", lambda w: swapped(w, "query", "key"),
                 "bert_layers.0.self_attention.query", "query-key-swapped",
                 "`bert_layers.{}.self_attention.key.weight` has the weights of attention.query",
                 marks=pytest.mark.slow),
], ids=["swapped", "swapped, fused", "norm", "query and key"])
def test_a_mistake_in_the_weights_is_found_before_anything_runs_and_after(
    style, change, where, key, said
):
    model = build(style, INPUTS, weights=change(INPUTS.weights))
    report = examine_whole(model, INPUTS, pairs=False)
    assert key in keys(report) and where in report.shown[0], str(report)
    assert said in str(report)


def test_norms_that_changed_places_are_no_missing_feed_forward():
    """What both explain, one of them a network that is there, is not said."""
    weights = swapped(INPUTS.weights, "attention_norm", "feed_forward_norm")
    report = examine_whole(build("functions", INPUTS, weights=weights), INPUTS)
    assert "no-feed-forward" not in keys(report) and not report.passed, str(report)


def test_a_weight_in_another_order_is_not_said_to_be_missing():
    name = "layers.1.attention.output.weight"
    mixed = THREE.weights[name].flatten().flip(0).reshape(THREE.weights[name].shape)
    (found,) = examine_weights(THREE.weights | {name: mixed}, THREE).findings
    assert found.endswith("has the numbers of attention.output of layer 1 in another order")


def test_weights_rounded_to_float16_are_loaded_however_small_they_are():
    tiny = THREE.weights | {"layers.1.attention.key.bias": torch.linspace(-2e-7, 3e-7, 24)}
    rounded = {name: value.half().float() for name, value in tiny.items()}
    loaded = examine_weights(rounded, THREE._replace(weights=tiny))
    assert not loaded.findings and "rounding to half" in loaded.notes[-1]


def test_the_order_of_query_key_and_value_in_one_is_said():
    swapped_weights = swapped(THREE.weights, ".key", ".value")
    theirs = weights_of(build("fused", THREE, weights=swapped_weights))
    assert "query, value, key, in this order" in " ".join(examine_weights(theirs, THREE).notes)
    report = examine_whole(build("fused", INPUTS, weights=swapped(
        INPUTS.weights, ".key", ".value")), INPUTS, pairs=False)
    assert keys(report) == {"key-value-swapped"}, str(report)


# ------------------------------------------------------------ what the model returns has a say, too


def with_layers(forward):
    """The model of a course, its layers computed otherwise."""
    model = build("course", INPUTS)
    for layer in model.bert_layers:
        layer.forward = forward.__get__(layer)
    return model


def pre_norm(self, x, mask):
    x = x + self.attention_dense(self.self_attention(self.attention_layer_norm(x), mask))
    wide = self.gelu(self.interm_dense(self.out_layer_norm(x)))
    return x + self.out_dense(wide)


def norm_before_add(self, x, mask):
    x = x + self.attention_layer_norm(self.attention_dense(self.self_attention(x, mask)))
    return self.out_layer_norm(x + self.out_dense(self.gelu(self.interm_dense(x))))


@pytest.mark.parametrize("forward, key", [
    (pre_norm, "pre-norm"),
    (norm_before_add, "attention-norm-before-add"),
])
def test_what_explains_all_that_is_returned_is_named(forward, key):
    report = examine_whole(with_layers(forward), INPUTS, pairs=False)
    assert keys(report) == {key} and not report.diagnosis.beyond, str(report)


@pytest.mark.parametrize("activation, where, key", [
    (lambda x: x, "pooler_dense", "pooler-no-tanh"),
    (torch.relu, "model.result.pooler_output", "pooler-relu"),
])
def test_what_is_returned_for_the_pooler_is_no_step_before_it(activation, where, key):
    model = build("course", INPUTS)
    model.tanh = activation
    report = examine_whole(model, INPUTS, pairs=False)
    assert report.first.name == where and keys(report) == {key}, str(report)


def test_a_norm_that_is_only_a_little_off_is_the_first_difference():
    model = build("course", THREE)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 6e-5  # next to variances of embeddings of 7e-3
    report = examine_whole(model, THREE, pairs=False)
    assert report.first.name == "embed_layer_norm" and not keys(report), str(report)


def test_a_step_that_is_nearly_another_one_is_not_taken_for_it():
    """Where the values of all tokens are nearly the same, so is what is mixed of them."""
    inputs = example(5)
    inputs.weights["layers.0.attention.value.weight"] *= 1e-4
    report = examine_whole(build("a head at a time", inputs), inputs)
    assert report.passed, str(report)


def test_where_nothing_of_the_inside_is_seen_that_is_said():
    ours = BertModel(INPUTS.config).eval()
    ours.load_state_dict({name: INPUTS.weights[name] for name in ours.state_dict()})
    report = examine_whole(lambda ids, mask, types: ours(ids, mask, types)[0], INPUTS)
    assert report.passed and "passed at the result; the inside was not compared" in str(report)
    assert "the inside" not in str(examine_whole(build("course", INPUTS), INPUTS))


def test_rows_that_agree_given_what_goes_in_say_so():
    assert "right for what goes in" in str(examine_whole(
        build("course", INPUTS, ["gelu"]), INPUTS, pairs=False))


def test_a_model_in_training_mode_is_told_so():
    model = build("course", INPUTS)
    assert "training mode" not in str(examine_whole(model.eval(), INPUTS))
    assert "came in training mode" in str(examine_whole(model.train(), INPUTS))


# ------------------------------------------------------------------------------ the weights alone


def course_weights(change=lambda weights: weights):
    return weights_of(build("course", THREE, weights=change(THREE.weights)))


def with_key_of_another_layer(weights):
    other = {kind: weights[f"layers.2.attention.key.{kind}"] for kind in ("weight", "bias")}
    return weights | {f"layers.1.attention.key.{kind}": value for kind, value in other.items()}


@pytest.mark.parametrize("change, said", [
    (lambda w: swapped(w, "layers.0", "layers.2"), "layers 0 and 2 have each other's weights"),
    (with_key_of_another_layer,
     "`bert_layers.1.self_attention.key` has the weights of layer 2"),
    (new_norm, "`bert_layers.1.attention_layer_norm.weight` is all 1: not loaded; by its place it "
               "should be attention_norm of layer 1"),
    (lambda w: {n: torch.randn_like(v) for n, v in w.items()}, "is it the same checkpoint?"),
    (lambda w: w, ""),
], ids=["swapped", "one key", "a norm", "another checkpoint", "right"])
def test_what_is_wrong_in_a_state_dict_is_said_in_words(change, said):
    findings = examine_weights(course_weights(change), THREE).findings
    assert (said in findings[0] if said else not findings), findings


def test_a_transposed_square_weight_of_a_linear_layer_is_one():
    model = build("course", INPUTS)
    for layer in model.bert_layers:
        layer.attention_dense.weight.data = layer.attention_dense.weight.data.T
    report = examine_whole(model, INPUTS, pairs=False)
    assert report.first.name == "bert_layers.0.attention_dense"
    assert keys(report) == {"output-transposed"}
    assert "`bert_layers.{}.attention_dense.weight` is transposed in 2 layers" in str(report)


# --------------------------------------------------------------------- where nothing can be known


def test_what_is_not_in_the_catalogue_is_located_and_gets_no_name():
    model = build("course", INPUTS)
    model.bert_layers[1].interm_dense.register_forward_hook(lambda *given: given[-1] * 1.25)
    report = examine_whole(model, INPUTS, pairs=False)
    assert report.first.name == "bert_layers.1.interm_dense" and not keys(report)
    assert "not in the catalogue" in str(report)


def test_a_model_that_has_nothing_to_do_with_it_gets_no_name_and_a_question():
    def model(ids, mask):
        return torch.nn.functional.one_hot(ids, 24).float() @ torch.ones(24, 24)

    report = examine_whole(lambda ids, mask: model(ids % 24, mask), INPUTS, pairs=False)
    assert not report.passed and not (report.diagnosis and keys(report)), str(report)


@pytest.mark.slow
def test_a_model_in_half_precision_gets_no_name_but_a_sentence():
    report = examine_whole(build("list of linears", INPUTS).bfloat16(), INPUTS, pairs=False)
    assert not report.diagnosis and "computes in bfloat16" in " ".join(report.notes), str(report)


def test_dropout_and_crashes_are_said():
    model = build("course", INPUTS)
    plain = model.forward
    model.forward = lambda input_ids, attention_mask: {"x": torch.nn.functional.dropout(
        plain(input_ids, attention_mask)["last_hidden_state"])}
    assert keys(examine_whole(model, INPUTS)) == {"dropout-left-on"}
    report = examine_whole(lambda ids, mask: ids[:, 99], INPUTS)
    assert "your code raised IndexError" in str(report) and not report.passed


# --------------------------------------------------------------------------- on the command line

MINE = """
import torch
from minibert.model import BertModel

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = BertModel.from_pretrained("MODEL")
        self.bert.layers[1].feed_forward.activation = torch.nn.ReLU()

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.bert(input_ids, attention_mask, token_type_ids)[0]

def build():
    return Mine()

def nothing():
    return 3
"""


def test_on_the_command_line(capsys, tmp_path):
    torch.manual_seed(0)
    BertModel(INPUTS.config).save_pretrained(tmp_path / "model")
    (tmp_path / "mine.py").write_text(MINE.replace("MODEL", str(tmp_path / "model")))
    base = ["parity", "--model", str(tmp_path / "model"), "--whole"]
    assert main([*base, f"{tmp_path}/mine.py:build", "--json"]) == 1
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert report["first"] == "bert.layers.1.feed_forward.activation"
    assert report["diagnosis"]["answers"] == [["relu"]]
    assert report["names"]["bert.layers.1.attention_norm"] == "layers.1.attention_norm"
    state = {f"my.{name}": value.clone() for name, value in
             BertModel.from_pretrained(tmp_path / "model").state_dict().items()}
    save_file(state, tmp_path / "mine.safetensors")
    assert main([*base, f"{tmp_path}/mine.safetensors"]) == 0
    assert "recognised by their numbers" in capsys.readouterr().out
    assert main([*base, f"{tmp_path}/mine.py:nothing"]) == 2
    assert "returns int; it should return a model" in capsys.readouterr().err
