/* bench_read.h - how fast so many threads read memory: what no step that reads the weights beats. */
#ifndef QUERN_TOOLS_BENCH_READ_H
#define QUERN_TOOLS_BENCH_READ_H

#include <stdint.h>

#include "quern/status.h"

/* Bytes a second that `threads` threads read together, each its own part of about `bytes` in all,
 * the best of several times, into *rate, unless that is more. NOMEM, IO (logged). */
enum status bench_read(int threads, uint64_t bytes, double *rate);

#endif
