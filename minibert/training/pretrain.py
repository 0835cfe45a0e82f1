"""A BERT from nothing: random weights, plain text, hidden words and next sentences.

`pretrain` is the whole way, from text files to a directory that opens everywhere. It uses the one
loop, the one checkpoint and the run directory of a fine-tuning.
"""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from minibert.config import BertConfig
from minibert.heads import BertForMaskedLM, BertForPreTraining
from minibert.io import distributed
from minibert.io.directory import ModelDirectory
from minibert.io.files import atomic_directory, read_json, sha256, write_text
from minibert.pretrained import round_to_half
from minibert.tokenization.files import read_settings
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training import measuring
from minibert.training.adapt import set_dropout
from minibert.training.beginning import begin_with_frequencies, begin_with_neighbours
from minibert.training.checkpoints import Run
from minibert.training.data import Say, silent
from minibert.training.data.corpus import Document, hold_out, read_documents
from minibert.training.history import curve
from minibert.training.loop import Step, loop
from minibert.training.optim import make_optimizer, parameter_groups
from minibert.training.packing import (
    Packed,
    Stretches,
    Texts,
    held_out_batches,
    loader_of,
    tokenise,
)
from minibert.training.plots import card, curves, smooth
from minibert.training.pretrain_settings import PretrainSettings
from minibert.training.running import as_asked, begin, carry_out, finish, train

QUICK, ALL = 512, 5000  # held-out examples, while it trains and at the end


def pretrain(
    settings: PretrainSettings | Mapping[str, object] | None, out: str | os.PathLike, *,
    resume: bool = False, say: Say = silent,
) -> dict:  # fmt: skip
    """Pre-train a BERT and write ``out``: the model with its heads, and ``out/run``.

    Args:
        settings: what to do; with ``resume`` they are read from ``out``, and if some are given
            they must be the same.
        out: a directory; ``out/run/metrics.json`` says that the run is finished.
        resume: continue the run in ``out``.
        say: gets a line of text whenever something happens.

    Returns:
        What ``metrics.json`` says: measures on held-out text before and after, and those of
        counting (``baselines``).

    Raises:
        ValueError: texts, vocabulary and settings do not fit, or ``out`` already has a run in it.
        Diverged: loss or gradients became NaN; the last checkpoint stands.
        KeyboardInterrupt: Ctrl-C; the run was saved before.
    """
    return carry_out(whole_run, settings, out, resume, say, PretrainSettings)


def whole_run(
    settings: PretrainSettings, out: Path, resume: bool, device: torch.device, say: Say
) -> dict:
    """The run itself, in a directory that is ours."""
    tokenizer = read_vocabulary(settings)
    train, heldout = read_texts(settings, tokenizer, say)
    torch.manual_seed(settings.seed)
    counts = measuring.Counts.of(train, len(tokenizer))
    model = new_model(settings, tokenizer, counts).to(device)
    packed, examples = (packing(settings, texts, tokenizer) for texts in (train, heldout))
    refuse_too_little(settings, packed)
    settings = with_defaults(settings, packed, model, device, say)
    evaluation = Evaluation(tokenizer, model, examples, counts)

    sampler = batches_of(settings, packed)
    groups = parameter_groups(model, settings.lr, settings.decay)
    optimizer = make_optimizer(settings.optimizer, groups)
    origin = {name: digest(path) for name, path in settings.files.items()}
    run = Run(model, optimizer, out / "run", every=settings.checkpoint_every)
    begin(run, settings, origin, out, resume, sampler.steps, evaluation.quick, say)
    say(evaluation.beside())
    train_model(settings, loader_of(sampler, device), run, evaluation, say)
    if settings.half:
        round_to_half(model)

    after, more = {"steps": run.step, **evaluation.all()}, {"baselines": evaluation.counted}
    if measuring.plateau(evaluation.last, evaluation.counted):
        more["remarks"] = [why_on_plateau(settings, run.step)]
    return finish(run, out, after, more, partial(save, settings, run, tokenizer, out), say)


# ---------------------------------------------------------------------------------- before training


