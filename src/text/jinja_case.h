/* jinja_case.h - upper and lower case of text. */
#ifndef QUERN_TEXT_JINJA_CASE_H
#define QUERN_TEXT_JINJA_CASE_H

#include "text/jinja_run.h"

enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE, JINJA_CAPITALIZED, JINJA_SWAPPED };

void jinja_put_case(struct text_buffer *b, enum jinja_case to, const char *text, size_t bytes);

/* The string v in another case; Markup stays Markup. */
value_ref jinja_cased(struct jinja_run *r, value_ref v, enum jinja_case to);

/* Has an upper or a lower case. */
bool jinja_is_cased(uint32_t c);

#endif
