/* tools.h - commands that look inside: unlike src/cli they may see every layer.
 *
 * Each takes its own argv (argv[0] is the command's name), prints to standard
 * output, explains failures through the log, and returns an exit status of
 * cli/cli.h. None keeps anything after it returned. */
#ifndef QUERN_TOOLS_TOOLS_H
#define QUERN_TOOLS_TOOLS_H

int command_bench(int argc, char **argv);
int command_detokenize(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_logits(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_quantize(int argc, char **argv);
int command_serve(int argc, char **argv);
int command_synth(int argc, char **argv);
int command_template(int argc, char **argv);
int command_tokenize(int argc, char **argv);

/* Not for people: the text worker, as the supervisor starts it. */
int command_text(int argc, char **argv);

/* What command_bench() dispatches to; argv[0] is the benchmark's name. */
int command_bench_allreduce(int argc, char **argv);
int command_bench_ipc(int argc, char **argv);
int command_bench_throughput(int argc, char **argv);

#endif
