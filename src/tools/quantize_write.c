/* quantize_write.c - a list of tensors to write, each with how its elements are made.
 *
 * The list is made first, from the checkpoint's own, because a file begins with
 * the shapes of everything in it. Elements are then made in the order of
 * writing: codes and scales of one layer lie far apart in the file, so a layer
 * is read once for each; nothing is kept in between. The codes are the loader's
 * own (quant_runtime), so a checkpoint written equals one quantised at load. */
#include "tools/quantize_write.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/config_json.h"
#include "checkpoint/safetensors_header.h"
#include "quant/scheme.h"
#include "quern/log.h"
#include "tools/folder_write.h"
#include "tools/quantize_config.h"

enum item_kind {
    ITEM_COPY,   /* as it is in the checkpoint */
    ITEM_CODES,  /* weight: I8 or F8_E4M3 [N, K] */
    ITEM_PACKED, /* weight_packed: I32 [N, K / 8], of 8 bits [N, K / 4] */
    ITEM_SCALE,  /* weight_scale [N, 1], [N, groups] or [blocks, groups] */
    ITEM_SHAPE,  /* weight_shape: I64 [2] */
};

struct item {
    char name[QUANT_NAME_BYTES];
    enum item_kind kind;
    enum file_dtype dtype;
    int ndim;
    uint64_t shape[TENSOR_DIMS_MAX];
    char source[QUANT_NAME_BYTES]; /* COPY: the tensor; else the module whose weight it is of */
    struct quant_form form;
};

struct quantize_job {
    const char *dir;
    const struct quantize_options *options;
    struct model_config cfg;
    struct weight_source *source;
    struct weight_loader loader;
    struct quant_rule rule, head_rule;
    bool untie;
    struct item *items;
    struct tensor_view *views;
    size_t count, room;
    uint64_t bytes;
    /* for one piece of a layer */
    void *work, *codes;
    float *scale;
    size_t work_bytes, codes_room, scale_room;
};

/* The list ------------------------------------------------------------------------------------- */

static struct item *add_item(struct quantize_job *job, const char *name, enum item_kind kind,
    enum file_dtype dtype)
{
    struct item *item;

    if (job->count == job->room) {
        size_t room = job->room ? 2 * job->room : 256;
        struct item *more = realloc(job->items, room * sizeof(*more));

        if (more == NULL) {
            log_fail(STATUS_NOMEM, "no memory for a list of %zu tensors", room);
            return NULL;
        }
        job->items = more;
        job->room = room;
    }
    item = &job->items[job->count++];
    *item = (struct item){.kind = kind, .dtype = dtype};
    snprintf(item->name, sizeof(item->name), "%s", name);
    return item;
}

/* Of a packed row of k codes. */
static uint32_t words_of(const struct quant_rule *rule, uint32_t k)
{
    uint32_t per_word = 32 / (uint32_t)rule->bits;

    return (k + per_word - 1) / per_word;
}

static enum status add_copy(struct quantize_job *job, const struct tensor_view *view)
{
    struct item *item;

    if (file_dtype_bits(view->dtype) % 8 != 0)
        return log_fail(STATUS_INVALID, "%s: tensor %s is stored as %s: no plain checkpoint has "
            "elements of less than a byte", job->dir, view->name, file_dtype_name(view->dtype));
    item = add_item(job, view->name, ITEM_COPY, view->dtype);
    if (item == NULL)
        return STATUS_NOMEM;
    item->ndim = view->ndim;
    memcpy(item->shape, view->shape, sizeof(item->shape));
    snprintf(item->source, sizeof(item->source), "%s", view->name);
    return STATUS_OK;
}

