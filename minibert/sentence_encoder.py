"""``SentenceEncoder``: tokenizer + model + pooling (+ normalising) = a vector for a text.

It reads and writes the directories of sentence-transformers, of both generations of that format.
Source: Reimers & Gurevych 2019 (Sentence-BERT), §3.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minibert.batching import InBatches, as_texts, to_device
from minibert.io import sentence_transformers
from minibert.io.directory import open_directory
from minibert.io.distributed import own_gpu
from minibert.io.files import atomic_directory, write_text
from minibert.io.hub import DEFAULT_MODEL, model_card
from minibert.model import BertModel
from minibert.pooling import POOLING
from minibert.similarity import SIMILARITY, quantize_embeddings
from minibert.tokenization.tokenizer import BertTokenizer

# What may follow a linear layer of `dense`; files name it with its place in torch.
ACTIVATIONS = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid)}


class SentenceEncoder(InBatches):
    """Texts in, vectors out.

    >>> encoder = SentenceEncoder.from_pretrained()
    >>> encoder.encode(["A man is eating.", "Someone has a meal."]).shape
    (2, 384)

    Args:
        model: the encoder; `encode` computes without dropout, whatever mode it is in.
        tokenizer: the tokenizer the model was trained with.
        pooling: a name in ``pooling.POOLING``, or several: they are put side by side, as listed.
        include_prompt: pool the tokens of a prompt too; else only those behind it.
        dense: linear layers and activations by turns, which the pooled vector goes through.
        normalize: scale every vector to length 1.
        max_length: how many tokens of a text are used, [CLS] and [SEP] included.
        prompts: name → text put before every text.
        default_prompt_name: the prompt used where `encode` is given none.
        similarity_fn_name: what `similarity` computes: a name in ``similarity.SIMILARITY``.
        truncate_dim: how many numbers of a vector `encode` returns, from the first; None: all.

    Raises:
        ValueError: the parts do not fit each other.
    """

    def __init__(
        self,
        model: BertModel,
        tokenizer: BertTokenizer,
        *,
        pooling: str | Sequence[str] = "mean",
        include_prompt: bool = True,
        dense: nn.Sequential | None = None,
        normalize: bool = True,
        max_length: int | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str = "cosine",
        truncate_dim: int | None = None,
    ) -> None:
        config, words = model.config, len(tokenizer)
        if words > config.vocab_size:
            raise ValueError(
                f"the vocabulary has {words} tokens, the model's word table {config.vocab_size} "
                "rows: tokenizer and model do not match"
            )
        if words < config.vocab_size:
            warnings.warn(
                f"the vocabulary has {words} tokens, the model's word table {config.vocab_size} "
                "rows; is the vocabulary file complete?",
                stacklevel=2,
            )
        pooling = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        if not pooling or any(name not in POOLING for name in pooling):
            raise ValueError(f"pooling {list(pooling)}; implemented are {list(POOLING)}")
        if similarity_fn_name not in SIMILARITY:
            raise ValueError(
                f"similarity {similarity_fn_name!r}; implemented are {list(SIMILARITY)}"
            )
        positions = config.max_position_embeddings
        max_length = min(max_length or positions, positions)
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}; [CLS], one token and [SEP] need 3")
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.include_prompt = include_prompt
        self.dense = nn.Sequential() if dense is None else dense
        self.normalize = normalize
        self.max_length = max_length
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.similarity_fn_name = similarity_fn_name
        if self.dense and self.dense[0].in_features != self.pooled_width:
            raise ValueError(
                f"the first layer of dense takes {self.dense[0].in_features} numbers, a pooled "
                f"vector has {self.pooled_width}"
            )
        self.truncate_dim = checked_dimension(truncate_dim)
        self.prompt(None, None)  # is there a default prompt of that name?

    @property
    def pooled_width(self) -> int:
        """The width of a pooled vector: H for each pooling mode."""
        return self.model.config.hidden_size * len(self.pooling)

    @property
    def dimension(self) -> int:
        """The width of the vectors that `encode` returns."""
        linear = [part for part in self.dense if isinstance(part, nn.Linear)]
        width = linear[-1].out_features if linear else self.pooled_width
        return min(width, self.truncate_dim or width)

    def get_embedding_dimension(self) -> int:
        """`dimension`, under its name in sentence-transformers."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int:
        """`max_length`, under its name in sentence-transformers."""
        return self.max_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        self.max_length = length

    def __repr__(self) -> str:
        """What it is, in a line."""
        return (
            f"SentenceEncoder({type(self.model).__name__}, {self.dimension} dimensions, "
            f"pooling {' + '.join(self.pooling)}, {'' if self.normalize else 'not '}normalised, "
            f"up to {self.max_length} tokens, {self.engine} on {self.device})"
        )

    def to(self, device: str | torch.device) -> SentenceEncoder:
        """Move the model to a device, in place; ``"auto"`` = cuda, then mps, then cpu."""
        device = best_device(device)
        if self.engine == "int8" and device.type != "cpu":
            raise ValueError(f"an int8 model computes on a CPU only, not on {device}")
        self.model.to(device)
        self.dense.to(device)
        return self

    # ------------------------------------------------------------------------------- encode

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        on_long: str = "warn",
        normalize_embeddings: bool | None = None,
        convert_to_tensor: bool = False,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        precision: str = "float32",
        output_value: str = "sentence_embedding",
        show_progress_bar: bool | None = None,
    ) -> np.ndarray | Tensor | list[Tensor]:
        """One vector for each text.

        Texts of like length are computed together, so that there is hardly any padding; the vectors
        come back in the order of the texts. A vector does not depend on the other texts (by at most
        2e-6 in float32, 0.02 in bf16, not at all in int8).

        What runs is ``self.model``, the `BertModel` in ``model.py``; with the default engine of a
        CPU its ``nn.Linear`` layers and its softmax have been swapped for faster ones (``engine``
        says so).

        Args:
            texts: a text, or texts; for more than fit into memory see `stream`.
            batch_size: the most texts in a batch; None = as many as ``batch_tokens`` allows.
            batch_tokens: the most tokens in a batch, padding included; None = 512 on a CPU, 32,768
                on a GPU.
            on_long: what to do with a text of more than ``max_length`` tokens: ``"warn"`` cuts it
                and says how many were cut, ``"error"`` raises, ``"window"`` encodes overlapping
                windows and averages their vectors, weighted by their tokens.
            normalize_embeddings: overrides ``normalize``; True scales what is left after
                ``truncate_dim``, too.
            convert_to_tensor: return a tensor on the model's device.
            prompt: put before every text; or ``prompt_name``, one of ``prompts``.
            truncate_dim: overrides the encoder's own.
            precision: of the numbers that are returned, see ``similarity.quantize_embeddings``.
            output_value: ``"token_embeddings"`` returns what is pooled instead: for each text the
                last hidden states of its tokens, [CLS] and [SEP] included, a tensor (T, H).
            show_progress_bar: None = in a terminal, when it takes more than a second.

        Shapes: (texts, dimension), numpy float32; (dimension,) for a single ``str``.

        Raises:
            TypeError: ``texts`` is neither a string nor strings in an order of their own.
            ValueError: an argument is out of range, a text is too long with ``on_long="error"``, or
                the model gives NaN.
        """
        single = isinstance(texts, str)
        texts = [texts] if single else as_texts(texts)
        if on_long not in ("warn", "error", "window"):
            raise ValueError(f'on_long is {on_long!r}; "warn", "error" or "window" is allowed')
        whole = output_value == "sentence_embedding"
        if not whole and output_value != "token_embeddings":
            raise ValueError(
                f"output_value is {output_value!r}; 'sentence_embedding' or 'token_embeddings'"
            )
        prompt = self.prompt(prompt, prompt_name)
        if on_long == "window" and (not whole or (prompt and not self.include_prompt)):
            raise ValueError(
                'on_long="window" averages vectors of parts of a text, its prompt included; for '
                'token_embeddings, or without the prompt, "warn" or "error" is allowed'
            )
        skip = self.not_pooled(prompt)
        rows, owners = self.tokenize(texts, prompt, on_long)
        options = (batch_size, batch_tokens, show_progress_bar)
        if not whole:
            states = self.token_states(rows, *options)
            return states[0] if single else states
        vectors = self.encode_rows(rows, *options, skip)
        vectors = self.finish(
            merge_windows(vectors, rows, owners, len(texts)), normalize_embeddings, truncate_dim
        )
        if precision != "float32":
            vectors = quantize_embeddings(vectors, precision)
            vectors = torch.from_numpy(vectors) if convert_to_tensor else vectors
        elif not convert_to_tensor:
            vectors = vectors.cpu().numpy()
        return vectors[0] if single else vectors

    @torch.no_grad()
    def finish(
        self, vectors: Tensor, normalize_embeddings: bool | None, truncate_dim: int | None
    ) -> Tensor:
        """What comes behind the pooling: `dense`, scaling, truncation.

        Shapes: (texts, pooled width) → (texts, dimension).

        Raises:
            ValueError: a vector is not all numbers.
        """
        vectors = self.dense(vectors)
        if self.normalize if normalize_embeddings is None else normalize_embeddings:
            vectors = nn.functional.normalize(vectors, dim=1)
        if width := checked_dimension(truncate_dim) or self.truncate_dim:
            vectors = vectors[:, :width]
            if normalize_embeddings:  # asked for here: of what is returned
                vectors = nn.functional.normalize(vectors, dim=1)
        if not torch.isfinite(vectors).all():
            bad = (~torch.isfinite(vectors)).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"the vectors of texts {bad[:5]} are not numbers (NaN or infinity): the weights "
                "are damaged or training diverged; get the model again, or its last good checkpoint"
            )
        return vectors

    def encode_rows(
        self,
        rows: list[list[int]],
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        show_progress_bar: bool | None = None,
        skip: int = 0,
    ) -> Tensor:
        """The pooled vectors of lists of token ids, in batches, before `dense` and scaling.

        ``skip``: how many tokens at the beginning of each are not pooled.

        Shapes: returns (rows, pooled width), in the order of the rows.
        """
        still = self.in_eval()
        batches = self.batches(rows, batch_size, batch_tokens)
        # A GPU is not waited for, so nothing is looked at before all batches are on their way:
        # where the vectors go is there at once, and not copied with each batch.
        vectors = torch.empty(
            len(rows), self.pooled_width, dtype=torch.float32, device=self.device
        )
        starts = itertools.accumulate(map(len, batches), initial=0)
        order = torch.tensor([i for batch in batches for i in batch], dtype=torch.long)
        order = to_device(order, self.device)  # (rows,)

        def work(item: tuple[int, list[int]]) -> None:
            start, batch = item
            found = still.encode_batch([rows[i] for i in batch], skip)
            vectors[order[start : start + len(batch)]] = found

        self.run(work, list(zip(starts, batches, strict=False)), len(rows), show_progress_bar)
        return vectors

    def token_states(
        self,
        rows: list[list[int]],
        batch_size: int | None,
        batch_tokens: int | None,
        show_progress_bar: bool | None,
    ) -> list[Tensor]:
        """The last hidden states of every row, without padding, (T, H) each, in float32."""
        still = self.in_eval()
        states: list = [None] * len(rows)

        def work(item: tuple[int, list[int]]) -> None:
            _, batch = item
            hidden, _ = still.hidden_states([rows[i] for i in batch])  # (B, T, H)
            for i, found in zip(batch, hidden.float(), strict=True):
                states[i] = found[: len(rows[i])]  # (T, H)

        batches = [(0, batch) for batch in self.batches(rows, batch_size, batch_tokens)]
        self.run(work, batches, len(rows), show_progress_bar)
        return [found.clone() for found in states]  # each without the batch it is of

    def stream(
        self, texts: Iterable[str], *, chunk: int = 4096, **options: object
    ) -> Iterator[np.ndarray]:
        """The vectors of any number of texts, from a file or a generator: an array for each chunk.

        The numbers are those of `encode`, which takes the ``options``; but only one chunk of texts
        and vectors is in memory at a time.

        Raises:
            TypeError, ValueError: as `encode`; ``chunk`` is less than 1.
        """
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; at least 1 text is needed")
        texts = iter(as_texts(texts, list_of=False))
        while some := list(itertools.islice(texts, chunk)):
            yield self.encode(some, **options)

    def encode_batch(self, rows: list[list[int]], skip: int = 0) -> Tensor:
        """The pooled vectors of one batch of token ids, not normalised, in float32.

        ``skip``: how many tokens at the beginning of each are not pooled.

        Shapes: rows of up to T ids; returns (B, pooled width).
        """
        hidden, mask = self.hidden_states(rows)  # (B, T, H), (B, T)
        if self.device.type == "cpu":
            return self.pool(hidden, [len(row) for row in rows], skip)  # (B, pooled width)
        if skip:
            behind = torch.arange(hidden.shape[1], device=self.device) >= skip  # (T,)
            mask = (True if mask is None else mask) & behind.expand(hidden.shape[:2])
        # Few large kernels rather than some for each length.
        pooled = [POOLING[name](hidden, mask) for name in self.pooling]
        return torch.cat(pooled, dim=1).float()  # (B, pooled width)

    def hidden_states(self, rows: list[list[int]]) -> tuple[Tensor, Tensor | None]:
        """What the model gives for one batch of token ids, and the mask of its padding.

        Shapes: rows of up to T ids; returns (B, T, H) and (B, T), None where there is no padding.
        """
        if len(rows) == 1 and self.engine == "int8":
            # Torch adds up the attention of one text in another order than that of several, and
            # rounding to int8 would magnify the difference. Two copies take the order of several.
            return self.hidden_states(rows * 2)[0][:1], None
        lengths = [len(row) for row in rows]
        T = max(lengths)
        ids = np.full((len(rows), T), self.tokenizer.pad_token_id)  # (B, T)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        ids = to_device(torch.from_numpy(ids), self.device)  # (B, T)
        mask = None  # where there is no padding there is nothing to mask
        if min(lengths) < T:
            mask = torch.from_numpy(np.arange(T) < np.array(lengths)[:, None])
            mask = to_device(mask, self.device)  # (B, T)
        return self.model(ids, mask).last_hidden_state, mask  # (B, T, H), (B, T)

    def pool(self, hidden: Tensor, lengths: list[int], skip: int = 0) -> Tensor:
        """Pool the real tokens of every text, from number ``skip`` on, in all of ``pooling``.

        Texts of one length are pooled together, without their padding: so the order of the sums
        does not depend on the batch.

        Shapes: hidden (B, T, H) and the B numbers of real tokens → (B, pooled width).
        """
        vectors, start = [], 0
        for length, same in itertools.groupby(lengths):
            end = start + len(list(same))
            states = hidden[start:end, :length]  # (texts, length, H)
            mask = None  # a mask rather than a slice: weights count from the first column
            if skip:
                mask = (torch.arange(length, device="cpu") >= skip).expand(states.shape[:2])
            pooled = [POOLING[name](states, mask) for name in self.pooling]
            vectors.append(torch.cat(pooled, dim=1).float())  # (texts, pooled width)
            start = end
        return torch.cat(vectors)  # (B, pooled width)

    def not_pooled(self, prompt: str) -> int:
        """How many tokens are left out of the pooling: [CLS] and the prompt, tokenized by itself.

        0 if there is no prompt, or it is pooled as well (``include_prompt``).

        Source: sentence-transformers 6.2, ``Transformer._get_prompt_length``.
        """
        if self.include_prompt or not prompt:
            return 0
        return min(len(self.tokenizer.ids(prompt)) + 1, self.max_length - 1)

    def prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text to put before every text: given, named, the default, or none."""
        if prompt is not None:
            return prompt
        name = prompt_name if prompt_name is not None else self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"no prompt is named {name!r}; there are {list(self.prompts)}")
        return self.prompts[name]

    def tokenize(
        self, texts: list[str], prompt: str = "", on_long: str = "warn"
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids, a row for a text (or for each window of it), and which text a row is of."""
        texts = [prompt + text for text in texts] if prompt else texts
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
        have = "has" if len(long) == 1 else "have"
        message = (
            f"{len(long)} of {len(texts)} texts {have} more than {self.max_length} tokens, the "
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
        engine: str | None = None,
        precision: str | None = None,
        pooling: str | Sequence[str] | None = None,
        **hub: object,
    ) -> SentenceEncoder:
        """Load a sentence-transformers directory, or a plain BERT (mean pooling, one warning).

        Args:
            name_or_path: a directory, or a name for ``hub.locate``; without one it is
                minibert-small, which comes with minibert.
            device: ``"auto"`` = cuda, then mps, then cpu.
            dtype: of the weights and of the computation; vectors are float32 always.
            engine: what is swapped in. ``"textbook"``: nothing, bit for bit the reference.
                ``"packed"``: linear layers whose weights are laid out for the processor, faster,
                within 2e-6 (`speed.packed`). ``"bf16"``: the same in bfloat16, nearly twice as
                fast on processors that have it, a cosine of 0.9998 or more. ``"int8"``: linear
                layers of whole numbers, as fast with VNNI, a cosine of about 0.999 (`speed.int8`).
                ``"sdpa"``: torch's fused attention, for GPUs and long texts (`speed.sdpa`). None =
                as it was saved where that is int8; else packed on a CPU in float32, textbook
                elsewhere.
            precision: ``"int8"`` = the engine of that name; ``"float32"`` = the default, not int8.
            pooling: a name in ``pooling.POOLING``, or several; None = what the directory says.
            hub: options of ``hub.locate``, such as ``revision`` and ``cache_dir``.

        Raises:
            FileNotFoundError: no such model.
            ValueError: a file is damaged, or asks for a module that minibert does not implement.
        """
        directory = open_directory(name_or_path, **hub)
        home, settings = sentence_transformers.read_settings(directory)
        settings["pooling"] = pooling or settings["pooling"]
        if settings["pooling"] is None:
            settings["pooling"] = "mean"
            warnings.warn(
                f"{directory} does not say how to pool (no modules.json): taking the mean, not "
                "normalised. This is a plain BERT, not trained to compare sentences; pooling= "
                "says how to pool",
                stacklevel=2,
            )
        tokenizer = BertTokenizer.from_pretrained(home, lower_case=settings.pop("lower_case"))
        settings["max_length"] = settings["max_length"] or tokenizer.model_max_length
        from minibert.speed.engines import load_model  # faster layers are swapped in from outside

        model = load_model(home, engine or precision, dtype, best_device(device))
        try:
            dense = itertools.chain(*(dense_layers(*found) for found in settings["dense"]))
            settings["dense"] = nn.Sequential(*dense).to(best_device(device))
            return cls(model, tokenizer, **settings)
        except ValueError as error:
            raise ValueError(f"{directory}: {error}") from None

    def save_pretrained(self, directory: str | os.PathLike, *, half: bool = False) -> None:
        """Write a directory that opens in sentence-transformers, transformers and minibert.

        An int8 encoder is a quarter of the size, and opens in minibert alone (`speed.int8`). One in
        bf16 has no more than bfloat16 weights left to save. All files are complete before the first
        one takes its place. ``half``: weights as float16.

        Raises:
            OSError: the directory cannot be written.
            ValueError: an int8 encoder, and the directory has float32 weights.
        """
        settings = {name: getattr(self, name) for name in sentence_transformers.SETTINGS}
        with atomic_directory(directory) as staging:
            if self.engine == "int8":
                from minibert.speed.int8 import save

                save(self.model, staging, instead_of=directory)
            else:
                self.model.save_pretrained(staging, half=half)
            self.tokenizer.model_max_length = self.max_length
            self.tokenizer.save_pretrained(staging)
            dense = [
                (linear.weight, linear.bias, f"{type(act).__module__}.{type(act).__name__}")
                for linear, act in zip(self.dense[::2], self.dense[1::2], strict=True)
            ]
            width = self.model.config.hidden_size
            sentence_transformers.write_settings(staging, width, settings, dense)
            if not (Path(directory) / "README.md").exists():  # a card somebody wrote stays
                write_text(staging / "README.md", self.model_card())

    def model_card(self) -> str:
        """A short ``README.md`` in the form the hub expects."""
        text = (
            f"# A sentence encoder\n\n{self.model.config.num_hidden_layers} layers, "
            f"{self.dimension} dimensions, {' + '.join(self.pooling)} pooling, "
            f"{'' if self.normalize else 'not '}normalised, up to {self.max_length} tokens.\n"
            "Saved by minibert; opens in sentence-transformers and transformers unchanged.\n\n"
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            'vectors = SentenceTransformer("this directory").encode(["a text", "another"])\n```\n'
        )
        return model_card(text, "sentence-transformers", "sentence-similarity")


