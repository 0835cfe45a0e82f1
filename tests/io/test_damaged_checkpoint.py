"""Weights that are damaged, incomplete or of another kind are refused in plain words."""

import json
import random
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import (
    CONFIG,
    FILE,
    INDEX,
    as_bin,
    foreign,
    quiet_load,
    same_output,
    saved,
    shards,
)
from support.tiny import build

from minibert import heads
from minibert.io import checkpoint
from minibert.model import BertModel


def flipped_bin(directory: Path) -> None:
    path = as_bin(directory)
    with zipfile.ZipFile(path) as file:
        largest = max(file.infolist(), key=lambda item: item.file_size)
    path.write_bytes(flip(path.read_bytes(), largest.header_offset + 2000))


WORDS = "embeddings.word_embeddings.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:53aa51\nsize 90868376\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>429 Too Many Requests</title></head></html>\n"


def weights(change):
    """Change the bytes of the weights file, or put others in their place."""

    def damage(directory: Path) -> None:
        old = (directory / FILE).read_bytes()
        (directory / FILE).write_bytes(change if isinstance(change, bytes) else change(old))

    return damage


def in_tensors(change):
    """Change the tensors of the weights file."""

    def damage(directory: Path) -> None:
        content = {k: v.clone() for k, v in load_file(directory / FILE).items()}
        change(content)
        foreign(directory, content)

    return damage


