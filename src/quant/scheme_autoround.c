/* scheme_autoround.c - auto-round's configuration said in GPTQ's or AWQ's words.
 *
 * Its packings are theirs to the bit: auto_round:auto_gptq is GPTQ's first version with zeros less
 * one, auto_round and auto_round:gptqmodel are the second without, auto_round:auto_awq is AWQ's
 * gemm. What differs is where exceptions stand: extra_config, by name or by an expression that may
 * match anywhere, where GPTQ's dynamic has expressions from the beginning. */
#include "quant/scheme.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

enum { WHOLE_BITS = 16 }; /* from here on a layer is not quantised */

static const struct packing {
    const char *name, *checkpoint_format; /* NULL: AWQ */
} packings[] = {
    {"auto_round:auto_gptq", "gptq"},
    {"auto_round:gptq", "gptq"},
    {"auto", "gptq"},
    {"auto_round", "gptq_v2"},
    {"auto_round:gptqmodel", "gptq_v2"},
    {"auto_round:auto_awq", NULL},
    {"auto_round:awq", NULL},
};

static enum status find_packing(const char *file, const json_t *config, const struct packing **out)
{
    const char *name = packings[0].name;
    enum status status = json_field_string(file, config, "packing_format", &name);

    if (status != STATUS_OK)
        return status;
    for (size_t i = 0; i < sizeof(packings) / sizeof(packings[0]); i++)
        if (strcmp(name, packings[i].name) == 0) {
            *out = &packings[i];
            return STATUS_OK;
        }
    return log_fail(STATUS_INVALID, "%s: auto-round's packing_format %s is not supported: quern "
        "reads auto_round:auto_gptq, auto_round:gptqmodel and auto_round:auto_awq", file, name);
}

static enum status check_types(const char *file, const json_t *config)
{
    const char *type = "int";
    int act_bits = WHOLE_BITS;
    enum status status = json_field_string(file, config, "data_type", &type);

    if (status == STATUS_OK)
        status = json_field_int(file, config, "act_bits", 1, 64, &act_bits);
    if (status != STATUS_OK)
        return status;
    if (strcmp(type, "int") != 0 || act_bits < WHOLE_BITS)
        return log_fail(STATUS_INVALID, "%s: auto-round with data_type %s and act_bits %d is not "
            "supported: quern reads int weights with whole activations", file, type, act_bits);
    return STATUS_OK;
}

/* What no module's name has. */
static bool is_expression(const char *key)
{
    return key[strcspn(key, "*+?^$()[]{}|\\")] != '\0';
}

/* A module's name, or an expression, as one of GPTQ's dynamic. NULL: no memory. */
static char *dynamic_key(const char *key, bool skip)
{
    bool expression = is_expression(key);
    char *text = malloc(2 * strlen(key) + 16), *to = text;

    if (text == NULL)
        return NULL;
    to = stpcpy(to, skip ? "-:" : "+:");
    to = stpcpy(to, expression ? ".*(?:" : "");
    for (; *key != '\0'; key++) {
        if (*key == '.' && !expression)
            *to++ = '\\';
        *to++ = *key;
    }
    strcpy(to, expression ? ")" : "$");
    return text;
}

static enum status add_exception(const char *file, const char *name, json_t *entry, json_t *dynamic)
{
    int bits = 4;
    enum status status = json_field_int(file, entry, "bits", 1, 64, &bits);
    char *key;
    bool added;

    if (status != STATUS_OK)
        return status;
    key = dynamic_key(name, bits >= WHOLE_BITS);
    added = key != NULL && json_object_set(dynamic, key, entry) == 0;
    free(key);
    return added ? STATUS_OK : log_fail(STATUS_NOMEM, "%s: no memory for extra_config", file);
}

/* Names win over expressions, so they come first. */
static enum status read_exceptions(const char *file, const json_t *config, json_t *dynamic)
{
    json_t *extra = json_object_get(config, "extra_config"), *entry;
    const char *name;

    for (int expressions = 0; expressions < 2; expressions++)
        json_object_foreach(extra, name, entry) {
            enum status status;

            if (!json_is_object(entry))
                return log_fail(STATUS_INVALID, "%s: extra_config %s is not an object", file, name);
            if (is_expression(name) != (expressions == 1))
                continue;
            status = add_exception(file, name, entry, dynamic);
            if (status != STATUS_OK)
                return status;
        }
    return STATUS_OK;
}

enum status scheme_read_autoround(struct quant_scheme *s, const char *file, const json_t *config)
{
    const struct packing *packing = NULL;
    json_t *theirs = json_copy((json_t *)config), *dynamic = json_object();
    enum status status = find_packing(file, config, &packing);

    if (status == STATUS_OK)
        status = check_types(file, config);
    if (status == STATUS_OK)
        status = read_exceptions(file, config, dynamic);
    if (status == STATUS_OK && (json_object_set(theirs, "dynamic", dynamic) != 0 ||
                                   (packing->checkpoint_format != NULL &&
                                       json_object_set_new(theirs, "checkpoint_format",
                                           json_string(packing->checkpoint_format)) != 0)))
        status = log_fail(STATUS_NOMEM, "%s: no memory to read it", file);
    if (status == STATUS_OK)
        status = (packing->checkpoint_format != NULL ? scheme_read_gptq : scheme_read_awq)(s, file,
            theirs);
    json_decref(dynamic);
    json_decref(theirs);
    return status;
}
