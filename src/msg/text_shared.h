/* text_shared.h - the memory and messages that a supervisor and its text worker share.
 *
 *   supervisor --request ring--> text worker --reply ring--> supervisor
 *
 * One segment per text worker: when it dies, the next one gets a new one, and
 * the ranks never hear of it. The detokenisation table lies in a memfd of its
 * own that the text worker fills. Ownership, trust and death as in shared.h. */
#ifndef QUERN_MSG_TEXT_SHARED_H
#define QUERN_MSG_TEXT_SHARED_H

#include "msg/shared.h"

enum {
    TEXT_SHARED_MAGIC = 0x74717267, /* "grqt" */
    TEXT_SLOTS = 64,
};

/* Supervisor to text worker, and back. */
enum text_kind { TEXT_ENCODE, TEXT_CHAT, TEXT_NONE /* bad words alone */ };
/* What a reply is, and whose its payload. */
enum text_answer {
    TEXT_IDS,         /* int32 ids */
    TEXT_INVALID,     /* the line that says what is wrong with the text */
    TEXT_TOO_LONG,    /* the line that says by how much */
    TEXT_NO_MEMORY,   /* the line; the same text may do later */
};

struct text_msg {
    uint32_t generation;
    uint32_t kind; /* a reply repeats it */
    uint64_t id;
    uint64_t at, end;   /* bytes */
    uint32_t bytes;     /* of the text and the bad words, the error line or the int32 ids */
    uint32_t answer;    /* reply: enum text_answer */
    uint32_t words;     /* of the bytes, the last so many are bad words, as in PARAM_BAD_WORDS; reply:
                         * of the ids, the last so many are runs of them, a count before each */
    uint32_t reserved;
};

struct text_control {
    uint32_t magic, generation; /* writer: the supervisor, before the child */
    struct member member;
    struct doorbell_shared supervisor_bell, text_bell, text_room;
};

struct text_shared {
    struct segment segment;
    struct text_control *control;
    struct runtime_config config;
    uint32_t generation;
    struct ring requests, replies;
    struct ring_buffer request_bytes, reply_bytes;
    struct doorbell supervisor_bell, text_bell;
    struct doorbell text_room; /* the text worker waits for room for a reply: as leader_room */
    int vocab_fd; /* memfd of the detokenisation table, filled by the text worker */
    int config_fd;
    int death_fd, death_keep_fd; /* as in struct shared */
};

/* As their namesakes in shared.h. */
int text_shared_fds(const struct text_shared *g, int fds[FD_LIST_MOST]);
enum status text_shared_create(const struct runtime_config *config, uint32_t generation,
    int bell_fd, struct text_shared *g);
enum status text_shared_join(const char *fds_text, struct text_shared *g);
void text_shared_close(struct text_shared *g);
struct member_seat text_shared_seat(struct text_shared *g);

#endif
