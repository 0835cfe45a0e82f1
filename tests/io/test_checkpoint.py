"""Every tensor accounted for, nothing half-written, and damage that is never silent."""

import functools
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.checkpoints import (
    BIN,
    CONFIG,
    FILE,
    FILES,
    as_bin,
    foreign,
    quiet_load,
    same_output,
    saved,
    shards,
)
from support.disk import files_of_at_most
from support.tiny import build

from minibert import heads
from minibert.io import checkpoint
from minibert.io.checkpoint import ENCODER_NAMES, canonical_name, official_name
from minibert.model import BertModel

HEADS = (
    *("BertForMaskedLM", "BertForNextSentencePrediction", "BertForPreTraining"),
    *("BertForSequenceClassification", "BertForTokenClassification", "BertForQuestionAnswering"),
)
CLASSES = (BertModel, *(getattr(heads, name) for name in HEADS))
# ------------------------------------------------------------------------------------- the names


def test_the_table_is_read_both_ways_by_hand():
    assert official_name("layers.11.attention.query.bias") == (
        "encoder.layer.11.attention.self.query.bias"
    )
    assert official_name("bert.embeddings.norm.weight") == "embeddings.LayerNorm.weight"
    names = (*ENCODER_NAMES, *heads.BertForMaskedLM.names)
    assert official_name("predictions.norm.bias", names) == (
        "cls.predictions.transform.LayerNorm.bias"
    )
    assert official_name("predictions.bias", names) == "cls.predictions.bias"
    with pytest.raises(KeyError):
        official_name("predictions.bias")  # not a part of the encoder


def test_old_names_are_understood_by_their_exact_suffix():
    norm = "cls.predictions.transform.LayerNorm"
    assert canonical_name("bert.embeddings.LayerNorm.gamma") == "embeddings.LayerNorm.weight"
    assert canonical_name("embeddings.LayerNorm.beta") == "embeddings.LayerNorm.bias"
    assert canonical_name(f"{norm}.gamma") == f"{norm}.weight"
    assert canonical_name("bert.bert.pooler.dense.bias") == "bert.pooler.dense.bias"
    for name in ("LayerNorm.gamma.weight", "LayerNorm.gammas", "MyLayerNorm.gamma", "albert.a"):
        assert canonical_name(name) == name  # only as a suffix, only of a LayerNorm, only "bert."


# ------------------------------------------------------------- every tensor is accounted for


def old_style(tensors: dict, prefix: str = "", gamma: bool = False) -> dict:
    """Rename tensors as other files have them."""
    renamed = {}
    for name, tensor in tensors.items():
        name = canonical_name(name)
        if not name.startswith(("cls.", "classifier.", "qa_outputs.")):
            name = prefix + name
        if gamma:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            name = name.replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[name] = tensor
    return renamed


