/* member.c - what a child says of itself, and how much of it is believed. */
#include "msg/member.h"

#include <stdio.h>
#include <string.h>

void member_stage(const struct member_seat *seat, enum stage stage)
{
    /* release: pairs with member_stage_of(); error and facts are written before */
    atomic_store_explicit(&seat->member->stage, stage, memory_order_release);
    doorbell_ring(seat->supervisor_bell);
}

void member_fail(const struct member_seat *seat, const char *line)
{
    snprintf(seat->member->error, sizeof(seat->member->error), "%s", line);
    atomic_store_explicit(&seat->member->stage, STAGE_FAILED, memory_order_release);
    if (seat->abort_word != NULL) /* release: who finds it finds the reason, too */
        atomic_store_explicit(seat->abort_word, 1, memory_order_release);
    if (seat->room_bell != NULL)
        doorbell_ring(seat->room_bell);
    doorbell_ring(seat->supervisor_bell);
}

enum stage member_stage_of(const struct member *m)
{
    /* acquire: what the member wrote before its stage is there */
    uint32_t stage = atomic_load_explicit(&m->stage, memory_order_acquire);

    return stage <= STAGE_FAILED ? (enum stage)stage : STAGE_FAILED;
}

void member_error(const struct member *m, char line[LOG_LINE_BYTES])
{
    size_t n = strnlen(m->error, LOG_LINE_BYTES - 1);

    memcpy(line, m->error, n);
    line[n] = '\0';
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < ' ')
            line[i] = ' ';
    if (n == 0)
        snprintf(line, LOG_LINE_BYTES, "a worker failed and did not say why");
}

void member_log(void *context, enum log_level level, const char *line)
{
    if (level != LOG_LEVEL_ERROR && context == NULL)
        log_to_stderr(NULL, level, line);
}
