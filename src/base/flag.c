/* flag.c - the one wait for a word of memory.
 *
 * Two stages, because the wait is either shorter than a system call (who is
 * waited for runs on another core) or longer than a time slice (it needs ours):
 * pause and look; sleep on the word itself with a futex. The abort word is set
 * by a supervisor that does not know who sleeps where, so a wait that has one
 * sleeps at most 50 ms at a time.
 *
 * E1 publish --value--> wait: data exists before the value says so.
 * F1 publish: store value; full fence; load sleepers.
 * F2 sleep:   add to sleepers; full fence; look at value (we, then the kernel).
 * So either the writer sees the sleeper or the sleeper sees the value. */
#include "quern/flag.h"

#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "quern/spin.h"

enum { SLICE_NS = 50 * 1000 * 1000 };

_Static_assert(FLAG_BETWEEN_THREADS == FUTEX_PRIVATE_FLAG, "the scope is a flag of futex(2)");

uint64_t flag_spin_ns = FLAG_SPIN_NS;

void flag_init(struct flag *f, enum flag_scope scope)
{
    /* relaxed: nobody uses it yet */
    atomic_store_explicit(&f->value, 0, memory_order_relaxed);
    atomic_store_explicit(&f->sleepers, 0, memory_order_relaxed);
    f->scope = scope;
}

uint32_t flag_value(const struct flag *f)
{
    return atomic_load_explicit(&f->value, memory_order_acquire); /* E1 */
}

/* Masked: shared memory is not trusted to name an operation. */
static int operation(const struct flag *f, int verb)
{
    return verb | (int)(f->scope & FUTEX_PRIVATE_FLAG);
}

void flag_publish(struct flag *f, uint32_t value)
{
    atomic_store_explicit(&f->value, value, memory_order_release); /* E1 */
    spin_fence();                                                  /* F1 */
    /* relaxed: the fence orders it */
    if (atomic_load_explicit(&f->sleepers, memory_order_relaxed) != 0)
        syscall(SYS_futex, &f->value, operation(f, FUTEX_WAKE), INT_MAX, NULL, NULL, 0);
}

static bool reached(uint32_t now, uint32_t value)
{
    return (int32_t)(now - value) >= 0;
}

struct goal {
    const struct flag *flag;
    uint32_t value;
};

static bool is_reached(void *context)
{
    const struct goal *g = context;

    return reached(flag_value(g->flag), g->value);
}

/* One sleep while the value is still `seen`; NULL: for as long as it is. Returns for any reason. */
static void sleep_slice(struct flag *f, uint32_t seen, const struct timespec *slice)
{
    syscall(SYS_futex, &f->value, operation(f, FUTEX_WAIT), seen, slice, NULL, 0);
}

static enum status sleep_until(
    struct flag *f, uint32_t value, const _Atomic uint32_t *abort_word, uint64_t deadline_ns)
{
    for (;;) {
        uint32_t seen = flag_value(f);
        struct timespec slice = {.tv_nsec = SLICE_NS};
        uint64_t now;

        if (reached(seen, value))
            return STATUS_OK;
        if (abort_word == NULL && deadline_ns == SPIN_FOREVER) {
            sleep_slice(f, seen, NULL);
            continue;
        }
        /* relaxed: it carries no data */
        if (abort_word != NULL && atomic_load_explicit(abort_word, memory_order_relaxed) != 0)
            return STATUS_DEAD;
        now = spin_now_ns();
        if (now >= deadline_ns)
            return STATUS_TIMEOUT;
        if (deadline_ns - now < SLICE_NS)
            slice.tv_nsec = (long)(deadline_ns - now);
        sleep_slice(f, seen, &slice);
    }
}

enum status flag_sleep(
    struct flag *f, uint32_t value, const _Atomic uint32_t *abort_word, uint64_t deadline_ns)
{
    enum status s;

    if (reached(flag_value(f), value))
        return STATUS_OK;
    /* relaxed: the fence orders the first; the second only saves the writer a call */
    atomic_fetch_add_explicit(&f->sleepers, 1, memory_order_relaxed);
    spin_fence(); /* F2 */
    s = sleep_until(f, value, abort_word, deadline_ns);
    atomic_fetch_sub_explicit(&f->sleepers, 1, memory_order_relaxed);
    return s;
}

enum status flag_wait(
    struct flag *f, uint32_t value, const _Atomic uint32_t *abort_word, uint64_t deadline_ns)
{
    if (spin_until(is_reached, &(struct goal){.flag = f, .value = value}, flag_spin_ns))
        return STATUS_OK;
    return flag_sleep(f, value, abort_word, deadline_ns);
}
