"""Quantises with the field's own tools, on the CPU, and compares what each tool reads back from its
checkpoint with dequantize.py. Run by make_quant.py in a process per tool: they patch Transformers.

    python3 -m quant.tools TOOL SOURCES NAME...     (from tests/golden)

SOURCES/NAME is the model to quantise; the checkpoint is written to quant/NAME. One line of JSON a
case goes to standard output: {name, weights, exact, worst, unread}: weights compared, how many are
equal bit for bit once rounded to the tool's type, the worst ||d|| / ||w|| of the others, and the
quantised weights that the tool gave no answer for.
"""
import json
import pathlib
import shutil
import sys
import types
import zlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from quant.cases import CASES, config_of
from quant.dequantize import read_checkpoint

HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def calibration(case, name, rows):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ 2)
    vocab = config_of(case)["vocab_size"]
    return [torch.randint(0, vocab, (64,), generator=generator).tolist() for _ in range(rows)]


def is_linear(name, tensor):
    return name.endswith("_proj.weight") and tensor.dim() == 2


def write(folder, source, tensors, quantization):
    """A checkpoint of Transformers' own config with `quantization` added."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copy(source / "generation_config.json", folder)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})


def input_maxima(source, ids):
    """module name -> the largest |input| of each Linear of the unquantised model."""
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    largest = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: largest.__setitem__(name, args[0].abs().max()))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    return largest


# ---- Transformers, quant_method fp8 -------------------------------------------------------------

def transformers_fp8(weight, block, scale_format):
    """Transformers' own operation. It leaves alone what `block` does not divide; zeros to the next
    multiple change no scale, so partial blocks are its arithmetic too."""
    from transformers.integrations.finegrained_fp8 import Fp8Quantize
    n, k = weight.shape
    config = types.SimpleNamespace(weight_block_size=block, scale_fmt=scale_format)
    padded = weight
    if block is not None:
        padded = torch.nn.functional.pad(weight, (0, -k % block[1], 0, -n % block[0]))
    operation = Fp8Quantize(types.SimpleNamespace(quantization_config=config))
    out = operation._quantize_one("x.weight", padded)
    return out["x.weight"][:n, :k], out["x.weight_scale_inv"]


def fp8_config(case, block):
    out = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block}
    spelling = case.get("spelling")
    if case["activation"] == "fp8_static":
        out["activation_scheme"] = "static"
    if case["scale"] == "ue8m0":
        out["scale_fmt"] = "ue8m0"
    if spelling == "legacy":
        del out["weight_block_size"]
    if spelling == "ignored_layers":
        out["ignored_layers"], out["modules_to_not_convert"] = ["lm_head"], None
    else:
        out["fmt"] = "e4m3"
        out["modules_to_not_convert"] = case.get("skip", ["lm_head"])
    return out


def fp8_scale(case, scale):
    if case["scale"] == "ue8m0":
        return scale
    scale = scale.to(DTYPES[case["scale"]])
    return scale.reshape(()) if case.get("spelling") == "legacy" else scale


def make_fp8(name, case, source, folder):
    block = case.get("block", [128, 128])
    legacy = case.get("spelling") == "legacy"
    largest = input_maxima(source, calibration(case, name, 1)[0])
    tensors = load_file(source / "model.safetensors")
    for key in [k for k, v in tensors.items() if is_linear(k, v)]:
        module = key.removesuffix(".weight")
        if module in case.get("unquantised", ()):
            if "skip" not in case:          # Transformers leaves such a scale, uninitialised
                tensors[key + "_scale_inv"] = torch.full((2, 2), float("nan"))
            continue
        tensors[key], scale = transformers_fp8(
            tensors[key], block, "ue8m0" if case["scale"] == "ue8m0" else "float")
        tensors[key + ("_scale" if legacy else "_scale_inv")] = fp8_scale(case, scale)
        if case["activation"] == "fp8_static":
            static = (largest[module] / 448).reshape([1] if legacy else [])
            tensors[module + (".input_scale" if legacy else ".activation_scale")] = static
    write(folder, source, tensors, fp8_config(case, block))


def read_fp8(name, case, folder):
    """Fp8Dequantize, on the padded weight again."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    tensors = load_file(folder / "model.safetensors")
    operation = Fp8Dequantize(None)
    for key, weight in tensors.items():
        if weight.dtype == torch.float8_e4m3fn:
            n, k = weight.shape
            scale = tensors.get(key + "_scale_inv", tensors.get(key + "_scale"))
            if scale.dim() == 2 and scale.numel() > 1:
                full = torch.zeros(128 * scale.shape[0], 128 * scale.shape[1], dtype=weight.dtype)
                full[:n, :k] = weight
                weight = full
            wide = operation._dequantize_one(weight, scale, torch.float32)
            yield key.removesuffix(".weight"), wide[:n, :k]


# ---- llm-compressor and compressed-tensors ------------------------------------------------------

