"""The checkpoints: what shape, which tool, which setting. README.md says what each is for."""

SMALL = dict(hidden_size=72, intermediate_size=120)                 # no K a multiple of 128
BLOCKS = dict(hidden_size=136, intermediate_size=264)               # 128 + 8, 2 * 128 + 8
FEW_HEADS = dict(num_attention_heads=3, num_key_value_heads=3)
WIDE_HEADS = dict(num_attention_heads=3, num_key_value_heads=1, head_dim=128)
GROUPS = dict(hidden_size=96, intermediate_size=160)                # groups of 32: 3, 6 and 5
GROUPS_128 = dict(hidden_size=128, intermediate_size=384, head_dim=64)
SHORT = dict(hidden_size=80, intermediate_size=144)                 # groups of 32, the last of 16

ONE = dict(num_hidden_layers=1, tie_word_embeddings=True)
TWO = dict(num_hidden_layers=2, tie_word_embeddings=False)

UNTIED = dict(num_hidden_layers=1, tie_word_embeddings=False)

NO_HEAD = ["lm_head"]
NO_DOWN_1 = ["lm_head", r"re:.*layers\.1\.mlp\.down_proj"]
NO_O = ["lm_head", r"re:model\.layers\.\d+\.self_attn\.o"]
O_0 = "model.layers.0.self_attn.o_proj"


def ct(shape, depth, scheme, activation=None, ignore=NO_HEAD, **more):
    return dict(tool="llmcompressor", config={**shape, **depth}, scheme=scheme,
                activation=activation, ignore=ignore, **more)


def fp8(shape, activation, depth=ONE, **more):
    return dict(tool="fp8", config={**shape, **depth}, activation=activation, **more)


def gptq(shape, depth=ONE, **setting):
    return dict(tool="gptqmodel", config={**shape, **depth}, activation=None,
                setting=dict(bits=4, group_size=32, desc_act=False, sym=True) | setting)


def weights(bits, group, symmetric=True, **more):
    """A scheme of weights alone: `group` columns share a scale, None: a row."""
    return dict(weights=dict(num_bits=bits, type="int", symmetric=symmetric, dynamic=False,
                             group_size=group, strategy="group" if group else "channel"), **more)


FP8_TOKEN = dict(num_bits=8, type="float", symmetric=True, dynamic=True, strategy="token")


CASES = {
    "fp8_block_bf16": fp8({**BLOCKS, **WIDE_HEADS}, "fp8_group", scale="bf16"),
    "fp8_block_f16": fp8({**BLOCKS, **FEW_HEADS}, "fp8_group", scale="f16", unquantised=(O_0,)),
    "fp8_block_f32": fp8({**BLOCKS, **FEW_HEADS}, "fp8_group", scale="f32",
                         spelling="ignored_layers"),
    "fp8_block_ue8m0": fp8({**BLOCKS, **FEW_HEADS}, "fp8_group", scale="ue8m0"),
    "fp8_tensor": fp8(SMALL, "fp8_token", block=None, scale="f32"),
    "fp8_tensor_static": fp8(SMALL, "fp8_static", block=None, scale="f32"),
    "fp8_tensor_legacy": fp8(SMALL, "fp8_static", UNTIED, block=None, scale="f32",
                             spelling="legacy", unquantised=(O_0,), skip=["lm_head", O_0]),

    "ct_fp8_dynamic": ct(SMALL, UNTIED, "FP8_DYNAMIC", "fp8_token", NO_O),
    "ct_fp8_static": ct(SMALL, UNTIED, "FP8", "fp8_static", NO_O),
    "ct_fp8_block": ct(BLOCKS, ONE, "FP8_BLOCK", "fp8_group"),
    "ct_w8a8": ct(SMALL, TWO, "W8A8", "int8_token", NO_DOWN_1),
    "ct_w4afp8": ct(GROUPS, ONE, weights(4, 32, input_activations=FP8_TOKEN), "fp8_token"),
    "ct_w4a16": ct(GROUPS, TWO, weights(4, 32), ignore=NO_DOWN_1),
    "ct_w4a16_asym": ct(GROUPS, ONE, weights(4, 32, False)),
    "ct_w4a16_g128": ct(GROUPS_128, ONE, "W4A16"),
    "ct_w4a16_channel": ct(dict(hidden_size=84, intermediate_size=132), ONE, weights(4, None),
                           dtype="float16"),
    "ct_w4a16_actorder": ct(GROUPS, ONE, weights(4, 32, False), actorder=True),
    "ct_w8a16": ct(GROUPS, ONE, weights(8, 32)),
    "ct_w8a16_asym_channel": ct(SMALL, ONE, weights(8, None, False), dtype="float32"),

    "w8a8_int8": dict(tool="by_hand", config={**SMALL, **ONE}, activation="int8_token", block=None),
    "blockwise_int8": dict(tool="by_hand", activation="int8_group", block=128,
                           config={**BLOCKS, **FEW_HEADS, **ONE}),

    "awq_g32": dict(tool="autoawq", config={**GROUPS, **TWO}, activation=None, group=32,
                    dtype="float16", skip=["model.layers.1.mlp.down_proj"]),
    "awq_g128": dict(tool="autoawq", config={**GROUPS_128, **ONE}, activation=None, group=128,
                     dtype="float16"),
    "awq_gptqmodel": dict(tool="gptqmodel", activation=None,
                          config={**GROUPS_128, **ONE, "intermediate_size": 192},
                          setting=dict(bits=4, group_size=64, sym=False, method="awq",
                                       format="gemm")),

    "gptq_v1": gptq(GROUPS, UNTIED),
    "gptq_v1_asym_act": gptq(GROUPS, sym=False, desc_act=True),
    "gptq_v1_short": gptq(SHORT),
    "gptq_v1_8bit": gptq(SHORT, bits=8, sym=False),
    "gptq_v1_dynamic": gptq(SHORT, group_size=-1, act_group_aware=False, dynamic={
        r"-:model\.layers\.0\.self_attn\.o_proj": {},
        r"+:model\.layers\.0\.mlp\.down_proj": {"bits": 8, "group_size": 16},
    }),
    "gptq_v2_short_act": gptq(SHORT, sym=False, desc_act=True, format="gptq_v2"),
    "gptq_v2_asym": gptq(GROUPS, sym=False, format="gptq_v2"),
    "gptq_v2_8bit_act": gptq(SHORT, bits=8, desc_act=True, format="gptq_v2"),
}

BASE = dict(num_attention_heads=6, num_key_value_heads=3, head_dim=32, vocab_size=101,
            max_position_embeddings=128)
IDS = 24
CHECKED = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")


def config_of(case):
    return {**BASE, **case["config"]}
