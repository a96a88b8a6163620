/* config_page.c - written, not mapped: a memfd can be sealed against writing only while nobody
 * has it mapped for that. */
#include "msg/config_page.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "quern/log.h"

enum { SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

enum status config_page_create(const struct runtime_config *c, int *fd)
{
    int made = memfd_create("quern-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (made < 0)
        return log_call_failed(errno, "memfd_create", "no memory for the workers' options");
    if (write(made, c, sizeof(*c)) != (ssize_t)sizeof(*c) || fcntl(made, F_ADD_SEALS, SEALS) != 0) {
        log_fail(STATUS_IO, "the workers' options cannot be kept in memory: %s", strerror(errno));
        close(made);
        return STATUS_IO;
    }
    *fd = made;
    return STATUS_OK;
}

enum status config_page_read(int fd, struct runtime_config *out)
{
    struct runtime_config c;

    if (fcntl(fd, F_GET_SEALS) != SEALS || pread(fd, &c, sizeof(c), 0) != (ssize_t)sizeof(c) ||
        c.tp < 1 || c.tp > MAX_RANKS)
        return log_fail(STATUS_INVALID, "descriptor %d does not hold a supervisor's options", fd);
    *out = c;
    return STATUS_OK;
}