/* A tensor [rows, cols] of `module`, which is made of `from`'s weight; cols 0: [rows]. */
static enum status add_made(struct quantize_job *job, const char *module, const char *what,
    const char *from, enum item_kind kind, enum file_dtype dtype, const uint64_t shape[2],
    const struct quant_form *form)
{
    char name[QUANT_NAME_BYTES];
    struct item *item = add_item(job, tensor_name(name, module, what), kind, dtype);

    if (item == NULL)
        return STATUS_NOMEM;
    item->ndim = shape[1] > 0 ? 2 : 1;
    item->shape[0] = shape[0];
    item->shape[1] = shape[1];
    snprintf(item->source, sizeof(item->source), "%s", from);
    item->form = *form;
    return STATUS_OK;
}

/* `view` [N, K] of module `from` becomes the tensors of `module`, quantised by `rule`. */
static enum status add_module(struct quantize_job *job, const char *module, const char *from,
    const struct tensor_view *view, const struct quant_rule *rule)
{
    const struct weight_part part = {.module = from, .all_rows = (uint32_t)view->shape[0],
        .all_cols = (uint32_t)view->shape[1], .rows = (uint32_t)view->shape[0]};
    uint64_t n = view->shape[0], k = view->shape[1];
    struct quant_form form = {.rule = rule};
    uint64_t rows = rule->strategy == STRATEGY_BLOCK ? (n + rule->block_rows - 1) / rule->block_rows
                                                     : n;
    enum file_dtype code = rule->floating ? FILE_F8_E4M3 : FILE_I8;
    enum status s;

    if (n == 0 || k == 0)
        return log_fail(STATUS_INVALID, "%s: tensor %s has no elements: the checkpoint is damaged",
            job->dir, view->name);
    s = rule->method->layout->form(&job->loader, &part, rule, &form);
    if (s == STATUS_OK && rule->strategy == STRATEGY_GROUP && k % rule->group != 0)
        s = log_fail(STATUS_INVALID, "%s has %llu inputs, which --group %u does not divide: give "
            "another", from, (unsigned long long)k, rule->group);
    if (s == STATUS_OK && rule->act.group > 0 && k % rule->act.group != 0)
        log_warn("%s has %llu inputs, which groups of %u do not divide: quern quantises such "
            "activations, Transformers does not", from, (unsigned long long)k, rule->act.group);
    if (s == STATUS_OK && quantize_packed(rule)) {
        s = add_made(job, module, "weight_packed", from, ITEM_PACKED, FILE_I32,
            (uint64_t[]){n, words_of(rule, (uint32_t)k)}, &form);
        if (s == STATUS_OK)
            s = add_made(job, module, "weight_shape", from, ITEM_SHAPE, FILE_I64,
                (uint64_t[]){2, 0}, &form);
    } else if (s == STATUS_OK) {
        s = add_made(job, module, "weight", from, ITEM_CODES, code, (uint64_t[]){n, k}, &form);
    }
    if (s == STATUS_OK)
        s = add_made(job, module, "weight_scale", from, ITEM_SCALE, view->dtype,
            (uint64_t[]){rows, form.groups}, &form);
    return s;
}

/* "X.weight" of a linear layer of a decoder layer: X into module. */
static bool is_linear(const struct tensor_view *view, char module[QUANT_NAME_BYTES])
{
    static const char *const tails[] = {".q_proj.weight", ".k_proj.weight", ".v_proj.weight",
        ".o_proj.weight", ".gate_proj.weight", ".up_proj.weight", ".down_proj.weight",
        ".qkv_proj.weight", ".gate_up_proj.weight"}; /* the last two: merged, as some write them */
    size_t n = strlen(view->name);

    if (strncmp(view->name, "model.layers.", 13) != 0 || view->ndim != 2)
        return false;
    for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
        size_t tail = strlen(tails[i]);

        if (n > tail && strcmp(view->name + n - tail, tails[i]) == 0) {
            snprintf(module, QUANT_NAME_BYTES, "%.*s", (int)(n - sizeof(".weight") + 1),
                view->name);
            return true;
        }
    }
    return false;
}

static enum status add_head(struct quantize_job *job, const struct checkpoint *c)
{
    const struct tensor_view *table = checkpoint_find(c, "model.embed_tokens.weight");
    const struct tensor_view *head = checkpoint_find(c, "lm_head.weight");
    enum head_kind kind;
    enum status s = source_head(job->source, &job->cfg, &kind);

