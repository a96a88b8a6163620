/* synth_tokenizer.c - tokenizer.json as a printed text, one vocabulary entry after another.
 *
 * Qwen's added tokens lie behind the vocabulary, as in Qwen's own file. The special ids of any
 * other config may lie anywhere, so there they are entries of the vocabulary as well, which is
 * the one way that readers agree on for an added token with an id in the middle. */
#include "checkpoint/synth_tokenizer.h"

#include <stdbool.h>
#include <string.h>

#include "quern/log.h"

enum { QWEN_VOCAB = 151936, QWEN_BASE = 151643, SPECIALS_MAX = 32, BYTES = 256 };

struct special {
    int id;
    char content[24];
    bool special; /* left out of decoded text on request */
};

struct specials {
    struct special list[SPECIALS_MAX];
    int count;
    bool in_vocab;
    int vocab; /* ids below this are in the vocabulary */
};

static const struct {
    const char *content;
    bool special;
} qwen_added[] = {
    { "<|endoftext|>", true },      { "<|im_start|>", true },   { "<|im_end|>", true },
    { "<|object_ref_start|>", true }, { "<|object_ref_end|>", true },
    { "<|box_start|>", true },      { "<|box_end|>", true },    { "<|quad_start|>", true },
    { "<|quad_end|>", true },       { "<|vision_start|>", true }, { "<|vision_end|>", true },
    { "<|vision_pad|>", true },     { "<|image_pad|>", true },  { "<|video_pad|>", true },
    { "<tool_call>", false },       { "</tool_call>", false },  { "<|fim_prefix|>", false },
    { "<|fim_middle|>", false },    { "<|fim_suffix|>", false }, { "<|fim_pad|>", false },
    { "<|repo_name|>", false },     { "<|file_sep|>", false },  { "<tool_response>", false },
    { "</tool_response>", false },  { "<think>", false },       { "</think>", false },
};

static const struct special *find_special(const struct specials *s, int id)
{
    for (int i = 0; i < s->count; i++)
        if (s->list[i].id == id)
            return &s->list[i];
    return NULL;
}

/* An id that already has a content keeps it: bos and eos are the same token in some configs. */
static void add_special(struct specials *s, int id, const char *content, bool special)
{
    struct special *next = &s->list[s->count];

    if (find_special(s, id) != NULL)
        return;
    next->id = id;
    next->special = special;
    snprintf(next->content, sizeof(next->content), "%s", content);
    s->count++;
}

/* Readers take the added tokens in ascending order of their ids. */
static void sort_specials(struct specials *s)
{
    for (int i = 1; i < s->count; i++)
        for (int j = i; j > 0 && s->list[j - 1].id > s->list[j].id; j--) {
            struct special swap = s->list[j];

            s->list[j] = s->list[j - 1];
            s->list[j - 1] = swap;
        }
}

static void choose_specials(const struct model_config *cfg, struct specials *s)
{
    char name[24];

    *s = (struct specials){ .in_vocab = cfg->vocab != QWEN_VOCAB, .vocab = cfg->vocab };
    if (!s->in_vocab) {
        s->vocab = QWEN_BASE;
        for (size_t i = 0; i < sizeof(qwen_added) / sizeof(qwen_added[0]); i++)
            add_special(s, QWEN_BASE + (int)i, qwen_added[i].content, qwen_added[i].special);
        return;
    }
    add_special(s, cfg->bos, "<|endoftext|>", true);
    for (int i = 0; i < cfg->n_eos; i++) {
        snprintf(name, sizeof(name), i == 0 ? "<|im_end|>" : "<|eos_%d|>", i);
        add_special(s, cfg->eos[i], name, true);
    }
    sort_specials(s);
}

/* The printable character that stands for a byte: itself, or one from U+0100 on. */
static int byte_character(int byte)
{
    int others = 0;

    for (int b = 0; b <= byte; b++) {
        bool same = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;

        if (b == byte)
            return same ? byte : 0x100 + others;
        others += !same;
    }
    return byte;
}

