/* test_source.c - tensors as they are stored, cut as ranks cut them; how little of a file stays
 * in memory, and files that shrink.
 *
 * Slices of floats are test_source_slices.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors_header.h"
#include "checkpoint/source.h"
#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"

enum { BIG_ROWS = 4096, BIG_COLS = 4096, STRIPE = 16, RSS_MOST = 8 << 20 };

/* Writes a file whose byte at `i` of the data is i % 251. */
static void write_file(struct temp_dir *dir, struct tensor_view *views, size_t count)
{
    FILE *f = fopen(temp_dir_file(dir, "model.safetensors"), "w");
    size_t header_bytes, total = 0;
    unsigned char block[251 * 64];
    char *header;

    assert_non_null(f);
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = (unsigned char)(i % 251);
    assert_int_equal(safetensors_layout(views, count, &header, &header_bytes), STATUS_OK);
    fwrite(header, 1, header_bytes, f);
    for (size_t i = 0; i < count; i++)
        total += views[i].bytes;
    for (size_t n = 0; n < total; n += sizeof(block))
        fwrite(block, 1, total - n < sizeof(block) ? total - n : sizeof(block), f);
    free(header);
    assert_int_equal(fclose(f), 0);
}

static struct weight_source *open_file(struct temp_dir *dir)
{
    struct weight_source *src;

    assert_int_equal(source_open(dir->path, 0, NULL, &src), STATUS_OK);
    return src;
}

static void raw_slices_are_the_bytes_of_the_file(void **state)
{
    struct tensor_view views[] = {{.name = "words", .dtype = FILE_I32, .ndim = 2, .shape = {6, 5}}};
    unsigned char got[3 * 2 * 4];
    struct weight_source *src;
    struct temp_dir dir;

    (void)state;
    temp_dir_make(&dir);
    write_file(&dir, views, 1);
    src = open_file(&dir);
    assert_int_equal(source_read_raw(src, "words", 2, 3, 1, 2, got), STATUS_OK);
    for (unsigned r = 0; r < 3; r++)
        for (unsigned b = 0; b < 8; b++)
            assert_int_equal(got[r * 8 + b], ((2 + r) * 5 + 1) * 4 + b);
    assert_int_equal(source_read_raw(src, "words", 5, 2, 0, 5, got), STATUS_INTERNAL);
    assert_int_equal(source_read_raw(src, "words", 0, 0, 0, 5, got), STATUS_OK);
    assert_int_equal(source_read_raw(src, "none", 0, 1, 0, 1, got), STATUS_INVALID);
    source_close(src);
    temp_dir_remove(&dir);
}

static void stored_types_are_checked_by_name(void **state)
{
    struct tensor_view views[] = {{.name = "codes", .dtype = FILE_I8, .ndim = 2, .shape = {4, 4}},
        {.name = "half", .dtype = FILE_F4, .ndim = 2, .shape = {4, 4}},
        {.name = "scale", .dtype = FILE_BF16, .ndim = 3, .shape = {1, 1, 1}},
        {.name = "two", .dtype = FILE_F32, .ndim = 1, .shape = {2}}};
    struct weight_source *src;
    enum file_dtype stored;
    struct source_tensor t;
    struct temp_dir dir;
    float one;
    char x[16];

    (void)state;
    temp_dir_make(&dir);
    write_file(&dir, views, 4);
    src = open_file(&dir);
    assert_int_equal(source_check_stored(src, "codes", FILE_TYPE(FILE_I8) | FILE_TYPE(FILE_U8), 4,
                                         4, &stored), STATUS_OK);
    assert_int_equal(stored, FILE_I8);
    assert_int_equal(source_check_stored(src, "codes", FILE_TYPE(FILE_U8) | FILE_TYPE(FILE_F8_E4M3),
                                         4, 4, &stored), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "codes is stored as I8, it must be U8 or F8_E4M3"));
    assert_int_equal(source_read_raw(src, "half", 0, 1, 0, 4, x), STATUS_INTERNAL);
    assert_true(source_find(src, "scale", &t));
    assert_int_equal(t.view.ndim, 3);
    assert_false(source_find(src, "scales", &t));
    assert_int_equal(source_read_scalar(src, "scale", &one), STATUS_OK);
    assert_int_equal(source_read_scalar(src, "two", &one), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "two has shape [2], it must have one element"));
    assert_int_equal(source_read_scalar(src, "codes", &one), STATUS_INVALID);
    source_close(src);
    temp_dir_remove(&dir);
}

/* Bytes of files that are mapped and in this process's memory; 0 where the system does not tell. */
static long file_pages(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[128];
    long kib = 0;

    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "RssFile: %ld kB", &kib) == 1)
            break;
    if (f != NULL)
        fclose(f);
    return kib * 1024;
}

static void what_was_read_does_not_stay_in_memory(void **state)
{
    struct tensor_view views[] = {
        {.name = "big", .dtype = FILE_I32, .ndim = 2, .shape = {BIG_ROWS, BIG_COLS}}};
    char *block = malloc((size_t)BIG_ROWS * STRIPE * 4);
    struct weight_source *src;
    struct temp_dir dir;
    long before, most = 0;

    (void)state;
    temp_dir_make(&dir);
    write_file(&dir, views, 1); /* 64 MiB */
    src = open_file(&dir);
    before = file_pages();
    for (uint64_t row = 0; row < BIG_ROWS; row += STRIPE) {
        assert_int_equal(source_read_raw(src, "big", row, STRIPE, 0, BIG_COLS, block), STATUS_OK);
        most = file_pages() > most ? file_pages() : most;
    }
    for (uint64_t col = 0; col < BIG_COLS; col += BIG_COLS / 4) {
        assert_int_equal(source_read_raw(src, "big", 0, BIG_ROWS, col, STRIPE, block), STATUS_OK);
        most = file_pages() > most ? file_pages() : most;
    }
    assert_true(most - before < RSS_MOST);
    source_close(src);
    free(block);
    temp_dir_remove(&dir);
}

