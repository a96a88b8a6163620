/* runtime_options.h - the options of a runtime, which every command with a model shares, and which
 * libquern knows by the same names.
 *
 * Zero or NULL means that one was not given. */
#ifndef QUERN_BASE_RUNTIME_OPTIONS_H
#define QUERN_BASE_RUNTIME_OPTIONS_H

#include "base/options.h"

struct runtime_options {
    const char *model;      /* directory, Hugging Face cache name or synth:NAME */
    const char *backend, *compute, *kv_dtype;
    const char *quant, *quant_head, *quant_activations;
    const char *tp_plan, *plugin; /* files */
    const char *log_level;
    int tp, threads;
    int max_model_len, max_seqs, max_batched_tokens, block_size, kv_blocks;
    uint64_t memory;        /* bytes that all ranks together may take */
    uint64_t seed;          /* of synth: weights; each command has its own row for it */
};

/* What a server does about deaths; each command that has it says what holds when not given. */
struct death_options {
    int max_restarts, step_timeout;
};

/* Rows for a struct death_options at offset `at` of a command's values. */
#define DEATH_OPTION_ROWS(at)                                                                      \
    {"max-restarts", 0, OPTION_INT, (at) + offsetof(struct death_options, max_restarts), "N",      \
        "deaths of workers in a minute that are mended; 0: none (default 3)", 0, 1000, 0},         \
    {"step-timeout", 0, OPTION_INT, (at) + offsetof(struct death_options, step_timeout),           \
        "SECONDS", "workers that make no step for so long are started again (default 30)", 1,      \
        86400, 0}

/* Rows for a struct runtime_options at offset `at` of a command's values. */
#define RUNTIME_OPTION_ROWS(at)                                                                    \
    {"model", 'm', OPTION_TEXT, (at) + offsetof(struct runtime_options, model), "DIR",             \
        "directory, Hugging Face cache name or synth:NAME (default: the storyteller)", 0, 0, 0},   \
    {"tp", 0, OPTION_INT, (at) + offsetof(struct runtime_options, tp), "N",                        \
        "ranks that share the model (default 1)", 1, 16, 0},                                       \
    {"threads", 0, OPTION_INT, (at) + offsetof(struct runtime_options, threads), "T",              \
        "threads per rank (default: the cores divided by the ranks)", 1, 256, 0},                  \
    {"backend", 0, OPTION_CHOICE, (at) + offsetof(struct runtime_options, backend),                \
        "cpu|cuda|auto", "what computes (default auto)", 0, 0, 0},                                 \
    {"compute", 0, OPTION_CHOICE, (at) + offsetof(struct runtime_options, compute), "bf16|f32",    \
        "bf16: inputs of linear layers are rounded (default bf16)", 0, 0, 0},                      \
    {"kv-dtype", 0, OPTION_CHOICE, (at) + offsetof(struct runtime_options, kv_dtype),              \
        "bf16|f16|f32|fp8|e4m3|fp8_e4m3",                                                          \
        "type of the KV cache (default bf16); the last three are one: e4m3 with a scale for each " \
        "position and head", 0, 0, 0},                                                             \
    {"quant", 0, OPTION_CHOICE, (at) + offsetof(struct runtime_options, quant), "int8|int4|fp8",   \
        "quantise a plain checkpoint while it loads", 0, 0, 0},                                    \
    {"quant-head", 0, OPTION_CHOICE, (at) + offsetof(struct runtime_options, quant_head),          \
        "int8|none", "with --quant: the head and a tied embedding (default int8)", 0, 0, 0},       \
    {"quant-activations", 0, OPTION_CHOICE,                                                        \
        (at) + offsetof(struct runtime_options, quant_activations), "auto|none|dynamic",           \
        "inputs of quantised layers. auto: as the checkpoint says, with --quant none; dynamic: "   \
        "as --quant int8 or fp8 does the weights", 0, 0, 0},                                       \
    {"tp-plan", 0, OPTION_TEXT, (at) + offsetof(struct runtime_options, tp_plan), "FILE.json",     \
        "which strategy shares each module between ranks (default: Qwen3's own)", 0, 0, 0},        \
    {"plugin", 0, OPTION_TEXT, (at) + offsetof(struct runtime_options, plugin), "FILE.so",         \
        "strategies of your own, for --tp-plan", 0, 0, 0},                                         \
    {"max-model-len", 0, OPTION_INT, (at) + offsetof(struct runtime_options, max_model_len), "N",  \
        "tokens of prompt and answer (default: the model's, as memory allows)", 2, 16777216, 0},   \
    {"max-seqs", 0, OPTION_INT, (at) + offsetof(struct runtime_options, max_seqs), "N",            \
        "sequences at once (default 16)", 1, 1024, 0},                                             \
    {"max-batched-tokens", 0, OPTION_INT,                                                          \
        (at) + offsetof(struct runtime_options, max_batched_tokens), "N",                          \
        "tokens in one step (default 512)", 1, 65536, 0},                                          \
    {"block-size", 0, OPTION_INT, (at) + offsetof(struct runtime_options, block_size), "N",        \
        "tokens in a KV block (default 16)", 1, 4096, 0},                                          \
    {"kv-blocks", 0, OPTION_INT, (at) + offsetof(struct runtime_options, kv_blocks), "N",          \
        "KV blocks in the cache (default: as memory allows)", 1, 268435456, 0},                    \
    {"memory", 0, OPTION_BYTES, (at) + offsetof(struct runtime_options, memory), "BYTES",          \
        "what all ranks together may take, such as 8G (default: what is there)", 0, 0, 0},         \
    {"log-level", 0, OPTION_CHOICE, (at) + offsetof(struct runtime_options, log_level),            \
        "error|warn|info|debug", "what is told on standard error (default warn)", 0, 0, 0}

#endif
