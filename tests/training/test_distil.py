"""Distillation: the student begins as the teacher and comes near to it, whatever stops the run."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import small
from support.runs import log_of
from support.worlds import distil_settings as settings

from minibert.cli.main import main
from minibert.sentence_encoder import SentenceEncoder
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training.distil import distil, smaller_vocabulary, start_student, which_layers
from minibert.training.tasks.distil import Distil


def test_the_student_comes_near_to_the_teacher(world, tmp_path):
    result = distil(settings(world, epochs=6, half=True), tmp_path / "out")
    before, after = result["before"], result["after"]
    assert after["dev_loss"] < 0.7 * before["dev_loss"]
    assert after["dev_cosine"] > before["dev_cosine"] + 0.1
    assert {"general_spearman"} <= before.keys() & after.keys() & result["teacher"].keys()
    losses = [line["loss"] for line in log_of(tmp_path / "out") if "norm" in line]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    # What was measured is what was saved, on texts that it did not learn.
    student = SentenceEncoder.from_pretrained(tmp_path / "out", engine="textbook")
    teacher = SentenceEncoder.from_pretrained(world / "base", engine="textbook")
    texts = (world / "texts.txt").read_text().split("\n")[:160]
    held = np.random.default_rng(0).permutation(160)[:8]
    a, b = (encoder.encode([texts[i] for i in held]) for encoder in (student, teacher))
    assert float((a * b).sum(1).mean()) == pytest.approx(after["dev_cosine"], abs=1e-3)
    assert (student.max_length, student.pooling) == (teacher.max_length, teacher.pooling)


def test_the_student_begins_as_a_part_of_the_teacher(world):
    teacher = SentenceEncoder.from_pretrained(world / "base", engine="textbook")
    rows = teacher.tokenizer.encode_batch(["a good film", "the song was awful"]).ids
    student = start_student(settings(world, layers=1), teacher, rows)
    words, old = list(student.tokenizer.vocab), teacher.tokenizer.vocab
    assert len(words) == 40 and sorted(words, key=old.get) == words, "in the same order"
    assert {"good", "film", "song", "awful", "[MASK]"} <= {*words}
    table, whole = (e.model.embeddings.word.weight for e in (student, teacher))
    assert torch.equal(table, whole[[old[word] for word in words]])
    assert len(student.model.embeddings.position.weight) == teacher.max_length
    both = start_student(settings(world, layers="0,1", vocabulary=None), teacher, rows)
    texts = ["a good film", "but cold"]
    assert np.allclose(both.encode(texts), teacher.encode(texts), atol=1e-6), "nothing left out"
    last = start_student(settings(world, layers=1), teacher, rows).model.layers[0].state_dict()
    assert all(torch.equal(last[k], v) for k, v in teacher.model.layers[0].state_dict().items())
    fresh = start_student(settings(world, from_nothing=True), teacher, rows)
    assert not torch.equal(fresh.model.embeddings.word.weight, table)
    assert fresh.model.embeddings.word.weight.std() < 0.1


def test_which_layers():
    assert [which_layers(n, 6) for n in (1, 2, 3, 4, 6)] == [
        [0], [0, 5], [0, 2, 5], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5]]  # fmt: skip
    assert which_layers("0, 2,5", 6) == [0, 2, 5] and which_layers("3", 6) == [0, 2, 5]


def test_every_character_can_still_be_spelt():
    letters = "abcdefghijklmnopqrstuvwxyzé0123456789"
    pieces = [*letters, *(f"##{c}" for c in letters), ".", "!", "ж", "##ж", "中"]
    words = ["house", "houses", "##ing", "walk", "rare", "other", "##ness"]
    tokenizer = BertTokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *pieces],
        strip_accents=False, model_max_length=17,
    )  # fmt: skip
    texts = ["walking walking houses é ж", "house house house walk!", "other"]
    rows = tokenizer.encode_batch(texts).ids
    without = 5 + len(pieces) - 1  # the ideograph is in no text
    less, kept = smaller_vocabulary(tokenizer, rows, without + 3)
    assert {*words} & {*less.vocab} == {"house", "walk", "##ing"}
    assert list(tokenizer.vocab)[kept[7]] == list(less.vocab)[7]
    assert less.unk_token not in less.tokenize(" ".join(texts) + " zebra2 rare.")
    assert less.tokenize("other é") == ["o", "##t", "##h", "##e", "##r", "é"]
    assert less.model_max_length == 17 and less.rules == tokenizer.rules
    assert less.special_tokens_map == tokenizer.special_tokens_map
    for size in (without - 1, len(tokenizer) + 1):
        with pytest.raises(ValueError, match=f"a vocabulary of {size} tokens; {without} .special"):
            smaller_vocabulary(tokenizer, rows, size)


@pytest.mark.parametrize("include", [True, False])
def test_the_teacher_is_asked_as_it_will_be_used(world, tmp_path, include):
    """Its default prompt and its truncate_dim hold for its vectors, and for the scored pairs."""
    teacher = SentenceEncoder.from_pretrained(world / "base", engine="textbook")
    teacher.prompts, teacher.default_prompt_name = {"query": "a song: "}, "query"
    teacher.truncate_dim, teacher.include_prompt = 8, include
    teacher.save_pretrained(tmp_path / "teacher")
    changes = {"teacher": str(tmp_path / "teacher"), "vectors": str(tmp_path / "v.safetensors")}
    result = distil(settings(world, epochs=1, layers="0,1", vocabulary=None, lr=1e-9, **changes),
                    tmp_path / "out")  # fmt: skip
    assert result["after"]["dev_cosine"] > 0.999, "nothing left out, nothing learnt: the teacher"
    scores = [result[which]["general_spearman"] for which in ("teacher", "after")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    texts = [*dict.fromkeys((world / "texts.txt").read_text().splitlines())]
    kept = load_file(tmp_path / "v.safetensors")["vectors"]
    vectors = teacher.encode(texts)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(kept, vectors, atol=1e-3)


def test_the_loss_by_hand():
    task = object.__new__(Distil)
    task.similarities = 2.0
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float16)
    # 1 - cos: 0 and 0.2; similarities: 0.6 for 0, seen from both, mean over two partners
    assert float(task.criterion(vectors, {"targets": targets})) == pytest.approx(0.2 + 2 * 0.36)
    task.similarities = 0.0
    assert float(task.criterion(vectors, {"targets": targets})) == pytest.approx(0.2)


def test_vectors_are_computed_once_and_are_those_of_these_texts(world, tmp_path):
    wanted = settings(world, vectors=str(tmp_path / "v.safetensors"), epochs=1)
    said = []
    distil(wanted, tmp_path / "a", say=said.append)
    assert any("computing the teacher's vectors" in line for line in said)
    assert "161 texts" not in " ".join(said) and "160 texts; 1 rep" in " ".join(said)
    before = (tmp_path / "v.safetensors").stat().st_mtime_ns
    said.clear()
    distil(wanted.replace(seed=1), tmp_path / "b", say=said.append)
    assert not any("computing" in line for line in said)
    assert (tmp_path / "v.safetensors").stat().st_mtime_ns == before
    (tmp_path / "more.txt").write_text("a good good film\n")
    more = wanted.replace(texts=(*wanted.texts, str(tmp_path / "more.txt")))
    other = small.base(tmp_path / "other", seed=1)
    for changed in (more, wanted.replace(teacher=str(other))):
        with pytest.raises(ValueError, match="vectors of other texts or of another teacher"):
            distil(changed, tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parity
def test_the_student_opens_in_sentence_transformers(world, tmp_path):
    theirs = pytest.importorskip("sentence_transformers")
    distil(settings(world, half=True, epochs=1), tmp_path / "out")
    texts = ["a good film", "the song was awful but kind", "b c d e"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = theirs.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
        ours = SentenceEncoder.from_pretrained(tmp_path / "out").encode(texts)
    assert found.dtype == np.float32 and np.abs(found - ours).max() < 1e-5


@pytest.mark.parametrize("changes, message", [
    ({"layers": 3}, "layers is 3; 1 to 2, or a list"), ({"layers": "0,x"}, "layers is '0,x'"),
    ({"layers": "1,0"}, "rising numbers from 0 to 1"), ({"layers": "0,2"}, "from 0 to 1"),
    ({"vocabulary": 4}, "a vocabulary of 4 tokens; "), ({"vocabulary": 99}, "of 99 tokens; "),
    ({"batch_size": 100}, "160 texts; at least 200 are needed"),
    ({"texts": ("none.txt",)}, "none.txt: no such file"),
    ({"scored": "train.tsv"}, "two texts in a row"),
    ({"batch_size": 1}, "batch_size is 1; at least 2"), ({"half": 1}, "half is 1"),
])
def test_bad_input_is_refused_and_nothing_stays(world, tmp_path, changes, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        distil(settings(world, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["distil", str(world / "texts.txt"), "--teacher", str(world / "base"), "--layers", "1",
             "--vocabulary", "40", "--batch-size", "16", "--max-length", "5",
             "--similarities", "0", "--out", "student"]  # fmt: skip
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "texts are cut to 5 tokens" in err
    assert (tmp_path / "student-vectors.safetensors").exists()
    assert "cosine to the teacher, held-out texts" in out and "texts/s" in out
    settings = json.loads((tmp_path / "student" / "run" / "settings.json").read_text())
    assert settings["similarities"] == 0 and settings["layers"] == 1
    assert "| vocabulary | 40 |" in (tmp_path / "student" / "README.md").read_text()
    assert main(["distil", "--resume", "--out", "student"]) == 0
    assert "finished already" in capsys.readouterr().err
    assert main(["distil", "--out", "x"]) == 2
    assert "name one or more text files" in capsys.readouterr().err