@functools.cache
def sample(model_class: type) -> tuple[dict, dict]:
    """The tensors of a model by their official names, and by ours."""
    state = build(model_class, CONFIG.replace(num_hidden_layers=1)).state_dict()
    names = (*ENCODER_NAMES, *model_class.names)
    return {official_name(ours, names): tensor for ours, tensor in state.items()}, state


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_tensor_of_file_and_model_is_accounted_for(data):
    """A file of any class, old or new, in the hands of any class, with up to one mishap."""
    of_file, of_model = (data.draw(st.sampled_from(CLASSES)) for _ in range(2))
    tensors = dict(sample(of_file)[0])
    if data.draw(st.booleans(), "extras"):
        tensors["embeddings.position_ids"] = torch.arange(12)[None]
        if "cls.predictions.bias" in tensors:
            tensors["cls.predictions.decoder.weight"] = tensors["embeddings.word_embeddings.weight"]
            tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    wanted = sample(of_model)[1]
    names = (*ENCODER_NAMES, *of_model.names)
    needed = {official_name(ours, names) for ours in wanted}

    mishaps = ["none", "none", "lost", "unknown", "twice", "shape", "kind"]
    mishap = data.draw(st.sampled_from(mishaps), "mishap")
    victim = data.draw(st.sampled_from(sorted(tensors)), "victim")
    if mishap == "lost":
        del tensors[victim]
    elif mishap == "unknown":
        tensors["encoder.layer.0.attention.self.distance.weight"] = torch.zeros(2)
    elif mishap == "twice":
        tensors["bert." + victim] = tensors[victim]
    elif mishap == "shape":
        tensors[victim] = tensors[victim][..., :-1]
    elif mishap == "kind":
        tensors[victim] = tensors[victim].to(torch.int32)

    if mishap != "twice":
        prefix = data.draw(st.sampled_from(["", "bert."]))
        tensors = old_style(tensors, prefix, gamma=data.draw(st.booleans(), "gamma"))
    order = data.draw(st.permutations(sorted(tensors)))
    tensors = {name: tensors[name] for name in order}

    def run():
        return checkpoint.match("DIR", tensors, wanted, names)

    def head(name):
        return next((prefix for prefix in checkpoint.HEADS if name.startswith(prefix)), None)

    # What must happen, said in another way than the code says it.
    left = {canonical_name(name) for name in tensors}
    if mishap == "lost" and victim in needed:
        alone = not any(head(name) == head(victim) for name in left)
        wrong = head(victim) is None or not alone  # a head may be missing as a whole
    elif mishap in ("shape", "kind"):
        tied = victim in checkpoint.TIED or victim in checkpoint.TIED.values()
        wrong = victim in needed or (
            tied and victim in left and "cls.predictions.bias" in needed & left
        )
    else:
        wrong = mishap in ("unknown", "twice")
    if wrong:
        with pytest.raises(ValueError, match="^the weights in DIR do not fit") as caught:
            run()
        culprit = "distance" if mishap == "unknown" else canonical_name(victim).split(".")[-2]
        assert culprit in str(caught.value)
        return
    state, report = run()

    assert not report.loaded.keys() & report.dropped.keys()
    assert report.loaded.keys() | report.dropped.keys() == tensors.keys()
    assert not set(report.loaded.values()) & report.new.keys()
    assert set(report.loaded.values()) | report.new.keys() == wanted.keys()
    assert state.keys() == set(report.loaded.values())
    for name, ours in report.loaded.items():
        assert torch.equal(state[ours], tensors[name]), name
        assert canonical_name(name) == official_name(ours, names)
    assert {head(official_name(ours, names)) for ours in report.new} == (
        {head(name) for name in needed} - {head(name) for name in left}
    )
    assert all(report.new.values()) and all(report.dropped.values())


@pytest.mark.parametrize("of_model", CLASSES)
@pytest.mark.parametrize("of_file", CLASSES)
def test_a_file_of_any_class_opens_as_any_other(tmp_path, of_file, of_model):
    """What both have is loaded; what is new is named in one warning; the rest is in the report."""
    theirs = build(of_file, CONFIG)
    theirs.save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = of_model.from_pretrained(tmp_path)

    def plain(state):
        return {name.removeprefix("bert."): value for name, value in state.items()}

    state, ours, new = map(plain, (theirs.state_dict(), model.state_dict(), model.load_report.new))
    assert new.keys() == ours.keys() - state.keys()
    assert all(torch.equal(ours[name], state[name]) for name in ours.keys() & state.keys())
    assert all(value.isfinite().all() for value in ours.values()) and not model.training
    assert len(caught) == bool(new)
    for warning in caught:
        assert all(name in str(warning.message) for name in model.load_report.new)
        assert warning.filename == __file__
    assert len(model.load_report.dropped) == len(state.keys() - ours.keys())
    if of_model is BertModel:
        assert (model.pooler is None) == ("pooler.dense.weight" not in state)


def test_the_old_names_give_the_same_model(tmp_path):
    model = build(heads.BertForPreTraining, CONFIG)
    model.save_pretrained(tmp_path)
    old = old_style(load_file(tmp_path / "model.safetensors"), "bert.", gamma=True)
    words, bias = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
    old["bert.embeddings.position_ids"] = torch.arange(12)[None]
    old["cls.predictions.decoder.weight"] = old[words].clone()
    old["cls.predictions.decoder.bias"] = old[bias].clone()
    again = quiet_load(heads.BertForPreTraining, foreign(tmp_path, old))
    assert "bert.embeddings.LayerNorm.gamma" in old and same_output(model, again)
    assert again.load_report.dropped == {
        "bert.embeddings.position_ids": "the numbers 0, 1, 2, ...; they are computed",
        "cls.predictions.decoder.weight": f"tied: the same numbers as {words}",
        "cls.predictions.decoder.bias": f"tied: the same numbers as {bias}",
    }


