/* strategy_registry.h - the rows that plugins bring, behind strategy.h.
 *
 * Only strategy.c reads it; rows are added by strategy_register() and live as
 * long as the process. */
#ifndef QUERN_PARALLEL_STRATEGY_REGISTRY_H
#define QUERN_PARALLEL_STRATEGY_REGISTRY_H

#include "parallel/strategy.h"

int registry_count(void);
const struct strategy *registry_at(int i); /* 0 <= i < registry_count() */

/* The row of this name or alias, ours or registered; NULL (not logged). In strategy.c. */
const struct strategy *strategy_look_up(const char *name);

#endif
