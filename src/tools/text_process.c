/* text_process.c - quern text FDS: the text worker as a process.
 *
 * Random weights have no tokenizer on disk: theirs is written to a temporary
 * directory, read, and removed before the first request. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cli/cli.h"
#include "checkpoint/synth.h"
#include "checkpoint/synth_tokenizer.h"
#include "quern/log.h"
#include "text/text_worker.h"
#include "tools/tools.h"

typedef enum status write_tokenizer(const struct model_config *cfg, FILE *out);

static enum status write_file(const char *path, const struct model_config *cfg,
    write_tokenizer *write_it)
{
    FILE *f = fopen(path, "we");
    enum status s;

    if (f == NULL)
        return log_fail(STATUS_IO, "%s: cannot be written", path);
    s = write_it(cfg, f);
    if (fclose(f) != 0 || s != STATUS_OK)
        return log_fail(STATUS_IO, "%s: could not be written", path);
    return STATUS_OK;
}

/* Opens the text worker on files that are gone when this returns. */
static enum status open_synth(struct text_shared *g, struct text_worker *t)
{
    const char *tmp = getenv("TMPDIR");
    char dir[256], json[300], config[300];
    struct model_config cfg;
    enum status s = synth_config(g->config.model, &cfg);

    if (s != STATUS_OK)
        return s;
    snprintf(dir, sizeof(dir), "%s/quern-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(dir) == NULL)
        return log_fail(STATUS_IO, "%s: no temporary directory: set TMPDIR", dir);
    snprintf(json, sizeof(json), "%s/tokenizer.json", dir);
    snprintf(config, sizeof(config), "%s/tokenizer_config.json", dir);
    s = write_file(json, &cfg, synth_tokenizer_write);
    if (s == STATUS_OK)
        s = write_file(config, &cfg, synth_tokenizer_config_write);
    if (s == STATUS_OK)
        s = text_worker_open(g, dir, t);
    unlink(json);
    unlink(config);
    rmdir(dir);
    return s;
}

static enum status run(struct text_shared *g)
{
    const char *model = g->config.model;
    struct text_worker t;
    enum status s = synth_is(model) ? open_synth(g, &t) : text_worker_open(g, model, &t);

    if (s != STATUS_OK)
        return s;
    s = text_worker_run(&t);
    text_worker_close(&t);
    return s;
}

int command_text(int argc, char **argv)
{
    struct text_shared g;
    struct member_seat seat;
    enum status s;

    signal(SIGINT, SIG_IGN); /* as a rank does: worker.c */
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    s = text_shared_join(argc == 2 ? argv[1] : "", &g);
    if (s != STATUS_OK)
        return EXIT_USAGE;
    seat = text_shared_seat(&g);
    prctl(PR_SET_NAME, "quern-text");
    log_set_level((enum log_level)g.config.log_level);
    log_set_sink(member_log, NULL);
    s = run(&g);
    if (s == STATUS_OK)
        member_stage(&seat, STAGE_STOPPED);
    else if (s != STATUS_DEAD)
        member_fail(&seat, log_last_error());
    text_shared_close(&g);
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