def test_another_number_of_labels_makes_a_new_classifier_and_says_so(tmp_path):
    saved(tmp_path, heads.BertForSequenceClassification)
    with pytest.warns(UserWarning, match="classifier.weight, classifier.bias") as caught:
        model = heads.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=7)
    assert len(caught) == 1 and model.classifier.weight.shape == (7, 16)
    both = {"classifier.weight", "classifier.bias"}
    assert model.load_report.dropped.keys() == model.load_report.new.keys() == both
    assert 0.005 < model.classifier.weight.std() < 0.05  # initializer_range is 0.02
    assert not model.classifier.bias.any()
    again = quiet_load(heads.BertForSequenceClassification, tmp_path, num_labels=3)  # fits: is kept
    assert not again.load_report.new
    tensors = load_file(tmp_path / "model.safetensors") | {"classifier.bias": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"classifier.bias is \(4,\), the config needs \(3,\)"):
        heads.BertForSequenceClassification.from_pretrained(foreign(tmp_path, tensors))


# ---------------------------------------------------------------------- what loading costs


def test_loading_draws_no_random_number(tmp_path):
    for cls in CLASSES:
        saved(tmp_path / cls.__name__, cls)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        quiet_load(cls, tmp_path / cls.__name__)
        quiet_load(BertModel, tmp_path / cls.__name__)  # without a pooler: none is made up
        assert torch.equal(torch.get_rng_state(), before), cls


