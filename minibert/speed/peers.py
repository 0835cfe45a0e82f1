"""Who `bench` measures minibert beside, if it happens to be installed.

Everything here is imported when it is asked for; minibert needs none of it. All get the same texts
and weights. Those without a way of their own to encode texts get our tokenizer and our batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minibert.batching import make_batches
from minibert.model import BertModel
from minibert.sentence_encoder import SentenceEncoder

Encode = Callable[[Sequence[str]], object]


def mean(hidden, mask):
    """The mean of the states of the real tokens. Shapes: (B, T, H), (B, T) → (B, H)."""
    mask = mask[..., None]
    return (hidden * mask).sum(1) / mask.sum(1)


def minibert(directory: Path, engine: str) -> Encode:
    """One of our own engines."""
    return SentenceEncoder.from_pretrained(directory, device="cpu", engine=engine).encode


def sentence_transformers(directory: Path, room: Path) -> Encode:
    """As its documentation says."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(directory), device="cpu")
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def transformers_model(directory: Path) -> tuple[torch.nn.Module, Callable]:
    """A model of transformers, and texts → their vectors, as model cards do it: mean pooling."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)

    def vectors(texts: Sequence[str]) -> torch.Tensor:
        batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return mean(model(**batch).last_hidden_state, batch["attention_mask"])

    return model, vectors


def transformers(directory: Path, room: Path) -> Encode:
    """The plain loop: batches of 32 as they come."""
    _, vectors = transformers_model(directory)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> np.ndarray:
        found = torch.cat([vectors(texts[i : i + 32]) for i in range(0, len(texts), 32)])
        return torch.nn.functional.normalize(found, dim=1).numpy()

    return encode


def sorted_batches(directory: Path, forward: Callable) -> Encode:
    """Encode with our tokenizer and batches. ``forward``: ids and mask (B, T) → (B, T, H)."""
    encoder = SentenceEncoder.from_pretrained(directory, device="cpu", engine="textbook")

    def encode(texts: Sequence[str]) -> np.ndarray:
        rows, _ = encoder.tokenize(list(texts))
        vectors = np.empty((len(rows), encoder.dimension), np.float32)
        for members in make_batches([len(row) for row in rows], tokens=1024):
            lengths = np.array([len(rows[i]) for i in members])
            real = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
            ids, mask = np.zeros(real.shape, np.int64), real.astype(np.int64)
            ids[real] = np.concatenate([rows[i] for i in members])
            vectors[members] = mean(forward(ids, mask), mask)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


class States(torch.nn.Module):
    """A model that returns the last hidden states alone: what exporters can follow."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Shapes: (B, T), (B, T) → (B, T, H)."""
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


def onnxruntime(directory: Path, room: Path, int8: bool = False) -> Encode:
    """A session with an ONNX file, to which onnxruntime's own rules for BERT are applied.

    Of transformers' model: its operations are the ones that those rules know and fuse.
    """
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoModel

    path = str(room / "model.onnx")
    model = AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        States(model), (ids, ids), path, input_names=["ids", "mask"], dynamo=False,
        output_names=["states"], dynamic_axes={"ids": axes, "mask": axes, "states": axes},
    )
    heads, hidden = model.config.num_attention_heads, model.config.hidden_size
    better = optimize_model(path, "bert", num_heads=heads, hidden_size=hidden)
    better.save_model_to_file(path)
    if int8:
        floats = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # the rules left no types behind
        quantize_dynamic(
            path, path := str(room / "model.int8.onnx"), per_channel=True, extra_options=floats
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return sorted_batches(
        directory, lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0]
    )


def openvino(directory: Path, room: Path) -> Encode:
    """A compiled model, held to float32: it would take bfloat16 where there is some."""
    import openvino as ov

    ids = torch.ones(2, 8, dtype=torch.long)
    model = ov.convert_model(States(BertModel.from_pretrained(directory)), example_input=(ids, ids))
    threads = torch.get_num_threads()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(model, "CPU", settings)
    return sorted_batches(directory, lambda ids, mask: compiled([ids, mask])[0])


def ctranslate2(directory: Path, room: Path, dtype: str = "float32") -> Encode:
    """An encoder of CTranslate2, converted from the transformers model."""
    import ctranslate2 as ct2

    out = str(room / f"ctranslate2 {dtype}")
    ct2.converters.TransformersConverter(str(directory)).convert(out)
    encoder = ct2.Encoder(out, compute_type=dtype, intra_threads=torch.get_num_threads())

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        lengths = ct2.StorageView.from_array(mask.sum(1).astype(np.int32))
        batch = ct2.StorageView.from_array(ids.astype(np.int32))
        return np.array(encoder.forward_batch(batch, lengths).last_hidden_state)

    return sorted_batches(directory, forward)


PEERS = {
    "sentence-transformers": (sentence_transformers, ["sentence_transformers"]),
    "transformers": (transformers, ["transformers"]),
    "onnxruntime": (onnxruntime, ["onnxruntime", "onnx", "transformers"]),
    "openvino": (openvino, ["openvino"]),
    "ctranslate2": (ctranslate2, ["ctranslate2", "transformers"]),
    "onnxruntime int8": (partial(onnxruntime, int8=True), ["onnxruntime", "onnx", "transformers"]),
    "ctranslate2 int8": (partial(ctranslate2, dtype="int8"), ["ctranslate2", "transformers"]),
}


def plain_training(directory: Path, pairs: list, targets: list) -> Callable[[], None]:
    """A step as people write it with transformers: each side by itself, AdamW of torch."""
    model, vectors = transformers_model(directory)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    wanted = torch.tensor(targets)

    def step() -> None:
        cosine = torch.cosine_similarity(*map(vectors, zip(*pairs, strict=True)))
        loss = torch.nn.functional.mse_loss(cosine, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
