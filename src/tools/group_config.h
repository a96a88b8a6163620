/* group_config.h - from a command line to what a group runs. */
#ifndef QUERN_TOOLS_GROUP_CONFIG_H
#define QUERN_TOOLS_GROUP_CONFIG_H

#include "msg/group.h"
#include "quern.h"

/* Fills defaults and finds the model. INVALID (logged). */
enum status group_config_from(const struct quern_options *o, struct group_config *c);

#endif