def read_vocabulary(settings: PretrainSettings) -> BertTokenizer:
    """The tokenizer of a ``vocab.txt`` or of a directory.

    Raises:
        ValueError: it has no [MASK].
    """
    path = Path(settings.vocabulary)
    if path.is_dir():
        tokenizer = BertTokenizer.from_pretrained(path)
    else:
        found = ModelDirectory(path.parent)
        lines = found.text(path.name).replace("\r\n", "\n").removesuffix("\n").split("\n")
        if "[MASK]" not in lines:
            raise ValueError(f"{path} has no [MASK], which pre-training needs")
        tokenizer = BertTokenizer(lines, do_lower_case=not settings.cased)
    if tokenizer.mask_token_id is None:
        raise ValueError(f"{path} has no [MASK], which pre-training needs")
    return tokenizer


def read_texts(
    settings: PretrainSettings, tokenizer: BertTokenizer, say: Say
) -> tuple[Texts, Texts]:
    """The tokenised texts to learn from, and those to measure on; says what is remarkable.

    Raises:
        ValueError: no text, one document where pairs are wanted, a vocabulary that does not fit.
    """
    documents = read_documents(settings.texts)
    if settings.held_out:
        learnt, measured = settings.texts, settings.held_out
        if shared := {*map(os.path.realpath, learnt)} & {*map(os.path.realpath, measured)}:
            raise ValueError(f"{min(shared)} is to be learnt from and held out; name it once")
        heldout = read_documents(settings.held_out)
    else:
        documents, heldout = set_aside(documents)
        say(f"{len(heldout)} of {len(documents) + len(heldout)} documents are held out")
    found = []
    for name, part in (("to learn from", documents), ("held out", heldout)):
        texts = tokenise(part, tokenizer)
        if not settings.no_next_sentence and len(texts.documents) < 3:
            raise ValueError(
                f"the text {name} is one document: there is no other to take a next sentence from "
                "that does not follow. Put a blank line between documents, give more files, or "
                "train without next sentences: --no-next-sentence"
            )
        unknown = (texts.ids == tokenizer.unk_token_id).mean() if len(texts.ids) else 1.0
        remark = f"{unknown:.0%} of the tokens {name} are {tokenizer.unk_token}"
        if unknown > 0.5:
            raise ValueError(
                f"{remark}: {settings.vocabulary} is no vocabulary for this text. Learn one from "
                "it: minibert vocabulary"
            )
        say(
            f"{name}: {len(texts.documents) - 1:,} documents, {len(texts.sentences) - 1:,} "
            f"sentences, {len(texts.ids):,} tokens"
        )
        if unknown > 0.02:
            say(f"warning: {remark}: the vocabulary fits badly")
        found.append(texts)
    long = (found[0].lengths > settings.max_length - 3).sum()
    if long:
        say(
            f"warning: {long:,} sentences are longer than {settings.max_length} tokens (special "
            "ones included) and are cut; is there a sentence a line?"
        )
    return found[0], found[1]


