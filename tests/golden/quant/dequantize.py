"""Reads a quantised checkpoint and gives its weights exactly, in numpy alone.

Written from the formats' documentation and not from the tools' code, so that the reference logits
do not repeat a tool's mistake: make_quant.py compares the two. Bytes are decoded here too, since
numpy knows neither bfloat16 nor the eight-bit floats.

A weight is float32(q - z) * float32(s), never rounded to the type the tool computes in.
"""
import dataclasses
import json
import re

import numpy as np

INTEGER = {"I8": np.int8, "U8": np.uint8, "I32": np.int32, "I64": np.int64}


@dataclasses.dataclass
class Linear:
    """One quantised weight [N, K]. `codes` float32, whole or fp8 values less the zero point;
    `scale` float32 and broadcasts to codes; the scales are constant over `block` columns."""
    codes: np.ndarray
    scale: np.ndarray
    block: int
    input_scale: np.float32 | None = None

    def weight(self):
        return self.codes * self.scale


def e4m3_values():
    """All 256 values of F8_E4M3 (no infinities; 0x7f and 0xff are NaN)."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0 ** -6,
                     (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    value[code & 127 == 127] = np.nan
    return np.where(code & 128, -value, value).astype(np.float32)


E4M3 = e4m3_values()


def decode(dtype, data):
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        return E4M3[np.frombuffer(data, np.uint8)]
    if dtype == "F8_E8M0":
        return np.exp2(np.frombuffer(data, np.uint8) - 127.0).astype(np.float32)
    if dtype in INTEGER:
        return np.frombuffer(data, np.dtype(INTEGER[dtype]).newbyteorder("<"))
    return np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float32)


def read_tensors(path):
    """name -> array; floats of any width as float32. And name -> stored type."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    arrays = {name: decode(t["dtype"], data[begin + t["data_offsets"][0]:
                                            begin + t["data_offsets"][1]]).reshape(t["shape"])
              for name, t in header.items()}
    return arrays, {name: t["dtype"] for name, t in header.items()}


def fields(words, bits, order=None):
    """[..., W] 32-bit words -> [..., W * 32/bits] unsigned fields, low bits first, or `order`: the
    field that holds each column of a word."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    if order is not None:
        shifts = shifts[list(order)]
    out = words.astype(np.int32).view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return out.reshape(*words.shape[:-1], -1).astype(np.int32)


def expand(scale, shape, block):
    """Scales of blocks [b0, b1] at every element of `shape`; a last block may be partial."""
    rows, cols = (np.arange(n) // b for n, b in zip(shape, block))
    return scale[rows][:, cols]


def read_fp8(config, layer):
    """fp8 and blockwise_int8: scales of blocks, or one scale for all."""
    scale = layer.get("weight_scale_inv", layer.get("weight_scale"))
    codes = layer["weight"].astype(np.float32)
    static = layer.get("input_scale", layer.get("activation_scale"))
    block = config.get("weight_block_size")
    if block is None:
        return Linear(codes, scale.reshape(1, 1), codes.shape[1],
                      None if static is None else np.float32(static.reshape(())))
    return Linear(codes, expand(scale, codes.shape, block), block[1])


def read_channel_int8(config, layer):
    return Linear(layer["weight"].astype(np.float32), layer["weight_scale"],
                  layer["weight"].shape[1])


def unpack_compressed(layer, bits):
    """pack-quantized: offset fields, K to a row; zero points lie down the column."""
    n, k = layer["weight_shape"]
    offset = 1 << bits - 1
    codes = fields(layer["weight_packed"], bits)[:n, :k] - offset
    zero = layer.get("weight_zero_point")
    if zero is None:
        return codes, 0
    return codes, fields(np.ascontiguousarray(zero.T), bits).T[:n] - offset


def read_compressed(config, layer):
    group = next(iter(config["config_groups"].values()))
    args = group["weights"]
    scale = layer["weight_scale"]
    if "weight_packed" in layer:
        codes, zero = unpack_compressed(layer, args["num_bits"])
    else:
        codes, zero = layer["weight"].astype(np.float32), 0
    n, k = codes.shape
    if args["strategy"] == "block":
        return Linear(codes, expand(scale, (n, k), args["block_structure"]),
                      args["block_structure"][1])
    if args["strategy"] != "group":
        static = layer.get("input_scale")
        return Linear((codes - zero).astype(np.float32), scale.reshape(-1, 1), k,
                      None if static is None else np.float32(static.reshape(())))
    columns = layer.get("weight_g_idx", np.arange(k) // args["group_size"])
    zero = zero if np.isscalar(zero) else zero[:, columns]
    return Linear((codes - zero).astype(np.float32), scale[:, columns], args["group_size"])


def read_awq(config, layer):
    """Rows are K; column 8c + j of a word is in field REV[j]; zero points as they are."""
    rev = (0, 4, 1, 5, 2, 6, 3, 7)
    codes = fields(layer["qweight"], 4, rev)
    zeros = fields(layer["qzeros"], 4, rev)
    size = codes.shape[0] // layer["scales"].shape[0]
    rows = np.arange(codes.shape[0]) // size
    return Linear((codes - zeros[rows]).T.astype(np.float32), layer["scales"][rows].T, size)


def read_gptq(config, layer):
    """Packed along K; version 1 stores z - 1, subtracted from whole words, so the one is added to
    whole words too: its carries undo the writer's borrows."""
    g_idx = layer["g_idx"]
    bits = 32 * layer["qweight"].shape[0] // len(g_idx)
    zeros = layer["qzeros"].view(np.uint32)
    if config.get("checkpoint_format", "gptq") == "gptq":
        zeros = zeros + np.uint32(sum(1 << i for i in range(0, 32, bits)))
    codes = fields(np.ascontiguousarray(layer["qweight"].T), bits).T
    zeros = fields(zeros.view(np.int32), bits)
    return Linear((codes - zeros[g_idx]).T.astype(np.float32), layer["scales"][g_idx].T, 1)


READERS = {
    "fp8": read_fp8, "blockwise_int8": read_fp8, "w8a8_int8": read_channel_int8,
    "compressed-tensors": read_compressed, "awq": read_awq, "gptq": read_gptq,
}
PARTS = re.compile(r"(.*)\.(weight|weight_scale_inv|weight_scale|input_scale|activation_scale|"
                   r"weight_packed|weight_shape|weight_zero_point|weight_g_idx|qweight|qzeros|"
                   r"scales|g_idx)$")


def is_quantised(layer, types, name):
    return ("weight_packed" in layer or "qweight" in layer
            or types.get(name + ".weight") in ("F8_E4M3", "I8"))


def read_checkpoint(folder):
    """The plain tensors, name -> float32, and the quantised layers, module name -> Linear."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    arrays, types = read_tensors(folder / "model.safetensors")
    modules, plain = {}, {}
    for name, array in arrays.items():
        part = PARTS.match(name)
        if part is None:
            plain[name] = array
        else:
            modules.setdefault(part[1], {})[part[2]] = array
    linears = {}
    for name, layer in modules.items():
        if is_quantised(layer, types, name):
            linears[name] = READERS[config["quant_method"]](config, layer)
        else:
            plain[name + ".weight"] = layer["weight"]
    return plain, linears
