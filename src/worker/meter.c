/* meter.c - the leader's stopwatch. */
#include "worker/meter.h"

void meter_begin(struct meter *m, uint64_t now_ns)
{
    m->works = true;
    m->since_ns = now_ns;
}

void meter_pause(struct meter *m, uint64_t now_ns)
{
    if (m->works)
        m->engine_ns += now_ns - m->since_ns;
    m->works = false;
}

/* Rows of answers come first. */
static uint32_t tokens_of_answers(const struct plan *plan)
{
    return plan->n_decode < plan->n_rows ? plan_rows(plan)[plan->n_decode].first_token
                                         : plan->n_tokens;
}

void meter_submit(struct meter *m, const struct plan *plan, uint64_t now_ns)
{
    uint32_t answers = tokens_of_answers(plan);

    m->steps[plan->number % BACKEND_DEPTH] = (struct metered_step){
        .submitted_ns = now_ns, .answers = answers, .prompts = plan->n_tokens - answers,
        .sequences = plan->n_rows};
    stats_observe(m->stats, STAT_ENGINE, m->engine_ns);
    m->engine_ns = 0;
}

void meter_done(struct meter *m, uint64_t number, uint64_t now_ns)
{
    const struct metered_step *step = &m->steps[number % BACKEND_DEPTH];
    uint64_t began = step->submitted_ns > m->done_ns ? step->submitted_ns : m->done_ns;

    m->done_ns = now_ns;
    stats_count(m->stats, STAT_STEPS, 1);
    stats_observe(m->stats, STAT_STEP, now_ns - began);
    stats_observe(m->stats, STAT_STEP_TOKENS, step->answers + step->prompts);
    stats_observe(m->stats, STAT_STEP_SEQS, step->sequences);
    pace_note(m->pace, step->answers, step->prompts, now_ns - began);
}

void meter_observe(void *context, enum engine_time what, uint64_t ns)
{
    static const enum stats_distribution which[] = {
        [ENGINE_QUEUE_TIME] = STAT_QUEUE,
        [ENGINE_FIRST_TOKEN_TIME] = STAT_FIRST_TOKEN,
        [ENGINE_TOKEN_TIME] = STAT_BETWEEN,
    };
    struct meter *m = context;

    stats_observe(m->stats, which[what], ns);
}

void meter_counts(struct meter *m, const struct engine_counts *c)
{
    stats_set(m->stats, STAT_RUNNING, c->running);
    stats_set(m->stats, STAT_WAITING, c->waiting);
    stats_set(m->stats, STAT_KV_BLOCKS_USED, c->blocks_used);
    stats_set(m->stats, STAT_KV_BLOCKS, c->blocks);
    stats_set(m->stats, STAT_PREFIX_ASKED, c->prefix_asked);
    stats_set(m->stats, STAT_PREFIX_HIT, c->prefix_hit);
    stats_set(m->stats, STAT_PREEMPTIONS, c->preemptions);
    stats_set(m->stats, STAT_PROMPT_TOKENS, c->prompt_tokens);
    stats_set(m->stats, STAT_PREFILL_TOKENS, c->tokens_in);
    stats_set(m->stats, STAT_OUTPUT_TOKENS, c->tokens_out);
    stats_set(m->stats, STAT_DRAFT_TOKENS, c->guessed);
    stats_set(m->stats, STAT_DRAFT_ACCEPTED, c->guessed_right);
}
