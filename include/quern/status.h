/* status.h - the one status enum of quern.
 *
 * 0 is success, positive means "later" or "otherwise" (no harm done, nothing
 * logged), negative means failure. Whoever detects a failure first logs one
 * line that says what to do (log_fail() in log.h); callers only propagate.
 * Outputs are written last, and only with STATUS_OK. */
#ifndef QUERN_STATUS_H
#define QUERN_STATUS_H

enum status {
    STATUS_OK = 0,
    STATUS_AGAIN = 1,        /* nothing there yet, or no room: try later */
    STATUS_CLOSED = 2,       /* the peer ended in good order */
    STATUS_UNSUPPORTED = 3,  /* this row cannot; take the plain way */

    STATUS_INVALID = -1,     /* bad input: a file, a frame, an option */
    STATUS_IO = -2,          /* the operating system refused */
    STATUS_NOMEM = -3,       /* too little memory */
    STATUS_DEAD = -4,        /* a peer process died, or the abort word is set */
    STATUS_TIMEOUT = -5,     /* a deadline passed */
    STATUS_INTERRUPTED = -6, /* SIGINT or SIGTERM */
    STATUS_INTERNAL = -7,    /* a promise of ours was broken */
    STATUS_UNKNOWN = -8,     /* it asks for what this version does not have */
};

/* "ok", "invalid input", ...; never NULL. */
const char *status_name(enum status s);

#endif
