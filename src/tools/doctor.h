/* doctor.h - inside of `quern doctor`: findings, and the checks that add them.
 *
 * A check looks at one thing of this machine, adds one finding (or a few) and
 * leaves nothing behind: no descriptor, no mapping, no process. It never fails:
 * what it cannot find out is a finding too. Private to src/tools. */
#ifndef QUERN_TOOLS_DOCTOR_H
#define QUERN_TOOLS_DOCTOR_H

enum verdict {
    VERDICT_OK,
    VERDICT_NOTE,    /* quern runs, and something could be better */
    VERDICT_PROBLEM, /* quern cannot run until it is changed */
};

struct finding {
    enum verdict verdict;
    const char *topic; /* static string */
    char text[1024];
    char advice[512]; /* what to do; "" where there is nothing to */
};

enum { REPORT_FINDINGS = 32 };

struct report {
    struct finding findings[REPORT_FINDINGS];
    int n;
};

/* Past REPORT_FINDINGS, findings are dropped. */
void report_add(struct report *r, enum verdict verdict, const char *topic, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* What to do about the finding added last. */
void report_advise(struct report *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* doctor_machine.c: what the machine is. */
void doctor_check_cpu(struct report *r);
void doctor_check_instruction_sets(struct report *r);
void doctor_check_memory(struct report *r);
void doctor_check_huge_pages(struct report *r);
void doctor_check_gpus(struct report *r);
void doctor_check_model(struct report *r);

/* doctor_system.c: what the kernel lets us do. */
void doctor_check_shared_memory(struct report *r);
void doctor_check_eventfd(struct report *r);
void doctor_check_processes(struct report *r);
void doctor_check_loops(struct report *r);
void doctor_check_limits(struct report *r);

#endif
