#!/usr/bin/env python3
"""What Transformers answers with the checkpoints that `quern quantize` writes, under quantize/.

    python3 make_quantize.py ../../build/quern

Each case is a model of models/, quantised by quern and loaded from its files by Transformers with
compressed-tensors, as a user would, float32, eager attention. Its file holds

    ids      I32 [n]       the prompt, that of the model's own reference
    logits   F32 [n, V]
    written  U8 [2, 8]     XXH3-64 (little-endian) of config.json and of model.safetensors

so that tests/e2e/test_quantize.c can tell that what quern writes today is, byte for byte, what
Transformers has read. Run by a person when the writer changes, with the versions of README.md and
compressed-tensors 0.20.0 and xxhash; nothing in the build calls it. Prints how far the logits are
from the plain model's.
"""
import pathlib
import struct
import subprocess
import sys
import tempfile

import torch
import xxhash
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent

CASES = {
    "int8": ("tied", "--quant", "int8"),
    "int8_odd": ("odd", "--quant", "int8"),
    "int4": ("tied", "--quant", "int4", "--group", "16"),
    "int4_head": ("untied", "--quant", "int4", "--group", "32", "--quant-head", "int8"),
    "fp8": ("untied", "--quant", "fp8"),
    "fp8_odd": ("odd", "--quant", "fp8"),
    "bias_int8": ("bias", "--quant", "int8", "--quant-head", "int8"),
    "int8_dynamic": ("tied", "--quant", "int8", "--quant-activations", "dynamic"),
}


def digest(path):
    return list(struct.pack("<Q", xxhash.xxh3_64_intdigest(path.read_bytes())))


@torch.no_grad()
def logits_of(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True).eval()
    return model(input_ids=ids[None].long()).logits[0].float().contiguous()


def make(name, program):
    model, *words = CASES[name]
    source = HERE / "models" / model
    plain = load_file(source / "reference.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        subprocess.run([program, "quantize", "-m", source, *words, out], check=True)
        written = [digest(out / "config.json"), digest(out / "model.safetensors")]
        logits = logits_of(out, plain["ids"])
    save_file({"ids": plain["ids"], "logits": logits,
               "written": torch.tensor(written, dtype=torch.uint8)},
              HERE / "quantize" / f"{name}.safetensors")
    moved = torch.linalg.vector_norm(logits - plain["logits"])
    print(f"{name:14} {' '.join([model, *words]):60} "
          f"{(moved / torch.linalg.vector_norm(plain['logits'])).item():.2e} of the plain model")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[2:] or CASES:
        make(name, sys.argv[1])


if __name__ == "__main__":
    main()
