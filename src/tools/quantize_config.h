/* quantize_config.h - config.json of a checkpoint that `quern quantize` writes.
 *
 * Everything of the original stays; quantization_config is added, as
 * compressed-tensors spells it (FACTS 4b). Blocking: reads and writes one file. */
#ifndef QUERN_TOOLS_QUANTIZE_CONFIG_H
#define QUERN_TOOLS_QUANTIZE_CONFIG_H

#include <stdbool.h>

#include "quant/stored.h"
#include "tools/folder_write.h"

/* Do a rule's codes lie in I32 words? Integer weights alone do, as their loaders expect. */
bool quantize_packed(const struct quant_rule *rule);

/* `rule` is of all linear layers but the head, `head` of the head or NULL: it is plain. With
 * `untie` the head has become a matrix of its own. */
enum status quantize_config_write(const struct folder *f, const char *dir,
    const struct quant_rule *rule, const struct quant_rule *head, bool untie);

#endif
