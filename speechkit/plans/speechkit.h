/* Runs a plan, a net as a list of instructions, block by block for many sessions.
 *
 * The program and the weights are those of a plan file (speechkit/plans/plan.py). They are untrusted:
 * `speechkit_open` verifies every instruction before anything runs. Nothing is shared between two
 * plans, and a plan may be used by many threads at once, each with its own scratch and sessions.
 */

#ifndef SPEECHKIT_H
#define SPEECHKIT_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct speechkit_plan speechkit_plan;

/* Runs layer `number` of a session outside the engine: from x, a second input or null, and which rows
 * of x are valid, to y and its validity. A row of C channels takes C floats, rounded up to 16. */
typedef void (*speechkit_call)(void* context, int64_t number, int64_t session, const float* x,
                               const float* valid, const float* second, float* y, float* y_valid);

/* Sizes of a plan for its block: `rows_in` rows of `channels_in` make `rows_out` of `channels_out`.
 * A session's state has `state` floats, and a call's scratch `scratch` floats for each of its
 * blocks, at most `group` of them. */
typedef struct {
  int64_t rows_in, channels_in, rows_out, channels_out, state, scratch, group;
} speechkit_sizes;

/* A plan of `length` instructions for blocks of `strides` strides of `stride` rows of `channels`; null
 * if it is invalid, with the reason in `error`. Both arrays may be freed afterwards. */
speechkit_plan* speechkit_open(const int64_t* program, int64_t length, const float* weights,
                               int64_t weight_count, int64_t stride, int64_t channels,
                               int64_t strides, speechkit_call call, char* error,
                               int64_t error_size);

void speechkit_close(speechkit_plan* plan);

void speechkit_get_sizes(const speechkit_plan* plan, speechkit_sizes* sizes);

/* Sets the state of one session to that before its first row. */
void speechkit_start(const speechkit_plan* plan, float* state);

/* The next `blocks` blocks of `sessions` sessions. states [capacity, state] is updated in place;
 * `rows` names the session of each (null: 0, 1, 2, ...), of which the first `real` rows of x are
 * valid. x [sessions, blocks * rows_in, channels_in], `x_step` floats from one session to the next;
 * y [sessions, blocks, rows_out, channels_out] and valid [sessions, blocks, rows_out]. `context` is
 * handed to the plan's `call`. */
void speechkit_step(const speechkit_plan* plan, float* states, float* scratch, int64_t sessions,
                    int64_t blocks, const int64_t* rows, const int64_t* real, const float* x,
                    int64_t x_step, float* y, bool* valid, void* context);

#ifdef __cplusplus
}
#endif

#endif
