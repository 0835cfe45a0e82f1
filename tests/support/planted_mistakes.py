"""Plant every mistake of the catalogue, alone and in pairs, and see what the diagnosis says.

    python tests/support/planted_mistakes.py [PAIRS_PER_KIND] [KIND ...]

prints how many are named: in float32, and with the numbers rounded to bfloat16. Code that can be
brought (``--replace``) is tried on what `examine_code` tries it on; heads come as a dump of one
batch. Mistakes that are not in the catalogue: ``parity/test_catalogue.py``.
"""

import collections
import functools
import random
import sys
import time

import torch

from minibert.parity.catalogue import CATALOGUE
from minibert.parity.diagnosis import Judge, diagnose, disjoint_pairs, together
from minibert.parity.probes import example, probes
from minibert.parity.replace import KINDS as BROUGHT
from minibert.parity.steps import Computation

LAST = "layers.1.feed_forward_norm"
KINDS = {  # what is seen of somebody's code: what it returns, and what went in
    "embeddings": (["embeddings"], []),
    "attention": (["layers.0.attention.output"], ["embeddings"]),
    "feed_forward": (["layers.0.feed_forward.contract"], ["layers.0.attention_norm"]),
    "layer": (["layers.0.feed_forward_norm"], ["embeddings"]),
    "pooler": (["pooler"], [LAST]),
    "pooling": (["pooling", "sentence"], ["layers.0.feed_forward_norm", LAST]),
    "masked LM": (["predictions"], [LAST]),
    "classifier": (["classifier"], ["pooler", LAST]),
    "next sentence": (["seq_relationship"], ["pooler", LAST]),
    "answers": (["start_logits", "end_logits"], [LAST]),
    "loss": (["loss"], ["predictions"]),
    "optimizer": ([f"steps.{t}.parameters" for t in range(1, 6)], []),
}
EXAMPLE = example()
ANSWERED = ("named", "tie", "hidden and listed")
ROUNDINGS = (torch.float32, torch.bfloat16)


@functools.cache
def inputs_of(kind):
    """What code of a kind is tried on, each with what goes in, from the right model, in float32."""
    found = [EXAMPLE, *(probes([kind]).values() if kind in BROUGHT else ())]
    return [
        (given, {name: run[name] for name in KINDS[kind][1]})
        for given in found for run in [Computation(given, dtype=torch.float32)]
    ]


def plant(kind, mistakes, rounding=torch.float32):
    """Judges of what code with these mistakes returns, on all that it is tried on."""
    judges = []
    for number, (given, known) in enumerate(inputs_of(kind)):
        run = Computation(given, known, together(mistakes), torch.float32)
        try:
            mine = known | {name: run[name] for name in KINDS[kind][0]}
        except (RuntimeError, IndexError):
            if not number:
                raise
            continue
        mine = {name: value.to(rounding).float() for name, value in mine.items()}
        judges.append(Judge(given, mine, known))
    return judges


@functools.cache
def possible(kind):
    """The mistakes that change what this kind of code returns, on anything it is tried on."""
    outputs = KINDS[kind][0]
    judges = plant(kind, [])
    given = [name for name in KINDS[kind][1] if name in judges[0].scope(outputs[0])]
    return [
        m for m in CATALOGUE
        if any(judge.visible(m.changes, outputs) for judge in judges)
        and all(judges[0].explained(name, m.changes) for name in given)  # it fits what went in
    ]


def outcome(kind, mistakes, rounding, pairs=True):
    """What the diagnosis makes of code with these mistakes.

    named; tie (with another that gives the same numbers); hidden and listed (one is named, and the
    other one among those that cannot show beside it); missed (nothing is seen); unnamed (it is
    seen, and called unknown); part (one is named, the other one not mentioned); wrong; crash.
    """
    try:
        judges = plant(kind, mistakes, rounding)
    except (RuntimeError, IndexError):
        return "crash", None  # such code does not run: nothing to compare
    diagnosis = diagnose(judges, pairs)
    if diagnosis is None:
        return "missed", None
    wanted = {mistake.key for mistake in mistakes}
    answers = [{m.key for m in answer} for answer in (*diagnosis.answers, *diagnosis.also)]
    listed = [{key, m.key} for key, others in diagnosis.hidden.items() for m in others]
    same = [together(mistakes) == together(answer) for answer in diagnosis.answers]
    if wanted in answers or any(same):  # two mistakes that are a third one
        return ("named" if len(answers) == 1 else "tie"), diagnosis
    if wanted in listed:
        return "hidden and listed", diagnosis
    if not answers:
        return "unnamed", diagnosis
    return ("part" if any(answer < wanted for answer in answers) else "wrong"), diagnosis


def report(what, kind, sets, rounding):
    """Print how often each outcome comes, and everything that was not named."""
    start, found = time.process_time(), [outcome(kind, mistakes, rounding) for mistakes in sets]
    each = (time.process_time() - start) / max(len(sets), 1)
    numbers = collections.Counter(result for result, _ in found)
    good = sum(numbers[result] for result in ANSWERED)
    print(f"{kind} {what} {str(rounding)[6:]}: {good} of {len(sets)}; {dict(numbers)}, "
          f"{each:.2f} s each", flush=True)
    for mistakes, (result, diagnosis) in zip(sets, found, strict=True):
        if result not in (*ANSWERED, "crash"):
            print("   ", result, [m.key for m in mistakes], diagnosis and str(diagnosis))


def main():
    torch.set_num_threads(1)
    sample = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    for kind in sys.argv[2:] or KINDS:
        mistakes = possible(kind)
        pairs = [pair for pair in disjoint_pairs(mistakes) if "weights" not in together(pair)]
        random.Random(0).shuffle(pairs)
        for what, sets in (("singles", [(m,) for m in mistakes]), ("pairs", pairs[:sample])):
            for rounding in ROUNDINGS:
                report(what, kind, sets, rounding)


if __name__ == "__main__":
    main()
