/* plugin.h - loading a user's module (quern/plugin.h is what it is written against).
 *
 * Ownership: a loaded module stays until the process ends, since its functions
 * are in the table of strategies. Blocking: the dynamic loader reads the file.
 * Set-up only: before other threads exist and before tp_plan_open(). */
#ifndef QUERN_PARALLEL_PLUGIN_H
#define QUERN_PARALLEL_PLUGIN_H

#include "quern/status.h"

/* Opens the module and calls its quern_plugin_init(). INVALID (logged): there is no such file, it
 * is no module, lacks a symbol, was built for another version, or gave up. */
enum status plugin_load(const char *path);

#endif
