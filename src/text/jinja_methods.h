/* jinja_methods.h - string methods that jinja_methods_split.c holds for the table of
 * jinja_methods.c. */
#ifndef QUERN_TEXT_JINJA_METHODS_H
#define QUERN_TEXT_JINJA_METHODS_H

#include "text/jinja_run.h"

extern const struct jinja_builtin jinja_string_methods[];

typedef value_ref jinja_method(struct jinja_run *r, value_ref v, const value_ref *argv);
jinja_method jinja_method_split, jinja_method_rsplit, jinja_method_splitlines,
    jinja_method_partition, jinja_method_rpartition, jinja_method_replace, jinja_method_join,
    jinja_method_ljust, jinja_method_rjust, jinja_method_center, jinja_method_zfill;

/* Where `what` begins for the last time; NULL if it does not. */
const char *jinja_last_match(value_ref v, value_ref what);

/* As str.isprintable; jinja_print.c. */
bool jinja_is_printable(uint32_t c);

#endif
