#!/usr/bin/env python3
"""Makes sampling.json: known answers for the sampler, from an implementation of its own.

It knows nothing of the C code: plain integers for the generator, float64 for the rest. Cases where
float32 could decide otherwise (a near tie, an edge of a filter) are not kept, so an implementation
in either precision must give every answer. README.md states the rules in words; needs numpy only.

    python3 make_sampling.py             # writes sampling.json beside itself
"""
import json
import math
import pathlib

import numpy as np

MASK = 0xFFFFFFFF
GREEDY_BELOW = 1e-5  # temperatures under it take the largest logit
NOISE_MARGIN = 1e-3  # least lead of the chosen token over the second
EDGE_MARGIN = 1e-4   # least distance of a probability sum from top_p, of a logit from its cut


def philox4x32_10(counter, key):
    """Random123's Philox4x32 with ten rounds: four words of counter, two of key, four out. Words
    are Python integers or equally shaped uint64 arrays."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def words(key, position, choice, ids):
    """Output word id % 4 of block id // 4 for each token id. ids [n] uint64"""
    fill = np.full_like
    quads, lanes = ids // np.uint64(4), ids % np.uint64(4)
    out = philox4x32_10((fill(ids, position), fill(ids, choice), quads, fill(ids, 0)), key)
    return np.choose(lanes.astype(np.int64), out)


def noise(x):
    """Gumbel noise of a word. u has 25 significant bits and never reaches 1: in float32, which has
    24, the upper half must be taken as 1 - w with w exact, g = -ln(-log1p(-w))."""
    u = ((np.asarray(x, np.uint64) >> np.uint64(8)).astype(np.float64) + 0.5) * 2.0 ** -24
    return -np.log(-np.log(u))


def seed_key(seed):
    return seed & MASK, seed >> 32


def case_logits(case):
    """[vocab] float64, each exact in float32: the top `bits` of a word, centred, times a power of
    two. Few bits make ties."""
    ids = np.arange(case["vocab"], dtype=np.uint64)
    zero = np.zeros_like(ids)
    x = philox4x32_10((ids, zero, zero, zero), (case["logits_seed"], 0))[0]
    top = (x >> np.uint64(32 - case["bits"])).astype(np.float64)
    return (top * 2.0 ** -case["bits"] - 0.5) * case["scale"]


def distance(values, edge):
    """How far the nearest value is from an edge, equal values left out."""
    gaps = np.abs(values - edge)
    gaps = gaps[gaps > 0]
    return gaps.min() if gaps.size else math.inf


def filter_tokens(scaled, case):
    """Which tokens stay, and how close the nearest decision was. scaled [vocab] = l / T"""
    margin = math.inf
    kept = np.ones(scaled.size, bool)

    min_p = float(np.float32(case["min_p"]))
    if min_p > 0:
        cut = scaled.max() + math.log(min_p)
        margin = min(margin, distance(scaled[scaled < scaled.max()], cut))
        kept &= scaled >= cut

    top_k = case["top_k"]
    if 0 < top_k < kept.sum():
        cut = np.sort(scaled[kept])[-top_k]
        margin = min(margin, distance(scaled[kept], cut))
        kept &= scaled >= cut

    top_p = float(np.float32(case["top_p"]))
    if top_p < 1:
        order = np.array(sorted(np.flatnonzero(kept), key=lambda i: (-scaled[i], i)))
        weight = np.exp(scaled[order] - scaled[order[0]])
        before = np.concatenate(([0.0], np.cumsum(weight / weight.sum())[:-1]))
        stay = before < top_p
        stay[0] = True
        margin = min(margin, np.abs(before[1:] - top_p).min() if order.size > 1 else math.inf)
        kept[:] = False
        kept[order[stay]] = True
    return kept, margin


def sample(case):
    """The id, the ids kept, and the margins of the choice and of the filters."""
    logits = case_logits(case)
    ids = np.arange(logits.size, dtype=np.uint64)
    if case["temperature"] < GREEDY_BELOW:
        best = int(np.argmax(logits))  # the lowest id of a tie
        return best, np.array([best]), math.inf, math.inf

    scaled = logits / float(np.float32(case["temperature"]))
    kept, edge = filter_tokens(scaled, case)
    x = words(seed_key(int(case["seed"], 16)), case["position"], case["choice"], ids)
    perturbed = np.where(kept, scaled + noise(x), -math.inf)
    best = int(np.argmax(perturbed))
    second = np.partition(perturbed, -2)[-2] if kept.sum() > 1 else -math.inf
    return best, np.flatnonzero(kept), perturbed[best] - second, edge