def set_aside(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Hold a twentieth out; of a single document its end."""
    if len(documents) > 1:
        most = 2 if len(documents) < 40 else 0  # next sentences need two documents
        share = max(0.05, most / len(documents)) if len(documents) > 3 else 0.05
        return hold_out(documents, share)
    (only,) = documents
    cut = len(only) - max(1, len(only) // 20)
    return [only[:cut]], [only[cut:]]


def new_model(
    settings: PretrainSettings, tokenizer: BertTokenizer, counts: measuring.Counts
) -> nn.Module:
    """A model with new weights; as many positions as will be trained."""
    config = BertConfig.of_size(
        settings.size, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=settings.max_length,
    )  # fmt: skip
    config = config.replace(initializer_range=settings.init)
    model = (BertForMaskedLM if settings.no_next_sentence else BertForPreTraining)(config)
    set_dropout(model, settings.dropout)
    if not settings.random_start:
        begin_with_frequencies(model, counts.share)
        begin_with_neighbours(model)
    return model


def packing(settings: PretrainSettings, texts: Texts, tokenizer: BertTokenizer) -> Packed:
    """The examples of a text."""
    return Packed(
        texts, tokenizer, max_length=settings.max_length, seed=settings.seed,
        pairs=not settings.no_next_sentence, whole_words=settings.whole_words,
    )  # fmt: skip


def refuse_too_little(settings: PretrainSettings, packed: Packed) -> None:
    """Refuse fewer examples than a batch, and fewer in a batch than there are processes."""
    n, size = len(packed.of_epoch(0)), settings.batch_size
    if n < size:
        raise ValueError(
            f"the texts make {n} examples of {settings.max_length} tokens, fewer than a batch of "
            f"{size}: give more text, or a smaller --batch-size or --max-length"
        )
    if size < distributed.processes():
        raise ValueError(
            f"a batch of {size} examples cannot be shared by {distributed.processes()} processes"
        )


def batches_of(settings: PretrainSettings, packed: Packed) -> Stretches:
    """The batches of the training."""
    return Stretches(
        packed, steps=settings.steps, every=settings.every, size=settings.batch_size,
        accumulate=settings.accumulate,
    )  # fmt: skip


def with_defaults(
    settings: PretrainSettings, packed: Packed, model: nn.Module, device: torch.device, say: Say
) -> PretrainSettings:
    """The settings with rate and steps; what was asked for stays as it is."""
    lr = settings.lr or 1e-3 * (256 / model.config.hidden_size) ** 0.5
    settings = settings.replace(lr=lr)
    in_a_step = settings.batch_size * settings.accumulate
    pass_ = len(packed.of_epoch(0)) / in_a_step
    if settings.steps is None and settings.minutes:
        seconds = seconds_a_step(settings, packed, model, device)
        steps = max(int(0.97 * 60 * settings.minutes / seconds), 1)
        settings = settings.replace(steps=steps)
        say(f"{seconds * 1000:.0f} ms a step: {steps:,} steps in {settings.minutes:g} minutes")
    elif settings.steps is None:
        settings = settings.replace(steps=max(2000, round(20 * pass_)))
    say(
        f"{settings.size}: {model.num_parameters() / 1e6:.1f} million weights; "
        f"{settings.steps:,} steps of {in_a_step} examples, {settings.steps / pass_:.1f} passes; "
        f"learning rate {lr:.2g}"
    )
    return settings


def seconds_a_step(
    settings: PretrainSettings, packed: Packed, model: nn.Module, device: torch.device, n: int = 8
) -> float:
    """How long a step takes, tried on a copy of the model."""
    tried = settings.replace(steps=2 * n, every=n)
    model = copy.deepcopy(model)
    optimizer = make_optimizer(settings.optimizer, parameter_groups(model, 1e-9))
    sampler, ends = batches_of(tried, packed), []
    loop(
        model, loader_of(sampler, device), as_asked(measuring.loss, settings, device), optimizer,
        epochs=2,
        step=Step(settings.accumulate, weight), evaluate=lambda: ends.append(time.time()) or {},
    )  # fmt: skip
    return (ends[1] - ends[0]) / n  # the first ones are slow


def digest(path: str) -> str:
    """The sha256 of a file; of a directory, that of its tokenizer."""
    if not Path(path).is_dir():
        return sha256(Path(path))
    words = read_settings(ModelDirectory(Path(path)))["vocab"]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


# ------------------------------------------------------------------------- training and measuring


class Evaluation:
    """Measures a model on held-out text while it trains, and what counting reaches there."""

    def __init__(
        self, tokenizer: BertTokenizer, model: nn.Module, heldout: Packed, counts: measuring.Counts
    ) -> None:
        self.model, self.tokenizer, self.heldout = model, tokenizer, heldout
        self.device = next(model.parameters()).device
        self.characters = measuring.characters_of(tokenizer).to(self.device)
        self.batches = held_out_batches(heldout, self.device, QUICK)
        self.counts = counts
        self.counted = self.counts.measure(self.batches, self.characters)
        self.shown = measuring.sentences_to_show(heldout.texts, tokenizer)
        self.last: dict[str, float] = {}

    def quick(self) -> dict:
        """Measures on the same few hundred examples, and guesses."""
        self.last = measuring.measure(self.model, self.batches, self.characters)
        found = {f"heldout_{name}": value for name, value in self.last.items()}
        return found | {"guesses": measuring.guesses(self.model, self.tokenizer, self.shown)}

    def all(self) -> dict[str, float]:
        """Measures on (nearly) all that is held out, and of counting on the same."""
        batches = held_out_batches(self.heldout, self.device, ALL)
        self.counted = self.counts.measure(batches, self.characters)
        self.last = measuring.measure(self.model, batches, self.characters)
        return {f"heldout_{name}": value for name, value in self.last.items()}

    def beside(self) -> str:
        """What counting reaches, in a sentence."""
        c = self.counted
        return (
            f"of the hidden tokens counting guesses {c['unigram_accuracy']:.3f} (the most frequent "
            f"one, perplexity {c['unigram_perplexity']:.0f}) or {c['bigram_accuracy']:.3f} (by the "
            f"left neighbour, perplexity {c['bigram_perplexity']:.0f})"
        )


def weight(batch: dict) -> torch.Tensor:
    """How many things each part of the loss is summed over."""
    return batch["counts"]


def train_model(
    settings: PretrainSettings, loader: DataLoader, run: Run, evaluation: Evaluation, say: Say
) -> None:
    """Train to the end; say after every stretch how far it is, and what it guesses."""

    def told(line: dict) -> str:
        parts = [f"masked accuracy {line['heldout_accuracy']:.3f}",
                 f"perplexity {line['heldout_perplexity']:.1f}"]  # fmt: skip
        if "heldout_next_sentence_accuracy" in line:
            parts.append(f"next sentence {line['heldout_next_sentence_accuracy']:.3f}")
        lines = [", ".join(parts), *(f"    {guess}" for guess in line["guesses"])]
        if measuring.plateau(evaluation.last, evaluation.counted):
            lines.append(f"    {why_on_plateau(settings, line['step'])}")
        return "\n".join(lines)

    train(settings, loader, run, measuring.loss, weight, evaluation.quick, told, say)


def why_on_plateau(settings: PretrainSettings, step: int) -> str:
    """That a run knows frequent tokens only so far, and what may be the reason."""
    reasons = []
    if step < 2 * settings.warmup * settings.steps:
        reasons.append("the warm-up has just ended" if step > settings.warmup * settings.steps
                       else "the warm-up is not over")  # fmt: skip
    if settings.random_start:
        reasons.append("it began with all weights random")
    if settings.lr < 3e-4:
        reasons.append(f"a learning rate of {settings.lr:g} is one for fine-tuning; try 1e-3")
    if settings.batch_size * settings.accumulate < 16:
        reasons.append(f"batches of {settings.batch_size * settings.accumulate} are noisy; try 32")
    if settings.steps < 3000:
        reasons.append(f"{settings.steps} steps are few; 3,000 and more are usual")
    why = "; ".join(reasons) or "wait; if it stays so, try another learning rate or more steps"
    return f"on the plateau of frequent tokens: little better than counting ({why})"


# ---------------------------------------------------------------------------------- what remains


def save(
    settings: PretrainSettings, run: Run, tokenizer: BertTokenizer, out: Path, result: dict
) -> None:
    """Write the model, its tokenizer, its card, the curves and the guesses."""
    after, counted = result["after"], result["baselines"]
    facts = {name.replace("_", " "): f"{value:.4f}"
             for name, value in (after | counted).items() if isinstance(value, float)}  # fmt: skip
    asked = read_json(out / "run" / "settings.json")
    tokenizer.model_max_length = settings.max_length
    title, of = f"BERT {settings.size}, pre-trained from nothing", ("transformers", "fill-mask")
    text = card(title, facts, asked, *of, result["remarks"])
    transcript = [
        f"step {line['step']}\n" + "".join(f"    {guess}\n" for guess in line["guesses"])
        for line in run.lines if "guesses" in line
    ]  # fmt: skip
    with atomic_directory(out) as staging:
        run.model.save_pretrained(staging, half=settings.half)
        tokenizer.save_pretrained(staging)
        write_text(staging / "README.md", text)
        write_text(staging / "run" / "curves.svg", draw(settings, run, counted))
        write_text(staging / "run" / "guesses.txt", "".join(transcript))


def draw(settings: PretrainSettings, run: Run, counted: dict[str, float]) -> str:
    """The curves of a run: loss of every step, held-out measures beside those of counting."""
    logged = partial(curve, run.lines)
    accuracy = {"model": logged("heldout_accuracy")}
    for name in ("unigram", "bigram"):  # of counting: the same at every step
        accuracy[name] = [(step, counted[f"{name}_accuracy"]) for step in (0, run.step)]
    panels = {
        "loss": {"train": smooth(logged("loss")), "held out": logged("heldout_loss")},
        "masked accuracy": accuracy,
    }
    if found := logged("heldout_next_sentence_accuracy"):
        panels["next sentence accuracy"] = {"model": found}
    return curves(f"{settings.size}, from nothing", "step", panels)
