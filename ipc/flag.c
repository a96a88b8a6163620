/* flag.c - the waiting of collectives and of the rendezvous.
 *
 * Three stages, because the wait is either shorter than a system call (the peer
 * runs on another core) or longer than a time slice (it needs ours): pause and
 * look; yield; sleep on the word itself with a futex. The futex is not private:
 * peers are processes. Sleeps last at most 50 ms, for the abort word is set by
 * a supervisor that does not know who sleeps where.
 *
 * E1 publish --value--> wait: data exists before the value says so.
 * F1 publish: store value; full fence; load sleepers.
 * F2 sleep:   add to sleepers; full fence; look at value (we, then the kernel).
 * So either the writer sees the sleeper or the sleeper sees the value. */
#include "ipc/flag.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/spin.h"

enum { YIELDS = 4, SLICE_NS = 50 * 1000 * 1000 };

unsigned flag_spin_iterations = 2000;

void flag_init(struct shm_flag *f)
{
    /* relaxed: nobody uses it yet */
    atomic_store_explicit(&f->value, 0, memory_order_relaxed);
    atomic_store_explicit(&f->sleepers, 0, memory_order_relaxed);
}

uint32_t flag_value(const struct shm_flag *f)
{
    return atomic_load_explicit(&f->value, memory_order_acquire); /* E1 */
}

void flag_publish(struct shm_flag *f, uint32_t value)
{
    atomic_store_explicit(&f->value, value, memory_order_release); /* E1 */
    spin_fence();                                                  /* F1 */
    /* relaxed: the fence orders it */
    if (atomic_load_explicit(&f->sleepers, memory_order_relaxed) != 0)
        syscall(SYS_futex, &f->value, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static bool reached(uint32_t now, uint32_t value)
{
    return (int32_t)(now - value) >= 0;
}

static bool spin_until(const struct shm_flag *f, uint32_t value)
{
    for (unsigned i = 0; i < flag_spin_iterations; i++) {
        if (reached(flag_value(f), value))
            return true;
        spin_pause();
    }
    for (int i = 0; i < YIELDS; i++) {
        if (reached(flag_value(f), value))
            return true;
        sched_yield();
    }
    return false;
}

/* One sleep while the value is still `seen`. Returns for any reason. */
static void sleep_slice(struct shm_flag *f, uint32_t seen, uint64_t ns)
{
    struct timespec slice = {.tv_nsec = (long)(ns < SLICE_NS ? ns : SLICE_NS)};

    syscall(SYS_futex, &f->value, FUTEX_WAIT, seen, &slice, NULL, 0);
}

static enum status sleep_until(
    struct shm_flag *f, uint32_t value, const _Atomic uint32_t *abort_word, uint64_t deadline_ns)
{
    for (;;) {
        uint32_t seen = flag_value(f);
        uint64_t now;

        if (reached(seen, value))
            return STATUS_OK;
        /* relaxed: it carries no data */
        if (abort_word != NULL && atomic_load_explicit(abort_word, memory_order_relaxed) != 0)
            return STATUS_DEAD;
        now = spin_now_ns();
        if (now >= deadline_ns)
            return STATUS_TIMEOUT;
        sleep_slice(f, seen, deadline_ns - now);
    }
}

enum status flag_wait(
    struct shm_flag *f, uint32_t value, const _Atomic uint32_t *abort_word, uint64_t deadline_ns)
{
    enum status s;

    if (spin_until(f, value))
        return STATUS_OK;
    /* relaxed: the fence orders the first; the second only saves the writer a call */
    atomic_fetch_add_explicit(&f->sleepers, 1, memory_order_relaxed);
    spin_fence(); /* F2 */
    s = sleep_until(f, value, abort_word, deadline_ns);
    atomic_fetch_sub_explicit(&f->sleepers, 1, memory_order_relaxed);
    return s;
}
