import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import small
from support.tiny import build, in_reference, tiny_config

from minibert.heads import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minibert.sentence_encoder import SentenceEncoder
from minibert.similarity import pairwise_cosine_similarity
from minibert.training import tasks
from minibert.training.data import Example
from minibert.training.inference import FineTuned
from minibert.training.settings import Settings
from minibert.training.tasks.qa import Found
from minibert.training.tasks.tokens import IGNORE

TOKENIZER = small.tokenizer()


def rows(*values):
    return [Example(value, f"row {i}") for i, value in enumerate(values, 1)]


def test_the_sum_of_the_losses_over_the_weight_is_the_usual_mean():
    weights = torch.tensor([1.0, 2.0, 5.0])
    task = tasks.Classification(TOKENIZER, "abc", 0.2, weights.tolist())
    logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    batch = {"targets": targets}
    usual = F.cross_entropy(logits, targets, weights, label_smoothing=0.2)
    assert task.weight(batch) == 13
    assert (task.criterion(logits, batch) / 13).item() == pytest.approx(usual.item(), rel=1e-6)


def test_an_unknown_label_is_told_with_its_place():
    examples = rows({"text": "a film", "label": "a"}, {"text": "a song", "label": "c"})
    with pytest.raises(ValueError, match="row 2: 'c' is not among.*'a', 'b'"):
        tasks.Classification(TOKENIZER, "ab").encode(examples)


def test_cut_texts_are_counted():
    examples = rows({"text": "a film"}, {"text": "a film a film a"})
    message = "1 of 2 inputs .of up to 7 tokens. were truncated to 4"
    with pytest.warns(UserWarning, match=message):
        tasks.MaskedLM(TOKENIZER, max_length=4).encode(examples)


def test_cosine_and_cosent_by_hand():
    task, targets = tasks.Similarity(TOKENIZER), torch.tensor([1.0, 0.5], dtype=torch.float64)
    loss = task.criterion(torch.tensor([0.8, 0.0]), {"targets": targets})
    assert loss.item() == pytest.approx(0.04 + 0.25)
    task = tasks.Similarity(TOKENIZER, objective="cosent")
    batch = {"targets": torch.tensor([1.0, 0.5, 0.5])}
    # Score 1 must have a larger cosine than both others; the equal scores do not matter.
    expected = math.log(1 + math.exp(20 * (0.3 - 0.4)) + math.exp(20 * (0.9 - 0.4)))
    assert task.criterion(torch.tensor([0.4, 0.3, 0.9]), batch).item() == pytest.approx(expected)
    assert task.weight(batch) == 1


@pytest.mark.parametrize("settings", [
    {"truncate_dim": 5}, {"default_prompt_name": "q"},
    {"default_prompt_name": "q", "include_prompt": False, "pooling": ["max", "mean"]},
], ids=str)  # fmt: skip
def test_a_pair_model_scores_as_its_encoder_does(tmp_path, settings):
    small.base(tmp_path)
    encoder = SentenceEncoder.from_pretrained(tmp_path, engine="textbook")
    settings = {"pooling": "mean", "max_length": 40, "prompts": {"q": "a warm "}} | settings
    encoder = SentenceEncoder(encoder.model, encoder.tokenizer, **settings)
    encoder.save_pretrained(tmp_path)
    pairs = [("good film", "the song"), ("was it a dull meal", "bad")]
    first, second = (encoder.encode(texts) for texts in zip(*pairs, strict=True))
    found = [answer["score"] for answer in FineTuned.from_pretrained(tmp_path).predict(pairs)]
    assert found == pytest.approx(pairwise_cosine_similarity(first, second), abs=1e-6)


def test_in_batch_negatives_by_hand():
    task = tasks.Contrastive(TOKENIZER, sharpness=2.0)
    vectors = torch.tensor([[[1.0, 0], [1, 0]], [[0, 1], [0, 1]]])  # (B, sides, H)
    batch = {"targets": torch.arange(2), "twins": torch.zeros(2, 2, dtype=torch.bool)}
    each = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert task.criterion(vectors, batch).item() == pytest.approx(2 * each)


def test_hard_negatives_are_wrong_for_everybody_and_equal_answers_for_nobody():
    task = tasks.Contrastive(TOKENIZER)
    first = {"text": "a film", "pair": "a song", "negative": "a meal"}
    second = {"text": "a day", "pair": "a song", "negative": "a talk"}
    features = task.encode(rows(first, second))
    batch = task.collate(features)
    assert batch["inputs"]["input_ids"].shape[0] == 6
    assert batch["twins"].tolist() == [[False, True, False, False], [True, False, False, False]]
    vectors = F.normalize(torch.randn(2, 3, 4), dim=-1)
    anchors, positives, negatives = vectors.unbind(1)
    expected = 0.0
    for i in range(2):
        scores = 20 * torch.cat([anchors[i] @ positives[i][:, None], negatives @ anchors[i]])
        expected += F.cross_entropy(scores, torch.tensor(0)).item()
    assert task.criterion(vectors, batch).item() == pytest.approx(expected, rel=1e-5)


