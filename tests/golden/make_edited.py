#!/usr/bin/env python3
"""Makes edited.json: what the storyteller says when a request changes its logits, and how likely.

Ids are Hugging Face Transformers' generate() in float32, greedy, with its own processors: repetition
penalty, sequence bias (logit bias), bad words, a least number of new tokens, stop strings. Frequency
and presence penalties are none of Transformers'; they are OpenAI's formula, applied to its logits.
Logprobs are log_softmax of the model's logits as they are, of prompt and answer. A run with a close
call is an error: any float32 arithmetic must give the same ids.

    python3 make_edited.py [DIR]        # share/models/storyteller of this tree by default
"""
import json
import pathlib
import sys

import torch
from tokenizers import Tokenizer
from transformers import LogitsProcessor, LogitsProcessorList

from check_storyteller import load_model

HERE = pathlib.Path(__file__).resolve().parent
NEW_IDS = 24
LEAD = 2e-3  # least lead of the likeliest logit over the second, edited
TOP = 3

RUNS = [
    dict(prompt="Once upon a time", repetition_penalty=1.3),
    dict(prompt="Tom and Tom and Tom", repetition_penalty=0.8),
    dict(prompt="Once upon a time, there was a", frequency_penalty=1.5),
    dict(prompt="The dog and the cat and the", presence_penalty=1.25, frequency_penalty=0.25),
    dict(prompt="Lily said", logit_bias=[(13, -100.0), (11, -100.0), (300, 2.5)]),
    dict(prompt="One day", bad_ids=[[273], [258, 367], [365, 273]]),
    dict(prompt="The end", min_tokens=20),
    dict(prompt="Once upon a time", stop="girl named"),
    dict(prompt="Once upon a time", stop_ids=[13]),
    dict(prompt="Ben had a red ball. Ben", repetition_penalty=1.1, presence_penalty=-0.5,
         logit_bias=[(400, -3.0)], bad_ids=[[445]], min_tokens=10),
]


class Penalties(LogitsProcessor):
    """OpenAI's: l -= frequency * count + presence * (count > 0), counts of the answer."""

    def __init__(self, start, frequency, presence):
        self.start, self.frequency, self.presence = start, frequency, presence

    def __call__(self, input_ids, scores):
        count = torch.bincount(input_ids[0, self.start:], minlength=scores.shape[-1])
        return scores - self.frequency * count - self.presence * (count > 0)


def generate(model, tokenizer, run, ids):
    extra = {}
    own = LogitsProcessorList()
    if "repetition_penalty" in run:
        extra["repetition_penalty"] = run["repetition_penalty"]
    if "logit_bias" in run:
        extra["sequence_bias"] = [[[i], b] for i, b in run["logit_bias"]]
    if "bad_ids" in run:
        extra["bad_words_ids"] = run["bad_ids"]
    if "min_tokens" in run:
        extra["min_new_tokens"] = run["min_tokens"]
    if "stop_ids" in run:
        eos = model.generation_config.eos_token_id
        extra["eos_token_id"] = (eos if isinstance(eos, list) else [eos]) + run["stop_ids"]
    if "frequency_penalty" in run or "presence_penalty" in run:
        own.append(Penalties(len(ids), run.get("frequency_penalty", 0), run.get("presence_penalty", 0)))
    out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=NEW_IDS,
                         logits_processor=own, output_scores=True, output_logits=True,
                         return_dict_in_generate=True, use_cache=False, **extra)
    return out


def settle(model, tokenizer, run):
    ids = tokenizer.encode(run["prompt"], add_special_tokens=False).ids
    out = generate(model, tokenizer, run, ids)
    new = out.sequences[0, len(ids):].tolist()
    text = tokenizer.decode(new, skip_special_tokens=True)
    if "stop" in run and run["stop"] in text:  # Transformers' stop_strings keeps the text: cut as vLLM does
        n = next(k for k in range(1, len(new) + 1)
                 if run["stop"] in tokenizer.decode(new[:k], skip_special_tokens=True))
        new = new[:n]
        text = text[:text.index(run["stop"])]
    stops = set(run.get("stop_ids", [])) | {model.generation_config.eos_token_id} \
        if isinstance(model.generation_config.eos_token_id, int) else \
        set(run.get("stop_ids", [])) | set(model.generation_config.eos_token_id)
    logprobs, least = [], 1e9
    for k, i in enumerate(new):
        top = torch.topk(out.scores[k][0], 2).values
        least = min(least, float(top[0] - top[1]))
        lp = torch.log_softmax(out.logits[k][0].double(), -1)
        best = torch.topk(lp, TOP)
        logprobs.append(dict(logprob=float(lp[i]), top=[[int(a), float(b)] for a, b in
                                                       zip(best.indices, best.values)]))
    if least < LEAD:
        raise SystemExit(f"{run}: a close call, {least}")
    ended = bool(new) and new[-1] in stops
    if ended:
        text = tokenizer.decode(new[:-1], skip_special_tokens=True)
    with torch.no_grad():
        lp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    prompt = [float(lp[p - 1, ids[p]]) for p in range(1, len(ids))]
    plain = generate(model, tokenizer, dict(prompt=run["prompt"]), ids).sequences[0, len(ids):].tolist()
    print(f"{run}: {text!r} {len(new)} ids, ended {ended}; unlike plain: {plain[:len(new)] != new}",
          flush=True)
    return dict(run, ids=new[:-1] if ended else new, ended=ended, text=text,
                logprobs=logprobs[:-1] if ended else logprobs, prompt_logprobs=prompt)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else \
        HERE.parent.parent / "share/models/storyteller"
    model = load_model(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    runs = [settle(model, tokenizer, run) for run in RUNS]
    (HERE / "edited.json").write_text("[\n " + ",\n ".join(json.dumps(r) for r in runs) + "\n]\n")


if __name__ == "__main__":
    main()
