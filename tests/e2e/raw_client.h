/* raw_client.h - a client that speaks the socket protocol by hand, well or badly.
 *
 * Nothing is hidden: what is sent is what the test wrote, and every frame that
 * comes is looked at. Waits have a deadline; one that passes fails the test. */
#ifndef TESTS_E2E_RAW_CLIENT_H
#define TESTS_E2E_RAW_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "msg/frame.h"
#include "msg/params.h"
#include "tests/e2e/command.h"

struct raw_server {
    struct command command;
    char path[256]; /* of the socket */
};

/* Starts `quern serve --socket`, with more words (NULL-terminated), and waits for its socket. */
void raw_server_start(struct raw_server *s, const char *const more[]);
/* The same on a path that is in s->path already. */
void raw_server_start_at(struct raw_server *s, const char *const more[]);
/* SIGTERM; fails unless it ends in good order, has said `said` and leaves no socket. */
void raw_server_stop(struct raw_server *s, const char *said);

/* The server's process of that name; fails when there is none. */
pid_t raw_server_member(const struct raw_server *s, const char *name);

struct raw_client {
    int fd;
    unsigned char *mem; /* bytes that came and were not taken */
    size_t n, room;
};

struct raw_frame {
    struct frame_header header;
    unsigned char *payload; /* malloc'ed, one NUL behind it */
};

void raw_connect(struct raw_client *c, const struct raw_server *s);
void raw_close(struct raw_client *c);

/* Sends all of it; false when the other end is gone. */
bool raw_send(struct raw_client *c, const void *bytes, size_t n);
bool raw_send_frame(struct raw_client *c, unsigned type, uint64_t id, const void *payload,
    size_t n);

/* What is submitted. */
struct raw_params {
    uint32_t task, prompt;
    struct params params; /* those whose bit in `given` is set are sent, whatever they are */
};

/* p.params.field = value, and it is given. */
#define RAW_GIVE(p, key, field, value)                                                             \
    ((p).params.field = (value), (p).params.given |= 1ull << (key))

/* Greedy, max_tokens, of text or ids; change what the test is about. */
struct raw_params raw_params(uint32_t prompt, uint32_t max_tokens);
/* The same, past end tokens. */
struct raw_params raw_endless(uint32_t prompt, uint32_t max_tokens);
/* Its payload, up to the prompt, into bytes [RAW_PAYLOAD]; returns how many. */
enum { RAW_LISTS = 12 << 10, RAW_PAYLOAD = sizeof(struct frame_submit) + PARAMS_FIRST_BYTES + RAW_LISTS };
size_t raw_payload(const struct raw_params *p, size_t prompt_bytes, unsigned char *bytes);
bool raw_submit(struct raw_client *c, uint64_t id, struct raw_params params, const void *data,
    size_t n);
bool raw_resume(struct raw_client *c, uint64_t id, uint64_t key, uint64_t after);

/* The next frame, within 30 s; false at the connection's end. free() its payload. */
bool raw_next(struct raw_client *c, struct raw_frame *f);

/* Reads until the last frame of request `id`: its DONE, or its ERROR. The text of its TOKENS,
 * or the error line, is malloc'ed in *text. Returns the type; fails at the connection's end, and
 * where frames are not in order. */
unsigned raw_answer(struct raw_client *c, uint64_t id, char **text);

/* The next frame of `type`, others left out; fails at the connection's end. */
struct raw_frame raw_await(struct raw_client *c, unsigned type);

/* The fixed part of a frame, as this version knows it; fails where it is broken. */
void raw_fixed(const struct raw_frame *f, void *out, size_t bytes);
/* What follows it. */
const char *raw_rest(const struct raw_frame *f);

/* Request `id` ends with an ERROR of that code that has `line` in it, in one line. */
void raw_refused(struct raw_client *c, uint64_t id, enum quern_code code, const char *line);

/* A prompt gets the answer that it should: the server is well. */
void raw_assert_well(const struct raw_server *s);

#endif