def test_retrieval_is_measured_over_all_answers():
    task = tasks.Contrastive(TOKENIZER)
    words = ("song", "meal", "day")
    features = task.encode(rows(*({"text": "a film", "pair": f"a {word}"} for word in words)))
    found = task.measure([np.eye(3)[[i, j]] for i, j in ((0, 0), (0, 1), (2, 2))], features)
    assert found["found_first"] == pytest.approx(2 / 3)
    assert found["reciprocal_rank"] == pytest.approx((1 + 1 / 2 + 1) / 3)


# -------------------------------------------------------------------------------------- masked LM


def masked(n=400, seeds=None):
    task = tasks.MaskedLM(TOKENIZER)
    texts = [text for text, _ in small.sentences(n, seed=1)]
    features = task.encode(rows(*({"text": text} for text in texts)))
    seeds = [(0, 0, i) for i in range(n)] if seeds is None else seeds
    return task, features, task.collate(features, seeds)


def test_masking_shares_and_what_is_never_guessed():
    _, features, batch = masked(1500)
    original = TOKENIZER.pad([feature.rows[0] for feature in features])["input_ids"]
    at, ids = batch["places"], batch["inputs"]["input_ids"]
    special = torch.isin(original, torch.tensor(TOKENIZER.all_special_ids))
    assert not at[special].any() and torch.equal(ids[~at], original[~at])
    assert torch.equal(batch["targets"], original[at])
    assert 0.15 < at.sum() / (~special).sum() < 0.23  # short texts have at least one
    assert at.any(dim=1).all()
    shown, targets = ids[at], batch["targets"]
    as_mask = (shown == TOKENIZER.mask_token_id).float().mean()
    as_is = (shown == targets).float().mean()
    assert 0.77 < as_mask < 0.83 and 0.08 < as_is < 0.125
    others = shown[(shown != TOKENIZER.mask_token_id) & (shown != targets)]
    assert not torch.isin(others, torch.tensor(TOKENIZER.all_special_ids)).any()
    assert len(others.unique()) > 40


def test_a_text_is_masked_anew_in_another_epoch_and_alike_in_other_company():
    _, features, one = masked(32)
    _, _, again = masked(32)
    _, _, other = masked(32, [(0, 1, i) for i in range(32)])
    assert torch.equal(one["places"], again["places"])
    assert not torch.equal(one["places"], other["places"])
    task = tasks.MaskedLM(TOKENIZER)
    alone = task.collate(features[5:6], [(0, 0, 5)])
    width = features[5].length
    assert torch.equal(alone["places"][0], one["places"][5, :width])


def test_several_labels_are_as_many_questions_with_the_loss_of_the_reference():
    settings = Settings("multilabel", "x")
    some = rows({"text": "a film", "labels": ["x", "z"]}, {"text": "a song", "labels": []},
                {"text": "a good talk", "labels": ["y"]})  # fmt: skip
    task = tasks.MultiLabel(TOKENIZER, **tasks.MultiLabel.options(settings, some))
    features = task.encode(some)
    assert [feature.target for feature in features] == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    config = tiny_config(vocab_size=len(small.VOCABULARY)).replace(**task.config)
    model = build(BertForSequenceClassification, config)
    assert tasks.MultiLabel.fits(model.config.replace(architectures=[task.head.__name__]))
    assert not tasks.Classification.fits(model.config.replace(architectures=[task.head.__name__]))
    batch = task.collate(features)
    mine = task.loss(model, batch)
    theirs = in_reference(model)(**batch["inputs"], labels=batch["targets"]).loss
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"row 1: \['q'\] is not among the labels"):
        task.encode(rows({"text": "a", "labels": ["x", "q"]}))


def test_the_threshold_of_several_labels_is_chosen_and_used():
    task = tasks.MultiLabel(TOKENIZER, classes=["x", "y"])
    some = rows({"text": "a", "labels": ["x", "y"]}, {"text": "film", "labels": ["x"]})
    features, guesses = task.encode(some), [np.array([0.4, 0.3]), np.array([0.45, 0.1])]
    assert task.measure(guesses, features)["micro_f1"] == 0
    assert "same labels" in task.remarks(task.measure(guesses, features))[0]
    task.calibrate(guesses, features)
    assert task.threshold == task.config["label_threshold"] == pytest.approx(0.3)
    assert task.measure(guesses, features) == {
        "micro_f1": 1.0, "macro_f1": 1.0, "exact": 1.0, "predicted_sets": 2
    }  # fmt: skip
    assert task.answer(guesses[1], some[1])["labels"] == ["x"]


