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
    struct quern_request request;
    struct quern_event event = {.kind = QUERN_EVENT_LOADING};
    uint64_t id;
    int status = quern_spawn(NULL, &q); /* NULL: the storyteller, with default options */

    quern_request_init(&request);
    request.text = argc > 1 ? argv[1] : "Once upon a time";
    request.max_tokens = 100;
    if (status == QUERN_OK)
        status = quern_submit(q, &request, &id);

    /* DONE or ERROR is the last event; QUERN_AGAIN (> 0) is nothing new. */
    while (status >= QUERN_OK && event.kind < QUERN_EVENT_DONE) {
        status = quern_next(q, -1, &event);
        if (status == QUERN_OK && event.kind == QUERN_EVENT_TEXT) {
            fwrite(event.text, 1, event.text_bytes, stdout);
            fflush(stdout);
        }
    }
    putchar('\n');
    if (status < QUERN_OK || event.kind == QUERN_EVENT_ERROR)
        fprintf(stderr, "%s\n", status < QUERN_OK ? quern_error(q) : event.text);
    quern_close(q);
    return status == QUERN_OK && event.kind == QUERN_EVENT_DONE ? 0 : 1;
}
