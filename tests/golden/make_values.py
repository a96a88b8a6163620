#!/usr/bin/env python3
"""Makes the tiny models of models/ that complete nothing, and what Transformers computes with them.

`bare` is a Qwen3Model saved alone, as embedding models are: its tensors' names lack "model.", and
config.json names the class of the language model, as Qwen3-Embedding's does. reference.safetensors has
`ids` [n], `lengths` [m] (prompts are the first so many ids) and `embeddings` [m, hidden]: the last
hidden state behind the last norm, of length 1. `scored` is a Qwen3ForSequenceClassification with three
labels: `scores` [m, 3] in their place. float32 throughout, each prompt alone.

    python3 make_values.py
"""
import json
import pathlib
import shutil
import zlib

import torch
from safetensors.torch import save_file
from transformers import (AutoModel, AutoModelForSequenceClassification, Qwen3Config,
                          Qwen3ForSequenceClassification, Qwen3Model)

from make_reference import BASE, HERE, randomise

LENGTHS = [1, 2, 17, 40]


def ids_of(name, vocab):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 1)
    return torch.randint(2, vocab, (max(LENGTHS),), generator=generator)


def write(name, kind, extra, rename=None):
    folder = HERE / "models" / name
    shutil.rmtree(folder, ignore_errors=True)
    config = Qwen3Config(**{**BASE, "vocab_size": 256, "num_hidden_layers": 2, **extra})
    model = kind(config)
    randomise(model, torch.Generator().manual_seed(zlib.crc32(name.encode())))
    model.to(torch.bfloat16).save_pretrained(folder)
    if rename:
        path = folder / "config.json"
        text = json.loads(path.read_text())
        text["architectures"] = [rename]
        path.write_text(json.dumps(text, indent=2, sort_keys=True) + "\n")
    return folder


@torch.no_grad()
def main():
    folder = write("bare", Qwen3Model, dict(tie_word_embeddings=True), "Qwen3ForCausalLM")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = ids_of("bare", 256)
    rows = [torch.nn.functional.normalize(model(input_ids=ids[None, :n]).last_hidden_state[0, -1], dim=0)
            for n in LENGTHS]
    save_file({"ids": ids.to(torch.int32), "lengths": torch.tensor(LENGTHS, dtype=torch.int32),
               "embeddings": torch.stack(rows)}, folder / "reference.safetensors")

    folder = write("scored", Qwen3ForSequenceClassification, dict(num_labels=3, pad_token_id=0))
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = ids_of("scored", 256)
    rows = [model(input_ids=ids[None, :n]).logits[0] for n in LENGTHS]
    save_file({"ids": ids.to(torch.int32), "lengths": torch.tensor(LENGTHS, dtype=torch.int32),
               "scores": torch.stack(rows)}, folder / "reference.safetensors")
    for f in sorted((HERE / "models").glob("[bs][ac][ro][er]*/*")):
        print(f.relative_to(HERE), f.stat().st_size)


if __name__ == "__main__":
    main()