def in_config(**values):
    """Change values of config.json."""

    def damage(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def in_index(change):
    """Cut into shards, then change the index or the shards."""

    def damage(directory: Path) -> None:
        content = shards(directory, "safetensors")
        change(directory, content["weight_map"])
        (directory / INDEX).write_text(json.dumps(content))

    return damage


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def link_to_nowhere(directory: Path) -> None:
    (directory / FILE).unlink()
    (directory / FILE).symlink_to("../../blobs/53aa51172d142c89")


BAD = [
    # -- the weights file
    ("cut off", weights(lambda old: old[:-1]), "damaged or incomplete"),
    ("too long", weights(lambda old: old + b"\0"), "damaged or incomplete"),
    ("a flipped bit in the header", weights(lambda old: flip(old, 1)), "damaged"),
    ("empty", weights(b""), "is empty"),
    ("a git-lfs pointer", weights(LFS), "is a git-lfs pointer.*git lfs pull"),
    ("a web page", weights(HTML), "is a web page"),
    ("another kind of file", weights(b"PK\3\4 or anything else"), "damaged or incomplete"),
    ("a link to nowhere", link_to_nowhere, "is a link to .*53aa51172d142c89, where nothing is"),
    ("no weights at all", lambda d: (d / FILE).unlink(), "has no weights.*config"),
    # -- the tensors
    ("a missing tensor", in_tensors(lambda t: t.pop(WORDS)), rf"{WORDS} \(40, 16\) is missing"),
    ("one without a name", in_tensors(lambda t: t.update({"": t.pop(WORDS)})),
     rf"{WORDS} \(40, 16\) is missing"),
    ("one too many", in_tensors(lambda t: t.update(x=torch.zeros(3))), r"x \(3,\) is not expected"),
    ("a wrong shape", in_tensors(lambda t: t.update({WORDS: torch.zeros(40, 8)})),
     r"is \(40, 8\), the config needs \(40, 16\)"),
    ("whole numbers", in_tensors(lambda t: t.update({WORDS: t[WORDS].to(torch.int8)})),
     r"word_embeddings.weight is torch.int8, floating point numbers are needed"),
    ("a tensor under two names", in_tensors(lambda t: t.update({"bert." + WORDS: t[WORDS] + 0})),
     "are the same tensor, stored twice"),
    ("all but a dozen", in_tensors(lambda t: [t.pop(k) for k in list(t)[:-3]]), "and [0-9]+ more$"),
    # -- config.json
    ("another size", in_config(hidden_size=32), r"is \(40, 16\), .* needs \(40, 32\)"),
    ("more layers", in_config(num_hidden_layers=10**6), "have 2 layers, .* says 1000000"),
    ("no config.json", lambda d: (d / "config.json").unlink(), "has no config.json; is it a model"),
    # -- shards
    ("a missing shard", in_index(lambda d, m: (d / m[WORDS]).unlink()), "named in .*is missing"),
    ("a shard elsewhere", in_index(lambda d, m: m.update({WORDS: "../../secret"})),
     "'../../secret', which is not a file beside it"),
    ("an index of numbers", in_index(lambda d, m: m.update({WORDS: 7})), "7, named in .* is miss"),
    ("an index without a tensor", in_index(lambda d, m: m.pop(WORDS)), rf"not agree .* {WORDS}"),
    ("an index of nothing", lambda d: (shards(d, "safetensors"), (d / INDEX).write_text("{}")),
     "has no object 'weight_map'"),
    # -- pytorch_model.bin
    ("a .bin file cut off", lambda d: as_bin(d, b"PK\3\4" + bytes(500)),
     "pytorch_model.bin is damaged"),
    ("a .bin file with a flipped byte", flipped_bin, "the checksum of .* is wrong"),
    ("a .bin file of something else", lambda d: as_bin(d, {0: torch.zeros(2)}),
     "else than names and tensors"),
    ("a .bin file of a list", lambda d: as_bin(d, [torch.zeros(2)]),
     "something else than names and tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "damage", "message"), BAD, ids=[row[0] for row in BAD])
def test_bad_input_is_refused_in_plain_words(tmp_path, what, damage, message):
    damage(foreign(saved(tmp_path)))
    with pytest.raises((ValueError, OSError), match=f"(?s){message}") as caught:
        BertModel.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_untied_decoder_is_refused(tmp_path):
    saved(tmp_path, heads.BertForMaskedLM)
    content = load_file(tmp_path / "model.safetensors")
    for name, like in checkpoint.TIED.items():
        like = like if like in content else "bert." + like
        for other in (content[like] + 1, content[like].double(), content[like][:-1]):
            foreign(tmp_path, {**content, name: other})
            with pytest.raises(ValueError, match=f"{name} differs from {like}: untied is not impl"):
                heads.BertForMaskedLM.from_pretrained(tmp_path)
            quiet_load(BertModel, tmp_path)  # who has no use for the head does not mind
        foreign(tmp_path, {**content, name: content[like].clone()})
        assert quiet_load(heads.BertForMaskedLM, tmp_path).load_report.dropped.keys() == {name}


def random_bytes(dice: random.Random, data: bytes) -> bytes:
    """Damage a file in one of the ways that disks, networks and hands do it."""
    place = dice.randrange(len(data))
    end = min(place + dice.choice([1, 8, 512]), len(data))
    return dice.choice([
        flip(data, place),
        data[:place] + bytes(end - place) + data[end:],  # zeros
        data[:place] + dice.randbytes(end - place) + data[end:],  # noise
        data[:place],  # cut off
        data[:place] + data[end:],  # something is lost
        data[:end] + data[place:],  # something came twice
        data + dice.randbytes(end - place),
    ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "shards", "bin", "config.json"])
def test_damaged_files_give_an_error_that_says_where_or_a_model(tmp_path, kind):
    """Of another program: a flipped bit in a number cannot be noticed there, all else must be."""
    model = build(BertModel, CONFIG)
    model.save_pretrained(tmp_path)
    foreign(tmp_path)
    if kind == "bin":
        as_bin(tmp_path)
    elif kind == "shards":
        shards(tmp_path, "safetensors", count=2)
    content = {path: path.read_bytes() for path in tmp_path.iterdir()}
    chosen = [path for path in content if (path.name == "config.json") == (kind == "config.json")]
    counts = Counter()
    for number in range(200):
        dice = random.Random(number)
        path = dice.choice(sorted(chosen))
        damaged = random_bytes(dice, content[path])
        path.unlink()
        path.write_bytes(damaged)
        try:
            again = quiet_load(BertModel, tmp_path)
        except (ValueError, OSError) as error:  # UserWarning is none of these
            assert str(tmp_path) in str(error), repr(error)
            counts[type(error).__name__] += 1
        else:
            whole = path.suffix != ".safetensors" or len(damaged) == len(content[path])
            assert whole and (kind != "bin" or same_output(again, model)), f"damage {number}"
            counts["loaded"] += 1
        path.unlink()
        path.write_bytes(content[path])
    print(f"\n{kind}: {dict(counts)}")
    assert counts["ValueError"] > 50
