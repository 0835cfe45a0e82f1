"""Pre-training from nothing: what is drawn, the path of the reference, kills, wrong input."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.runs import files_of, stop_at
from support.tiny import build, in_reference, tiny_config
from support.worlds import SPECIAL, VOCABULARY, WORDS, some_documents, written
from support.worlds import pretrain_settings as settings

from minibert.cli.main import main
from minibert.config import BertConfig
from minibert.heads import BertForPreTraining
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training import measuring
from minibert.training.loop import Step, loop
from minibert.training.optim import linear, make_optimizer, parameter_groups
from minibert.training.packing import Packed, Stretches, loader_of, pack, tokenise
from minibert.training.pretrain import pretrain, weight


def packed(max_length=24, n=60, **how):
    tokenizer = BertTokenizer(VOCABULARY)
    return Packed(tokenise(some_documents(n), tokenizer), tokenizer, max_length=max_length, **how)


# ---------------------------------------------------------------------------------------- packing


def test_pairs_fill_the_length_and_half_are_strangers():
    examples = packed(n=600)
    texts, rows = examples.texts, examples.of_epoch(0)
    a, b = rows[:, 1] - rows[:, 0], rows[:, 3] - rows[:, 2]
    assert (a > 0).all() and (b > 0).all() and (a + b <= 21).all()
    assert 0.45 < rows[:, 4].mean() < 0.62  # a sentence alone in an example has a stranger, too
    assert (a + b == 21).mean() > 0.6, "ends of documents and a tenth are shorter"
    document = np.searchsorted(texts.sentences[texts.documents], rows[:, [0, 2]], side="right")
    follows = rows[:, 4] == 0
    assert (document[follows, 0] == document[follows, 1]).all()
    assert (document[~follows, 0] != document[~follows, 1]).all()
    untouched = follows & (a + b < 21)
    assert untouched.any() and (rows[untouched, 1] == rows[untouched, 2]).all()
    again, other = packed(n=600), packed(n=600, seed=1)
    assert (again.of_epoch(0) == rows).all()
    for different in (again.of_epoch(1), other.of_epoch(0)):
        assert different.shape != rows.shape or (different != rows).any()


def test_every_sentence_is_read_in_every_epoch():
    texts = packed().texts
    for pairs in (True, False):
        rows = pack(texts, 400, [0, 0], pairs)
        starts = {int(start) for start in texts.sentences[:-1]}
        seen = [(a, b) for a, b, _, _, _ in rows] + [(c, d) for _, _, c, d, x in rows if not x]
        covered = {s for s in starts for begin, end in seen if begin <= s < end}
        assert covered == starts


def test_single_segments_are_whole_sentences_that_fit():
    examples = packed(pairs=False)
    rows, texts = examples.of_epoch(0), examples.texts
    assert set(rows[:, 0]) | set(rows[:, 1]) <= set(texts.sentences)
    assert (rows[1:, 0] == rows[:-1, 1]).all() and rows[-1, 1] == len(texts.ids)
    batch = examples.__getitems__((0, range(8)))
    assert batch["unrelated"] is None and len(batch["counts"]) == 1
    assert not batch["inputs"]["token_type_ids"].any()


# ---------------------------------------------------------------------------------------- batches


def shown_and_true(examples, batch, numbers, epoch=0):
    """The ids as they are shown and as they are, flat, and where a token is hidden."""
    ids, _, _ = examples.put_together(examples.of_epoch(epoch)[np.asarray(numbers)])
    return batch["inputs"]["input_ids"].flatten().numpy(), ids.flatten(), batch["places"].numpy()


def test_a_batch_is_what_the_tokenizer_would_make():
    examples = packed()
    numbers = range(10)
    batch = examples.__getitems__((0, numbers))
    rows = examples.of_epoch(0)[:10]
    shown, true, places = shown_and_true(examples, batch, numbers)
    assert (true[places] == batch["targets"].numpy()).all()
    everywhere = np.arange(len(true))
    assert (shown == true)[~np.isin(everywhere, places)].all()
    ids = [[*examples.texts.ids[a:b]] for a, b, _, _, _ in rows.tolist()]
    others = [[*examples.texts.ids[c:d]] for _, _, c, d, _ in rows.tolist()]
    expected = examples.tokenizer.pad(
        [[2, *a, 3, *b, 3] for a, b in zip(ids, others, strict=True)],
        [[0] * (len(a) + 2) + [1] * (len(b) + 1) for a, b in zip(ids, others, strict=True)],
    )
    assert torch.equal(torch.from_numpy(true).view(10, -1), expected["input_ids"])
    assert torch.equal(batch["inputs"]["token_type_ids"], expected["token_type_ids"])
    assert torch.equal(batch["inputs"]["attention_mask"].long(), expected["attention_mask"])
    assert batch["unrelated"].tolist() == rows[:, 4].tolist()
    assert batch["counts"].tolist() == [len(places), 10]


@pytest.mark.parametrize("whole_words", [False, True])
def test_fifteen_percent_are_hidden_in_three_ways_anew_in_each_epoch(whole_words):
    examples = packed(n=1500, whole_words=whole_words)
    numbers = range(len(examples.of_epoch(0)))
    batch = examples.__getitems__((0, numbers))
    shown, true, places = shown_and_true(examples, batch, numbers)
    may = examples.ordinary[true]
    assert may[places].all(), "no special token is hidden"
    assert len(places) / may.sum() == pytest.approx(0.15, abs=0.012)
    of_each = np.bincount(places // batch["inputs"]["input_ids"].shape[1])
    assert len(of_each) == len(numbers) and of_each.min() >= 1
    masked = shown[places] == examples.tokenizer.mask_token_id
    left = shown[places] == true[places]
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    random_ones = ~masked & ~left  # a random word may be the word itself
    words = len(examples.words)
    assert random_ones.mean() == pytest.approx(0.1 * (words - 1) / words, abs=0.015)
    assert set(shown[places][random_ones]) == {*examples.words.tolist()}
    pieces = np.flatnonzero(~examples.begins[true])
    pieces = pieces[examples.ordinary[true[pieces - 1]]]  # a cut text may begin inside a word
    hidden = np.isin(np.arange(len(true)), places)
    agree = (hidden[pieces] == hidden[pieces - 1]).mean()
    assert (agree == 1) if whole_words else (0.6 < agree < 0.85)
    sizes = [len(examples.__getitems__((e, range(50)))["targets"]) for e in (0, 1, 2)]
    assert len({*sizes}) > 1


def test_what_is_drawn_does_not_depend_on_the_batch_mates():
    examples = packed(seed=3)
    together = examples.__getitems__((2, [5, 17, 30, 8]))["inputs"]
    for place, number in enumerate([5, 17, 30, 8]):
        alone = examples.__getitems__((2, [number]))["inputs"]["input_ids"][0]
        assert torch.equal(together["input_ids"][place, : len(alone)], alone)


def test_batches_are_full_and_go_on_where_the_run_was():
    def ids(stretches):
        found = []
        for stretch in range(len(stretches.plan)):
            stretches.set_epoch(stretch)
            found += [(epoch, tuple(numbers)) for epoch, numbers in stretches]
        return found

    how = {"steps": 50, "size": 8, "accumulate": 2}
    all_of_them = ids(Stretches(packed(), every=50, **how))
    assert ids(Stretches(packed(), every=7, **how)) == all_of_them and len(all_of_them) == 100
    assert {len(numbers) for _, numbers in all_of_them} == {8}
    first = [number for epoch, numbers in all_of_them if epoch == 0 for number in numbers]
    assert len(first) == len({*first}), "no example twice in an epoch"
    late = Stretches(packed(), every=20, **how)
    late.set_epoch(1, 6)
    assert [(e, tuple(n)) for e, n in late] == all_of_them[46:80]


# -------------------------------------------------------------------------- the reference's path


@pytest.mark.slow
@pytest.mark.parity
def test_fifty_steps_in_float64_go_the_path_of_transformers():
    transformers = pytest.importorskip("transformers")
    examples = packed(max_length=24)
    config = tiny_config(vocab_size=len(VOCABULARY), hidden_dropout_prob=0.0,
                         attention_probs_dropout_prob=0.0)  # fmt: skip
    model = build(BertForPreTraining, config, dtype=torch.float64)
    reference = in_reference(model)
    loader = loader_of(Stretches(examples, steps=50, every=50, size=8))
    optimizer = make_optimizer("adamw", parameter_groups(model, 1e-3, 0.05))
    step = Step(weight=weight, schedule=linear(5, 50))
    lines = loop(model, loader, measuring.loss, optimizer, step=step)
    found = [line["loss"] for line in lines if "norm" in line]

    plain = [n for n, _ in reference.named_parameters() if "bias" in n or "LayerNorm.weight" in n]
    groups = [
        {"params": [p for n, p in reference.named_parameters() if n not in plain]},
        {"params": [p for n, p in reference.named_parameters() if n in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 5, 50)
    expected = []
    reference.train()
    loader.batch_sampler.set_epoch(0)
    for batch in loader:
        labels = torch.full(batch["inputs"]["input_ids"].shape, -100)
        labels.view(-1)[batch["places"]] = batch["targets"]
        out = reference(
            **batch["inputs"], labels=labels, next_sentence_label=batch["unrelated"]
        )  # fmt: skip
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        expected.append(out.loss.item())
    assert len(found) == 50 and found[0] - found[-1] > 0.1
    assert found == pytest.approx(expected, rel=1e-12, abs=0)


def test_accumulation_is_the_large_batch():
    examples, losses = packed(), []
    for size, accumulate in ((8, 1), (2, 4)):
        model = build(BertForPreTraining, tiny_config(vocab_size=len(VOCABULARY)),
                      dtype=torch.float64).eval()  # fmt: skip
        for part in model.modules():
            part.p = 0.0 if isinstance(part, torch.nn.Dropout) else getattr(part, "p", None)
        big = [range(8 * i, 8 * i + 8) for i in range(4)]
        parts = [numbers[i : i + size] for numbers in big for i in range(0, 8, size)]
        batches = [examples.__getitems__((0, numbers)) for numbers in parts]
        optimizer = make_optimizer("sgd", parameter_groups(model, 0.01))
        lines = loop(model, batches, measuring.loss, optimizer, step=Step(accumulate, weight))
        losses.append([line["loss"] for line in lines if "norm" in line])
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


# --------------------------------------------------------------------------------------- measures


def test_counting_by_hand():
    tokenizer = BertTokenizer(VOCABULARY)
    texts = tokenise([["the cat sat", "the cat ran", "the dog ran ran"]], tokenizer)
    counts = measuring.Counts.of(texts, len(tokenizer))
    the, cat, ran, mask = (tokenizer.vocab[t] for t in ("the", "cat", "ran", "[MASK]"))
    batch = {
        "inputs": {"input_ids": torch.tensor([[2, the, mask, mask, 3]])},
        "places": torch.tensor([2, 3]), "targets": torch.tensor([cat, ran]),
    }  # fmt: skip
    found = counts.measure([batch], measuring.characters_of(tokenizer))
    assert found["unigram_accuracy"] in (0.0, 0.5)  # "the" and "ran" are equally frequent
    assert found["bigram_accuracy"] >= 0.5  # cat after the; behind [MASK] the most frequent
    total = 10 + len(tokenizer)
    after_the = (2 + 2 * 3 / total) / (3 + 2)  # Witten & Bell: two kinds follow "the"
    nats = -np.log([after_the, 4 / total])
    assert found["bigram_perplexity"] == pytest.approx(np.exp(nats.mean()))
    assert found["bigram_bits_per_character"] == pytest.approx(nats.sum() / np.log(2) / 6)


def test_measures_are_those_of_all_logits():
    examples = packed()
    model = build(BertForPreTraining, tiny_config(vocab_size=len(VOCABULARY)))
    batches = [examples.__getitems__((0, numbers)) for numbers in (range(5), range(5, 12))]
    characters = measuring.characters_of(examples.tokenizer)
    found = measuring.measure(model, batches, characters)
    words, pairs, targets, unrelated = [], [], [], []
    for batch in batches:
        logits, follows = model(**batch["inputs"])
        words.append(logits.flatten(0, 1)[batch["places"]])
        pairs.append(follows)
        targets.append(batch["targets"])
        unrelated.append(batch["unrelated"])
    words, pairs, targets, unrelated = map(torch.cat, (words, pairs, targets, unrelated))
    nats = F.cross_entropy(words, targets)
    assert found["loss"] == pytest.approx((nats + F.cross_entropy(pairs, unrelated)).item(), 1e-5)
    assert found["accuracy"] == pytest.approx((words.argmax(-1) == targets).float().mean().item())
    assert found["perplexity"] == pytest.approx(nats.exp().item(), 1e-5)
    right = (pairs.argmax(-1) == unrelated).float().mean().item()
    assert found["next_sentence_accuracy"] == pytest.approx(right)
    letters = characters[targets].sum().item()
    bits = nats.item() * len(targets) / np.log(2) / letters
    assert found["bits_per_character"] == pytest.approx(bits, 1e-5)


# ------------------------------------------------------------------------------------ whole runs


def test_from_a_text_to_a_model_that_opens_everywhere(world, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "bert"
    words = ["pretrain", world / "text.txt", "--vocabulary", world / "vocab.txt", "--size", "1x64",
             "--max-length", 24, "--minutes", 0.03, "--batch-size", 8, "--every", 100000,
             "--device", "cpu", "--half", "--out", out]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    for said in ("documents are held out", "ms a step", "counting guesses", "masked accuracy"):
        assert said in printed.err
    assert "heldout_next_sentence_accuracy" in printed.out and "left neighbour" in printed.out
    assert {"run/curves.svg", "run/guesses.txt", "run/metrics.csv", "README.md"} <= {*files_of(out)}
    guesses, metrics = ((out / "run" / name).read_text() for name in ("guesses.txt", "metrics.csv"))
    assert "[MASK]" in guesses and "[MASK]" not in metrics
    model = BertForPreTraining.from_pretrained(out)
    assert all(torch.equal(value, value.half().float()) for value in model.state_dict().values())
    size = sum(p.numel() for p in model.parameters())
    assert (out / "model.safetensors").stat().st_size < 3 * size
    theirs = transformers.BertForPreTraining.from_pretrained(out, dtype=torch.float32)
    batch = BertTokenizer.from_pretrained(out)(["the cat sat [MASK] ."], ["it was red ."])
    found, expected = model(**batch), theirs.eval()(**batch)
    torch.testing.assert_close(found[0], expected.prediction_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], expected.seq_relationship_logits, atol=1e-5, rtol=0)
    assert main(["fill-mask", "the cat [MASK] .", "--model", str(out)]) == 0
    assert main(["pretrain", "--resume", "--out", str(out)]) == 0
    assert "finished already" in capsys.readouterr().err


def test_without_next_sentences_the_model_has_no_pooler(world, tmp_path, monkeypatch):
    BertTokenizer(VOCABULARY).save_pretrained(tmp_path / "words")  # a directory does as well
    wanted = settings(world, no_next_sentence=True, vocabulary=str(tmp_path / "words"))
    undo = stop_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        pretrain(wanted, tmp_path / "bert")
    undo()
    digests = json.loads((tmp_path / "bert" / "run" / "versions.json").read_text())["sha256"]
    assert len(digests["vocabulary"]) == 64
    pretrain(None, tmp_path / "bert", resume=True)
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]


def test_a_run_on_the_plateau_says_so_and_why(world, tmp_path):
    said = []
    asked = settings(world, lr=1e-5, batch_size=4, random_start=True)
    result = pretrain(asked, tmp_path / "bert", say=said.append)
    (remark,) = result["remarks"]
    for words in ("plateau", "1e-05 is one for fine-tuning", "batches of 4", "12 steps are few",
                  "all weights random"):  # fmt: skip
        assert words in remark
    assert any(remark in line for line in said)


def test_the_plateau_is_what_the_left_neighbour_tells():
    counted = {"bigram_accuracy": 0.147}
    assert [measuring.plateau({"accuracy": a}, counted) for a in (0.062, 0.137, 0.2)] == [1, 1, 0]


def test_it_begins_with_frequencies_unless_asked_to_begin_at_random(world, tmp_path):
    for random_start in (True, False):
        asked = settings(world, steps=1, lr=1e-9, random_start=random_start)
        pretrain(asked, tmp_path / str(random_start))
        bias = BertForPreTraining.from_pretrained(tmp_path / str(random_start)).predictions.bias
        the, never = (bias[VOCABULARY.index(token)].item() for token in ("the", "[PAD]"))
        assert (the - never < 1e-6) if random_start else (the - never > 3)


def test_sizes_by_name():
    assert BertConfig.of_size("tiny").hidden_size == 128
    mini = BertConfig.of_size("mini", vocab_size=8000)
    assert (mini.num_hidden_layers, mini.hidden_size, mini.num_attention_heads) == (4, 256, 4)
    assert BertConfig.of_size("base") == BertConfig()
    assert BertConfig.of_size("6x192").intermediate_size == 768
    for wrong in ("huge", "4x100", "x64"):
        with pytest.raises(ValueError, match="tiny, mini, small"):
            BertConfig.of_size(wrong)


def without(token):
    return [word for word in VOCABULARY if word != token]


@pytest.mark.parametrize("documents, vocabulary, changes, said", [
    ([[]], VOCABULARY, {}, "corpus is empty"),
    ([["the cat sat ."] * 200], VOCABULARY, {}, "one document.*--no-next-sentence"),
    (some_documents(), without("[MASK]"), {}, "no .MASK."),
    (some_documents(), [*SPECIAL, "."], {}, r"% of the tokens to learn from are \[UNK\]"),
    (some_documents(4), VOCABULARY, {"batch_size": 500}, "fewer than a batch of 500"),
    (some_documents(), VOCABULARY, {"size": "huge"}, "no size is named"),
])  # fmt: skip
def test_wrong_input_is_refused_and_nothing_stays(tmp_path, documents, vocabulary, changes, said):
    written(tmp_path / "text.txt", documents)
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    wanted = settings(tmp_path, held_out=(), **changes)
    with pytest.raises(ValueError, match=said):
        pretrain(wanted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_warnings_and_a_single_document(world, tmp_path):
    long = [[" ".join(WORDS * 3)] + ["the cat sat ."] * 400]
    text = str(written(tmp_path / "text.txt", long))
    said = []
    wanted = settings(world, texts=(text,), held_out=(), no_next_sentence=True)
    pretrain(wanted, tmp_path / "out", say=said.append)
    assert any("1 sentences are longer than 24 tokens" in line for line in said)
    with pytest.raises(ValueError, match="name it once"):
        pretrain(wanted.replace(held_out=(text,)), tmp_path / "both")
