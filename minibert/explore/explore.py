"""One page to look inside a model: what the heads attend to, and what a similarity is made of.

Everything on the page is computed here, by the model, and written into the page as numbers;
``page.html`` only shows them. Four things are computed for one or two texts:

- the attention probabilities of all heads, as `trace` sees them;
- what each layer adds to a token, the words it is nearest to by then, and the guesses of a
  masked-LM head;
- the cosine again with one head, or one token, taken away;
- what each pair of tokens contributes to the cosine.

A live page (`live_page`) has the weights in it instead, and computes the same in the browser.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from minibert.heads import MaskedLMHead
from minibert.model import BertModel
from minibert.pooling import mean_pooling
from minibert.sentence_encoder import SentenceEncoder
from minibert.tokenization import unicode_tables
from minibert.trace import trace

MOST_TOKENS = 128  # of a text: the page holds every probability
EXACT = 500_000  # probabilities on a page: up to so many are exact, more are rounded to be short
STEPS = 2**14  # a rounded probability is a whole number of 1 / STEPS, at most 3e-5 away
NEAREST = 3  # words for each token and layer
LARGE = 25_000_000  # bytes: a page of more should be announced
FIRST_TEXTS = ("The bank raised its interest rates.", "She sat on the bank of the river.")


def figures(
    encoder: SentenceEncoder,
    texts: Sequence[str],
    name: str = "",
    head: MaskedLMHead | None = None,
) -> dict:
    """Compute all numbers of the page, for one text or two.

    With one text, the cosine is that between the text as it is and the text with something masked.

    Args:
        encoder: pools by the mean; its model is put into ``eval()``.
        texts: one or two.
        name: of the model, to be shown.
        head: of the same model, to guess words after each layer.

    Returns a dictionary that JSON can hold: ``texts`` (for each ``text``, ``tokens``, ``words``:
    the characters a token came from, ``attention``, ``added``, ``nearest``, ``guesses``),
    ``cosine``, ``without_head`` (L, N), ``without_token`` (a list for each text),
    ``contributions`` (T₁, T₂; None for one text).

    Raises:
        ValueError: not one or two texts, a text is too long, the pooling is another one, or the
            model gives NaN.
    """
    if len(texts) not in (1, 2):
        raise ValueError(f"{len(texts)} texts; the page shows one, or two and their similarity")
    check_pooling(encoder)
    model = encoder.model.eval()
    shown, hidden, headless, tokenless = [], [], [], []
    with torch.no_grad():
        for text in texts:
            tokens, words, ids, length = read(encoder, text)
            with trace(model) as tensors:
                hidden.append(model(ids).last_hidden_state[0])  # (T, H)
            if not torch.isfinite(hidden[-1]).all():
                raise ValueError("the model gives NaN or infinity: its weights are damaged")
            L = len(model.layers)
            maps = [tensors[f"layers.{i}.attention.probabilities"][0] for i in range(L)]
            stages = ["embeddings", *(f"layers.{i}.feed_forward_norm" for i in range(L))]
            stages = [tensors[key] for key in stages]  # L + 1 times (1, T, H)
            shown.append({"text": text, "length": length, "tokens": tokens, "words": words})
            shown[-1]["attention"] = torch.stack(maps)  # (L, N, T, T)
            shown[-1]["added"] = added(tensors, stages)
            shown[-1]["nearest"] = nearest(encoder, stages)
            shown[-1]["guesses"] = guesses(encoder, head, stages) if head else None
            headless.append(without_heads(model, stages[:-1]))  # (L, N, H)
            tokenless.append(without_tokens(model, ids))  # (T, H)
    many = sum(text["attention"].numel() for text in shown) > EXACT
    for text in shown:
        maps = text["attention"].cpu().numpy()
        text["attention"] = pack(np.rint(maps * STEPS).astype("<u2") if many else maps)
        if many:
            text["nearest"] = text["guesses"] = None
    vectors = [states.double().mean(0) for states in hidden]  # (H,) each
    # A masked head is masked in both texts, a masked token in its own.
    first, last = headless[0], headless[1] if len(texts) == 2 else vectors[0]  # (L, N, H)
    others = vectors[::-1]  # what the vectors of each text are compared with
    return {
        "model": name,
        "unknown": encoder.tokenizer.unk_token,
        "mask": encoder.tokenizer.mask_token,
        "steps": STEPS if many else None,  # the attention is in whole numbers of 1 / steps
        "layers": L,
        "heads": model.config.num_attention_heads,
        "texts": shown,
        "cosine": cosine_similarity(vectors[0], vectors[-1], dim=-1).item(),
        "without_head": cosine_similarity(first, last, dim=-1).tolist(),
        "without_token": [
            cosine_similarity(rows, other, dim=-1).tolist()
            for rows, other in zip(tokenless, others, strict=True)
        ],
        "vectors": [normalize(vector, dim=0).tolist() for vector in vectors],
        "contributions": contributions(*hidden).tolist() if len(texts) == 2 else None,
    }


def contributions(first: Tensor, second: Tensor) -> Tensor:
    """What each pair of tokens adds to the cosine of two texts; all of it adds up to the cosine.

    The vector of a text is u = Σ hᵢ / T₁, so u·v = Σ hᵢ·hⱼ / (T₁ T₂), and the cosine is that over
    |u| |v|: a sum with one term for every pair.

    Shapes: hidden states (T₁, H) and (T₂, H); returns (T₁, T₂), in float64.
    """
    first, second = first.double(), second.double()
    length = first.mean(0).norm() * second.mean(0).norm()  # |u| |v|
    return first @ second.T / (len(first) * len(second) * length)  # (T₁, T₂)


def added(tensors: dict[str, Tensor], stages: Sequence[Tensor]) -> list:
    """How much of a token's sum is new in each layer: |added| / (|kept| + |added|).

    What attention or the feed-forward network puts out is added to what came in; then LayerNorm.

    Shapes: a trace and its stages, L + 1 times (1, T, H); returns (T, L, 2), attention first.
    """
    shares = []
    for i, hidden in enumerate(stages[:-1]):
        sums = (
            (hidden, tensors[f"layers.{i}.attention.output"]),
            (tensors[f"layers.{i}.attention_norm"], tensors[f"layers.{i}.feed_forward.contract"]),
        )
        lengths = [[part[0].norm(dim=-1) for part in parts] for parts in sums]  # (T,) each
        shares.append(torch.stack([new / (kept + new) for kept, new in lengths]))  # (2, T)
    return torch.stack(shares).permute(2, 0, 1).tolist()


def nearest(encoder: SentenceEncoder, stages: Sequence[Tensor]) -> list:
    """The words of the table that a token's hidden state points at, by the cosine.

    Shapes: stages, L + 1 times (1, T, H); returns (T, L + 1, NEAREST), pairs of word and cosine.
    """
    rows = encoder.model.embeddings.word.weight[: len(encoder.tokenizer.vocab)]
    table = normalize(rows, dim=1)  # (V, H)
    return best(encoder, (normalize(hidden[0], dim=1) @ table.T for hidden in stages))


def guesses(encoder: SentenceEncoder, head: MaskedLMHead, stages: Sequence[Tensor]) -> list:
    """What the masked-LM head would say of a hidden state if the layers above did nothing.

    Shapes: stages, L + 1 times (1, T, H); returns (T, L + 1, NEAREST), pairs of word and
    probability. Source: the logit lens of nostalgebraist 2020.
    """
    words = encoder.model.embeddings.word.weight  # (V, H)
    return best(encoder, (head(hidden[0], words).softmax(-1) for hidden in stages))


def best(encoder: SentenceEncoder, stages: Iterable[Tensor]) -> list:
    """The words with the largest numbers.

    Shapes: L + 1 times (T, V); returns (T, L + 1, NEAREST), pairs of word and number.
    """
    found = []
    for numbers in stages:
        numbers, ids = numbers[:, : len(encoder.tokenizer.vocab)].topk(NEAREST)  # (T, NEAREST)
        words = [encoder.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
        numbers = numbers.double().round(decimals=6).tolist()
        found.append([list(zip(*pair, strict=True)) for pair in zip(words, numbers, strict=True)])
    return list(zip(*found, strict=True))


def without_heads(model: BertModel, inputs: Sequence[Tensor]) -> Tensor:
    """The mean-pooled vector of a text with one head masked, for every head of every layer.

    A masked head outputs zeros: its share of the context is set to 0 before the output layer. The
    layers below do not depend on it, so the computation starts at its layer, with all heads of the
    layer in one batch: text n of the batch has lost head n.

    Shapes: what goes into each layer, L × (1, T, H); returns (L, N, H), in float64.
    Source: Michel 2019, §2.3.
    """
    vectors = []
    for i, hidden in enumerate(inputs):
        attention = model.layers[i].attention
        N, D = attention.heads, attention.head_size
        keep = 1 - torch.eye(N, device=hidden.device)  # (N, N): 0 where text n meets head n
        keep = keep.repeat_interleave(D, dim=1)[:, None]  # (N, 1, H)
        hook = attention.output.register_forward_pre_hook(lambda _, x, keep=keep: (x[0] * keep,))
        hidden = hidden.expand(N, -1, -1)  # (N, T, H)
        try:
            for layer in model.layers[i:]:
                hidden = layer(hidden, None)  # (N, T, H)
        finally:
            hook.remove()
        vectors.append(hidden.double().mean(1))  # (N, H)
    return torch.stack(vectors)  # (L, N, H)


def without_tokens(model: BertModel, ids: Tensor) -> Tensor:
    """The mean-pooled vector of a text with one token masked, for every token.

    A masked token is treated as padding: no token attends to it, and the mean leaves it out. Its
    place stays empty: the others keep their positions.

    Shapes: ids (1, T); returns (T, H), in float64.
    """
    T = ids.shape[1]
    mask = 1 - torch.eye(T, dtype=torch.long, device=ids.device)  # (T, T): row t has lost token t
    hidden = model(ids.expand(T, -1), mask).last_hidden_state  # (T, T, H)
    return mean_pooling(hidden.double(), mask)  # (T, H)


def check_pooling(encoder: SentenceEncoder) -> None:
    """Refuse an encoder whose vector is not the mean of all hidden states.

    Raises:
        ValueError: what it does instead.
    """
    others = {
        "pools by " + " + ".join(encoder.pooling): encoder.pooling != ("mean",),
        "leaves the prompt out": not encoder.include_prompt and encoder.prompt(None, None),
        "has a Dense": encoder.dense,
        "cuts the vector short": encoder.truncate_dim,
    }
    if found := [what for what, is_so in others.items() if is_so]:
        raise ValueError(
            "the page takes a cosine apart into pairs of tokens, which only the mean alone allows; "
            f"this model {'; '.join(found)}"
        )


def read(encoder: SentenceEncoder, text: str) -> tuple[list[str], list[str], Tensor, int]:
    """The tokens of a text, what each was made from, the ids (1, T), and T before cutting."""
    text = encoder.prompt(None, None) + text
    tokenizer = encoder.tokenizer
    pieces = tokenizer.pieces(text)
    length = len(pieces) + 2
    pieces = pieces[: min(encoder.max_length, MOST_TOKENS) - 2]
    ids = [tokenizer.cls_token_id, *(piece.id for piece in pieces), tokenizer.sep_token_id]
    words = ["", *(text[piece.start : piece.end] for piece in pieces), ""]
    ids_of_one = torch.tensor([ids], device=encoder.device)  # (1, T)
    return tokenizer.convert_ids_to_tokens(ids), words, ids_of_one, length


def pack(numbers: np.ndarray, level: int = 9) -> str:
    """Numbers as text, exact and short: bytes of like rank side by side, deflated, in base64."""
    numbers = numbers.astype(numbers.dtype.newbyteorder("<")).reshape(-1, 1)
    return base64.b64encode(zlib.compress(numbers.view(np.uint8).T.tobytes(), level)).decode()


def page(found: dict) -> str:
    """The page with these figures in it."""
    texts = [{**text, "added": pack(np.float32(text["added"]))} for text in found["texts"]]
    found = {**found, "texts": texts}
    if found["contributions"]:
        found = {**found, "contributions": pack(np.float32(found["contributions"]))}
    return build({"figures": found}, ["walk.js", "canvas.js", "page.js"])


def live_page(encoder: SentenceEncoder, texts: Sequence[str], name: str = "") -> str:
    """The page with the model in it, which computes the figures of what is typed.

    Args:
        encoder: pools by the mean.
        texts: what stands there at first, two.
        name: of the model, to be shown.

    Raises:
        ValueError: not two texts, the pooling is another one, or the weights are quantized.
    """
    if len(texts) != 2:
        raise ValueError(f"{len(texts)} texts; a live page begins with two, or none of yours")
    check_pooling(encoder)
    state = {
        name: weight.float()
        for name, weight in encoder.model.state_dict().items()
        if not name.startswith("pooler.")
    }
    tokenizer, config = encoder.tokenizer, encoder.model.config
    known = {
        "name": name,
        "texts": list(texts),
        "prompt": encoder.prompt(None, None),
        "nearest": NEAREST,
        "maxLength": encoder.max_length,
        "config": config.to_dict(),
        "tokenizer": {
            "tokens": list(tokenizer.vocab),
            "wordCount": len(tokenizer.words),
            "rules": [rule.__name__ for rule in tokenizer.rules],
            "literals": sorted((t["content"] for t in tokenizer.added_tokens), key=len)[::-1],
            "unk": tokenizer.unk_token,
            "cls": tokenizer.cls_token,
            "sep": tokenizer.sep_token,
            "tables": unicode_tables.PATH.read_text(encoding="utf-8"),
        },
        "shapes": [[name, list(weight.shape)] for name, weight in state.items()],
    }
    # Level 9 takes minutes for a model, and saves 4 %.
    weights = pack(torch.cat([weight.flatten() for weight in state.values()]).cpu().numpy(), 1)
    scripts = ["live.js", "walk.js", "canvas.js", "page.js", "live_page.js"]
    return build({"live": known, "weights": weights}, scripts)


def build(blocks: dict[str, dict | str], scripts: Sequence[str]) -> str:
    """The page with blocks of data, by their ids, and scripts.

    Nothing in a text can end the block it stands in.
    """
    folder = Path(__file__).parent
    parts = []
    for name, content in blocks.items():
        kind = "text/plain" if isinstance(content, str) else "application/json"
        if not isinstance(content, str):
            content = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
        parts.append(f'<script type="{kind}" id="{name}">{content}</script>')
    for name in scripts:
        parts.append(f"<script>\n{(folder / name).read_text(encoding='utf-8')}</script>")
    before, after = (folder / "page.html").read_text(encoding="utf-8").split("SCRIPTS")
    return before + "\n".join(parts) + after
