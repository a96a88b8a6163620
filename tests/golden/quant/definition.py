"""What a linear layer with quantised activations gives, exactly.

    codes    q = saturate(round(x / s)), to the nearest, ties to even; one s for a token, for 128
             columns of a token, or for the whole layer (static)
    product  y = sum over spans of columns of  (sum q_x * q_w, exact) * s_x * s_w

Scales are float32, as a checkpoint stores them and as a runtime computes them; sums are float64,
in which every product of two codes and every sum of one span is exact.
"""
import dataclasses
import math

import numpy as np

from quant.dequantize import E4M3

GROUP = 128
POSITIVE = E4M3[:127].astype(np.float64)


def round_fp8(v):
    """Nearest F8_E4M3 value, ties to the even code, beyond 448 saturated."""
    a = np.minimum(np.abs(v), 448.0)
    step = np.exp2(np.maximum(np.floor(np.log2(np.maximum(a, 2.0 ** -20))), -6) - 3)
    return np.copysign(np.rint(a / step) * step, v)


def round_int8(v):
    return np.clip(np.rint(v), -128, 127)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How activations are quantised: `span` columns share a scale (None: all of a token, 0: the
    layer's own static scale); the scale is max(amax, amax_floor) / top, at least scale_floor."""
    kind: str
    span: int | None
    top: float
    amax_floor: float = 0.0
    scale_floor: float = 0.0

    def round(self, v):
        return round_fp8(v) if self.kind == "fp8" else round_int8(v)


RULES = {
    "fp8_token": Rule("fp8", None, 448.0, scale_floor=1 / (448 * 512)),
    "fp8_group": Rule("fp8", GROUP, 448.0, amax_floor=1e-10),
    "fp8_static": Rule("fp8", 0, 448.0),
    "int8_token": Rule("int8", None, 127.0, amax_floor=1e-10),
    "int8_group": Rule("int8", GROUP, 127.0, amax_floor=1e-10),
    # compressed-tensors' own: half of the 255 steps, not the largest code
    "int8_token_halfrange": Rule("int8", None, 127.5, amax_floor=1e-10),
}


def scales_of(rule, x, linear):
    """x [T, K] float32 -> s [T, spans] float32."""
    if rule.span == 0:
        return np.full((len(x), 1), linear.input_scale, np.float32)
    k = x.shape[1]
    span = rule.span or k
    padded = np.zeros((len(x), -(-k // span) * span), np.float32)
    padded[:, :k] = np.abs(x)
    amax = padded.reshape(len(x), -1, span).max(-1)
    scale = np.maximum(amax, np.float32(rule.amax_floor)) / np.float32(rule.top)
    return np.maximum(scale, np.float32(rule.scale_floor))


def spread(rule, scales, k):
    return scales[:, np.arange(k) // (rule.span or k)].astype(np.float64)


def codes_of(rule, x, scales):
    return rule.round(x / spread(rule, scales, x.shape[1]))


def product(rule, x, linear):
    """x [T, K] float32 -> codes [T, K], scales [T, spans], y [T, N] float64."""
    k = x.shape[1]
    scales = scales_of(rule, x, linear)
    codes = codes_of(rule, x, scales)
    weight_scale = np.broadcast_to(linear.scale, linear.codes.shape).astype(np.float64)
    each = spread(rule, scales, k)
    span = math.gcd(rule.span or k, linear.block)
    y = np.zeros((len(x), len(linear.codes)))
    for at in range(0, k, span):
        cut = slice(at, at + span)
        exact = codes[:, cut] @ linear.codes[:, cut].astype(np.float64).T
        y += exact * each[:, at:at + 1] * weight_scale[:, at]
    return codes, scales, y


def bf16(x):
    """Nearest bfloat16, ties to even, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def inputs_clear_of_edges(rules, linear, rng):
    """x [4, K], exact in bfloat16: two plain rows, one with a value 40 times the others, one whose
    first 128 columns are zero. No x / s is within 1e-4 (relative) of where its code changes, so
    x * (1/s), another rounding of s or ties away from zero all give the same codes."""
    k = linear.codes.shape[1]
    size = 1.0
    if linear.input_scale is not None:
        size = 448.0 * float(linear.input_scale) / 2
    x = bf16(rng.standard_normal((4, k)) * size)
    x[2, k // 3] = 40 * size
    for _ in range(1000):
        x[3, :GROUP] = 0
        bad = np.zeros(x.shape, bool)
        for rule in rules:
            v = x / spread(rule, scales_of(rule, x, linear), k)
            bad |= rule.round(v * (1 - 1e-4)) != rule.round(v * (1 + 1e-4))
        if not bad.any():
            return x
        x[bad] = bf16(rng.standard_normal(int(bad.sum())) * size)
    raise SystemExit("no input is clear of rounding edges: give the layer another seed")