/* The whole tables, which no rank of several holds. */
static void comparing_the_heads_does_not_keep_them_in_memory(void **state)
{
    struct tensor_view views[] = {
        {.name = "lm_head.weight", .dtype = FILE_BF16, .ndim = 2, .shape = {251 * 64, 1024}},
        {.name = "model.embed_tokens.weight", .dtype = FILE_BF16, .ndim = 2,
         .shape = {251 * 64, 1024}}};
    const struct model_config cfg = {.tied = true};
    enum head_kind kind = HEAD_UNTIED;
    struct weight_source *src;
    struct temp_dir dir;
    long before;

    (void)state;
    temp_dir_make(&dir);
    write_file(&dir, views, 2); /* 31 MiB each, and equal: bytes repeat after 251 * 64 */
    src = open_file(&dir);
    before = file_pages();
    assert_int_equal(source_head(src, &cfg, &kind), STATUS_OK);
    assert_int_equal(kind, HEAD_TIED);
    assert_true(file_pages() - before < RSS_MOST);
    source_close(src);
    temp_dir_remove(&dir);
}

/* Every way of reading: whole rows, stripes with short and long gaps between them, wide ones; as
 * they are stored and converted. */
static void any_stripe_is_the_elements_it_names(void **state)
{
    static const struct {
        uint64_t rows, cols;
    } shapes[] = { { 64, 33 }, { 40, 5000 }, { 3, 70000 } };
    static uint16_t raw[70000 * 3];
    static float wide[70000 * 3];

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        uint64_t rows = shapes[i].rows, cols = shapes[i].cols;
        struct tensor_view views[] = {
            {.name = "m", .dtype = FILE_BF16, .ndim = 2, .shape = {rows, cols}}};
        struct weight_source *src;
        struct temp_dir dir;

        temp_dir_make(&dir);
        write_file(&dir, views, 1);
        src = open_file(&dir);
        for (uint64_t col = 0; col < cols; col += cols / 3)
            for (uint64_t n = 1; n <= cols - col; n = 4 * n + 7) {
                uint64_t row = rows / 4, take = rows - row;

                assert_int_equal(source_read_raw(src, "m", row, take, col, n, raw), STATUS_OK);
                assert_int_equal(source_read(src, "m", row, take, col, n, DTYPE_F32, wide),
                                 STATUS_OK);
                for (uint64_t e = 0; e < take * n; e++) {
                    uint64_t at = 2 * ((row + e / n) * cols + col + e % n);

                    assert_int_equal(raw[e], at % 251 | (at + 1) % 251 << 8);
                    assert_int_equal(f32_to_bf16(wide[e]), raw[e]);
                }
            }
        source_close(src);
        temp_dir_remove(&dir);
    }
}

static void a_file_that_shrinks_while_it_is_read_is_an_error(void **state)
{
    struct tensor_view views[] = {
        {.name = "m", .dtype = FILE_BF16, .ndim = 2, .shape = {64, 100}}};
    const struct model_config cfg = {.tied = true};
    struct weight_source *src;
    enum head_kind kind;
    struct temp_dir dir;
    float x[6400];

    (void)state;
    temp_dir_make(&dir);
    write_file(&dir, views, 1);
    src = open_file(&dir);
    assert_int_equal(truncate(temp_dir_file(&dir, "model.safetensors"), 6400), 0);
    assert_int_equal(source_read(src, "m", 0, 10, 0, 100, DTYPE_F32, x), STATUS_OK);
    assert_int_equal(source_read(src, "m", 0, 64, 0, 100, DTYPE_F32, x), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "/model.safetensors ends at byte 6400, it was longer"));
    assert_int_equal(source_read(src, "m", 0, 64, 3, 9, DTYPE_BF16, x), STATUS_IO);
    assert_int_equal(source_read_raw(src, "m", 0, 64, 0, 100, x), STATUS_IO);
    source_close(src);
    views[0].name = "lm_head.weight";
    write_file(&dir, (struct tensor_view[]){views[0], {.name = "model.embed_tokens.weight",
        .dtype = FILE_BF16, .ndim = 2, .shape = {64, 100}}}, 2);
    src = open_file(&dir);
    assert_int_equal(truncate(temp_dir_file(&dir, "model.safetensors"), 6400), 0);
    assert_int_equal(source_head(src, &cfg, &kind), STATUS_IO);
    source_close(src);
    temp_dir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_slices_are_the_bytes_of_the_file),
        cmocka_unit_test(stored_types_are_checked_by_name),
        cmocka_unit_test(what_was_read_does_not_stay_in_memory),
        cmocka_unit_test(comparing_the_heads_does_not_keep_them_in_memory),
        cmocka_unit_test(any_stripe_is_the_elements_it_names),
        cmocka_unit_test(a_file_that_shrinks_while_it_is_read_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
