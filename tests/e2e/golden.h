/* golden.h - golden.json of the storyteller, and how the program is asked for it. */
#ifndef TESTS_E2E_GOLDEN_H
#define TESTS_E2E_GOLDEN_H

enum { GOLDEN_MOST = 8, GOLDEN_IDS = 512 };

struct golden {
    char text[256];           /* the prompt */
    char greedy[GOLDEN_IDS];  /* "11,365,...": the end token left out */
    char greedy_text[1024];
};

/* Fills stories[]; how many there are. */
int golden_read(struct golden stories[GOLDEN_MOST]);

/* One way to run: exactly these, whatever else may be faster. */
struct golden_way {
    const char *isa, *loop, *tp, *threads;
};

/* Runs every story that way; 0, or the number of those that differ (said on standard error). */
int golden_differences(const struct golden *stories, int n, const struct golden_way *way);

#endif
