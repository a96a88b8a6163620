#!/usr/bin/env python3
"""Makes rope.json: what Transformers makes of config.json's rope fields.

Each case is a config.json and the frequencies of its lanes, as hexadecimal float32, with the factor
on cos and sin. torch's power function and the C library's differ by a last bit in about one lane of
a hundred; a case in which they do is not kept, so that an implementation is held to every bit.

    python3 make_rope.py             # writes rope.json beside itself
"""
import ctypes
import json
import pathlib

import numpy as np
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
CASES = [
    ({"head_dim": 80, "rope_theta": 1000000.0}, None),
    ({"head_dim": 80, "rope_theta": 1000000.0}, YARN),
    ({"head_dim": 80, "rope_theta": 1000000.0}, YARN | {"truncate": False}),
    ({"head_dim": 80, "rope_theta": 1000000.0}, YARN | {"beta_fast": 16, "beta_slow": 2}),
    ({"head_dim": 80, "rope_theta": 1000000.0}, YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}),
    ({"head_dim": 80, "rope_theta": 1000000.0}, YARN | {"mscale": 2.0}),
    ({"head_dim": 80, "rope_theta": 1000000.0}, YARN | {"attention_factor": 1.25}),
    # no lane turns once in the original context: the ramp's end stops at the last lane
    ({"head_dim": 16, "rope_theta": 50.0}, YARN | {"original_max_position_embeddings": 1 << 20}),
    # every lane turns often: its beginning stops at the first
    ({"head_dim": 16, "rope_theta": 10000.0}, YARN | {"original_max_position_embeddings": 16}),
]


def same_powers(head_dim, theta):
    powf = ctypes.CDLL("libm.so.6").powf
    powf.restype, powf.argtypes = ctypes.c_float, [ctypes.c_float] * 2
    import torch

    theirs = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    lanes = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    ours = np.float32(1) / np.array([powf(theta, x) for x in lanes], dtype=np.float32)
    return theirs.tolist() == ours.tolist()


def made(fields, rope):
    config = fields | {"max_position_embeddings": 40960} | ({"rope_scaling": rope} if rope else {})
    parsed = Qwen3Config(hidden_size=64, num_attention_heads=4, num_hidden_layers=1, **config)
    if rope:
        inv_freq, factor = ROPE_INIT_FUNCTIONS["yarn"](parsed, "cpu")
    else:
        from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

        rotary = Qwen3RotaryEmbedding(parsed)
        inv_freq, factor = rotary.inv_freq, rotary.attention_scaling
    return {"config": config, "inv_freq": [x.hex() for x in inv_freq.tolist()],
            "attention_factor": float(np.float32(factor)).hex()}


for fields, _ in CASES:
    assert same_powers(fields["head_dim"], fields["rope_theta"]), fields
text = json.dumps([made(*case) for case in CASES], indent=0)
pathlib.Path(__file__).with_name("rope.json").write_text(text + "\n")
