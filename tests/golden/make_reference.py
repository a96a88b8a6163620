#!/usr/bin/env python3
"""Makes the tiny random Qwen3 models under models/ and their reference logits.

Each model is written by Hugging Face Transformers (save_pretrained), edited on disk where its case
asks for another spelling, and only then loaded again from those files: the logits come from what a
reader of the checkpoint sees, never from the module that wrote it (a module cast in memory also
casts its rotary frequencies, which a reloaded one does not).

Run by a person when a case is added or Transformers changes; README.md names the versions used.
Nothing in the build calls it:

    python3 make_reference.py            # every model
    python3 make_reference.py odd yarn   # these alone

Beside the files it prints, for each model, how far two ways of rounding to bfloat16 move the
logits, so that a tolerance for them can be judged: `linear` rounds the inputs of linear layers and
the KV cache (and weights stored wider) only, `all` is Transformers with a bfloat16 model.
"""
import json
import pathlib
import shutil
import sys
import zlib

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3 import modeling_qwen3

HERE = pathlib.Path(__file__).resolve().parent

BASE = dict(
    hidden_size=64, intermediate_size=144, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, vocab_size=320, max_position_embeddings=256,
    tie_word_embeddings=False, attention_bias=False, rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=0, eos_token_id=1,
)

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 32}


def old_spelling(folder):
    """What Transformers 4 and Qwen's own files say: rope_theta and torch_dtype at the top level, a
    null rope_scaling, and a tied checkpoint that carries its lm_head.weight all the same."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    del config["layer_types"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})


# name: stored dtype, ids in the prompt, what differs from BASE, largest shard, edit on disk
CASES = {
    "tied": dict(dtype=torch.bfloat16, n=96, config=dict(tie_word_embeddings=True)),
    "untied": dict(dtype=torch.bfloat16, n=48, config=dict(
        num_hidden_layers=3, intermediate_size=96, vocab_size=256)),
    "odd": dict(dtype=torch.bfloat16, n=77, config=dict(
        hidden_size=77, intermediate_size=163, num_attention_heads=6, num_key_value_heads=3,
        head_dim=18, vocab_size=223)),
    "bias": dict(dtype=torch.float32, n=41, config=dict(
        attention_bias=True, hidden_size=48, intermediate_size=80, vocab_size=160,
        rms_norm_eps=1e-3)),
    "yarn": dict(dtype=torch.float16, n=126, config=dict(
        rope_parameters=YARN, max_position_embeddings=128, intermediate_size=112,
        vocab_size=250)),
    "sharded": dict(dtype=torch.bfloat16, n=50, shard="60KB", config=dict(vocab_size=300)),
    "old": dict(dtype=torch.bfloat16, n=64, edit=old_spelling, config=dict(
        tie_word_embeddings=True, intermediate_size=128, vocab_size=256,
        rope_parameters={"rope_type": "default", "rope_theta": 5e4})),
    "wide": dict(dtype=torch.bfloat16, n=65, config=dict(
        hidden_size=56, intermediate_size=216, num_attention_heads=8, num_key_value_heads=2,
        head_dim=16, vocab_size=250)),
}


def randomise(model, generator):
    """Weights that make every part of the model count: products keep the scale of their input,
    norms are far from one, biases far from zero, q and k norms large enough to peak attention."""
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            value = 1.2 + 0.3 * noise
        elif p.dim() == 1 and name.endswith("weight"):
            value = 1.0 + 0.2 * noise
        elif p.dim() == 1:
            value = 0.3 * noise
        elif name == "model.embed_tokens.weight":
            value = 0.3 * noise
        elif name == "lm_head.weight":
            value = 0.2 * noise
        else:
            value = noise * p.shape[1] ** -0.5
        p.data.copy_(value)


def write_model(name, case, folder):
    torch.manual_seed(zlib.crc32(name.encode()))
    model = Qwen3ForCausalLM(Qwen3Config(**{**BASE, **case["config"]}))
    randomise(model, torch.Generator().manual_seed(zlib.crc32(name.encode())))
    model.to(case["dtype"]).save_pretrained(folder, max_shard_size=case.get("shard", "5GB"))
    if "edit" in case:
        case["edit"](folder)


def load_model(folder, dtype):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", local_files_only=True).eval()


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=ids[None]).logits[0].float()


def bf16(x):
    return x.to(torch.bfloat16).to(x.dtype)


def logits_with_rounded_inputs(folder, ids):
    """Float32, but linear weights and inputs and the cached K and V rounded to bfloat16."""
    model = load_model(folder, torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = bf16(module.weight.data)
            module.register_forward_pre_hook(lambda _, args: (bf16(args[0]),))
            if name.endswith("v_proj"):
                module.register_forward_hook(lambda _, args, out: bf16(out))
    exact = modeling_qwen3.apply_rotary_pos_emb

    def rounded(*args, **kwargs):
        q, k = exact(*args, **kwargs)
        return q, bf16(k)

    modeling_qwen3.apply_rotary_pos_emb = rounded
    try:
        return logits_of(model, ids)
    finally:
        modeling_qwen3.apply_rotary_pos_emb = exact


def relative_error(got, want):
    return (torch.linalg.vector_norm(got - want) / torch.linalg.vector_norm(want)).item()


def make(name):
    case = CASES[name]
    folder = HERE / "models" / name
    shutil.rmtree(folder, ignore_errors=True)
    write_model(name, case, folder)

    vocab = {**BASE, **case["config"]}["vocab_size"]
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ 1)
    ids = torch.randint(0, vocab, (case["n"],), generator=generator)
    want = logits_of(load_model(folder, torch.float32), ids)
    save_file({"ids": ids.to(torch.int32), "logits": want.contiguous()},
              folder / "reference.safetensors")

    rounded = logits_with_rounded_inputs(folder, ids)
    linear = relative_error(rounded, want)
    worst = max(map(relative_error, rounded, want))
    everything = relative_error(logits_of(load_model(folder, torch.bfloat16), ids), want)
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:8} {size:7} bytes  logits std {want.std():.2f} max {want.abs().max():.2f}  "
          f"bf16: linear {linear:.1e} (worst row {worst:.1e}) all {everything:.1e}")


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        make(name)


if __name__ == "__main__":
    main()
