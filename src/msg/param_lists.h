/* param_lists.h - parameters that are lists, read off the wire.
 *
 * A reader takes the next entry off the front of the bytes; false: there is none. Bytes that were
 * checked (params_set() does) never end within an entry. */
#ifndef QUERN_MSG_PARAM_LISTS_H
#define QUERN_MSG_PARAM_LISTS_H

#include "msg/params.h"

/* {u32 bytes, UTF-8} */
bool list_next_text(struct param_bytes *rest, const char **text, uint32_t *bytes);
/* {u32 n, i32 x n}: *ids are not aligned */
bool list_next_run(struct param_bytes *rest, const unsigned char **ids, uint32_t *n);

/* INVALID (logged), with the parameter's name. */
enum status list_check_bias(const char *name, struct param_bytes list);
enum status list_check_texts(const char *name, struct param_bytes list);
enum status list_check_stops(const char *name, struct param_bytes list);
enum status list_check_runs(const char *name, struct param_bytes list);
enum status list_check_stop_ids(const char *name, struct param_bytes list);
enum status list_check_value_ids(const char *name, struct param_bytes list);

#endif
