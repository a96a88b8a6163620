#!/usr/bin/env python3
"""Compares a file of `quern logits` with Hugging Face Transformers, for any checkpoint directory.

    quern logits -m DIR --ids 1,2,3 --last 3 -o out.safetensors
    python3 compare_logits.py --model DIR --ids 1,2,3 --quern out.safetensors

The file's tensor `logits` [K, vocab_size] is taken as the last K positions of the prompt. Prints
the relative error |d| / |ref| over all of them, of the worst row, and how many rows agree on the
largest logit; exit status 1 if the first exceeds --limit. For a person: nothing in the build calls
it. --dtype is what Transformers computes in: float32 unless its own rounding is the question.
"""
import argparse
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def read_ids(text):
    """Comma separated ids, or the path of a reference.safetensors that has them."""
    if text.endswith(".safetensors"):
        return load_file(text)["ids"].long()
    return torch.tensor([int(part) for part in text.split(",")])


@torch.no_grad()
def reference_logits(folder, ids, dtype):
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", local_files_only=True).eval()
    return model(input_ids=ids[None]).logits[0].double()


def relative_error(got, want):
    return (torch.linalg.vector_norm(got - want) / torch.linalg.vector_norm(want)).item()


def parse():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True, help="checkpoint directory")
    p.add_argument("--ids", required=True, help="1,2,3 or a reference.safetensors")
    p.add_argument("--quern", required=True, help="file written by `quern logits`")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    p.add_argument("--limit", type=float, default=1e-3, help="largest relative error (1e-3)")
    return p.parse_args()


def main():
    args = parse()
    ids = read_ids(args.ids)
    got = load_file(args.quern)["logits"].double()
    want = reference_logits(args.model, ids, getattr(torch, args.dtype))
    if got.dim() != 2 or got.shape[1] != want.shape[1] or not 0 < got.shape[0] <= len(ids):
        sys.exit(f"{args.quern}: logits {list(got.shape)} do not fit {len(ids)} ids and "
                 f"a vocabulary of {want.shape[1]}")

    want = want[-got.shape[0]:]
    error = relative_error(got, want)
    worst = max(map(relative_error, got, want))
    same = (got.argmax(1) == want.argmax(1)).sum().item()
    print(f"relative error {error:.3e}  worst row {worst:.3e}  "
          f"same largest {same}/{len(got)}  limit {args.limit:g}")
    return 0 if error <= args.limit else 1  # a NaN fails too


if __name__ == "__main__":
    sys.exit(main())
