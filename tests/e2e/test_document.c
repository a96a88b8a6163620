/* test_document.c - the exchange that docs/protocol.md shows byte by byte is what happens.
 *
 * The document's bytes are read from the document. libquern is played the
 * server's, and has to send the client's; the real server is sent the client's. */
#include <ctype.h>
#include <stdbool.h>

#include "tests/client/fake_server.h"
#include "tests/e2e/raw_client.h"

enum { BLOCKS = 16, BLOCK_BYTES = 512 };

/* The blocks of bytes below "byte by byte", in order. */
static struct block {
    unsigned char bytes[BLOCK_BYTES];
    size_t n;
} blocks[BLOCKS];
static int n_blocks;

enum { HELLO, SUBMIT, READY, ACCEPTED, TOKENS, CANCEL, DONE, RESUME, ERROR, ASK_STATS, STATS, ALL };

static int hex(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "18 00 ...   a note": the bytes at the line's beginning. */
static void add_line(struct block *b, const char *line)
{
    for (; hex(line[0]) >= 0 && hex(line[1]) >= 0; line += 3) {
        assert_true(b->n < BLOCK_BYTES);
        b->bytes[b->n++] = (unsigned char)(hex(line[0]) * 16 + hex(line[1]));
        if (line[2] != ' ')
            return;
    }
}

static int read_document(void **state)
{
    char path[4096], line[1024];
    bool here = false, inside = false;
    FILE *f = fopen(test_file(path, "../docs/protocol.md"), "re");

    (void)state;
    if (f == NULL)
        return -1;
    while (fgets(line, sizeof(line), f) != NULL) {
        if (strncmp(line, "## ", 3) == 0)
            here = strstr(line, "byte by byte") != NULL;
        else if (here && strncmp(line, "```", 3) == 0)
            n_blocks += (inside = !inside) == false;
        else if (inside && n_blocks < BLOCKS)
            add_line(&blocks[n_blocks], line);
    }
    fclose(f);
    return n_blocks == ALL ? 0 : -1;
}

/* What the client sends is the block. */
static void reads(struct fake *f, int i)
{
    unsigned char got[BLOCK_BYTES];

    fake_read(f, got, blocks[i].n);
    assert_memory_equal(got, blocks[i].bytes, blocks[i].n);
}

static void sends(struct fake *f, int i)
{
    fake_send(f, blocks[i].bytes, blocks[i].n);
}

static struct quern_request *the_request(void)
{
    struct quern_request *r = quern_request_new();

    quern_request_set_text(r, "Once upon", QUERN_STRLEN);
    set_int(r, QUERN_PARAM_MAX_TOKENS, 8);
    set_int(r, QUERN_PARAM_TEMPERATURE, 0);
    set_int(r, QUERN_PARAM_SEED, 42);
    quern_request_set_u64(r, QUERN_PARAM_KEY, 0x1122334455667788);
    return r;
}

static void libquern_has_the_exchange_of_the_document(void **state)
{
    struct fake f = fake_silent();
    const struct quern_event *e;
    const char *json;
    uint64_t id;
    size_t n;

    (void)state;
    sends(&f, HELLO);
    id = ask(f.q, the_request());
    reads(&f, SUBMIT);
    sends(&f, READY);
    e = next_of(f.q, QUERN_EVENT_LOADING);
    assert_true(quern_event_progress(e) == 0.5f);
    assert_string_equal(quern_server_version(f.q), "0.1.0");
    next_of(f.q, QUERN_EVENT_READY);
    assert_int_equal(quern_vocab_size(f.q), 8192);
    assert_int_equal(quern_context_size(f.q), 2048);
    assert_string_equal(quern_model_name(f.q), "storyteller");
    sends(&f, ACCEPTED);
    e = next_of(f.q, QUERN_EVENT_ACCEPTED);
    assert_true(quern_event_key(e) == 0x1122334455667788 && quern_event_seed(e) == 42);
    assert_int_equal(quern_event_prompt_tokens(e), 2);
    sends(&f, TOKENS);
    e = next_of(f.q, QUERN_EVENT_TEXT);
    assert_string_equal(quern_event_text(e, NULL), " a time");
    assert_memory_equal(quern_event_ids(e, &n), ((const int32_t[]){258, 265}), 8);
    e = next_of(f.q, QUERN_EVENT_TEXT);
    assert_string_equal(quern_event_text(e, NULL), ",");
    assert_int_equal(quern_event_ids(e, &n)[0], 11);
    assert_int_equal(quern_event_after(e), 2);
    quern_cancel(f.q, id);
    reads(&f, CANCEL);
    sends(&f, DONE);
    e = next_of(f.q, QUERN_EVENT_DONE);
    assert_int_equal(quern_event_finish(e), QUERN_FINISH_CANCELLED);
    assert_int_equal(quern_event_output_tokens(e), 3);
    assert_true(quern_event_first_token_s(e) > 0.00419 && quern_event_first_token_s(e) < 0.00421);
    quern_resume(f.q, 0x1122334455667788, 3, &id);
    reads(&f, RESUME);
    sends(&f, ERROR);
    e = next_of(f.q, QUERN_EVENT_ERROR);
    assert_int_equal(quern_event_request(e), id);
    assert_int_equal(quern_event_code(e), QUERN_CODE_NOT_FOUND);
    sends(&f, STATS); /* what comes before it is waited for */
    assert_int_equal(quern_stats(f.q, PATIENCE_MS, &json), QUERN_OK);
    reads(&f, ASK_STATS);
    assert_string_equal(json, "{\"running\":2,\"waiting\":0,\"restarts\":0}");
    fake_close(&f);
}

/* A block that is one frame. */
static struct raw_frame frame_of(int i)
{
    struct raw_frame f;

    memcpy(&f.header, blocks[i].bytes, sizeof(f.header));
    assert_int_equal(blocks[i].n, sizeof(f.header) + f.header.bytes);
    f.payload = blocks[i].bytes + sizeof(f.header);
    return f;
}

/* Byte for byte, but for what each server has of its own: [from, to) of the payload. */
static void assert_same(struct raw_frame got, int i, size_t from, size_t to)
{
    struct raw_frame want = frame_of(i);

    assert_memory_equal(&got.header, &want.header, sizeof(got.header));
    assert_memory_equal(got.payload, want.payload, from);
    assert_memory_equal(got.payload + to, want.payload + to, want.header.bytes - to);
    free(got.payload);
}

static void the_server_answers_the_document_s_client(void **state)
{
    struct raw_server server;
    struct raw_frame stats;
    struct raw_client c;

    (void)state;
    raw_server_start(&server, NULL);
    raw_connect(&c, &server);
    assert_same(raw_await(&c, FRAME_HELLO), HELLO, 16, 24); /* the instance */
    assert_true(raw_send(&c, blocks[SUBMIT].bytes, blocks[SUBMIT].n));
    assert_same(raw_await(&c, FRAME_ACCEPTED), ACCEPTED, 0, 0);
    assert_true(raw_send(&c, blocks[CANCEL].bytes, blocks[CANCEL].n));
    assert_same(raw_await(&c, FRAME_DONE), DONE, 4, 48); /* it may have been faster */
    assert_true(raw_send(&c, blocks[RESUME].bytes, blocks[RESUME].n));
    assert_same(raw_await(&c, FRAME_ERROR), ERROR, 0, 0);
    assert_true(raw_send(&c, blocks[ASK_STATS].bytes, blocks[ASK_STATS].n));
    stats = raw_await(&c, FRAME_STATS);
    assert_true(stats.header.id == frame_of(STATS).header.id);
    assert_memory_equal(stats.payload, frame_of(STATS).payload, sizeof(struct frame_stats) + 1);
    free(stats.payload);
    raw_close(&c);
    raw_server_stop(&server, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(libquern_has_the_exchange_of_the_document),
        cmocka_unit_test(the_server_answers_the_document_s_client),
    };

    return cmocka_run_group_tests(tests, read_document, NULL);
}
