/* backend.c - the table of backends, by name.
 *
 * The set is chosen when quern is built. "auto" is the best of what is here,
 * and a name that is known but absent gets its own message. */
#include "quern/backend.h"

#include <string.h>

#include "quern/log.h"

const struct backend *backend_find(const char *name)
{
    if (strcmp(name, "cpu") == 0 || strcmp(name, "auto") == 0)
        return &cpu_backend;
    if (strcmp(name, "cuda") == 0)
        log_fail(STATUS_INVALID, "this build has no CUDA module: use --backend cpu");
    else
        log_fail(STATUS_INVALID, "no backend is called \"%s\": use --backend cpu or auto", name);
    return NULL;
}
