"""Distillation: a small sentence encoder is taught by a large one.

The student begins as some layers of the teacher and the rows of its word table that stay in a
smaller vocabulary. It then learns to give a text the vector that the teacher gives it: any text
will do, nobody has to label it. The teacher's vectors are computed once and kept in a file.

Source: Hinton 2015 (1503.02531); layers of the teacher as a start: Sanh 2019 (1910.01108), §3; a
smaller vocabulary: Abdaoui 2020 (2010.05609), §3.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from string import punctuation

import numpy as np
import torch
from torch import Tensor, nn

from minibert.batching import progress
from minibert.io import distributed
from minibert.io.checkpoint import content_digest, read_safetensors, write_safetensors
from minibert.io.files import atomic_directory, sha256, write_text
from minibert.model import BertModel
from minibert.pretrained import round_to_half
from minibert.sentence_encoder import SentenceEncoder, best_device
from minibert.tokenization.files import SETTINGS as RULES
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training import data
from minibert.training.adapt import set_dropout
from minibert.training.checkpoints import Run
from minibert.training.data import Say, silent
from minibert.training.data.corpus import read_documents, sentences
from minibert.training.finetune import draw, train_task
from minibert.training.inference import Evaluation
from minibert.training.loader import data_loader
from minibert.training.optim import make_optimizer, parameter_groups
from minibert.training.plots import card
from minibert.training.running import begin, carry_out, finish
from minibert.training.settings import DistilSettings
from minibert.training.tasks.distil import Distil
from minibert.training.tasks.pairs import Similarity

LEAST = 8  # texts in a batch, where so many are asked for: fewer have no similarities to speak of
HELD_OUT = 1000  # texts, or a twentieth of them if that is less
CHUNK = 65_536  # texts that the teacher encodes at a time


def distil(
    settings: DistilSettings | Mapping[str, object] | None, out: str | os.PathLike, *,
    resume: bool = False, say: Say = silent,
) -> dict:  # fmt: skip
    """Teach a student and write it to ``out``, a directory of sentence-transformers.

    Args:
        settings: what to do; with ``resume`` they are read from ``out``, and if some are given
            they must be the same.
        out: a directory; ``out/run`` gets settings, log, metrics and curves.
        resume: continue the run in ``out``; it ends in the bytes of one that was not stopped.
        say: gets a line of text whenever something happens.

    Returns:
        ``before`` (layers and words left out, nothing learnt) and ``after``: the loss and the mean
        cosine to the teacher on texts that were held out, and Spearman's correlation on the scored
        pairs; ``teacher``: the same of the teacher.

    Raises:
        ValueError: texts, teacher and settings do not fit; or ``out`` already has a run in it.
        Diverged, KeyboardInterrupt: as `finetune`.
    """
    return carry_out(whole_run, settings, out, resume, say, DistilSettings)


def whole_run(
    settings: DistilSettings, out: Path, resume: bool, device: torch.device, say: Say
) -> dict:
    """The run itself, in a directory that is ours."""
    texts = read_texts(settings, say)
    scored = data.read(settings.scored, Similarity.columns(), say=say) if settings.scored else []
    teacher = SentenceEncoder.from_pretrained(settings.teacher, device="cpu", engine="textbook")
    if teacher.dense:
        raise ValueError(f"{settings.teacher} has a Dense module: no student can be made of that")
    prompt = teacher.prompt(None, None)  # stands before every text, the student's too
    texts = [prompt + text for text in texts]
    origin = {path: sha256(Path(path)) for path in settings.texts}
    origin["teacher"] = content_digest(teacher.model.state_dict())
    rows = teacher.tokenizer.encode_batch(texts, max_length=teacher.max_length).ids
    torch.manual_seed(settings.seed)  # of random weights
    student = start_student(settings, teacher, rows)
    say(f"student: {describe(student)}; teacher: {describe(teacher)}")
    path = Path(settings.vectors or f"{out}-vectors.safetensors")
    vectors = teacher_vectors(path, teacher.to(device), rows, origin["teacher"], texts, say)
    if len(student.tokenizer) < len(teacher.tokenizer):
        rows = student.tokenizer.encode_batch(texts).ids
    tell_lengths(settings, rows, say)
    most = settings.max_length
    cut = [np.array(row if len(row) <= most else [*row[: most - 1], row[-1]]) for row in rows]
    task = Distil(
        student.tokenizer, max_length=settings.max_length, pooling=student.pooling,
        encoder=student, rows=cut, vectors=vectors, similarities=settings.similarities,
    )  # fmt: skip
    del rows, texts
    return learn(settings, task, teacher, scored, origin, out, resume, say)


def learn(
    settings: DistilSettings, task: Distil, teacher: SentenceEncoder, scored: list,
    origin: dict, out: Path, resume: bool, say: Say,
) -> dict:  # fmt: skip
    """Train, measure, save."""
    model = task.encoder.model.to(teacher.device)
    order = np.random.default_rng(settings.seed).permutation(len(task.rows))
    held = min(HELD_OUT, len(order) // 20)
    sets = {"dev": order[:held], **({"keep": scored} if scored else {})}
    evaluation = Evaluation(task, model, sets)
    loader = data_loader(
        task, task.encode(order[held:]), teacher.device, epochs=settings.epochs,
        steps=settings.steps, size=settings.batch_size, tokens=settings.batch_tokens,
        accumulate=settings.accumulate, seed=settings.seed, every=settings.evaluate_every,
        least=min(LEAST, settings.batch_size),
    )  # fmt: skip
    groups = parameter_groups(model, settings.lr, settings.decay)
    optimizer = make_optimizer(settings.optimizer, groups)
    run = Run(model, optimizer, out / "run", best_on="dev_cosine", every=settings.checkpoint_every)
    measure, steps = partial(evaluation.on, "dev", "general"), loader.batch_sampler.steps
    begin(run, settings, origin, out, resume, steps, measure, say)
    train_task(settings, task, loader, run, evaluation, say)
    if settings.half:
        round_to_half(model)
    after, more = {"steps": run.step, **measure()}, {}
    if scored:
        pairs = Similarity(teacher.tokenizer, pooling=teacher.pooling, encoder=teacher)
        found = pairs.evaluate(teacher.model, pairs.encode(scored))
        more["teacher"] = {"general_spearman": found["spearman"]}
    return finish(run, out, after, more, partial(save, settings, run, task.encoder, out), say)


# ---------------------------------------------------------------------------------- what is learnt


def read_texts(settings: DistilSettings, say: Say) -> list[str]:
    """The texts of all files, each once.

    Raises:
        FileNotFoundError, ValueError: as ``corpus.read_documents``; or too few texts.
    """
    found = sentences(read_documents(settings.texts))
    texts = list(dict.fromkeys(found))
    say(f"{len(texts):,} texts; {len(found) - len(texts):,} repetitions are left out")
    least = max(20, 2 * settings.batch_size)
    if len(texts) < least:
        raise ValueError(f"{len(texts)} texts; at least {least} are needed, two batches: give more")
    return texts


def tell_lengths(settings: DistilSettings, rows: Sequence[list[int]], say: Say) -> None:
    """Say how long the texts are; warn if some are cut."""
    lengths = np.array(list(map(len, rows)))
    say(f"{lengths.mean():.1f} tokens a text, with [CLS] and [SEP]")
    if long := int((lengths > settings.max_length).sum()):
        warnings.warn(
            f"{long} of {len(rows)} texts are cut to {settings.max_length} tokens while learning "
            f"(the teacher saw more of them); --max-length {lengths.max()} reads all",
            stacklevel=2,
        )


def teacher_vectors(
    path: Path, teacher: SentenceEncoder, rows: Sequence[list[int]], weights: str,
    texts: Sequence[str], say: Say,
) -> Tensor:  # fmt: skip
    """The teacher's vectors of all texts, of length 1: from a file, or computed and kept there.

    Args:
        path: a safetensors file; it says in its metadata what it is of.
        rows: the ids of the texts.
        weights: the digest of the teacher's weights.

    Shapes: returns (texts, H) in float16, memory-mapped.

    Raises:
        ValueError: the file holds the vectors of other texts, or of another teacher.
    """
    told = teacher.pooling, teacher.max_length, teacher.truncate_dim, teacher.include_prompt
    digest = hashlib.sha256(json.dumps([weights, *told]).encode())
    for text in texts:
        digest.update(text.encode() + b"\n")
    digest = digest.hexdigest()
    if not path.exists() and distributed.rank() == 0:
        say(f"computing the teacher's vectors, which are kept in {path}")
        vectors = torch.empty(len(rows), teacher.dimension, dtype=torch.float16)
        skip = teacher.not_pooled(teacher.prompt(None, None))
        size = 512 if teacher.device.type == "cpu" else CHUNK
        with progress(len(rows), "texts") as advance:
            for start in range(0, len(rows), CHUNK):
                part = teacher.encode_rows(rows[start : start + CHUNK], None, size, False, skip)
                part = part[:, : teacher.truncate_dim]
                vectors[start : start + len(part)] = nn.functional.normalize(part, dim=1).cpu()
                advance(len(part))
        write_safetensors(path, {"vectors": vectors}, {"of": digest})
    distributed.wait()
    tensors, metadata = read_safetensors(path)
    if metadata.get("of") != digest:
        raise ValueError(
            f"{path} holds vectors of other texts or of another teacher; remove it, or name "
            "another file (--vectors)"
        )
    say(f"the teacher's vectors are those in {path}")
    return tensors["vectors"]


# ---------------------------------------------------------------------------------- the student


def start_student(
    settings: DistilSettings, teacher: SentenceEncoder, rows: Sequence[list[int]]
) -> SentenceEncoder:
    """The student before it learns: layers and words of the teacher, or random weights.

    It has as many positions as the teacher's ``max_length`` lets it use. ``rows``: the ids that the
    teacher's tokenizer gives to the texts.
    """
    old, chosen = teacher.model, which_layers(settings.layers, len(teacher.model.layers))
    tokenizer, kept = smaller_vocabulary(teacher.tokenizer, rows, settings.vocabulary)
    positions = min(teacher.max_length, old.config.max_position_embeddings)
    config = old.config.replace(
        num_hidden_layers=len(chosen), vocab_size=len(kept), max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=old.pooler is not None)
    if not settings.from_nothing:
        state = old.state_dict()
        state["embeddings.word.weight"] = state["embeddings.word.weight"][kept]
        state["embeddings.position.weight"] = state["embeddings.position.weight"][:positions]
        of_layers = {name: state.pop(name) for name in [*state] if name.startswith("layers.")}
        for new, number in enumerate(chosen):
            for name, tensor in of_layers.items():
                if name.startswith(f"layers.{number}."):
                    state[name.replace(f".{number}.", f".{new}.", 1)] = tensor
        model.load_state_dict(state)
    if model.pooler is not None:
        model.pooler.requires_grad_(False)  # a sentence encoder does not use it
    set_dropout(model, settings.dropout)
    names = ("pooling", "normalize", "max_length", "prompts", "default_prompt_name",
             "similarity_fn_name", "include_prompt", "truncate_dim")  # fmt: skip
    return SentenceEncoder(model, tokenizer, **{name: getattr(teacher, name) for name in names})


def which_layers(asked: int | str, layers: int) -> list[int]:
    """The numbers, from 0, of the layers to take: so many, spread evenly, or those in a list.

    >>> which_layers(3, 6), which_layers("0,1", 6)
    ([0, 2, 5], [0, 1])

    Raises:
        ValueError: not as many layers, or not such.
    """
    if str(asked).isdecimal() and 1 <= int(asked) <= layers:
        return np.linspace(0, layers - 1, int(asked)).round().astype(int).tolist()
    parts = str(asked).split(",")
    if len(parts) < 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"layers is {asked!r}; 1 to {layers}, or a list of numbers such as 0,2,5")
    chosen = [int(part) for part in parts]
    if max(chosen) >= layers or chosen != sorted({*chosen}):
        raise ValueError(f"layers is {asked!r}; rising numbers from 0 to {layers - 1} are needed")
    return chosen


def smaller_vocabulary(
    tokenizer: BertTokenizer, rows: Sequence[list[int]], size: int | None
) -> tuple[BertTokenizer, list[int]]:
    """A tokenizer with fewer tokens, and their ids in the old one, which are in the same order.

    The special tokens stay, and all that it takes to spell any word of the texts, or of ASCII: the
    single characters, both at the beginning of a word and inside one. The others are the most
    frequent ones in ``rows``; of those equally frequent, the first in the old vocabulary.

    Raises:
        ValueError: no room for what has to stay, or fewer tokens to choose from.
    """
    tokens = list(tokenizer.vocab)  # in the order of their ids
    if size is None:
        return tokenizer, list(range(len(tokens)))
    counts = np.zeros(len(tokens), dtype=np.int64)
    for row in rows:
        np.add.at(counts, row, 1)
    special = {token["content"] for token in tokenizer.added_tokens}
    seen = (token for token, count in zip(tokens, counts, strict=True) if count)
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" + punctuation)
    letters = letters.union(*(token.removeprefix("##") for token in seen if token not in special))
    spelling = {form for letter in letters for form in (letter, f"##{letter}")}
    must = [i for i, token in enumerate(tokens) if token in special or token in spelling]
    if not len(must) <= size <= len(tokens):
        raise ValueError(
            f"a vocabulary of {size:,} tokens; {len(must):,} (special tokens and the characters of "
            f"the texts) to {len(tokens):,} (all of the teacher's) are possible"
        )
    rest = sorted({*range(len(tokens))}.difference(must), key=lambda i: (-counts[i], i))
    kept = sorted([*must, *rest[: size - len(must)]])
    added = [{k: v for k, v in token.items() if k != "id"} for token in tokenizer.added_tokens]
    words = [tokens[i] for i in kept if tokens[i] in tokenizer.words]
    rules = {name: getattr(tokenizer, name) for name in (*RULES, "model_max_length")}
    return BertTokenizer(words, added_tokens=added, **rules, **tokenizer.special_tokens_map), kept


# ---------------------------------------------------------------------------------- what remains


def describe(encoder: SentenceEncoder) -> str:
    """Layers, tokens and parameters in words."""
    return (
        f"{len(encoder.model.layers)} layers, {len(encoder.tokenizer):,} tokens, "
        f"{encoder.model.num_parameters() / 1e6:.1f} million parameters"
    )


def save(
    settings: DistilSettings, run: Run, student: SentenceEncoder, out: Path, result: dict
) -> None:
    """Write the student, its card and its curves."""
    before, after = result["before"], result["after"]
    facts = {
        shown: f"{after[name]:.4f} (before learning {before[name]:.4f})"
        for name, shown in (("dev_cosine", "mean cosine to the teacher, held-out texts"),
                            ("general_spearman", "Spearman on the scored pairs"))
        if name in after
    }  # fmt: skip
    facts = {"student": describe(student), "teacher": settings.teacher, **facts}
    default = DistilSettings()
    asked = {k: v for k, v in vars(settings).items() if v != getattr(default, k)}
    asked["texts"] = ", ".join(Path(path).name for path in settings.texts)
    with atomic_directory(out) as staging:
        student.save_pretrained(staging, half=settings.half)
        title, task = f"{Path(settings.teacher).name}, distilled", "sentence-similarity"
        write_text(
            staging / "README.md", card(title, facts, asked, "sentence-transformers", task)
        )
        write_text(staging / "run" / "curves.svg", draw("distillation", run))


def beside_the_teacher(
    settings: DistilSettings, out: str | os.PathLike, rounds: int = 3
) -> dict[str, dict[str, float]]:
    """Size and speed of the student and its teacher, in turn, on this machine.

    Returns:
        "student", "teacher" → ``parameters``, ``mb`` (the weights' file), ``texts_per_s``.
    """
    texts = sentences(read_documents(settings.texts))[:HELD_OUT]
    device = best_device(settings.device)
    found: dict[str, dict[str, float]] = {}
    encoders = {"student": out, "teacher": settings.teacher}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # texts cut off
        for name, place in encoders.items():
            encoder = SentenceEncoder.from_pretrained(place, device=device)
            encoders[name] = encoder
            encoder.encode(texts[:64])
            found[name] = {"parameters": encoder.model.num_parameters(), "texts_per_s": 0.0}
        for _ in range(rounds):
            for name, encoder in encoders.items():
                start = time.perf_counter()
                encoder.encode(texts, show_progress_bar=False)
                speed = len(texts) / (time.perf_counter() - start)
                found[name]["texts_per_s"] = max(speed, found[name]["texts_per_s"])
    return found