def make_llmcompressor(name, case, source, folder):
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    if case.get("actorder"):
        order = permute_columns(name, model)
    scheme = case["scheme"]
    how = {"scheme": scheme, "targets": "Linear"} if isinstance(scheme, str) else {
        "config_groups": {"group_0": {"targets": ["Linear"], **scheme}}}
    data = {}
    if case["activation"] == "fp8_static":
        rows = calibration(case, name, 8)
        data = dict(num_calibration_samples=8, max_seq_length=64, dataset=Dataset.from_dict(
            {"input_ids": rows, "attention_mask": [[1] * 64] * 8}))
    oneshot(model=model, recipe=QuantizationModifier(ignore=case["ignore"], **how), **data)
    model.save_pretrained(folder, save_compressed=True)
    (folder / "recipe.yaml").unlink(missing_ok=True)
    edit_config(folder, case)
    if case.get("actorder"):
        restore_columns(folder, order)


def edit_config(folder, case):
    """The ignore list as its author wrote it: this tool expands the patterns, others do not."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    quantization = config["quantization_config"]
    quantization["ignore"] = case["ignore"]
    if case.get("actorder"):
        quantization["config_groups"]["group_0"]["weights"]["actorder"] = "group"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def permute_columns(name, model):
    """Puts the columns of every Linear into the order in which groups are to be formed."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ 3)
    order = {}
    for module, linear in model.named_modules():
        if isinstance(linear, torch.nn.Linear) and module != "lm_head":
            order[module] = torch.randperm(linear.in_features, generator=generator)
            linear.weight.data = linear.weight.data[:, order[module]].contiguous()
    return order


