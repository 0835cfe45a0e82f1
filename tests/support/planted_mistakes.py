"""Plant every mistake of the catalogue, alone and in pairs, and see what the diagnosis says.

    python tests/planted_mistakes.py [PAIRS_PER_KIND] [KIND ...]
    python tests/planted_mistakes.py unknown

prints how many are named: in float32, and with the numbers rounded to bfloat16. Code that can be
brought (``--replace``) is tried on what `examine_code` tries it on; heads come as a dump of one
batch.
"""

import functools
import itertools
import random
import sys
import time

import torch

from minibert.parity.catalogue import CATALOGUE
from minibert.parity.diagnosis import Judge, diagnose
from minibert.parity.probes import example, probes
from minibert.parity.replace import ERRORS, inside, prepare
from minibert.parity.replace import KINDS as BROUGHT
from minibert.parity.steps import Computation
from support.unknown_mistakes import RIGHT, UNKNOWN

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
ANSWERED = ("named", "tie", "hidden and listed")


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
    changes = {step: change for mistake in mistakes for step, change in mistake.changes.items()}
    judges = []
    for number, (given, known) in enumerate(inputs_of(kind)):
        run = Computation(given, known, changes, torch.float32)
        try:
            mine = known | {name: run[name] for name in KINDS[kind][0]}
        except (RuntimeError, IndexError):
            if not number:
                raise
            continue
        rounded = {name: value.to(rounding).float() for name, value in mine.items()}
        judges.append(Judge(given, rounded))
    return judges


@functools.cache
def possible(kind):
    """The mistakes that change what this kind of code returns, on anything it is tried on."""
    outputs = KINDS[kind][0]
    judges = plant(kind, [])
    given = [name for name in KINDS[kind][1] if name in judges[0].scope(outputs[0])]
    return [
        m for m in CATALOGUE
        if any(judge.touches(m, outputs) and judge.visible(m, outputs) for judge in judges)
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
    if wanted in answers:
        return ("named" if len(answers) == 1 else "tie"), diagnosis
    if wanted in listed:
        return "hidden and listed", diagnosis
    if not answers:
        return "unnamed", diagnosis
    return ("part" if any(answer < wanted for answer in answers) else "wrong"), diagnosis


def count(kind, sets, rounding):
    """How often each outcome comes."""
    found = {}
    for mistakes in sets:
        result, diagnosis = outcome(kind, mistakes, rounding)
        found.setdefault(result, []).append((mistakes, diagnosis))
    return found


def brought(kind, thing, rounding):
    """The diagnosis of somebody's class or function, all its numbers rounded."""
    judges = []
    for given in (EXAMPLE, *probes([kind]).values()):
        try:
            mine = prepare({kind: thing}, given)()
        except ERRORS:
            continue
        mine = {n: v.to(rounding).float() for n, v in mine.items() if not inside(n, [kind])}
        judges.append(Judge(given, mine))
    return diagnose(judges)


def unknown():
    """Names given to what is not in the catalogue, or is right in another style: none is right.

    A difference on padding alone that has a name is no wrong name.
    """
    for rounding in (torch.float32, torch.bfloat16):
        for what, things in (("unknown", UNKNOWN), ("right", RIGHT)):
            count, named, seen = 0, [], 0
            for kind, thing in [(k, one) for k in things for one in things[k]]:
                found = brought(kind, thing, rounding)
                count, seen = count + 1, seen + (found is not None and not found.harmless)
                if found and found.answers and not found.harmless:
                    named.append((thing.__name__, [m.key for m in found.answers[0]]))
            print(f"{what} {str(rounding)[6:]}: {count}, of which differ {seen}, named: {named}",
                  flush=True)


def main():
    torch.set_num_threads(1)
    if sys.argv[1:] == ["unknown"]:
        return unknown()
    sample = int(sys.argv[1]) if len(sys.argv) > 1 else 30
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
                good = sum(numbers.get(name, 0) for name in ANSWERED)
                share = 100 * good / max(len(sets), 1)
                print(f"{kind} {what} {str(rounding)[6:]}: {good} of {len(sets)} = {share:.1f} %; "
                      f"{numbers}, {each:.2f} s each", flush=True)
                for name in ("wrong", "part", "unnamed", "missed"):
                    for mistakes_, diagnosis in found.get(name, []):
                        print("   ", name, [m.key for m in mistakes_],
                              diagnosis and [[m.key for m in a] for a in diagnosis.answers],
                              flush=True)


if __name__ == "__main__":
    main()
