/* reference.h - a checkpoint with its reference.safetensors (ids and float32 logits), and how far
 * quern logits is from it. */
#ifndef TESTS_E2E_REFERENCE_H
#define TESTS_E2E_REFERENCE_H

enum { REFERENCE_WORDS = 16 };

/* What to add to the command, and under which ISA (NULL: the best). */
struct way {
    const char *isa;
    const char *words[REFERENCE_WORDS];
};

/* ||got - want|| / ||want|| over the whole of `tensor` ("logits") of tests/DIR; fails the test when
 * the command does. */
double reference_error(const char *dir, const char *tensor, const struct way *way);

/* The same, and the median of that of each row: what a few rows alone cannot move. */
struct reference_error {
    double whole, median_row;
};
struct reference_error reference_errors(const char *dir, const char *tensor,
    const struct way *way);

/* The same of the checkpoint at path `dir` and the logits in `file`, wherever they lie. */
double reference_error_apart(const char *dir, const char *file, const struct way *way);

/* The output file of quern logits on that checkpoint, malloc'ed. */
char *reference_bytes(const char *dir, const struct way *way, unsigned long *bytes);

#endif
