/* jinja_filters.h - the rows of the two files that hold filters. */
#ifndef QUERN_TEXT_JINJA_FILTERS_H
#define QUERN_TEXT_JINJA_FILTERS_H

#include "text/jinja_run.h"

extern const struct jinja_builtin jinja_text_filters[]; /* jinja_filters.c */
extern const struct jinja_builtin jinja_list_filters[]; /* jinja_filters_list.c */

/* For each item the value at `path` (NULL: the item), `otherwise` (or NULL) where
 * that is undefined, and strings in lower case unless case_sensitive (or NULL) is true. */
value_ref *jinja_keys(struct jinja_run *r, const struct jinja_items *list, value_ref path,
    value_ref case_sensitive, value_ref otherwise);

/* jinja_numbers.c */
value_ref jinja_filter_int(struct jinja_run *r, value_ref v, const value_ref *argv);
value_ref jinja_filter_float(struct jinja_run *r, value_ref v, const value_ref *argv);
value_ref jinja_filter_round(struct jinja_run *r, value_ref v, const value_ref *argv);
value_ref jinja_filter_abs(struct jinja_run *r, value_ref v, const value_ref *argv);

/* The method of that name, called with up to 3 arguments. */
value_ref jinja_call_method(struct jinja_run *r, value_ref string, const char *name,
    const value_ref *items, size_t count);

/* jinja_methods_split.c: str.splitlines; the lines are strings. */
bool jinja_split_lines(struct jinja_run *r, value_ref string, bool keep, struct jinja_items *out);

#endif
