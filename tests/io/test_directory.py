"""A saved directory says what belongs to it; reading it changes nothing, inside or outside."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from minibert import BertConfig, BertModel, BertTokenizer, SentenceEncoder
from minibert.io.directory import ModelDirectory, open_directory

# Everything an encoder is read from. tokenizer.json decides, so vocab.txt is not read beside it.
READ = [
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture
def directory(tiny, tmp_path) -> Path:
    tiny.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def snapshot(home: Path) -> dict[str, object]:
    """Every file, folder and link below a directory, and what is in it."""
    return {
        str(path.relative_to(home)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in home.rglob("*")
    }


def test_the_manifest_lists_what_a_model_is_read_from(directory):
    manifest = json.loads((directory / "minibert.json").read_text())
    assert manifest["format"] == 1
    assert list(manifest["sha256"]) == sorted([*READ, "vocab.txt"])
    for name, digest in manifest["sha256"].items():
        line = subprocess.check_output(["sha256sum", directory / name], text=True)
        assert line.split()[0] == digest


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("how", ["changed", "lost"])
def test_a_changed_file_is_named_with_how_to_accept_it(directory, name, how):
    path = directory / name
    content = path.read_bytes()
    path.unlink()
    half = directory / ".model.tmp-dead" / name  # of a program that was killed while it wrote
    half.parent.mkdir(parents=True)
    half.write_bytes(content[:9])
    if how == "changed":
        path.write_bytes(content + b" ")
    with pytest.raises(ValueError, match="has changed since|is missing") as caught:
        SentenceEncoder.from_pretrained(directory)
    assert str(caught.value).startswith(f"{path} ")
    assert f"delete this file's line in {directory / 'minibert.json'}" in str(caught.value)
    if how == "changed" and name != "model.safetensors":
        manifest = json.loads((directory / "minibert.json").read_text())
        del manifest["sha256"][name]
        (directory / "minibert.json").write_text(json.dumps(manifest))
        SentenceEncoder.from_pretrained(directory)


def test_each_class_checks_what_it_reads_and_no_more(directory):
    (directory / "README.md").write_text("a card of my own")
    (directory / "notes.txt").write_text("and more")
    SentenceEncoder.from_pretrained(directory)
    (directory / "config.json").write_text("{}")
    BertTokenizer.from_pretrained(directory)
    for cls in (BertConfig, BertModel, SentenceEncoder):
        with pytest.raises(ValueError, match="config.json has changed"):
            cls.from_pretrained(directory)


def test_what_came_in_the_place_of_a_file_is_said(directory):
    """As of a directory without a manifest: `test_checkpoint` has everything that may come."""
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").write_bytes(b"<!DOCTYPE html><html>404</html>")
    with pytest.raises(ValueError, match="is a web page"):
        BertModel.from_pretrained(directory)


def test_a_save_renews_the_lines_of_its_files_alone(directory):
    other = BertTokenizer([*"abcdefgh", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    other.save_pretrained(directory)
    assert len(BertTokenizer.from_pretrained(directory)) == 13
    BertModel.from_pretrained(directory)
    (directory / "config.json").write_text((directory / "config.json").read_text() + " ")
    other.save_pretrained(directory)
    with pytest.raises(ValueError, match="config.json has changed"):
        BertModel.from_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    BertConfig.from_dict(config).save_pretrained(directory)  # saved by us: known again
    BertModel.from_pretrained(directory)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "sha256": ['])
def test_a_manifest_that_cannot_be_read_is_said_and_a_save_mends_it(tiny, directory, content):
    (directory / "minibert.json").write_text(content)
    with pytest.raises(ValueError, match="minibert.json"):
        SentenceEncoder.from_pretrained(directory)
    tiny.save_pretrained(directory)
    SentenceEncoder.from_pretrained(directory)


def test_a_directory_without_a_manifest_is_read_as_it_is(tiny, directory):
    (directory / "minibert.json").unlink()
    (directory / "tokenizer.json").unlink()
    encoder = SentenceEncoder.from_pretrained(directory)
    assert abs(encoder.encode(["a b"]) - tiny.encode(["a b"])).max() <= 2e-6


def test_a_save_that_was_interrupted_between_two_files_is_said(tiny, directory, monkeypatch):
    other = BertModel(tiny.model.config.replace(num_hidden_layers=1))
    replace = os.replace

    def killed(source, target):
        if target == directory / "model.safetensors":
            raise SystemExit
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(SystemExit):
            SentenceEncoder(other, tiny.tokenizer).save_pretrained(directory)
    with pytest.raises(ValueError, match="safetensors has changed.*was interrupted") as caught:
        BertModel.from_pretrained(directory)
    (left,) = directory.glob(".*.tmp-*")
    assert str(left) in str(caught.value)
    before = snapshot(directory)
    with pytest.raises(ValueError, match="interrupted"):
        SentenceEncoder.from_pretrained(directory)
    assert snapshot(directory) == before  # reading repairs nothing
    SentenceEncoder(other, tiny.tokenizer).save_pretrained(directory)
    assert SentenceEncoder.from_pretrained(directory).model.config.num_hidden_layers == 1


def test_opening_a_directory_of_a_stranger_touches_nothing(tiny, directory, tmp_path):
    """With links that lead out, and the journal that older versions followed."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "keys.json").write_text('{"secret": 1}')
    for journal in (".minibert-saved", ".model.tmp-1234"):
        (directory / journal / "out").mkdir(parents=True)
        (directory / journal / "keys.json").write_text("overwritten")
        (directory / journal / "out" / "keys.json").write_text("overwritten")
    (directory / "out").symlink_to(home)
    (directory / "keys.json").symlink_to(home / "keys.json")
    before = snapshot(tmp_path)
    for _ in range(2):
        SentenceEncoder.from_pretrained(directory)
        for cls in (BertConfig, BertTokenizer, BertModel):
            cls.from_pretrained(directory)
        manifest = json.loads((directory / "minibert.json").read_text())
        manifest["sha256"] |= {"../home/keys.json": "0" * 64, "/etc/passwd": "0" * 64}
        (directory / "minibert.json").write_text(json.dumps(manifest))
        before["model/minibert.json"] = json.dumps(manifest).encode()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("folder", ["../elsewhere", "/elsewhere", "a/b"])
