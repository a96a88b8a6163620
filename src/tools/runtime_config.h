/* runtime_config.h - from a command line to what the workers run. */
#ifndef QUERN_TOOLS_RUNTIME_CONFIG_H
#define QUERN_TOOLS_RUNTIME_CONFIG_H

#include "base/runtime_options.h"
#include "msg/shared.h"

/* Fills defaults and finds the model. INVALID (logged). */
enum status runtime_config_from(const struct runtime_options *o, struct runtime_config *c);

#endif
