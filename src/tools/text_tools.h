/* text_tools.h - tokenize, detokenize and template, one JSON value per line.
 *
 * Each line of `in` is one JSON document and gives one line on `out`, flushed
 * at once, so that a script may hold a conversation with the tool. They need
 * the tokenizer files of `dir` alone. The first bad
 * line stops the tool: STATUS_INVALID, logged as "line N: ...". STATUS_IO if
 * `out` cannot be written or `in` not be read. They block on `in` and `out`;
 * both streams stay the caller's. */
#ifndef QUERN_TOOLS_TEXT_TOOLS_H
#define QUERN_TOOLS_TEXT_TOOLS_H

#include <stdbool.h>
#include <stdio.h>

#include "quern/status.h"

/* "text" -> [ids]; special tokens in the text are parsed as such. */
enum status tool_tokenize(const char *dir, FILE *in, FILE *out);

/* [ids] -> "text". Ids that the tokenizer has not, but the model (vocab_size; 0: not known), are
 * nothing, as where an answer is printed. */
enum status tool_detokenize(const char *dir, bool skip_special, int vocab_size, FILE *in,
    FILE *out);

/* {messages, tools, ...} as template.h has it -> "rendered prompt". */
enum status tool_template(const char *dir, FILE *in, FILE *out);

#endif
