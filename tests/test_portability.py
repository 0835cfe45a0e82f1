"""What we save opens in transformers, what it saves opens here: same numbers, no warning."""

import contextlib
import json
import logging
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import build, in_reference, perturb, ragged_batch, tiny_config

from minibert import heads
from minibert.io.checkpoint import ENCODER_NAMES, TIED
from minibert.model import BertModel

transformers = pytest.importorskip("transformers", minversion="5")
pytestmark = pytest.mark.parity

CLASSES = (
    BertModel,
    heads.BertForMaskedLM,
    heads.BertForNextSentencePrediction,
    heads.BertForPreTraining,
    heads.BertForSequenceClassification,
    heads.BertForTokenClassification,
    heads.BertForQuestionAnswering,
)
# As far from the defaults as both sides allow, so that a key that is lost shows.
CONFIG = tiny_config(
    type_vocab_size=3,
    hidden_act="gelu_new",
    layer_norm_eps=1e-3,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.3,
    classifier_dropout=0.4,
    pad_token_id=5,
    id2label={"0": "nein", "1": "später"},
    label2id={"nein": 0, "später": 1},
)


@contextlib.contextmanager
def everything_said():
    """Collect all warnings, and all that transformers would print from "warning" up."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
        said.extend(str(warning.message) for warning in caught)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def load_theirs(cls: type, directory: Path, **options: object) -> torch.nn.Module:
    """The class of that name in transformers; what it could not place is a failure."""
    model, report = getattr(transformers, cls.__name__).from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True, **options
    )
    assert not any(report.values()), report
    return model.eval()


def difference(ours: torch.nn.Module, theirs: torch.nn.Module, config=CONFIG) -> float:
    """The largest difference over all outputs, on a batch with padding and three segments."""
    batch = ragged_batch(config)
    with torch.no_grad():
        mine, reference = ours(**batch), theirs(**batch)
    largest = 0.0
    for name, value in mine._asdict().items():
        other = reference[name] if name in reference else None
        assert (value is None) == (other is None), name
        if value is not None:
            assert value.shape == other.shape
            assert value.isfinite().all()
            largest = max(largest, (value - other).abs().max().item())
    return largest


def ours_opens_there(cls: type, directory: Path, labels: int = 2) -> float:
    """Any number of labels, also under the heads that have nothing to do with labels."""
    ours = build(cls, CONFIG if labels == 2 else CONFIG.replace(num_labels=labels))
    ours.save_pretrained(directory)
    theirs = load_theirs(cls, directory)
    assert theirs.config.architectures == [cls.__name__]
    assert theirs.config.num_labels == ours.config.num_labels
    return difference(ours, theirs)


def theirs_opens_here(cls: type, directory: Path, **options: object) -> float:
    theirs = in_reference(build(cls, CONFIG, seed=1))
    theirs.save_pretrained(directory, **options)
    assert (len(list(directory.glob("model-*.safetensors"))) > 2) == bool(options)
    ours = cls.from_pretrained(directory)
    assert not ours.load_report.new and not ours.load_report.dropped
    return difference(ours, theirs)


def there_and_back(cls: type, directory: Path) -> float:
    """Ours, opened and saved by them, opened and saved by us: the first file, byte for byte."""
    ours = build(cls, CONFIG, seed=3)
    ours.save_pretrained(directory / "ours")
    load_theirs(cls, directory / "ours").save_pretrained(directory / "theirs")
    again = cls.from_pretrained(directory / "theirs")
    again.save_pretrained(directory / "back")
    first, last = (directory / name / "model.safetensors" for name in ("ours", "back"))
    assert first.read_bytes() == last.read_bytes()
    assert again.config.to_dict().items() >= CONFIG.to_dict().items()
    return difference(ours, load_theirs(cls, directory / "back"))


DIRECTIONS = {
    "minibert -> transformers": ours_opens_there,
    "minibert, 1 label -> transformers": partial(ours_opens_there, labels=1),
    "minibert, 5 labels -> transformers": partial(ours_opens_there, labels=5),
    "transformers -> minibert": theirs_opens_here,
    "transformers, shards -> minibert": partial(theirs_opens_here, max_shard_size="10KB"),
    "minibert -> transformers -> minibert": there_and_back,
}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_numbers_are_the_same_and_nothing_is_said(tmp_path, direction, cls):
    with everything_said() as said:
        largest = DIRECTIONS[direction](cls, tmp_path)
    assert not said
    assert largest == 0.0


@pytest.mark.weights
def test_the_official_model_saved_by_us_is_the_official_model_there(tmp_path, official):
    with everything_said() as said:
        ours = BertModel.from_pretrained(official)
        ours.save_pretrained(tmp_path)
        largest = difference(ours, load_theirs(BertModel, tmp_path), ours.config)
        largest = max(largest, difference(ours, load_theirs(BertModel, official), ours.config))
    assert not said
    assert largest == 0.0
    assert len(ours.load_report.loaded) == 103
    assert ours.load_report.dropped.keys() == {"embeddings.position_ids"}
    assert not ours.load_report.new
    old, new = load_file(official / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    del old["embeddings.position_ids"]
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


# ------------------------------------------------------------------------------------- the names


def test_the_name_table_has_no_row_in_vain():
    used = set()
    for cls in CLASSES:
        for name in build(cls, CONFIG).state_dict():
            module = name.removeprefix("bert.").rpartition(".")[0]
            used.add(module.replace("layers.0", "layers.{}").replace("layers.1", "layers.{}"))
    assert used == {ours for cls in CLASSES for ours, _ in (*ENCODER_NAMES, *cls.names)}


# ----------------------------------------------------------------------- other forms of a file


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_keep_their_numbers(tmp_path, dtype):
    ours = build(heads.BertForMaskedLM, CONFIG, dtype=dtype)
    with everything_said() as said:
        ours.save_pretrained(tmp_path / "ours")
        theirs = load_theirs(heads.BertForMaskedLM, tmp_path / "ours", dtype="auto")
        assert {parameter.dtype for parameter in theirs.parameters()} == {dtype}
        theirs.save_pretrained(tmp_path / "theirs")
        back = heads.BertForMaskedLM.from_pretrained(tmp_path / "theirs", dtype=dtype)
        wide = heads.BertForMaskedLM.from_pretrained(tmp_path / "theirs")
    assert not said
    assert back.load_report.dtypes == (str(dtype).removeprefix("torch."),)
    assert all(map(torch.equal, back.state_dict().values(), ours.state_dict().values()))
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
    assert difference(wide, theirs.float()) == 0.0


def test_an_encoder_without_a_pooler_opens_there(tmp_path):
    ours = perturb(BertModel(CONFIG, add_pooling_layer=False)).eval()
    ours.save_pretrained(tmp_path)
    with everything_said() as said:
        theirs = load_theirs(BertModel, tmp_path, add_pooling_layer=False)
    assert not said
    assert difference(ours, theirs) == 0.0
    assert BertModel.from_pretrained(tmp_path).pooler is None


@pytest.mark.parametrize("cls", CLASSES[1:])
def test_the_encoder_of_their_heads_and_a_new_head_on_their_encoder(tmp_path, cls):
    theirs = in_reference(build(cls, CONFIG))
    theirs.save_pretrained(tmp_path)
    with everything_said() as said:
        ours = BertModel.from_pretrained(tmp_path)
    assert not said
    assert difference(ours, theirs.bert) == 0.0
    theirs.bert.save_pretrained(tmp_path / "encoder")
    with everything_said() as said:
        head = cls.from_pretrained(tmp_path / "encoder")
    assert len(said) == 1 and "new, untrained" in said[0]
    assert difference(head.bert, theirs.bert) == 0.0
    kinds = {name.partition(".")[0] for name in head.load_report.new}
    assert kinds == {name.partition(".")[0] for name, _ in head.named_parameters()} - {"bert"}


def test_a_file_as_older_versions_wrote_it_opens_in_both(tmp_path):
    """gamma and beta, position_ids, both copies of the tied decoder; float32 in a .bin file."""
    theirs = in_reference(build(heads.BertForPreTraining, CONFIG))
    theirs.save_pretrained(tmp_path)
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        tensors[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    assert tensors.keys() >= TIED.keys()
    tensors["bert.embeddings.position_ids"] = torch.arange(CONFIG.max_position_embeddings)[None]
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("dtype", "architectures", "transformers_version", "tie_word_embeddings"):
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with everything_said() as said:
        ours = heads.BertForPreTraining.from_pretrained(tmp_path)
        ours.save_pretrained(tmp_path / "ours")
        again = load_theirs(heads.BertForPreTraining, tmp_path / "ours")
    assert not said
    assert len(ours.load_report.dropped) == 3
    assert difference(ours, theirs) == difference(ours, again) == 0.0


def test_a_model_that_is_not_the_same_is_noticed(tmp_path):
    """The comparison itself: one number changed a little, one tensor too many."""
    ours = build(BertModel, CONFIG)
    ours.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    tensors["embeddings.LayerNorm.bias"][0] += 1e-5
    save_file(tensors, path, {"format": "pt"})
    assert 0 < difference(ours, load_theirs(BertModel, tmp_path)) < 1e-3
    tensors["a.b"] = torch.zeros(3)
    save_file(tensors, path, {"format": "pt"})
    with everything_said() as said, pytest.raises(AssertionError, match="unexpected_keys"):
        load_theirs(BertModel, tmp_path)
    assert said
