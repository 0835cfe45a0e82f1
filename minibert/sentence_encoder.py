"""``SentenceEncoder``: tokenizer + model + pooling (+ normalising) = a vector for a text.

It reads and writes the directories of sentence-transformers, of both generations of that format.
Source: Reimers & Gurevych 2019 (Sentence-BERT), §3.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minibert.io import sentence_transformers
from minibert.io.checkpoint import content_digest
from minibert.io.directory import ModelDirectory, open_directory
from minibert.io.files import atomic_directory, write_text
from minibert.io.hub import DEFAULT_MODEL
from minibert.model import BertModel
from minibert.pooling import POOLING
from minibert.progress import progress
from minibert.similarity import SIMILARITY
from minibert.speed import int8 as quantize
from minibert.speed.packed import Keeper
from minibert.tokenization.tokenizer import BertTokenizer

BATCH_TOKENS = 1024  # a batch has at most so many tokens, padding included
# Workers end together if each has several batches; below so many tokens these would cost more.
EVEN, ENOUGH = 8, 256
SMALL_BATCH = 128  # tokens; so few are not shared out among workers


class SentenceEncoder:
    """Texts in, vectors out.

    >>> encoder = SentenceEncoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> encoder.encode(["A man is eating.", "Someone has a meal."]).shape
    (2, 384)

    Args:
        model: the encoder; put into ``eval()`` while `encode` runs.
        tokenizer: the tokenizer the model was trained with.
        pooling: names in ``pooling.POOLING``; several are put side by side.
        normalize: scale every vector to length 1.
        max_length: how many tokens of a text are used, [CLS] and [SEP] included.
        prompts: name → text put before every text.
        default_prompt_name: the prompt used where `encode` is given none.
        similarity_fn_name: what `similarity` computes: a name in ``similarity.SIMILARITY``.
        lower_case: lower-case texts before the tokenizer sees them.

    Raises:
        ValueError: the parts do not fit each other.
    """

    def __init__(
        self,
        model: BertModel,
        tokenizer: BertTokenizer,
        *,
        pooling: Sequence[str] = ("mean",),
        normalize: bool = True,
        max_length: int | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str = "cosine",
        lower_case: bool = False,
    ) -> None:
        """Put the parts together."""
        config, words = model.config, len(tokenizer)
        if words > config.vocab_size:
            raise ValueError(
                f"the vocabulary has {words} tokens, the model's word table {config.vocab_size} "
                "rows; they do not belong together"
            )
        if words < config.vocab_size:
            warnings.warn(
                f"the vocabulary has {words} tokens, the model's word table {config.vocab_size} "
                "rows; is the vocabulary file complete?",
                stacklevel=2,
            )
        if not pooling or any(name not in POOLING for name in pooling):
            raise ValueError(f"pooling {list(pooling)}; these are implemented: {list(POOLING)}")
        if similarity_fn_name not in SIMILARITY:
            raise ValueError(f"similarity {similarity_fn_name!r}; these are: {list(SIMILARITY)}")
        positions = config.max_position_embeddings
        max_length = min(max_length or positions, positions)
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}; [CLS], one token and [SEP] need 3")
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = tuple(name for name in POOLING if name in pooling)  # in joining order
        self.normalize = normalize
        self.max_length = max_length
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.similarity_fn_name = similarity_fn_name
        self.lower_case = lower_case

    @property
    def model(self) -> BertModel | quantize.Int8Bert:
        """The model. Once you have asked for it, it is what `encode` computes with, bit for bit.

        Until then nobody can have changed it or hooked into it, and `encode` uses a copy that is
        laid out for speed (module `packed`): the vectors differ by 2e-6 at most.
        """
        return self._keeper.lend()

    @model.setter
    def model(self, model: BertModel | quantize.Int8Bert) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"the model is a {type(model).__name__}; a BertModel is needed")
        self._keeper = Keeper(model)

    @property
    def _model(self) -> BertModel | quantize.Int8Bert:
        """The model, for what does not change it."""
        return self._keeper.model

    def digest(self) -> str:
        """A digest of the weights."""
        return content_digest(self._model.state_dict(), {})

    @property
    def dimension(self) -> int:
        """The width of the vectors: H for each pooling mode."""
        return self._model.config.hidden_size * len(self.pooling)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._model.embeddings.word.weight.device

    def __repr__(self) -> str:
        """What it is, in a line."""
        return (
            f"SentenceEncoder({type(self._model).__name__}, {self.dimension} numbers a text, "
            f"pooling {' + '.join(self.pooling)}, {'' if self.normalize else 'not '}normalised, "
            f"up to {self.max_length} tokens, on {self.device})"
        )

    def to(self, device: str | torch.device) -> SentenceEncoder:
        """Move the model to a device, in place; ``"auto"`` = cuda, then mps, then cpu."""
        self._keeper.move(best_device(device))
        return self

    # ------------------------------------------------------------------------------- encode

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        on_long: str = "warn",
        normalize_embeddings: bool | None = None,
        convert_to_tensor: bool = False,
        prompt: str | None = None,
        prompt_name: str | None = None,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray | Tensor:
        """One vector for each text.

        Texts are sorted by their number of tokens and cut into batches, so that next to nothing is
        padding; the vectors come back in the order of the texts. A vector does not depend on the
        other texts (2e-6 in float32).

        Args:
            texts: a text, or texts; for more than the memory holds see `stream`.
            batch_size: at most so many texts in a batch; None = as ``batch_tokens`` allows.
            batch_tokens: at most so many tokens in a batch, padding included.
            on_long: what to do with a text of more than ``max_length`` tokens: ``"warn"`` cuts it
                and says how many were cut, ``"error"`` raises, ``"window"`` encodes overlapping
                windows and averages their vectors, weighted by their tokens.
            normalize_embeddings: overrides ``normalize``.
            convert_to_tensor: return a tensor on the model's device.
            prompt: put before every text; or ``prompt_name``, one of ``prompts``.
            show_progress_bar: None = in a terminal, when it takes more than a second.

        Shapes: (texts, dimension), numpy float32; (dimension,) for a single ``str``.

        Raises:
            TypeError: something else than texts came.
            ValueError: an argument is out of range, a text is too long with ``on_long="error"``, or
                the model gives NaN.
        """
        if isinstance(texts, str):
            one = self.encode(
                [texts],
                on_long=on_long,
                normalize_embeddings=normalize_embeddings,
                convert_to_tensor=convert_to_tensor,
                prompt=prompt,
                prompt_name=prompt_name,
            )
            return one[0]
        if on_long not in ("warn", "error", "window"):
            raise ValueError(f'on_long is {on_long!r}; "warn", "error" or "window" is allowed')
        if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
            raise TypeError(f"encode takes a text or texts (str), not a {type(texts).__name__}")
        texts = list(texts)
        rows, owners = self.rows(texts, self.prompt(prompt, prompt_name), on_long)
        lengths = [len(row) for row in rows]
        workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        if workers > 1 and batch_size is None and batch_tokens > SMALL_BATCH:
            batches = even_batches(lengths, batch_tokens, workers)
        else:
            batches = make_batches(lengths, batch_tokens, batch_size)
        vectors = torch.empty(len(rows), self.dimension, device=self.device)

        def work(batch: list[int]) -> list[int]:
            with torch.inference_mode():
                vectors[batch] = self.embed([rows[i] for i in batch])  # (b, dimension)
            return batch

        training = [part for part in self._model.modules() if part.training]
        if training:
            self._model.eval()
        self._keeper.quickest()  # made here, not in all workers at once
        try:
            done = side_by_side(work, batches, self.device)
            for _ in progress(done, len(rows), "texts", show_progress_bar, size=len):
                pass
        finally:
            for part in training:
                part.training = True
        vectors = merge_windows(vectors, rows, owners, len(texts))
        if self.normalize if normalize_embeddings is None else normalize_embeddings:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        if not torch.isfinite(vectors).all():
            bad = (~torch.isfinite(vectors)).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"the vectors of texts {bad[:5]} are not numbers (NaN or infinity): the weights "
                "are damaged or training diverged; get the model again, or its last good checkpoint"
            )
        return vectors if convert_to_tensor else vectors.cpu().numpy()

    def stream(
        self, texts: Iterable[str], *, chunk: int = 4096, **options: object
    ) -> Iterator[np.ndarray]:
        """The vectors of texts without end, from a file or a generator: an array for each chunk.

        The same numbers as `encode` gives, which takes the ``options``; but only one chunk of
        texts and vectors is in memory at a time.

        Raises:
            TypeError, ValueError: as `encode`; ``chunk`` is less than 1.
        """
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; at least 1 text is needed")
        texts = iter(texts)
        while some := list(itertools.islice(texts, chunk)):
            yield self.encode(some, **options)

    def embed(self, rows: list[list[int]]) -> Tensor:
        """The pooled vectors of one batch of token ids, not normalised, in float32.

        Shapes: rows of up to T ids; returns (B, dimension).
        """
        lengths = [len(row) for row in rows]
        ids = np.full((len(rows), max(lengths)), self.tokenizer.pad_token_id)  # (B, T)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        ids = torch.from_numpy(ids).to(self.device)  # (B, T)
        mask = None  # where there is no padding there is nothing to mask
        if min(lengths) < max(lengths):
            mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]  # (B, T)
            mask = mask.to(self.device)
        hidden = self._keeper.quickest()(ids, mask).last_hidden_state  # (B, T, H)
        vectors, start = [], 0
        for length, same in itertools.groupby(lengths):  # without padding: in the same order always
            end = start + len(list(same))
            states = hidden[start:end, :length]
            pooled = [POOLING[name](states) for name in self.pooling]
            vectors.append(torch.cat(pooled, dim=1).float())  # (texts, dimension)
            start = end
        return torch.cat(vectors)  # (B, dimension)

    def prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text to put before every text: given, named, the default, or none."""
        if prompt is not None:
            return prompt
        name = prompt_name if prompt_name is not None else self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"no prompt is named {name!r}; these are: {list(self.prompts)}")
        return self.prompts[name]

    def rows(
        self, texts: list[str], prompt: str = "", on_long: str = "warn"
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids, a row for a text (or for each window of it), and which text a row is of."""
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {i} is a {type(text).__name__}; encode takes texts (str)")
        texts = [prompt + text for text in texts] if prompt else texts
        texts = [text.lower() for text in texts] if self.lower_case else texts
        batch = self.tokenizer.encode_batch(texts, max_length=self.max_length)
        rows, owners = batch.ids, list(range(len(texts)))
        long = [i for i, length in enumerate(batch.lengths) if length > self.max_length]
        if not long:
            return rows, owners
        if on_long == "window":
            for i in long:
                rows[i], *more = self.windows(self.tokenizer.ids(texts[i]))
                rows.extend(more)
                owners.extend([i] * len(more))
            return rows, owners
        message = (
            f"{len(long)} of {len(texts)} texts have more than {self.max_length} tokens, the "
            f"longest {max(batch.lengths)} (text {batch.lengths.index(max(batch.lengths))})"
        )
        if on_long == "error":
            raise ValueError(f'{message}; shorten them, or use on_long="window" (--on-long window)')
        warnings.warn(
            f'{message}; the rest was cut off. on_long="window" (--on-long window) reads all of it',
            stacklevel=3,
        )
        return rows, owners

    def windows(self, ids: list[int]) -> list[list[int]]:
        """Cut the ids of a long text into overlapping windows, each with [CLS] and [SEP].

        Each starts half a window after the one before; the last one ends where the text ends.
        """
        size = self.max_length - 2
        starts = [*range(0, len(ids) - size, max(size // 2, 1)), len(ids) - size]
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        return [[cls, *ids[start : start + size], sep] for start in starts]

    def similarity(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """The similarity the model was trained for: result[i][j] = a[i] against b[j]."""
        return SIMILARITY[self.similarity_fn_name](a, b)

    # ---------------------------------------------------------------------- load and save

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike = DEFAULT_MODEL,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        precision: str | None = None,
        **hub: object,
    ) -> SentenceEncoder:
        """Load a sentence-transformers directory, or a plain BERT (mean pooling, one warning).

        Args:
            name_or_path: a directory, or a name for ``hub.locate``.
            device: ``"auto"`` = cuda, then mps, then cpu.
            dtype: of the weights and of the computation; vectors are float32 always.
            precision: ``"float32"`` (as ``dtype`` says), or ``"int8"``: on the CPU, over twice as
                fast, and its vectors have a cosine of about 0.999 with the others (`quantize`).
                None = int8 if the directory was saved so, else float32. Where int8 is not to be
                had a warning says why, and the model is float32.
            hub: options of ``hub.locate``, such as ``revision`` and ``cache_dir``.

        Raises:
            FileNotFoundError: no such model.
            ValueError: a file is damaged, or asks for a module that minibert does not implement.
        """
        directory = open_directory(name_or_path, **hub)
        home, settings = sentence_transformers.read_settings(directory)
        if settings["pooling"] is None:
            settings["pooling"] = ("mean",)
            warnings.warn(
                f"{directory} does not say how to pool (no modules.json): taking the mean, not "
                "normalised. This is a plain BERT, not trained to compare sentences",
                stacklevel=2,
            )
        tokenizer = BertTokenizer.from_pretrained(home)
        settings["max_length"] = settings["max_length"] or tokenizer.model_max_length
        encoder = cls(load_model(home, precision, dtype, device), tokenizer, **settings)
        encoder._keeper.lent = cls is not SentenceEncoder  # a subclass may have kept the model
        return encoder

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write a directory that opens in sentence-transformers, transformers and minibert.

        An int8 encoder is a quarter of the size, and opens in minibert alone (`quantize.save`). All
        files are complete before the first one takes its place.

        Raises:
            OSError: the directory cannot be written.
            ValueError: an int8 encoder, and the directory has float32 weights.
        """
        if not isinstance(self._model, BertModel) and Path(directory, "model.safetensors").exists():
            raise ValueError(
                f"{directory} has a model.safetensors; save the int8 encoder into another directory"
            )
        settings = {name: getattr(self, name) for name in sentence_transformers.SETTINGS}
        with atomic_directory(directory) as staging:
            if isinstance(self._model, BertModel):
                self._model.save_pretrained(staging)
            else:
                quantize.save(self._model, staging)
            self.tokenizer.model_max_length = self.max_length
            self.tokenizer.save_pretrained(staging)
            sentence_transformers.write_settings(staging, self._model.config.hidden_size, settings)
            if not (Path(directory) / "README.md").exists():  # a card somebody wrote stays
                write_text(staging / "README.md", self.model_card())

    def model_card(self) -> str:
        """A short ``README.md`` in the form the hub expects."""
        return (
            "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n\n"
            f"# A sentence encoder\n\n{self._model.config.num_hidden_layers} layers, "
            f"{self.dimension} numbers a text, {' + '.join(self.pooling)} pooling, "
            f"{'' if self.normalize else 'not '}normalised, up to {self.max_length} tokens.\n"
            "Saved by minibert; opens in sentence-transformers and transformers unchanged.\n\n"
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            'vectors = SentenceTransformer("this directory").encode(["a text", "another"])\n```\n'
        )


def make_batches(lengths: list[int], tokens: int, size: int | None = None) -> list[list[int]]:
    """Cut texts, longest first, into batches of at most ``tokens`` tokens, padding included.

    A text longer than that is a batch of its own. Returns the numbers of the texts.
    """
    if tokens < 1 or (size is not None and size < 1):
        raise ValueError(f"batch_tokens is {tokens}, batch_size {size}; both must be at least 1")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        full = not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens
        if full or len(batches[-1]) == size:
            batches.append([])
        batches[-1].append(i)
    return batches


def even_batches(lengths: list[int], tokens: int, workers: int) -> list[list[int]]:
    """Batches as `make_batches` makes them; few are made so that all workers end together.

    Each worker gets the same number of batches, of about the same size.
    """
    total = sum(lengths)
    each = max(-(-total // (workers * tokens)), min(EVEN, total // (workers * ENOUGH)), 1)
    share = max(-(-total // (workers * each)), SMALL_BATCH)
    while each <= EVEN and share < tokens:  # batches are never quite full, so one may be left over
        batches = make_batches(lengths, share)
        if len(batches) <= workers * each:
            return batches
        share += 1 + share // 100
    return make_batches(lengths, tokens)


def side_by_side(
    work: Callable[[list[int]], list[int]], batches: list[list[int]], device: torch.device
) -> Iterator[list[int]]:
    """Run the work for every batch, on a CPU in as many threads as torch has.

    Torch would split every operation over its threads, and they would wait for each other at the
    end of each, some hundred times a batch. Here each takes whole batches and waits for nobody.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(batches) == 1:
        yield from map(work, batches)
        return
    torch.set_num_threads(1)  # of each worker: a new thread starts with this number
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, batches)
    finally:
        torch.set_num_threads(threads)


def merge_windows(vectors: Tensor, rows: list[list[int]], owners: list[int], texts: int) -> Tensor:
    """Average the vectors of the windows of each text, weighted by their tokens.

    Shapes: (rows, dimension) → (texts, dimension). Row i < ``texts`` is of text i.
    """
    if len(owners) == texts:
        return vectors
    owner = torch.tensor(owners, device=vectors.device)
    weight = torch.tensor([len(row) - 2.0 for row in rows], device=vectors.device)[:, None]
    total = torch.zeros_like(vectors[:texts]).index_add(0, owner, vectors * weight)
    weights = torch.zeros_like(total[:, :1]).index_add(0, owner, weight)
    windowed = owner[texts:].unique()
    merged = vectors[:texts].clone()
    merged[windowed] = total[windowed] / weights[windowed]
    return merged


def load_model(
    home: ModelDirectory, precision: str | None, dtype: torch.dtype, device: str | torch.device
) -> BertModel | quantize.Int8Bert:
    """The model of a directory, in a precision; see `SentenceEncoder.from_pretrained`."""
    if precision not in (None, "float32", "int8"):
        raise ValueError(f'precision is {precision!r}; "float32", "int8" or None is allowed')
    saved = quantize.is_int8(home)
    if (precision or ("int8" if saved else "float32")) == "int8":
        if dtype != torch.float32 or str(device) not in ("auto", "cpu"):
            raise ValueError(f"int8 is for the CPU and float32; {device}, {dtype} came")
        reason = quantize.unsupported()
        if reason is None and saved:
            return quantize.load(home)
        if reason is None:
            return quantize.quantize(BertModel.from_pretrained(home))
        warnings.warn(f"{reason}: the model is computed in float32, not int8", stacklevel=3)
    if saved:  # float32 from rounded weights
        return quantize.dequantize(quantize.load(home)).to(dtype).to(best_device(device))
    return BertModel.from_pretrained(home, dtype=dtype).to(best_device(device))


def best_device(device: str | torch.device) -> torch.device:
    """``"auto"`` = cuda, then mps, then cpu; anything else as it is.

    Raises:
        ValueError: a device that torch does not find here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [name for name in there if there[name]] + ["cpu"]
    if device == "auto":
        return torch.device(found[0])
    device = torch.device(device)
    if not there.get(device.type, True):
        raise ValueError(f"device {str(device)!r}: torch finds {' and '.join(found)} here")
    return device
