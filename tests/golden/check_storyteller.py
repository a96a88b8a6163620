#!/usr/bin/env python3
"""Checks with Hugging Face Transformers what the storyteller's own files claim: golden.json's ids,
greedy continuations and first log-probabilities, and the mean negative log-likelihood of nll.txt.

    python3 check_storyteller.py [DIR]   # share/models/storyteller of this tree by default

For a person, when the model or Transformers changes: nothing in the build calls it. To compare
`quern logits` with Transformers on the same model, see compare_logits.py. Exit status 1 if any
claim fails.
"""
import json
import pathlib
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
NEW_IDS = 64
LOGPROB_LIMIT = 1e-3
NLL_TOKENS, NLL, NLL_LIMIT = 1024, 1.3737, 5e-4


def load_model(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True).eval()


@torch.no_grad()
def continue_greedily(model, ids, end):
    """The new ids, an end token included; the first one's log-probabilities; the closest call."""
    out, past, closest, first = [], None, float("inf"), None
    step = torch.tensor([ids])
    while len(out) < NEW_IDS and not (out and out[-1] in end):
        answer = model(input_ids=step, past_key_values=past, use_cache=True)
        past = answer.past_key_values
        logprobs = torch.log_softmax(answer.logits[0, -1], -1)
        first = logprobs if first is None else first
        top = logprobs.topk(2)
        closest = min(closest, (top.values[0] - top.values[1]).item())
        out.append(top.indices[0].item())
        step = torch.tensor([out[-1:]])
    return out, first, closest


def check_golden(model, tokenizer, folder):
    end = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    good = True
    for item in json.loads((folder / "golden.json").read_text()):
        out, first, closest = continue_greedily(model, item["ids"], end)
        off = max(abs(first[i].item() - p) for i, p in item["top_logprobs"])
        ids_same = tokenizer.encode(item["text"], add_special_tokens=False).ids == item["ids"]
        same = out == item["greedy"]
        good &= same and ids_same and off <= LOGPROB_LIMIT
        print(f"{item['text'][:40]!r}: ids {'same' if ids_same else 'DIFFER'}, greedy "
              f"{'same' if same else 'DIFFERS'} ({len(out)}), log-probabilities off by {off:.1e}, "
              f"closest call {closest:.3f}")
    return good


@torch.no_grad()
def check_nll(model, tokenizer, folder):
    text = (folder / "nll.txt").read_text()
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids[:NLL_TOKENS])
    logits = model(input_ids=ids[None]).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits.double(), ids[1:]).item()
    good = len(ids) == NLL_TOKENS and abs(nll - NLL) <= NLL_LIMIT
    print(f"nll.txt: {nll:.6f} over {len(ids) - 1} predictions, {NLL} is claimed")
    return good


def main():
    folder = HERE.parents[1] / "share" / "models" / "storyteller"
    if len(sys.argv) > 1:
        folder = pathlib.Path(sys.argv[1])
    model = load_model(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    golden = check_golden(model, tokenizer, folder)
    return 0 if check_nll(model, tokenizer, folder) and golden else 1


if __name__ == "__main__":
    sys.exit(main())
