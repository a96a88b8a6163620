/* ring_pump.h - drives numbered, checkable messages through a ring, from one
 * end each; for test_ring and stress_ring. Neither function asserts, so both
 * may run in a child or a thread. */
#ifndef TESTS_IPC_RING_PUMP_H
#define TESTS_IPC_RING_PUMP_H

#include <stdbool.h>
#include <stdint.h>

#include "ipc/doorbell.h"
#include "ipc/ring.h"

enum { PUMP_WORDS = 8 }; /* of 8 bytes, a slot */

struct pump {
    struct ring ring;        /* this end's own */
    struct doorbell *mine;   /* sleep on it when there is nothing to do; NULL: yield instead */
    struct doorbell *theirs; /* ring it after each step; NULL with mine */
    unsigned spins;          /* looks before sleeping or yielding */
    uint64_t messages;
    uint64_t deadline_ns;
};

/* Sends p->messages and closes. False: the deadline passed, or a wake-up was lost. */
bool pump_send(struct pump *p);

/* Receives until closed. False also for a wrong, missing or additional message. */
bool pump_receive(struct pump *p);

#endif
