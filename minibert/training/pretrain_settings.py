"""`PretrainSettings`: everything a pre-training can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from minibert.training.settings import MOST, Checked, setting

GROUPS = {  # the field that begins each group of the help
    "vocabulary": "model and data",
    "steps": "training",
    "device": "hardware",
}


@dataclass(frozen=True)
class PretrainSettings(Checked):
    """What a pre-training is asked for. The fields explain themselves."""

    texts: tuple[str, ...]
    vocabulary: str = setting("vocab.txt", "vocab.txt, or the directory of a tokenizer")
    held_out: tuple[str, ...] = ()  # files to measure on
    size: str = setting("tiny", "tiny, mini, small, medium, base, or layers x width: 6x192")
    cased: bool = setting(False, "vocab.txt has capital letters: do not lower-case the texts")
    max_length: int = setting(128, "maximum tokens in an example", 8)
    whole_words: bool = setting(False, "hide all pieces of a word, or none")
    no_next_sentence: bool = setting(False, "one segment in an example; hidden words only")

    steps: int | None = setting(None, "optimizer steps (default: 20 passes, at least 2000)", 1)
    minutes: float | None = setting(None, "how long to train: steps as measured first", 0.01)
    batch_size: int = setting(32, "examples in a batch", 1)
    accumulate: int = setting(1, "gradient accumulation: batches in a step", 1)
    lr: float | None = setting(None, "peak learning rate (default: by the width)", 1e-12)
    schedule: str = setting("linear", "learning rate after the warm-up")
    warmup: float = setting(0.1, "share of the steps that are warm-up", 0, 1)
    optimizer: str = setting("adamw", "optimizer")
    decay: float = setting(0.01, "weight decay of matrices; biases and LayerNorms have none", 0)
    clip: float = setting(1.0, "maximum gradient norm", 1e-12)
    init: float = setting(0.02, "standard deviation of the random weights", 1e-6, 1)
    random_start: bool = setting(
        False, "all weights random, as BERT's were: it knows neither frequencies nor neighbours "
        "and guesses frequent tokens for long",
    )  # fmt: skip
    dropout: float = setting(0.0, "dropout while it pre-trains", 0, 1)
    seed: int = setting(0, "random seed", 0, MOST)
    half: bool = setting(False, "store the weights as float16: half the size")
    every: int = setting(500, "steps from one measurement on held-out text to the next", 1)
    checkpoint_every: int = setting(500, "steps between checkpoints", 1)

    device: str = setting("auto", "cpu, cuda or mps; auto takes the best available")
    autocast: bool = setting(False, "mixed precision: bfloat16 matrix products")

    @property
    def files(self) -> dict[str, str]:
        """All files it depends on: what each is → path."""
        named = {"vocabulary": self.vocabulary}
        named |= {f"texts {i}": path for i, path in enumerate(self.texts, 1)}
        return named | {f"held out {i}": path for i, path in enumerate(self.held_out, 1)}
