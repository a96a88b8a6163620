#!/usr/bin/env python3
"""Makes sampled.json: what the storyteller says when it is sampled, from seed to text.

Logits are Hugging Face Transformers' in float32, the whole sequence anew for each token (no cache);
the draw is make_sampling.py's (plain integers and float64). It knows nothing of the C code. Seeds
are tried in turn until no step of a run is a close call, so that any float32 arithmetic must give
the same ids.

    python3 make_sampled.py [DIR]        # share/models/storyteller of this tree by default
"""
import json
import pathlib
import sys

import numpy as np
import torch
from tokenizers import Tokenizer

from check_storyteller import load_model
from make_sampling import filter_tokens, noise, seed_key, words

HERE = pathlib.Path(__file__).resolve().parent
NEW_IDS = 32
LEAD = 2e-3         # least lead of the chosen token, in z + noise, times temperature: in logits
EDGE_LOGIT = 2e-4   # least distance of a logit from its cut, or of a sum from top_p

RUNS = [  # prompt, temperature, top_k, top_p, min_p, first seed to try
    ("Once upon a time", 1.0, 0, 1.0, 0.0, 1),
    ("Once upon a time", 0.7, 20, 0.8, 0.0, 7),
    ("The little dog", 0.9, 0, 0.9, 0.0, 1 << 40),
    ("One day, a girl named Lily", 1.2, 0, 1.0, 0.1, 0x123456789ABCDEF0),
    ("Tom and his mom", 1.0, 12, 0.95, 0.05, 2 ** 64 - 300),
    ("The bird was sad because", 0.02, 0, 1.0, 0.0, 3),
]


@torch.no_grad()
def next_logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()


def draw(logits, run, position):
    """The id, and whether every decision on the way to it was a clear one."""
    temperature = float(np.float32(run["temperature"]))
    scaled = logits / temperature
    kept, edge = filter_tokens(scaled, run)
    ids = np.arange(logits.size, dtype=np.uint64)
    drawn = scaled + noise(words(seed_key(run["seed"]), position, 0, ids))
    drawn = np.where(kept, drawn, -np.inf)
    best = int(np.argmax(drawn))
    second = np.partition(drawn, -2)[-2]
    return best, (drawn[best] - second) * temperature >= LEAD and edge >= EDGE_LOGIT


def follow(model, prompt, run):
    """The run's ids, or None at the first close call; how many are not the greedy choice."""
    ids, unlike = list(prompt), 0
    while len(ids) < len(prompt) + NEW_IDS:
        logits = next_logits(model, ids)
        new, clear = draw(logits, run, len(ids))  # the position that the new token has
        if not clear:
            return None, 0
        unlike += new != int(np.argmax(logits))
        ids.append(new)
    return ids[len(prompt):], unlike


def settle(model, tokenizer, prompt, temperature, top_k, top_p, min_p, seed):
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    for tries in range(2000):
        run = dict(prompt=prompt, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                   seed=(seed + tries) % 2 ** 64)
        ids, unlike = follow(model, prompt_ids, run)
        if ids and unlike:
            print(f"{run}: {unlike} of {NEW_IDS} are not the greedy choice", flush=True)
            return dict(run, seed=str(run["seed"]), ids=ids,
                        text=tokenizer.decode(ids, skip_special_tokens=True))
    raise SystemExit(f"{prompt}: every seed has a close call")


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else \
        HERE.parent.parent / "share/models/storyteller"
    model = load_model(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    runs = [settle(model, tokenizer, *run) for run in RUNS]
    (HERE / "sampled.json").write_text(
        "[\n " + ",\n ".join(json.dumps(r) for r in runs) + "\n]\n")


if __name__ == "__main__":
    main()
