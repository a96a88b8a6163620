/* stress_story.c - the golden answers in every way to run: isa x loop x tp x threads. */
#include <stdio.h>

#include "kernels/cpu/cpu.h"
#include "tests/e2e/golden.h"

int main(void)
{
    static const char *const tps[] = {"1", "2", "4"}, *const threads[] = {"1", "2"},
                      *const loops[] = {"uring", "epoll"};
    struct golden stories[GOLDEN_MOST];
    enum cpu_isa levels[ISA_LEVELS];
    int n = golden_read(stories), n_levels = cpu_isa_levels(levels), failed = 0, ways = 0;

    for (int i = 0; i < n_levels * 12; i++) {
        struct golden_way way = {.isa = cpu_isa_name(levels[i / 12]), .loop = loops[i % 2],
            .tp = tps[i / 2 % 3], .threads = threads[i / 6 % 2]};

        failed += golden_differences(stories, n, &way) != 0;
        ways++;
    }
    printf("%d ways to run, %d stories each: %d ways differ\n", ways, n, failed);
    return n != 4 || failed != 0;
}
