/* 01_complete.c - a story from a C program.
 *
 *     cc 01_complete.c $(pkg-config --cflags --libs quern) -o 01_complete
 *     ./01_complete "The old miller"
 *
 * quern_spawn() starts a runtime of its own and loads the model in the
 * background; the answer comes piece by piece through quern_next(). */
#include <quern.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct quern *q;
    struct quern_request *request = quern_request_new();
    const struct quern_event *event = NULL;
    int status = quern_spawn(NULL, &q); /* NULL: the storyteller, with default options */

    quern_request_set_text(request, argc > 1 ? argv[1] : "Once upon a time", QUERN_STRLEN);
    quern_request_set_int(request, QUERN_PARAM_MAX_TOKENS, 100);
    if (status == QUERN_OK)
        status = quern_submit(q, request, NULL);

    /* Events that are not about text have none. */
    while (status == QUERN_OK && !quern_event_is_last(event)) {
        status = quern_next(q, -1, &event);
        if (status == QUERN_OK)
            fputs(quern_event_text(event, NULL), stdout);
        fflush(stdout);
    }
    putchar('\n');
    if (status != QUERN_OK)
        fprintf(stderr, "%s\n", quern_error(q));
    else if (quern_event_kind(event) == QUERN_EVENT_ERROR)
        fprintf(stderr, "%s\n", quern_event_message(event));
    status = status == QUERN_OK && quern_event_kind(event) == QUERN_EVENT_DONE ? 0 : 1;
    quern_request_free(request);
    quern_close(q);
    return status;
}