# ---------------------------------------------------------------------------------- token by token


def test_tags_stand_at_first_pieces_and_padding_does_not_count():
    task = tasks.TokenClassification(TOKENIZER, ["O", "X"], max_length=10)
    first = {"tokens": ["film", "good-day", "talk"], "tags": ["X", "O", "X"]}
    features = task.encode(rows(first, {"tokens": ["song"], "tags": ["O"]}))
    assert len(features[0].rows[0]) == 7  # good-day is three pieces
    assert features[0].target == [IGNORE, 1, 0, IGNORE, IGNORE, 1, IGNORE]
    batch = task.collate(features)
    assert batch["targets"][1].tolist() == [IGNORE, 0] + [IGNORE] * 5
    assert task.weight(batch) == 4
    config = tiny_config(vocab_size=len(small.VOCABULARY), num_labels=2)
    model = build(BertForTokenClassification, config)
    logits = task.outputs(model, batch)
    summed = task.criterion(logits, batch)
    labels = batch["targets"].clone()
    loss = in_reference(model)(**batch["inputs"], labels=labels).loss
    assert (summed / 4).item() == pytest.approx(loss.item(), rel=1e-5)
    changed = logits.clone()
    changed[1, 3:] += 100  # what stands at padding does not matter
    assert task.criterion(changed, batch) == summed
    assert [len(tags) for tags in task.decode(logits, batch)] == [3, 1]


def test_a_text_that_is_cut_loses_whole_words():
    task = tasks.TokenClassification(TOKENIZER, ["O"], max_length=5)
    with pytest.warns(UserWarning, match="1 of 1 inputs were truncated to 5"):
        (feature,) = task.encode(rows({"tokens": ["a", "good-day", "song"], "tags": ["O"] * 3}))
    assert feature.extra == ([1], ["O"] * 3) and feature.length == 3
    with pytest.raises(ValueError, match="row 1: 2 tokens, but 1 tags"):
        task.encode(rows({"tokens": ["a", "b"], "tags": ["O"]}))


def test_entities_are_measured_as_wholes_and_words_cut_off_count_as_missed():
    task = tasks.TokenClassification(TOKENIZER, ["B-X", "I-X", "O"], max_length=5)
    with pytest.warns(UserWarning, match="1 of 2 inputs were truncated"):
        features = task.encode(
            rows(
                {"tokens": ["film", "song"], "tags": ["B-X", "I-X"]},
                {"tokens": ["a", "film", "song", "day"], "tags": ["O", "B-X", "I-X", "B-X"]},
            )
        )
    half_right = [np.array([0, 2]), np.array([2, 0, 1])]  # the first entity is too short
    measures = task.measure(half_right, features)
    assert (measures["precision"], measures["recall"]) == (1 / 2, 1 / 3)
    assert measures["f1"] == pytest.approx(2 / 5) and measures["accuracy"] == 4 / 5
    assert "X,0.5000,0.3333,0.4000,3" in task.tables(half_right, features)["entities.csv"]


def test_a_plain_text_gets_entities_with_their_places():
    task = tasks.TokenClassification(TOKENIZER, ["B-X", "I-X", "O"])
    (example,) = rows({"text": "A good  song, a film"})
    (feature,) = task.encode([example])
    assert len(feature.extra[0]) == 6  # the comma is a word
    (found,) = task.answer(np.array([2, 0, 1, 2, 2, 0]), example)["entities"][:1]
    assert found == {"type": "X", "text": "good  song", "start": 2, "end": 12}
    with pytest.raises(ValueError, match="row 1: words .tokens. or a text are needed"):
        task.encode(rows({"pair": "x"}))


def question(**changes):
    context = "a film with a good song, and a talk"
    value = {"question": "song?", "context": context, "answers": [["good song", 14]]}
    return rows({**value, **changes})


def test_the_answer_is_found_in_tokens_and_comes_back_as_text():
    task = tasks.QuestionAnswering(TOKENIZER)
    (example,) = question()
    (feature,) = task.encode([example])
    (start, end), row = feature.target[0], feature.rows[0]
    assert TOKENIZER.convert_ids_to_tokens(row)[start : end + 1] == ["good", "song"]
    logits = torch.zeros(1, len(row), 2)
    logits[0, start, 0] = logits[0, end, 1] = 5.0
    logits[0, 1, :] = 9.0  # the question is no place for an answer
    (found,) = task.decode(logits, task.collate([feature]))
    answer = task.answer(found, example)
    assert answer["answer"] == "good song" and len(answer["n_best"]) == 5
    assert answer["n_best"][0] == {"text": "good song", "start": 14, "score": 10.0}
    assert task.measure([found], [feature]) == {"exact": 1.0, "f1": 1.0}
    (two,) = task.encode(question(answers=[["film", 2], ["a good song", 12]]))
    assert task.measure([found], [two]) == {"exact": 1.0, "f1": 1.0}  # without the article
    with pytest.raises(ValueError, match="row 1: at 3 the context has"):
        task.encode(question(answers=[["good song", 14], ["good song", 3]]))