static void print_byte_token(FILE *out, int byte)
{
    int c = byte_character(byte);

    if (c == '"' || c == '\\')
        fprintf(out, "\"\\%c\"", c);
    else if (c < 0x80)
        fprintf(out, "\"%c\"", c);
    else
        fprintf(out, "\"%c%c\"", 0xc0 | c >> 6, 0x80 | (c & 0x3f));
}

static void print_vocab(FILE *out, const struct specials *s)
{
    int byte = 0;

    for (int id = 0; id < s->vocab; id++) {
        const struct special *special = find_special(s, id);

        fputs(id > 0 ? ",\n      " : "\n      ", out);
        if (special != NULL)
            fprintf(out, "\"%s\"", special->content);
        else if (byte < BYTES)
            print_byte_token(out, byte++);
        else
            fprintf(out, "\"\u0120%d\"", id);
        fprintf(out, ": %d", id);
    }
    if (byte < BYTES)
        log_warn("vocab_size %d has no room for all 256 bytes: text with bytes from %d on cannot "
                 "be encoded", s->vocab, byte);
}

static void print_added(FILE *out, const struct specials *s)
{
    for (int i = 0; i < s->count; i++)
        fprintf(out, "%s\n    {\"id\": %d, \"content\": \"%s\", \"single_word\": false, "
                "\"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": %s}",
                i > 0 ? "," : "", s->list[i].id, s->list[i].content,
                s->list[i].special ? "true" : "false");
}

enum status synth_tokenizer_write(const struct model_config *cfg, FILE *out)
{
    static const char bytelevel[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                                    "\"trim_offsets\": false, \"use_regex\": false}";
    struct specials s;

    choose_specials(cfg, &s);
    fputs("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
          "  \"added_tokens\": [", out);
    print_added(out, &s);
    fprintf(out, "\n  ],\n  \"normalizer\": {\"type\": \"NFC\"},\n"
            "  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n"
            "    {\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, "
            "\"behavior\": \"Isolated\", \"invert\": false},\n    %s\n  ]},\n"
            "  \"post_processor\": %s,\n  \"decoder\": %s,\n",
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}"
            "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+",
            bytelevel, bytelevel, bytelevel);
    fputs("  \"model\": {\n    \"type\": \"BPE\", \"dropout\": null, \"unk_token\": null,\n"
          "    \"continuing_subword_prefix\": \"\", \"end_of_word_suffix\": \"\",\n"
          "    \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false,\n"
          "    \"vocab\": {", out);
    print_vocab(out, &s);
    fputs("\n    },\n    \"merges\": []\n  }\n}\n", out);
    return fflush(out) == 0 && !ferror(out) ? STATUS_OK : STATUS_IO;
}

static const char *content_of(const struct specials *s, int id)
{
    const struct special *special = find_special(s, id);

    return special != NULL ? special->content : s->list[0].content;
}

enum status synth_tokenizer_config_write(const struct model_config *cfg, FILE *out)
{
    struct specials s;

    choose_specials(cfg, &s);
    fprintf(out, "{\n  \"tokenizer_class\": \"Qwen2Tokenizer\",\n  \"model_max_length\": %d,\n"
            "  \"eos_token\": \"%s\",\n  \"pad_token\": \"%s\",\n  \"bos_token\": null,\n"
            "  \"unk_token\": null,\n  \"add_bos_token\": false,\n"
            "  \"add_prefix_space\": false,\n  \"clean_up_tokenization_spaces\": false,\n"
            "  \"errors\": \"replace\",\n  \"split_special_tokens\": false\n}\n",
            cfg->max_position, content_of(&s, cfg->eos[0]), content_of(&s, cfg->bos));
    return fflush(out) == 0 && !ferror(out) ? STATUS_OK : STATUS_IO;
}
