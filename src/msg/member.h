/* member.h - one child's standing, in memory that it shares with the supervisor.
 *
 * The supervisor believes nothing of it: a stage is one of the enum or taken
 * for FAILED, and a line ends where its place does. */
#ifndef QUERN_MSG_MEMBER_H
#define QUERN_MSG_MEMBER_H

#include <stdatomic.h>
#include <stdint.h>

#include "ipc/doorbell.h"
#include "quern/log.h"

enum stage { STAGE_STARTING, STAGE_LOADING, STAGE_READY, STAGE_STOPPED, STAGE_FAILED };

/* Writer: that process. */
struct member {
    _Alignas(64) _Atomic uint32_t stage; /* release: what it says (error, facts) is written before */
    _Atomic uint64_t loaded, total;      /* bytes of weights; relaxed: only shown */
    _Alignas(64) _Atomic uint64_t progress; /* moves with every operation; relaxed: only watched */
    char error[LOG_LINE_BYTES];          /* with STAGE_FAILED */
};

/* A member's ends of what it tells by. */
struct member_seat {
    struct member *member;
    _Atomic uint32_t *abort_word; /* 0 -> 1 by whoever fails, or the supervisor; NULL: none */
    struct doorbell *room_bell;   /* of who may wait for room meanwhile; NULL: none */
    struct doorbell *supervisor_bell;
};

/* Sets a stage and wakes the supervisor. */
void member_stage(const struct member_seat *seat, enum stage stage);

/* A member's last word: stores the line, sets FAILED and the abort word, wakes the supervisor. */
void member_fail(const struct member_seat *seat, const char *line);

/* The supervisor's look: acquire, and bounded. */
enum stage member_stage_of(const struct member *m);
void member_error(const struct member *m, char line[LOG_LINE_BYTES]);

/* A log sink for members: an error stays with its thread (log_last_error()), where whoever
 * must answer finds it; the rest goes to standard error unless context is not NULL (ranks
 * past 0, which would say it again). */
void member_log(void *context, enum log_level level, const char *line);

#endif
