"""Plant every mistake of the catalogue, alone and in pairs, and see what the diagnosis says.

    python tests/planted_mistakes.py [PAIRS_PER_KIND] [KIND ...]

prints the share that is named first: in float32, and with the numbers rounded to bfloat16.
"""

import itertools
import random
import sys
import time

import torch

from minibert.diagnosis import Judge
from minibert.learner import example
from minibert.mistakes import CATALOGUE
from minibert.steps import Computation

# What is seen of a learner's code: what it returns, and what went in.
KINDS = {
    "embeddings": (["embeddings"], []),
    "attention": (["layers.0.attention.output"], ["embeddings"]),
    "feed_forward": (["layers.0.feed_forward.contract"], ["layers.0.attention_norm"]),
    "layer": (["layers.0.feed_forward_norm"], ["embeddings"]),
    "pooler": (["pooler"], ["layers.1.feed_forward_norm"]),
    "pooling": (["pooling", "sentence"], ["layers.0.feed_forward_norm",
                                          "layers.1.feed_forward_norm"]),
    "masked LM": (["predictions"], ["layers.1.feed_forward_norm"]),
    "classifier": (["classifier"], ["pooler", "layers.1.feed_forward_norm"]),
    "next sentence": (["seq_relationship"], ["pooler", "layers.1.feed_forward_norm"]),
    "answers": (["start_logits", "end_logits"], ["layers.1.feed_forward_norm"]),
    "loss": (["loss"], ["predictions"]),
    "optimizer": ([f"steps.{t}.parameters" for t in range(1, 6)], []),
}
EXAMPLE = example()


def inputs(kind):
    """What goes into a kind of code, from the right model, in float32."""
    right = Computation(*EXAMPLE[:2], EXAMPLE[2], dtype=torch.float32)
    return {name: right[name] for name in KINDS[kind][1]}


def plant(kind, mistakes, rounding=torch.float32):
    """What code with these mistakes returns, and what went into it."""
    changes = {step: change for mistake in mistakes for step, change in mistake.changes.items()}
    known = inputs(kind)
    run = Computation(*EXAMPLE[:2], EXAMPLE[2], known, changes, torch.float32)
    mine = known | {name: run[name] for name in KINDS[kind][0]}
    return {name: value.to(rounding).float() for name, value in mine.items()}


def possible(kind):
    """The mistakes that change what this kind of code returns."""
    outputs = KINDS[kind][0]
    known = inputs(kind)
    judge = Judge(*EXAMPLE, plant(kind, []))
    given = [name for name in known if name in judge.scope(outputs[0])]
    return [
        m for m in CATALOGUE
        if judge.touches(m, outputs) and judge.visible(m, outputs)
        and all(judge.explained(name, m.changes) for name in given)  # it fits what went in
    ]


def outcome(kind, mistakes, rounding):
    """One of: named, tie (named, with another that gives the same), hidden, unnamed, wrong."""
    try:
        mine = plant(kind, mistakes, rounding)
    except (RuntimeError, IndexError):
        return "crash", None  # such code does not run: nothing to compare
    diagnosis = Judge(*EXAMPLE, mine).diagnose()
    if diagnosis is None:
        return "hidden", None
    wanted = {mistake.key for mistake in mistakes}
    answers = [{mistake.key for mistake in answer} for answer in diagnosis.answers]
    if wanted in answers:
        return ("named" if len(answers) == 1 else "tie"), diagnosis
    if not answers:
        return "unnamed", diagnosis
    # Fewer mistakes that give the very same numbers: the other one has no effect beside them.
    return ("covered" if any(answer < wanted for answer in answers) else "wrong"), diagnosis


def count(kind, sets, rounding):
    """How often each outcome comes."""
    found = {}
    for mistakes in sets:
        result, diagnosis = outcome(kind, mistakes, rounding)
        found.setdefault(result, []).append((mistakes, diagnosis))
    return found


def main():
    torch.set_num_threads(1)
    sample = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    for kind in sys.argv[2:] or KINDS:
        mistakes = possible(kind)
        singles = [(mistake,) for mistake in mistakes]
        pairs = [
            pair for pair in itertools.combinations(mistakes, 2)
            if not pair[0].changes.keys() & pair[1].changes.keys()
            and "weights" not in {**pair[0].changes, **pair[1].changes}
        ]
        random.Random(0).shuffle(pairs)
        for what, sets in (("singles", singles), ("pairs", pairs[:sample])):
            for rounding in (torch.float32, torch.bfloat16):
                start = time.process_time()
                found = count(kind, sets, rounding)
                each = (time.process_time() - start) / max(len(sets), 1)
                numbers = {name: len(cases) for name, cases in sorted(found.items())}
                print(f"{kind} {what} {str(rounding)[6:]} of {len(sets)}: {numbers}, "
                      f"{each:.2f} s each", flush=True)
                for name in ("wrong", "unnamed"):
                    for mistakes_, diagnosis in found.get(name, []):
                        print("   ", name, [m.key for m in mistakes_],
                              [[m.key for m in a] for a in diagnosis.answers],
                              f"residual {diagnosis.residual:.2g}", flush=True)


if __name__ == "__main__":
    main()