    if (s != STATUS_OK)
        return s;
    job->untie = kind != HEAD_UNTIED;
    if (kind == HEAD_UNTIED && head != NULL)
        return add_module(job, "lm_head", "lm_head", head, &job->head_rule);
    if (table != NULL)
        return add_module(job, "lm_head", "model.embed_tokens", table, &job->head_rule);
    return log_fail(STATUS_INVALID, "%s: tensor %s is missing: the head cannot be quantised",
        job->dir, kind == HEAD_UNTIED ? "lm_head.weight" : "model.embed_tokens.weight");
}

static enum status list_tensors(struct quantize_job *job, const struct checkpoint *c)
{
    enum status s = STATUS_OK;

    for (size_t i = 0; s == STATUS_OK && i < checkpoint_count(c); i++) {
        const struct tensor_view *view = checkpoint_at(c, i);
        char module[QUANT_NAME_BYTES];

        if (is_linear(view, module))
            s = add_module(job, module, module, view, &job->rule);
        else if (!job->options->head || strcmp(view->name, "lm_head.weight") != 0)
            s = add_copy(job, view);
    }
    return s == STATUS_OK && job->options->head ? add_head(job, c) : s;
}

static enum status make_views(struct quantize_job *job)
{
    job->views = calloc(job->count, sizeof(*job->views));
    if (job->views == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a list of %zu tensors", job->count);
    for (size_t i = 0; i < job->count; i++) {
        const struct item *item = &job->items[i];
        uint64_t n = 1;

        for (int d = 0; d < item->ndim; d++)
            n *= item->shape[d];
        job->views[i] = (struct tensor_view){.name = item->name, .dtype = item->dtype,
            .ndim = item->ndim, .bytes = n * file_dtype_bits(item->dtype) / 8};
        memcpy(job->views[i].shape, item->shape, sizeof(item->shape));
        job->bytes += job->views[i].bytes;
    }
    return STATUS_OK;
}

/* Elements ------------------------------------------------------------------------------------- */

static enum status grow(void **memory, size_t *room, size_t bytes)
{
    void *more;