def test_a_long_context_is_read_in_windows_and_the_best_span_of_all_is_the_answer():
    task = tasks.QuestionAnswering(TOKENIZER, max_length=9, stride=2)
    (example,) = question()
    (feature,) = task.encode([example])
    ids = TOKENIZER.ids(example.values["context"])  # 10 tokens; a window has room for 5 or 6
    room = 9 - len(TOKENIZER.ids("song?")) - 3
    starts = [row[-room - 1 : -1] for row in feature.rows[:-1]]
    assert starts == [ids[i : i + room] for i in range(0, 2 * len(starts), 2)]
    assert feature.rows[-1][-2] == ids[-1]  # the last one ends where the context ends
    there = [target != (0, 0) for target in feature.target]
    assert any(there) and not all(there)
    batch = task.collate([feature, feature])
    assert len(batch["targets"]) == 2 * len(feature.rows) == task.weight(batch)
    logits = torch.zeros(len(batch["targets"]), 9, 2)
    for row, (start, end) in enumerate(feature.target):
        logits[row, 0] = 1.0 if start else 4.0  # "no answer" wins in windows without it
        if start:
            logits[row, start, 0] = logits[row, end, 1] = 3.0
    first, _ = task.decode(logits, batch)
    assert task.answer(first, example)["answer"] == "good song"
    assert (first.spans[0][0], first.none) == (6.0, 2.0)


def test_questions_without_an_answer_and_the_threshold():
    settings = Settings("qa", "x", doc_stride=7)
    some = question() + question(answers=[])
    assert tasks.QuestionAnswering.options(settings, some) == {"stride": 7, "threshold": 0.0}
    assert tasks.QuestionAnswering.options(settings, question())["threshold"] is None
    task = tasks.QuestionAnswering(TOKENIZER, threshold=0.0)
    features = task.encode(some)
    assert features[1].target == [(0, 0)]
    right, wrong = Found([(4.0, 14, 23)], 5.0), Found([(4.0, 2, 6)], 6.0)
    assert task.measure([right, wrong], features) == {"exact": 0.5, "f1": 0.5}  # both are ""
    task.calibrate([right, wrong], features)
    assert task.threshold == 1.0 and task.config == {"no_answer_threshold": 1.0}
    assert task.measure([right, wrong], features) == {"exact": 1.0, "f1": 1.0}
    task.calibrate([wrong], features[1:])  # silence is best: below every margin
    assert task.threshold == 1.0 and task.measure([wrong], features[1:])["f1"] == 1.0
    always = tasks.QuestionAnswering(TOKENIZER)
    always.calibrate([right, wrong], features)
    assert always.threshold is None and always.measure([right, wrong], features)["f1"] == 0.5


def test_an_answer_that_fits_no_window_and_a_long_question_are_said():
    task = tasks.QuestionAnswering(TOKENIZER, max_length=7)
    with pytest.warns(UserWarning, match="1 of 1 answers do not fit into a window of 7"):
        (feature,) = task.encode(question(answers=[["film with a good song", 2]]))
    assert set(feature.target) == {(0, 0)}
    with pytest.warns(UserWarning, match="1 of 1 questions were cut to 3 tokens"):
        task.encode(question(question="a song and a talk?", answers=[]))
    with pytest.raises(ValueError, match="max_length=3 has no room for a context"):
        tasks.QuestionAnswering(TOKENIZER, max_length=3).encode(question(answers=[]))


def test_the_loss_of_question_answering_is_that_of_the_reference():
    task = tasks.QuestionAnswering(TOKENIZER)
    features = task.encode(question() + question(question="a long question, is it?"))
    model = build(BertForQuestionAnswering, tiny_config(vocab_size=len(small.VOCABULARY)))
    batch = task.collate(features)
    start, end = batch["targets"].T
    loss = in_reference(model)(**batch["inputs"], start_positions=start, end_positions=end).loss
    mine = task.criterion(task.outputs(model, batch), batch) / 2
    assert mine.item() == pytest.approx(loss.item(), rel=1e-5)
    (first, *_), _ = task.predict(model, features)
    assert task.text(first, features[0].extra[1]) in features[0].extra[1]


def test_a_score_in_other_units_is_learnt_from_0_to_1():
    examples = rows({"text": "a film", "pair": "a song", "score": 4.0})
    for kind in (tasks.PairRegression, tasks.Similarity):
        assert kind(TOKENIZER, scale=(0, 5)).encode(examples)[0].target == 0.8