def restore_columns(folder, order):
    """What older tools wrote: columns in the model's order, and the group of each."""
    from compressed_tensors.compressors.pack_quantized.helpers import (
        pack_to_int32, unpack_from_int32)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for module, columns in order.items():
        shape = torch.Size(tensors[module + ".weight_shape"].tolist())
        codes = unpack_from_int32(tensors[module + ".weight_packed"], 4, shape)
        back = torch.argsort(columns)
        tensors[module + ".weight_packed"] = pack_to_int32(codes[:, back].contiguous(), 4)
        tensors[module + ".weight_g_idx"] = (back // 32).to(torch.int32)
    save_file(tensors, path, metadata={"format": "pt"})


def read_llmcompressor(name, case, folder):
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    group = dict(config["config_groups"]["group_0"])
    compressor = BaseCompressor.get_value_from_registry(group.get("format") or config["format"])
    if case.get("actorder"):
        group["weights"] = {k: v for k, v in group["weights"].items() if k != "actorder"}
    scheme = QuantizationScheme.model_validate(group)
    tensors = load_file(folder / "model.safetensors")
    for key in [k for k in tensors if k.endswith(".weight_scale")]:
        module = key.removesuffix(".weight_scale")
        state = {k.removeprefix(module + "."): v for k, v in tensors.items()
                 if k.startswith(module + ".")}
        yield module, decompress(compressor, scheme, state)


def decompress(compressor, scheme, state):
    """Today's library ignores weight_g_idx: it gets the columns sorted by group, as older ones
    sorted them, and its answer is sorted back."""
    from compressed_tensors.compressors.pack_quantized.helpers import (
        pack_to_int32, unpack_from_int32)
    g_idx = state.pop("weight_g_idx", None)
    if g_idx is None:
        return compressor.decompress(state, scheme)["weight"]
    shape = torch.Size(state["weight_shape"].tolist())
    order = torch.argsort(g_idx, stable=True)
    codes = unpack_from_int32(state["weight_packed"], 4, shape)
    state["weight_packed"] = pack_to_int32(codes[:, order].contiguous(), 4)
    return compressor.decompress(state, scheme)["weight"][:, torch.argsort(order)]


# ---- int8 layouts of SGLang: no tool runs on a CPU ----------------------------------------------

def make_by_hand(name, case, source, folder):
    """s = max|w| / 127 of a row or of a 128x128 block, float32; q = round(w / s), ties to even."""
    tensors = load_file(source / "model.safetensors")
    block = case["block"]
    for key in [k for k, v in tensors.items() if is_linear(k, v)]:
        w = tensors[key].float()
        if block is None:
            scale = w.abs().amax(1, keepdim=True) / 127
            wide, suffix = scale, "_scale"
        else:
            n, k = w.shape
            padded = torch.nn.functional.pad(w, (0, -k % block, 0, -n % block))
            tiles = padded.unflatten(1, (-1, block)).unflatten(0, (-1, block))
            scale = tiles.abs().amax((1, 3)) / 127
            wide = scale.repeat_interleave(block, 0)[:n].repeat_interleave(block, 1)[:, :k]
            suffix = "_scale_inv"
        tensors[key] = torch.round(w / wide).to(torch.int8)
        tensors[key + suffix] = scale
    if block is None:
        quantization = {"quant_method": "w8a8_int8", "is_dynamic": True, "ignore": ["lm_head"]}
    else:
        quantization = {"quant_method": "blockwise_int8", "activation_scheme": "dynamic",
                        "weight_block_size": [block, block], "ignored_layers": ["lm_head"]}
    write(folder, source, tensors, quantization)


def read_by_hand(name, case, folder):
    return iter(())


# ---- AutoAWQ's packing --------------------------------------------------------------------------

def awq_parameters(weight, group):
    """AutoAWQ's pseudo_quantize_tensor with a zero point: the weight, scales and zeros [N, K/g]."""
    w = weight.unflatten(1, (-1, group))
    largest, smallest = w.amax(2, keepdim=True), w.amin(2, keepdim=True)
    scales = (largest - smallest).clamp(min=1e-5) / 15
    zeros = (-torch.round(smallest / scales)).clamp(0, 15)
    w = (torch.clamp(torch.round(w / scales) + zeros, 0, 15) - zeros) * scales
    return w.flatten(1), scales.squeeze(2), zeros.squeeze(2)


def make_autoawq(name, case, source, folder):
    from awq.modules.linear.gemm import WQLinear_GEMM
    tensors = load_file(source / "model.safetensors")
    skip = case.get("skip")
    for key in [k for k, v in tensors.items() if is_linear(k, v)]:
        module = key.removesuffix(".weight")
        if skip and module in skip:
            continue
        weight, scales, zeros = awq_parameters(tensors.pop(key).float(), case["group"])
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = weight
        packed = WQLinear_GEMM.from_linear(linear, 4, case["group"], scales=scales.t().contiguous(),
                                           zeros=zeros.t().contiguous())
        for part in ("qweight", "qzeros", "scales"):
            tensors[f"{module}.{part}"] = getattr(packed, part)
    write(folder, source, tensors, {
        "quant_method": "awq", "bits": 4, "group_size": case["group"], "zero_point": True,
        "version": "gemm", "modules_to_not_convert": skip})


def read_autoawq(name, case, folder):
    from awq.utils.packing_utils import dequantize_gemm
    tensors = load_file(folder / "model.safetensors")
    for key in [k for k in tensors if k.endswith(".qweight")]:
        module = key.removesuffix(".qweight")
        scales = tensors[module + ".scales"]
        group = tensors[key].shape[0] // scales.shape[0]
        yield module, dequantize_gemm(tensors[key], tensors[module + ".qzeros"], scales, 4,
                                      group).t()


# ---- GPTQModel ----------------------------------------------------------------------------------

def make_gptqmodel(name, case, source, folder):
    from gptqmodel import GPTQModel, QuantizeConfig
    shutil.rmtree(folder, ignore_errors=True)
    setting = QuantizeConfig(**case["setting"], device="cpu", offload_to_disk=False)
    model = GPTQModel.load(str(source), setting)
    rows = [{"input_ids": row, "attention_mask": [1] * 64} for row in calibration(case, name, 8)]
    model.quantize(rows, batch_size=1)
    model.save(str(folder))
    for extra in ("tokenizer.json", "tokenizer_config.json", "quant_log.csv"):
        (folder / extra).unlink(missing_ok=True)


def read_gptqmodel(name, case, folder):
    if case["setting"].get("method") == "awq":
        yield from read_autoawq(name, case, folder)
        return
    from gptqmodel import BACKEND, GPTQModel
    model = GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
    for module, linear in model.model.named_modules():
        if hasattr(linear, "qweight"):
            yield module, linear.dequantize_weight().t()


TOOLS = {
    "fp8": (make_fp8, read_fp8),
    "llmcompressor": (make_llmcompressor, read_llmcompressor),
    "by_hand": (make_by_hand, read_by_hand),
    "autoawq": (make_autoawq, read_autoawq),
    "gptqmodel": (make_gptqmodel, read_gptqmodel),
}


def compare(folder, answers):
    """Each of the tool's weights [N, K] against ours, rounded to its type."""
    _, linears = read_checkpoint(folder)
    count, exact, worst = 0, 0, 0.0
    for module, theirs in answers:
        mine = torch.from_numpy(np.ascontiguousarray(linears.pop(module).weight()))
        count += 1
        if torch.equal(mine.to(theirs.dtype), theirs):
            exact += 1
            continue
        distance = (mine - theirs.float()).norm() / mine.norm()
        worst = max(worst, distance.item())
    left = len(linears) if count else 0
    return {"weights": count, "exact": exact, "worst": worst, "unread": left}


def main():
    torch.set_num_threads(1)
    tool, sources, *names = sys.argv[1:]
    make, read = TOOLS[tool]
    for name in names:
        case, folder = CASES[name], HERE / name
        with torch.no_grad():
            make(name, case, pathlib.Path(sources) / name, folder)
            result = compare(folder, read(name, case, folder))
        print(json.dumps({"name": name, **result}), flush=True)


if __name__ == "__main__":
    main()