    if (bytes <= *room)
        return STATUS_OK;
    more = realloc(*memory, bytes);
    if (more == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %zu bytes of weights on their way", bytes);
    *memory = more;
    *room = bytes;
    return STATUS_OK;
}

/* Rows [row, row + rows) of an item's layer into job->codes [rows, K] and job->scale [groups,
 * rows]. */
static enum status quantise_rows(struct quantize_job *job, const struct item *item, uint32_t n,
    uint32_t k, uint32_t row, uint32_t rows)
{
    const struct weight_part part = {.module = item->source, .all_rows = n, .all_cols = k,
        .rows = n};
    struct quant_block b = {.part = &part, .row = row, .rows = rows, .cols = k,
        .groups = item->form.groups, .stride = rows};
    void *scale = job->scale;
    enum status s = grow(&job->work, &job->work_bytes, 16 * (size_t)k > WORK_BYTES
                                                           ? 16 * (size_t)k : WORK_BYTES);

    if (s == STATUS_OK)
        s = grow(&job->codes, &job->codes_room, (size_t)rows * k);
    if (s == STATUS_OK)
        s = grow(&scale, &job->scale_room, (size_t)rows * b.groups * sizeof(float));
    job->scale = scale;
    if (s != STATUS_OK)
        return s;
    b.codes = job->codes;
    b.scale = job->scale;
    b.work = job->work;
    b.work_bytes = job->work_bytes;
    return item->form.rule->method->layout->fill(&job->loader, &item->form, &b);
}

/* Fields without a sign: 0..15 as they are, int8 with 128 added. */
static void pack_row(const struct quant_rule *rule, const uint8_t *codes, uint32_t k,
    uint32_t *words)
{
    uint32_t bits = (uint32_t)rule->bits, per_word = 32 / bits, flip = bits == 8 ? 0x80 : 0;

    memset(words, 0, words_of(rule, k) * sizeof(*words));
    for (uint32_t i = 0; i < k; i++)
        words[i / per_word] |= (codes[i] ^ flip) << bits * (i % per_word);
}

static enum status fill_codes(struct quantize_job *job, const struct item *item, uint32_t n,
    uint32_t k, uint32_t row, uint32_t rows, void *dst)
{
    const uint8_t *codes;
    enum status s = quantise_rows(job, item, n, k, row, rows);

    if (s != STATUS_OK)
        return s;
    codes = job->codes;
    if (item->kind == ITEM_CODES) {
        memcpy(dst, codes, (size_t)rows * k);
        return s;
    }
    for (uint32_t r = 0; r < rows; r++)
        pack_row(item->form.rule, codes + (size_t)r * k, k,
            (uint32_t *)dst + (size_t)r * words_of(item->form.rule, k));
    return s;
}

static void put_scale(float scale, enum file_dtype as, void *dst, size_t i)
{
    if (as == FILE_F32)
        ((float *)dst)[i] = scale;
    else
        ((uint16_t *)dst)[i] = as == FILE_BF16 ? f32_to_bf16(scale) : f32_to_f16(scale);
}

/* Rows of the scale tensor, a few layer rows at a time; of a block of rows, its first. */
static enum status fill_scales(struct quantize_job *job, const struct item *item, uint32_t n,
    uint32_t k, uint32_t row, uint32_t rows, void *dst)
{
    bool blocks = item->form.rule->strategy == STRATEGY_BLOCK;
    uint32_t height = blocks ? item->form.rule->block_rows : 1, groups = item->form.groups;
    uint32_t step = blocks ? 1 : BLOCK_CODES / k + 1;

    for (uint32_t r = 0; r < rows; r += step) {
        uint32_t take = rows - r < step ? rows - r : step;
        enum status s = quantise_rows(job, item, n, k, (row + r) * height, take);

        if (s != STATUS_OK)
            return s;
        for (uint32_t i = 0; i < take; i++)
            for (uint32_t g = 0; g < groups; g++)
                put_scale(job->scale[(size_t)g * take + i], item->dtype, dst,
                    (size_t)(r + i) * groups + g);
    }
    return STATUS_OK;
}

static enum status copy_elements(const struct quantize_job *job, const struct item *item,
    uint64_t first, uint64_t n, void *dst)
{
    uint64_t cols = item->ndim == 2 ? item->shape[1] : 1;

    if (item->ndim > 2)
        return log_fail(STATUS_INVALID, "%s: tensor %s has %d dimensions: no Qwen3 weight has more "
            "than 2", job->dir, item->name, item->ndim);
    if (n == 0)
        return STATUS_OK;
    return source_read_raw(job->source, item->source, first / cols, n / cols, 0,
        item->ndim == 2 ? cols : 0, dst);
}

static const struct item *find_item(const struct quantize_job *job, const char *name)
{
    size_t i = 0;

    while (strcmp(job->items[i].name, name) != 0)
        i++;
    return &job->items[i];
}

static enum status fill_tensor(void *context, const struct tensor_view *view, uint64_t first,
    uint64_t n, void *dst)
{
    struct quantize_job *job = context;
    const struct item *item = find_item(job, view->name);
    uint64_t cols = item->ndim == 2 ? item->shape[1] : 1;
    uint32_t row = (uint32_t)(first / cols), rows = (uint32_t)(n / cols);
    char name[QUANT_NAME_BYTES];
    struct source_tensor t;

    if (item->kind == ITEM_COPY)
        return copy_elements(job, item, first, n, dst);
    if (!source_find(job->source, tensor_name(name, item->source, "weight"), &t))
        return log_fail(STATUS_INTERNAL, "tensor %s went away", name);
    if (item->kind == ITEM_SHAPE) {
        for (uint64_t i = 0; i < n; i++)
            ((int64_t *)dst)[i] = (int64_t)t.view.shape[first + i];
        return STATUS_OK;
    }
    return (item->kind == ITEM_SCALE ? fill_scales : fill_codes)(job, item,
        (uint32_t)t.view.shape[0], (uint32_t)t.view.shape[1], row, rows, dst);
}

/* The folder ----------------------------------------------------------------------------------- */

static enum status copy_small_files(const struct quantize_job *job, const struct folder *f)
{
    static const char *const names[] = {"generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json",
        "special_tokens_map.json", "chat_template.jinja", "chat_template.json", "LICENSE"};
    enum status s = STATUS_OK;

