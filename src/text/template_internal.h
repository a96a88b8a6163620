/* template_internal.h - a template's row, shared by the file that chooses
 * (template.c) and the one that renders (template_render.c). */
#ifndef QUERN_TEXT_TEMPLATE_INTERNAL_H
#define QUERN_TEXT_TEMPLATE_INTERNAL_H

#include <stdbool.h>

#include "text/template.h"

enum template_ending {
    ENDING_PLAIN,       /* nothing after "<|im_start|>assistant\n" */
    ENDING_SWITCHED,    /* an empty think block if enable_thinking is false */
    ENDING_EMPTY_THINK, /* always an empty think block */
    ENDING_OPEN_THINK,  /* always "<think>\n" */
};

struct chat_template {
    const char *name;
    enum template_ending ending;
    bool thinks; /* answers are split into reasoning and content */
    bool tools;  /* tools and tool calls can be rendered */
};

#endif
