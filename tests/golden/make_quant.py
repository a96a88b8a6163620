#!/usr/bin/env python3
"""Makes the quantised checkpoints under quant/ and their reference answers.

For each case of quant/cases.py: a small random Qwen3 is written by Transformers, quantised by the
field's own tool in a process of its own (quant/tools.py), read back by quant/dequantize.py, and the
dequantised weights are run by Transformers in float32, from a plain checkpoint of them.

Run by a person when a case is added or a tool changes; quant/README.md names the versions used and
says what the files hold. Nothing in the build calls it:

    python3 make_quant.py                         # every case, two minutes on one core
    python3 make_quant.py ct_w8a8 gptq_v1         # these alone
    python3 make_quant.py --answers ct_w8a8       # keep the checkpoint, make its answers again

It prints a table: how many weights equal the tool's own, and how far the logits of the definition
(activations quantised too) are from the reference.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from make_reference import BASE, load_model, logits_of, randomise, relative_error
from quant.cases import CASES, CHECKED, IDS, config_of
from quant.definition import RULES, inputs_clear_of_edges, product
from quant.dequantize import read_checkpoint

HERE = pathlib.Path(__file__).resolve().parent


def write_source(name, case, folder):
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(Qwen3Config(**{**BASE, **config_of(case)}))
    randomise(model, torch.Generator().manual_seed(seed))
    for weight in (m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)):
        weight.data[2::8].abs_()        # rows without a negative: asymmetric zero points of 0
    for layer in model.model.layers:    # gentler attention: eight-bit inputs shift it less
        layer.self_attn.q_norm.weight.data.mul_(0.6)
    model.to(getattr(torch, case.get("dtype", "bfloat16"))).save_pretrained(folder)


def run_tool(tool, sources, names):
    """One process a tool; what it prints beside its results goes to a log in `sources`."""
    log = sources / f"{tool}.log"
    command = [sys.executable, "-m", "quant.tools", tool, str(sources), *names]
    # GPTQModel asks for two workers however few cores there are
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GPTQMODEL_CPU_WORKERS": "2"}
    with log.open("w") as errors:
        done = subprocess.run(command, cwd=HERE, env=environment, stdout=subprocess.PIPE,
                              stderr=errors, text=True)
    if done.returncode != 0:
        sys.stderr.write(log.read_text()[-4000:])
        raise SystemExit(f"{tool} failed; its last words are above")
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"name"')]
    return {result["name"]: result for result in map(json.loads, lines)}


def plain_model(folder, plain, linears):
    """The dequantised model as Transformers reads it from a checkpoint, float32."""
    with tempfile.TemporaryDirectory() as scratch:
        target = pathlib.Path(scratch)
        config = json.loads((folder / "config.json").read_text())
        del config["quantization_config"]
        config["dtype"] = "float32"
        (target / "config.json").write_text(json.dumps(config))
        tensors = {**plain, **{f"{n}.weight": linear.weight() for n, linear in linears.items()}}
        tensors = {k: torch.from_numpy(np.array(v, np.float32, order="C"))
                   for k, v in tensors.items()}
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        return load_model(target, torch.float32)


def quantise_activations(model, linears, rule):
    """From here on each quantised Linear of `model` answers by the definition."""
    for name, linear in linears.items():
        def forward(x, linear=linear):
            y = product(rule, x[0].numpy(), linear)[2]
            return torch.from_numpy(y.astype(np.float32))[None]
        model.get_submodule(name).forward = forward


def definition_of(name, case, linears):
    """x, codes, scales and y of two layers; y_halfrange: compressed-tensors' own int8 scale."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    rule, other = RULES[case["activation"]], None
    if case["tool"] == "llmcompressor" and case["activation"] == "int8_token":
        other = RULES["int8_token_halfrange"]
    out = {}
    for layer in CHECKED:
        linear = linears[layer]
        x = inputs_clear_of_edges([r for r in (rule, other) if r], linear, rng)
        codes, scales, y = product(rule, x, linear)
        stored = torch.from_numpy(codes)
        out[f"x.{layer}"] = torch.from_numpy(x)
        out[f"q.{layer}"] = stored.to(torch.float8_e4m3fn if rule.kind == "fp8" else torch.int8)
        out[f"s.{layer}"] = torch.from_numpy(scales)
        out[f"y.{layer}"] = torch.from_numpy(y.astype(np.float32))
        if other:
            y = product(other, x, linear)[2]
            out[f"y_halfrange.{layer}"] = torch.from_numpy(y.astype(np.float32))
    return out


def answer(name, case):
    """Writes reference.safetensors; gives the size of the folder and what quantised activations do
    to the logits (None without them)."""
    folder = HERE / "quant" / name
    plain, linears = read_checkpoint(folder)
    model = plain_model(folder, plain, linears)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ 1)
    ids = torch.randint(0, config_of(case)["vocab_size"], (IDS,), generator=generator)
    want = logits_of(model, ids)
    if not torch.isfinite(want).all():
        raise SystemExit(f"{name}: a logit is not finite")
    out = {"ids": ids.to(torch.int32), "logits": want.contiguous()}
    moved = None
    if case["activation"]:
        quantise_activations(model, linears, RULES[case["activation"]])
        out["logits_quantised"] = logits_of(model, ids).contiguous()
        moved = relative_error(out["logits_quantised"], want)
        out |= definition_of(name, case, linears)
    save_file(out, folder / "reference.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    return sum(f.stat().st_size for f in folder.iterdir()), moved, want.std().item()


def report(name, result, size, moved, spread):
    exact = "no tool to compare" if not result or not result["weights"] else (
        f"{result['exact']:2}/{result['weights']:2} exact, worst {result['worst']:.1e}"
        f"{', %d unread' % result['unread'] if result['unread'] else ''}")
    activation = "" if moved is None else f"  activations {moved:.1e}"
    print(f"{name:22} {size:7} bytes  logits std {spread:.2f}  {exact}{activation}", flush=True)


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    keep = "--answers" in sys.argv[1:]
    names = [a for a in sys.argv[1:] if a != "--answers"] or list(CASES)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        sources = pathlib.Path(scratch)
        for tool in [] if keep else dict.fromkeys(CASES[n]["tool"] for n in names):
            chosen = [n for n in names if CASES[n]["tool"] == tool]
            for name in chosen:
                write_source(name, CASES[name], sources / name)
            results |= run_tool(tool, sources, chosen)
    for name in names:
        report(name, results.get(name), *answer(name, CASES[name]))


if __name__ == "__main__":
    main()
