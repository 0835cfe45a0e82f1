"""A GPU beside the CPU and beside sentence-transformers: correctness, speed, memory. Not a test.

    python tests/gpu_check.py MODEL --texts FILE --out table.md

MODEL is a sentence-transformers directory. It takes some two minutes and writes one Markdown table
for each part; a part that fails says so and does not stop the others. ``--device cpu --quick``
tries the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import minibert
from minibert import BertModel, SentenceEncoder
from minibert.speed.sdpa import fuse
from minibert.training.api import finetune
from minibert.training.loop import loop

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def wait(device: str) -> None:
    """Until the GPU has done what it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize()


def memory(device: str) -> str:
    """The peak since the last question, in MB."""
    if device == "cpu":
        return "–"
    peak = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return f"{peak:,.0f}"


def table(names: list[str], rows: list[list]) -> str:
    """Rows as Markdown."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def correctness(args: argparse.Namespace) -> str:
    """The same weights and ids on the CPU and on the GPU, textbook and fused attention."""
    torch.manual_seed(0)
    ids = torch.randint(1000, 30000, (8, 64))
    mask = (torch.arange(64) < torch.tensor([64, 60, 33, 9, 5, 3, 2, 1])[:, None]).long()
    rows = []
    for dtype in (torch.float32, torch.float64):
        found = []
        for device in ("cpu", args.device):
            for fused in (False, True):
                one = BertModel.from_pretrained(args.model).to(device, dtype).eval()
                one = fuse(one) if fused else one
                hidden = one(ids.to(device), mask.to(device)).last_hidden_state
                one.zero_grad()
                (hidden * mask.to(device, dtype)[..., None]).sum().backward()
                slope = one.layers[0].attention.query.weight.grad
                found.append((hidden.detach().cpu() * mask[..., None], slope.cpu()))
        (state, slope), *others = found
        names = ("cpu, sdpa", f"{args.device}, textbook", f"{args.device}, sdpa")
        for name, (other, other_slope) in zip(names, others, strict=True):
            gap = (other - state).abs().max().item()
            relative = ((other_slope - slope).abs().max() / slope.abs().max()).item()
            rows.append([str(dtype)[6:], name, f"{gap:.1e}", f"{relative:.1e}"])
    return table(["dtype", "against cpu, textbook", "hidden states", "a gradient, relative"], rows)


def encoding(args: argparse.Namespace) -> str:
    """Texts per second, alternating; differences from float32 on the CPU."""
    import sentence_transformers

    texts = [line for line in Path(args.texts).read_text("utf-8").splitlines() if line.strip()]
    texts = (texts * (args.count // len(texts) + 1))[: args.count]
    few = texts[:200]
    reference = SentenceEncoder.from_pretrained(args.model, engine="textbook")
    truth = torch.from_numpy(reference.encode(few))
    arms = {}
    for name, dtype in DTYPES.items():
        for engine in ("textbook", "sdpa"):
            encoder = SentenceEncoder.from_pretrained(args.model, engine=engine).to(args.device)
            encoder.model.to(dtype)
            arms[f"minibert {engine}, {name}"] = lambda t, e=encoder: e.encode(t)
        peer = sentence_transformers.SentenceTransformer(
            args.model, device=args.device, model_kwargs={"dtype": dtype}
        )
        arms[f"sentence-transformers, {name}"] = lambda t, p=peer: p.encode(
            t, batch_size=args.batch, show_progress_bar=False
        )
    times, peaks, gaps = {}, {}, {}
    for number in range(args.rounds + 1):
        for name, encode in arms.items():
            memory(args.device)
            begin = time.perf_counter()
            encode(texts)
            wait(args.device)
            if number:  # the first one warms up
                times.setdefault(name, []).append(time.perf_counter() - begin)
            peaks[name] = memory(args.device)
    for name, encode in arms.items():
        vectors = torch.from_numpy(encode(few)).float()
        cosine = torch.nn.functional.cosine_similarity(vectors, truth)
        gaps[name] = (vectors - truth).abs().max().item(), (1 - cosine).max().item()
    rows = [
        [name, f"{len(texts) / statistics.median(spent):,.0f}", peaks[name],
         f"{gaps[name][0]:.1e}", f"{gaps[name][1]:.1e}"]
        for name, spent in times.items()
    ]  # fmt: skip
    return table(["encode", "texts / s", "MB", "largest difference", "1 - cosine"], rows)


def training(args: argparse.Namespace) -> str:
    """A training step beside transformers' model and torch's loop: the same batches."""
    import transformers

    from minibert import BertForSequenceClassification

    B, T, steps = (4, 16, 3) if args.quick else (32, 128, 40)
    torch.manual_seed(0)
    ids = torch.randint(1000, 30000, (B, T), device=args.device)
    labels = torch.randint(0, 2, (B,), device=args.device)
    mask = torch.ones_like(ids)

    def ours(model):
        def loss(model, batch):
            return torch.nn.functional.cross_entropy(model(ids, mask).logits, labels)

        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        return lambda: loop(model, range(steps), loss, optimizer)

    def theirs(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

        def run():
            model.train()
            for _ in range(steps):
                model(ids, mask, labels=labels).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

        return run

    new = lambda: BertForSequenceClassification.from_pretrained(args.model).to(args.device)  # noqa: E731
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.model, dtype=torch.float32
    )
    arms = {
        "minibert textbook": ours(new()), "minibert sdpa": ours(fuse(new())),
        "transformers (sdpa)": theirs(peer.to(args.device)),
    }  # fmt: skip
    rows = []
    for precision in (False, True):
        times, peaks = {}, {}
        for number in range(args.rounds + 1):
            for name, run in arms.items():
                memory(args.device)
                begin = time.perf_counter()
                kind = torch.device(args.device).type
                with torch.autocast(kind, torch.bfloat16, enabled=precision):
                    run()
                wait(args.device)
                if number:
                    times.setdefault(name, []).append(time.perf_counter() - begin)
                peaks[name] = memory(args.device)
        kind = "bfloat16 autocast" if precision else "float32"
        for name, spent in times.items():
            rows.append([name, kind, f"{statistics.median(spent) / steps * 1000:.1f}", peaks[name]])
    return table([f"a training step, {B} x {T}", "precision", "ms", "MB"], rows)


def runs(args: argparse.Namespace) -> str:
    """Whole fine-tunings: twice the same, in bfloat16, and under torchrun."""
    data = [(f"{word} {i}", word) for i in range(24) for word in ("good", "bad", "odd")]
    options = {"base": args.model, "epochs": 2, "lr": 1e-4, "device": args.device}
    with tempfile.TemporaryDirectory() as home:
        rows = []
        for name, more in (("first", {}), ("again", {}), ("autocast", {"autocast": True})):
            begin = time.perf_counter()
            out = Path(home, name)
            found = finetune(data, "classify", out=out, say=lambda line: None, **options, **more)
            score = found["after"]["dev_accuracy"]
            weights = minibert.io.files.sha256(out / "model.safetensors")[:8]
            rows.append([name, f"{score:.4f}", f"{time.perf_counter() - begin:.1f} s", weights])
        train = Path(home, "train.tsv")
        train.write_text("text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in data), "utf-8")
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1",
            "-m", "minibert", "finetune", "classify", train, "--base", args.model, "--epochs", "2",
            "--lr", "1e-4", "--device", args.device, "--out", Path(home, "torchrun"),
        ]  # fmt: skip
        done = subprocess.run(list(map(str, torchrun)), capture_output=True, text=True, timeout=120)
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or [""]
        rows.append(["torchrun, 1 process", f"exit {done.returncode}", last[0][:90], ""])
    return table(["fine-tuning", "dev accuracy", "", "weights"], rows)


def main() -> None:
    """Run every part, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--texts", required=True, help="a text a line")
    parser.add_argument("--out", default="gpu_check.md")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--count", type=int, default=20000, help="texts to encode")
    parser.add_argument("--batch", type=int, default=256, help="of sentence-transformers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="only to try the script")
    args = parser.parse_args()
    if args.quick:
        args.count, args.rounds = 64, 1
    warnings.filterwarnings("ignore")
    torch.backends.cuda.matmul.allow_tf32 = False
    name = "cpu" if args.device == "cpu" else torch.cuda.get_device_name()
    lines = [f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}"]
    for part in (encoding, training, correctness, runs):
        begin = time.perf_counter()
        try:
            lines.append(part(args))
        except Exception:  # the others still say something
            lines.append(f"{part.__name__} failed:\n\n```\n{traceback.format_exc()}```")
        lines.append(f"({part.__name__}: {time.perf_counter() - begin:.0f} s)")
        print("\n\n".join(lines[-2:]), flush=True)
        Path(args.out).write_text("\n\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
