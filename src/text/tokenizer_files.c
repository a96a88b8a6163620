/* tokenizer_files.c - which files a tokenizer has, and the older kind of them.
 *
 * tokenizer.json says all of a tokenizer. vocab.json and merges.txt, which came
 * before it, say the model alone; what is done with a text around it is in
 * Transformers' code for the class that tokenizer_config.json names, so only
 * Qwen2's class is taken. */
#include "quern/log.h"
#include "text/text_file.h"
#include "text/tokenizer_internal.h"

static enum status load_vocab_file(struct tokenizer *t, const struct text_file *f)
{
    struct json_reader r;
    struct json_token token;
    enum status s;

    json_reader_open(&r, "vocab.json", f->bytes, f->count);
    s = tokenizer_read_vocab(t, &r);
    if (s == STATUS_OK)
        s = json_next(&r, &token); /* nothing may follow */
    json_reader_close(&r);
    return s;
}

static enum status load_pair(struct tokenizer *t, const char *dir, const struct text_file *vocab)
{
    struct text_file merges;
    enum status s = load_vocab_file(t, vocab);

    if (s != STATUS_OK)
        return s;
    s = text_file_read(dir, "merges.txt", TEXT_FILE_MERGES, false, &merges);
    if (s != STATUS_OK)
        return s;
    s = tokenizer_read_merge_lines(t, "merges.txt", merges.bytes, merges.count);
    text_file_free(&merges);
    t->nfc = true;
    return s == STATUS_OK ? tokenizer_finish_model(t, "vocab.json") : s;
}

/* vocab.json and merges.txt; CLOSED: there is no vocab.json. */
static enum status load_older(struct tokenizer *t, const char *dir)
{
    struct text_file vocab;
    enum status s = text_file_read(dir, "vocab.json", TEXT_FILE_VOCABULARY, true, &vocab);

    if (s != STATUS_OK)
        return s;
    s = load_pair(t, dir, &vocab);
    text_file_free(&vocab);
    return s;
}

static enum status load_newer(struct tokenizer *t, const char *dir)
{
    struct text_file f;
    enum status s = text_file_read(dir, "tokenizer.json", TEXT_FILE_VOCABULARY, true, &f);

    if (s != STATUS_OK)
        return s;
    s = tokenizer_load(t, f.bytes, f.count);
    text_file_free(&f);
    return s;
}

enum status tokenizer_load_files(struct tokenizer *t, const char *dir)
{
    enum status s = bpe_init(&t->bpe);
    bool older = false;

    t->last_added = -1;
    if (s == STATUS_OK)
        s = load_newer(t, dir);
    older = s == STATUS_CLOSED;
    if (older)
        s = load_older(t, dir);
    t->none = s == STATUS_CLOSED;
    if (t->none)
        return STATUS_OK;
    if (s == STATUS_OK)
        s = tokenizer_load_config(t, dir, older);
    if (s == STATUS_OK && t->renumbered > 1)
        log_warn("%s: %u more added tokens have other ids there than as tokenizers numbers them",
            dir, t->renumbered - 1);
    return s == STATUS_OK ? added_tokens_prepare(&t->added, t->nfc) : s;
}