    for (size_t i = 0; s >= STATUS_OK && i < sizeof(names) / sizeof(names[0]); i++) {
        char path[PATH_MAX];

        s = path_join(path, sizeof(path), job->dir, names[i]);
        if (s == STATUS_OK)
            s = folder_copy(f, path, names[i]);
    }
    return s > STATUS_OK ? STATUS_OK : s;
}

static enum status write_folder(struct quantize_job *job, const char *out)
{
    const struct folder_tensors tensors = {.views = job->views, .count = job->count,
        .shard_bytes = job->options->shard_bytes ? job->options->shard_bytes : FOLDER_SHARD_BYTES,
        .fill = fill_tensor, .context = job};
    struct folder f;
    enum status s = folder_begin(&f, out, job->bytes, "use another disk");

    if (s != STATUS_OK)
        return s;
    s = quantize_config_write(&f, job->dir, &job->rule, job->options->head ? &job->head_rule : NULL,
        job->untie);
    if (s == STATUS_OK)
        s = copy_small_files(job, &f);
    if (s == STATUS_OK)
        s = folder_weights(&f, &tensors);
    return folder_finish(&f, s);
}

static enum status make_rules(struct quantize_job *job)
{
    const struct quant_options o = {.method = job->options->method,
        .activations = job->options->activations};
    enum status s = scheme_runtime_rule(&o, &job->rule);

    if (s != STATUS_OK)
        return s;
    if (job->options->group > 0 && job->rule.strategy != STRATEGY_GROUP)
        return log_fail(STATUS_INVALID, "--group is for --quant int4: %s has none",
            job->options->method);
    if (job->options->group > 0)
        job->rule.group = (uint32_t)job->options->group;
    job->head_rule = (struct quant_rule){.method = &quant_runtime, .bits = 8, .symmetric = true,
        .strategy = STRATEGY_CHANNEL};
    return STATUS_OK;
}

/* Refuses what is quantised already, by opening it as if to be quantised at load. */
static enum status check_plain(const char *dir, const char *method)
{
    struct quant_scheme *scheme = NULL;
    enum status s = quant_open(dir, &(struct quant_options){.method = method, .head = "none"},
        &scheme);

    if (s == STATUS_OK)
        quant_close(scheme);
    return s;
}

static void free_job(struct quantize_job *job)
{
    source_close(job->source);
    free(job->items);
    free(job->views);
    free(job->work);
    free(job->codes);
    free(job->scale);
}

enum status quantize_write(const char *dir, const struct quantize_options *options,
    const char *out)
{
    struct quantize_job job = {.dir = dir, .options = options};
    struct checkpoint *c = NULL;
    enum status s = make_rules(&job);

    if (s == STATUS_OK)
        s = check_plain(dir, options->method);
    if (s == STATUS_OK)
        s = config_read(dir, &job.cfg);
    if (s == STATUS_OK)
        s = folder_check(out);
    if (s == STATUS_OK)
        s = source_open(dir, 0, &job.cfg, &job.source);
    job.loader.source = job.source;
    if (s == STATUS_OK)
        s = checkpoint_open(dir, &c);
    if (s == STATUS_OK)
        s = list_tensors(&job, c);
    if (s == STATUS_OK)
        s = make_views(&job);
    if (s == STATUS_OK)
        s = write_folder(&job, out);
    checkpoint_close(c);
    free_job(&job);
    return s;
}