def test_loading_imports_no_compiler(tmp_path):
    """torch._dynamo costs seconds, and initialising on the meta device would pull it in."""
    saved(tmp_path)
    code = (
        "import sys; from minibert.model import BertModel; BertModel.from_pretrained(sys.argv[1]);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def mapping(path: Path) -> tuple[int, int, dict[str, int]]:
    """First and last address of a file in memory, and the kilobytes of it that are really there."""
    text = Path("/proc/self/smaps").read_text()
    (entry,) = re.findall(rf"(?m)^(\w+)-(\w+) .* {re.escape(str(path))}\n((?:\w+:.*\n)+)", text)
    kilobytes = {key: int(value) for key, value in re.findall(r"(\w+): +(\d+) kB", entry[2])}
    return int(entry[0], 16), int(entry[1], 16), kilobytes


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc of Linux")
@pytest.mark.parametrize("name", [FILE, BIN])
def test_weights_are_mapped_and_not_read(tmp_path, name):
    config = CONFIG.replace(vocab_size=300_000)  # 19 MB
    model = BertModel(config)
    model.save_pretrained(tmp_path)
    foreign(tmp_path)
    if name == BIN:
        as_bin(tmp_path)
    loaded = quiet_load(BertModel, tmp_path)
    start, end, kilobytes = mapping(tmp_path / name)
    if name == FILE:
        assert kilobytes["Rss"] < 1000  # of 18,800
    assert kilobytes["Private_Dirty"] == kilobytes["Anonymous"] == 0
    assert all(start <= parameter.data_ptr() < end for parameter in loaded.parameters())
    assert torch.equal(loaded.embeddings.word.weight, model.embeddings.word.weight)
    assert mapping(tmp_path / name)[2]["Rss"] > 18_700


def test_a_loaded_model_can_be_saved_over_its_own_file(tmp_path):
    """The model lives in the memory map of the file that is replaced: it must not change."""
    original = build(BertModel, CONFIG)
    original.save_pretrained(tmp_path)
    first = quiet_load(BertModel, tmp_path)
    other = build(BertModel, CONFIG, seed=1)
    other.save_pretrained(tmp_path)
    assert same_output(first, original)
    first.save_pretrained(tmp_path)
    assert same_output(quiet_load(BertModel, tmp_path), original)
    assert not same_output(first, other)


# ------------------------------------------------------------------------ dtypes and file kinds


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision_comes_up_as_float32_unless_asked(tmp_path, stored):
    model = build(BertModel, CONFIG).to(stored)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(stored)[6:]
    asked = quiet_load(BertModel, tmp_path, dtype=stored)
    assert {parameter.dtype for parameter in asked.parameters()} == {stored}
    again = quiet_load(BertModel, tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert same_output(again, model.float()) and again.load_report.dtypes == (str(stored)[6:],)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_sharded_files_give_the_same_model(tmp_path, ending):
    model = build(heads.BertForMaskedLM, CONFIG)
    model.save_pretrained(tmp_path)
    shards(tmp_path, ending)
    assert same_output(quiet_load(heads.BertForMaskedLM, tmp_path), model)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_a_bin_file_gives_the_same_model(tmp_path, zipped):
    """With a transposed view in it, whose numbers do not lie in order."""
    model = build(BertModel, CONFIG)
    model.save_pretrained(tmp_path)
    tensors = {name: value.clone() for name, value in load_file(tmp_path / FILE).items()}
    tensors["pooler.dense.weight"] = tensors["pooler.dense.weight"].T.contiguous().T
    as_bin(tmp_path, tensors, _use_new_zipfile_serialization=zipped)
    again = quiet_load(BertModel, tmp_path)
    assert same_output(again, model)
    assert all(parameter.is_contiguous() for parameter in again.parameters())


def test_a_safetensors_file_is_preferred_to_everything_else(tmp_path):
    model = build(BertModel, CONFIG)
    model.save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    shards(tmp_path, "safetensors")
    for name in ("model-00001-of-00003.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="model-00001-of-00003.safetensors is damaged"):
        BertModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    said = "model.safetensors is read, not model.safetensors.index.json, pytorch_model.bin beside"
    with pytest.warns(UserWarning, match=said):
        assert same_output(BertModel.from_pretrained(tmp_path), model)


class Malicious:
    """A pickle that runs a command when it is opened carelessly."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_code_in_a_bin_file_is_not_run(tmp_path, zipped):
    content = {"a": Malicious(tmp_path / "trace")}
    path = as_bin(saved(tmp_path), content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"asks to run posix\.system") as caught:
        BertModel.from_pretrained(tmp_path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's own message tells how to run it
    assert not (tmp_path / "trace").exists()
    torch.load(path, weights_only=False)  # and it would have run
    assert (tmp_path / "trace").exists()


# -------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_saved_is_complete_official_and_plain(tmp_path, cls):
    model = build(cls, CONFIG)
    with torch.no_grad():  # numbers that do not lie in order
        query = getattr(model, "bert", model).layers[0].attention.query
        query.weight.data = torch.randn(16, 16).T
    model.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == FILES
    tensors, metadata = checkpoint.read_safetensors(tmp_path / "model.safetensors")
    assert metadata == {"format": "pt"} and len(tensors) == len(model.state_dict())
    assert not any("decoder" in name or "position_ids" in name for name in tensors)
    prefixes = tuple(checkpoint.HEADS)[1:]
    prefixed = {name for name in tensors if name.startswith("bert.")}
    expected = {name for name in tensors if not name.startswith(prefixes) and cls is not BertModel}
    assert prefixed == expected
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert config["architectures"] == [cls.__name__]
    assert len({os.stat(tmp_path / name).st_mode for name in FILES}) == 1  # for others to read too
    again = quiet_load(cls, tmp_path)
    assert same_output(model, again) and not again.load_report.dropped
    again.save_pretrained(tmp_path / "again")  # and what is loaded is saved as the same bytes
    weights = (tmp_path / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights


def test_all_dtypes_and_shapes_of_memory_are_written(tmp_path):
    """Views, the same numbers twice, nothing at all; the same bytes each time."""
    x = torch.randn(3, 5)
    wide, half, byte = (torch.randn(7).to(d) for d in (torch.double, torch.bfloat16, torch.uint8))
    tensors = {"a": x, "again": x, "row": x[1], "é": x.T, "wide": wide, "half": half, "byte": byte}
    tensors |= {"scalar": torch.tensor(3.0), "none": torch.zeros(0, 4), "bool": wide > 0}
    path = tmp_path / "a.safetensors"
    checkpoint.write_safetensors(path, tensors, {"key": "value é"})
    again, metadata = checkpoint.read_safetensors(path)
    assert metadata == {"key": "value é"} and again.keys() == tensors.keys()
    assert all(checkpoint.same(again[name], tensors[name]) for name in tensors)
    data = path.read_bytes()
    checkpoint.write_safetensors(path, dict(reversed(tensors.items())), {"key": "value é"})
    assert path.read_bytes() == data and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "over an old one"])
@pytest.mark.parametrize(("size", "file"), [(100, "config.json"), (5000, "model.safetensors")])
def test_a_full_disk_leaves_the_old_model(tmp_path, there, size, file):
    path = tmp_path / "model"
    old, new = build(BertModel, CONFIG), build(BertModel, CONFIG, seed=1)
    if there:
        old.save_pretrained(path)
    with pytest.raises(OSError, match="nothing was saved, what was there is untouched") as caught:
        with files_of_at_most(size):
            new.save_pretrained(path)
    assert caught.value.filename == str(path / file)
    assert os.listdir(tmp_path) == (["model"] if there else [])
    if there:
        assert sorted(os.listdir(path)) == FILES and same_output(quiet_load(BertModel, path), old)
