/* doctor.c - quern doctor: a list of checks, printed for a person or as JSON.
 *
 * Checks only collect findings, so the list is complete whatever comes first,
 * and the two ways of printing cannot differ in what they say. */
#include "tools/doctor.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/options.h"
#include "cli/cli.h"
#include "quern.h"
#include "quern/log.h"
#include "tools/tools.h"

struct doctor_options {
    bool json;
};

static const struct option_row doctor_rows[] = {
    {"json", 0, OPTION_FLAG, offsetof(struct doctor_options, json), NULL,
        "print the findings as JSON", 0, 0, 0},
    {0},
};

static void (*const checks[])(struct report *) = {
    doctor_check_cpu,
    doctor_check_instruction_sets,
    doctor_check_memory,
    doctor_check_huge_pages,
    doctor_check_shared_memory,
    doctor_check_eventfd,
    doctor_check_processes,
    doctor_check_loops,
    doctor_check_limits,
    doctor_check_gpus,
    doctor_check_model,
};

static const char *const verdict_names[] = {
    [VERDICT_OK] = "ok",
    [VERDICT_NOTE] = "note",
    [VERDICT_PROBLEM] = "problem",
};

void report_add(struct report *r, enum verdict verdict, const char *topic, const char *format, ...)
{
    struct finding *f = &r->findings[r->n];
    va_list args;

    if (r->n == REPORT_FINDINGS)
        return;
    r->n++;
    *f = (struct finding){.verdict = verdict, .topic = topic};
    va_start(args, format);
    vsnprintf(f->text, sizeof(f->text), format, args);
    va_end(args);
}

void report_advise(struct report *r, const char *format, ...)
{
    struct finding *f = &r->findings[r->n - 1];
    va_list args;

    va_start(args, format);
    vsnprintf(f->advice, sizeof(f->advice), format, args);
    va_end(args);
}

static int count(const struct report *r, enum verdict verdict)
{
    int n = 0;

    for (int i = 0; i < r->n; i++)
        n += r->findings[i].verdict == verdict;
    return n;
}

static void print_lines(const struct report *r)
{
    int notes = count(r, VERDICT_NOTE), problems = count(r, VERDICT_PROBLEM);

    for (int i = 0; i < r->n; i++) {
        const struct finding *f = &r->findings[i];

        printf("%-8s %-17s %s\n", verdict_names[f->verdict], f->topic, f->text);
        if (f->advice[0] != '\0')
            printf("%-8s %-17s -> %s\n", "", "", f->advice);
    }
    if (problems > 0)
        printf("\nquern %s cannot run here: %d problem%s\n", QUERN_VERSION, problems,
            problems == 1 ? "" : "s");
    else
        printf("\nquern %s can run here: %d note%s\n", QUERN_VERSION, notes, notes == 1 ? "" : "s");
}

static json_t *finding_json(const struct finding *f)
{
    json_t *one = json_pack("{s:s, s:s, s:s}", "verdict", verdict_names[f->verdict], "topic",
        f->topic, "text", f->text);

    if (one != NULL && f->advice[0] != '\0')
        json_object_set_new(one, "advice", json_string(f->advice));
    return one;
}

static enum status print_json(const struct report *r)
{
    json_t *list = json_array(), *whole;
    int failed = 0;

    for (int i = 0; i < r->n; i++)
        failed |= json_array_append_new(list, finding_json(&r->findings[i]));
    whole = json_pack("{s:s, s:b, s:o}", "version", QUERN_VERSION, "can_run",
        count(r, VERDICT_PROBLEM) == 0, "findings", list);
    failed |= whole == NULL || json_dumpf(whole, stdout, JSON_INDENT(2)) != 0;
    putchar('\n');
    json_decref(whole);
    return failed ? log_fail(STATUS_NOMEM, "the findings cannot be printed as JSON") : STATUS_OK;
}

static void usage(void)
{
    printf("quern doctor [--json]\n\nChecks what quern uses of this machine and says what to do. "
           "The exit status is 0\nwhen quern can run here and 1 when it cannot.\n\n");
    options_print(doctor_rows);
}

int command_doctor(int argc, char **argv)
{
    static struct report report; /* too large for a stack */
    struct doctor_options o = {0};
    int first;
    enum status s = options_parse(doctor_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s == STATUS_OK && first < argc)
        s = log_fail(STATUS_INVALID, "quern doctor takes no argument: see quern doctor --help");
    if (s != STATUS_OK)
        return EXIT_USAGE;
    log_set_sink(NULL, NULL); /* what checks run into is in the findings, in our words */
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
        checks[i](&report);
    log_set_sink(log_to_stderr, NULL);
    if (!o.json)
        print_lines(&report);
    else if (print_json(&report) != STATUS_OK)
        return EXIT_FAILED;
    return count(&report, VERDICT_PROBLEM) == 0 ? EXIT_DONE : EXIT_FAILED;
}