def test_modules_elsewhere_are_refused(directory, folder):
    entries = json.loads((directory / "modules.json").read_text())
    entries[1]["path"] = folder
    (directory / "modules.json").write_text(json.dumps(entries))
    (directory / "minibert.json").unlink()
    with pytest.raises(ValueError, match="not a folder beside it"):
        SentenceEncoder.from_pretrained(directory)


def test_an_open_directory_is_not_looked_for_again(directory, monkeypatch):
    opened = open_directory(directory)
    monkeypatch.setattr("minibert.io.directory.locate", lambda *a, **k: pytest.fail("again"))
    for cls in (BertConfig, BertTokenizer, BertModel, SentenceEncoder):
        cls.from_pretrained(opened)
    assert isinstance(opened, ModelDirectory) and Path(opened) == directory


def test_the_options_of_the_hub_reach_it_from_every_class(directory, monkeypatch):
    hub = {"revision": "main", "token": "t", "local_files_only": True, "cache_dir": "c"}
    asked = []
    monkeypatch.setattr(
        "minibert.io.directory.locate", lambda name, **options: asked.append(options) or directory
    )
    for cls in (BertConfig, BertTokenizer, BertModel, SentenceEncoder):
        cls.from_pretrained("owner/model", **hub)
    assert asked == [hub] * 4


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_not_a_regular_file_is_not_opened(directory, name, kind):
    """A pipe, in a directory that somebody sent, would be read for ever."""
    (directory / "minibert.json").unlink()
    if name == "vocab.txt":
        (directory / "tokenizer.json").unlink()
    (directory / name).unlink()
    if kind == "device":
        (directory / name).symlink_to("/dev/zero")
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(directory / name)
    with pytest.raises(ValueError, match="is not a regular file") as caught:
        SentenceEncoder.from_pretrained(directory)
    assert str(directory / name) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_links_in_a_circle_and_files_without_end_are_told(directory, name):
    (directory / "minibert.json").unlink()
    os.truncate(directory / name, 1 << 30)  # sparse: it takes no room
    with pytest.raises(ValueError, match=f"{name} has 1,073,741,824 bytes, more than any such"):
        SentenceEncoder.from_pretrained(directory)
    (directory / name).unlink()
    (directory / name).symlink_to(name)
    with pytest.raises(FileNotFoundError, match=f"{name} is a link to {name}, where nothing is"):
        SentenceEncoder.from_pretrained(directory)


@pytest.mark.parametrize("prompts", [33, ["a"], {"query": 1}])
def test_prompts_that_are_none_are_told(directory, prompts):
    (directory / "minibert.json").unlink()
    (directory / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    with pytest.raises(ValueError, match="prompts is .*; an object (of name: text )?is needed"):
        SentenceEncoder.from_pretrained(directory)