SETTINGS = [  # temperature, top_k, top_p, min_p
    (1.0, 0, 1.0, 0.0), (0.6, 20, 0.95, 0.0), (0.7, 20, 0.8, 0.0), (0.8, 40, 0.95, 0.05),
    (1.5, 0, 0.9, 0.0), (1.0, 0, 1.0, 0.1), (1.0, 5, 1.0, 0.0), (2.0, 50, 0.5, 0.0),
    (0.3, 0, 0.99, 0.01), (1.0, 1, 1.0, 0.0), (1.0, 0, 0.01, 0.0), (1.0, -1, 0.7, 0.0),
    (0.0, 20, 0.95, 0.0), (1.2, 100000, 1.0, 0.02), (0.9, 3, 0.6, 0.2), (0.000001, 0, 1.0, 0.0),
    (1.0, 8, 0.9, 1.0), (0.05, 0, 1.0, 0.0),
]
SHAPES = [  # vocab, scale, bits
    (50, 8, 24), (331, 16, 24), (1000, 16, 4), (3000, 32, 24), (128, 4, 3), (2048, 8, 24),
]
SEEDS = [0, 1, 42, 0xFFFFFFFF, 0x100000000, 0x123456789ABCDEF0, 0x8000000000000001, 2 ** 64 - 1]
POSITIONS = [0, 1, 17, 4095, 40959, 262143, 2 ** 31 + 5, 2 ** 32 - 1]


def candidate(number, attempt):
    temperature, top_k, top_p, min_p = SETTINGS[number % len(SETTINGS)]
    vocab, scale, bits = SHAPES[(number + number // len(SETTINGS)) % len(SHAPES)]
    return dict(
        vocab=vocab, logits_seed=1000 * number + attempt, scale=scale, bits=bits,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        seed=hex(SEEDS[(number * 5 + 3) % len(SEEDS)]),
        position=POSITIONS[(number * 3 + number // 8) % len(POSITIONS)], choice=number % 3)


def answered(case):
    """The case with its answer, or None where a margin is too small."""
    best, kept, lead, edge = sample(case)
    if lead < NOISE_MARGIN or edge < EDGE_MARGIN:
        return None
    answer = dict(case, id=best, kept_count=int(kept.size))
    if kept.size <= 32:
        answer["kept"] = kept.tolist()
    return answer


def settled(number):
    for attempt in range(1000):
        case = answered(candidate(number, attempt))
        if case:
            return case
    raise SystemExit(f"case {number}: no logits keep clear of every edge")


def extreme_word_case():
    """A draw in which one token's word is so large that u, rounded to float32, is 1 and its noise
    infinite. That token's logit is too low for its true noise, 17.3, to win."""
    case = dict(vocab=3000, logits_seed=7, scale=32, bits=24, temperature=0.5, top_k=0, top_p=1.0,
                min_p=0.0, seed=hex(20240607), choice=0)
    ids = np.arange(case["vocab"], dtype=np.uint64)
    for position in range(100000):
        x = words(seed_key(int(case["seed"], 16)), position, 0, ids)
        if x.max() >> np.uint64(8) == 0xFFFFFF:
            found = answered(dict(case, position=position))
            if found and found["id"] != int(x.argmax()):
                return found
    raise SystemExit("no position has a word that large")


def known_philox():
    """Random123's own known answers for philox4x32 with ten rounds: counter, key, output."""
    known = [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([MASK] * 4, [MASK] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
         [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ]
    for counter, key, output in known:
        assert list(philox4x32_10(counter, key)) == output
    return [dict(counter=c, key=k, output=o) for c, k, o in known]


def known_noise():
    """Words and their Gumbel noise, both ends and the middle."""
    xs = [0, 0xFF, 0x100, 0x12345678, 0x7FFFFFFF, 0x80000000, 0x80000100, 0xC0FFEE00,
          0xFFFF0000, 0xFFFFFE00, 0xFFFFFF00, MASK]
    return [dict(word=x, gumbel=round(float(noise(x)), 9)) for x in xs]


def one_per_line(items):
    return "[\n  " + ",\n  ".join(json.dumps(item) for item in items) + "\n ]"


def main():
    cases = [settled(n) for n in range(60)] + [extreme_word_case()]
    parts = {"philox": known_philox(), "noise": known_noise(), "cases": cases}
    text = ",\n".join(f' "{name}": {one_per_line(items)}' for name, items in parts.items())
    path = pathlib.Path(__file__).resolve().parent / "sampling.json"
    path.write_text("{\n" + text + "\n}\n")
    print(f"{len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
