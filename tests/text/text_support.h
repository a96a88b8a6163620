/* text_support.h - what the text tests share: the golden files, and a PRNG.
 *
 * support_tokenizer_dir() unpacks Qwen3's tokenizer (kept as .xz) into a
 * directory of its own under TMPDIR, once per process; support_remove() takes
 * it away. Failures end the test. */
#ifndef QUERN_TESTS_TEXT_SUPPORT_H
#define QUERN_TESTS_TEXT_SUPPORT_H

#include <stddef.h>
#include <stdint.h>

#include "text/json_value.h"

/* The directory with tokenizer.json and tokenizer_config.json. */
const char *support_tokenizer_dir(void);

/* An empty directory of this process, and a file written into it. */
const char *support_temp_dir(void);
void support_write(const char *name, const char *bytes, size_t count);
void support_remove(void);

/* A file of Qwen3's tokenizer, or of the whole golden folder, as a tree; the caller frees the
 * document. */
struct json_document support_golden(const char *name);
struct json_document support_golden_file(const char *name);

/* A file of the golden folder, malloc'ed and 0-terminated. */
char *support_golden_text(const char *name, size_t *bytes);

/* A whole file, malloc'ed and 0-terminated. */
char *support_read(const char *path, size_t *bytes);

/* xorshift64*; the seed is QUERN_TEST_SEED or the clock, and is printed. */
uint64_t support_seed(void);
uint64_t support_random(uint64_t *state);

/* `count` random characters of all planes and
 * kinds (marks, spaces, new letters, CJK, emoji); returns the bytes written.
 * out needs room for 4 * count. */
size_t support_random_text(uint64_t *state, size_t count, char *out);

#endif