def merge_windows(vectors: Tensor, rows: list[list[int]], owners: list[int], texts: int) -> Tensor:
    """Average the vectors of the windows of each text, weighted by their tokens.

    Shapes: (rows, dimension) → (texts, dimension). The first window of text i is row i; further
    windows follow behind the last text, and ``owners`` says of which text each row is.
    """
    merged = vectors[:texts].clone()
    for text in set(owners[texts:]):
        windows = [row for row, owner in enumerate(owners) if owner == text]
        weights = [len(rows[i]) - 2.0 for i in windows]  # without [CLS] and [SEP]
        weights = vectors.new_tensor(weights) / sum(weights)  # (windows,)
        merged[text] = weights @ vectors[windows]  # (dimension,)
    return merged


def dense_layers(
    weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[nn.Linear, nn.Module]:
    """The linear layer of these numbers, and the activation of this name."""
    linear = nn.Linear(*weight.shape[::-1], bias=bias is not None, device="meta")
    state = {"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()})
    linear.load_state_dict(state, assign=True)
    return linear, activation_named(activation)


def activation_named(path: str) -> nn.Module:
    """The activation that a file names, such as ``torch.nn.modules.activation.Tanh``.

    Raises:
        ValueError: none that is implemented.
    """
    place, _, name = str(path).rpartition(".")
    if not place.startswith("torch.nn") or name not in ACTIVATIONS:
        raise ValueError(
            f"the activation {path!r} is asked for; implemented are {', '.join(ACTIVATIONS)} of "
            "torch.nn"
        )
    return ACTIVATIONS[name]()


def checked_dimension(width: int | None) -> int | None:
    """How many numbers of a vector are wanted, None = all.

    Raises:
        ValueError: it is no number of numbers.
    """
    if width is not None and (type(width) is not int or width < 1):
        raise ValueError(f"truncate_dim is {width!r}; a whole number from 1, or None, is needed")
    return width


def best_device(device: str | torch.device) -> torch.device:
    """``"auto"`` = cuda, then mps, then cpu; anything else as it is.

    Under ``torchrun`` "cuda" is a GPU for each process.

    Raises:
        ValueError: a device that torch does not find here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [name for name in there if there[name]] + ["cpu"]
    try:
        device = torch.device(found[0] if device == "auto" else device)
    except RuntimeError:
        raise ValueError(f"{device!r} is no device; auto or one of {', '.join(found)}") from None
    if not there.get(device.type, True):
        raise ValueError(f"device {str(device)!r} is not there; torch found {' and '.join(found)}")
    return own_gpu() if device == torch.device("cuda") else device
