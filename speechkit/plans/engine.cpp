// A step of a whole net for sessions: a list of instructions, run for each block of a session in order.

#include "speechkit.h"

#include <cstdio>
#include <limits>

#include "attention.h"
#include "binary.h"
#include "blocks.h"
#include "channels.h"
#include "frames.h"
#include "frontend.h"
#include "loader.h"
#include "memory.h"
#include "norms.h"
#include "pools.h"
#include "recurrent.h"
#include "separable.h"
#include "vad.h"

using namespace speechkit;

namespace {

// in the order of CODES in plans/program.py
constexpr Operation OPERATIONS[] = {
    {"separable", prepare_separable, run_separable, false, multiply_together},
    {"depthwise", prepare_depthwise, run_depthwise},
    {"affine", prepare_affine, run_affine, true},
    {"activate", prepare_activation, run_activate, true},
    {"log", prepare_log, run_log, true},
    {"delay", prepare_delay, run_delay},
    {"add", prepare_add, run_add, true},
    {"preemphasis", prepare_preemphasis, run_preemphasis},
    {"spectrum", prepare_spectrum, run_spectrum},
    {"resample", prepare_resample, run_resample},
    {"log_softmax", prepare_log_softmax, run_log_softmax, true},
    {"sliding_average", prepare_sliding_average, run_sliding_average},
    {"running_average", prepare_running_average, run_running_average, true},
    {"pcen", prepare_pcen, run_pcen, true},
    {"bands", prepare_bands, run_bands},
    {"call", prepare_call, run_call},
    {"part", prepare_part, run_part},
    {"unfold", prepare_unfold, run_unfold},
    {"join", prepare_join, run_join, false, nullptr, true},
    {"normalize", prepare_normalize, run_normalize, true},
    {"largest", prepare_largest, run_largest, true},
    {"running_norm", prepare_running_norm, run_running_norm, true},
    {"cumulative_norm", prepare_cumulative_norm, run_cumulative_norm, true},
    {"scan", prepare_scan, run_scan, true},
    {"lstm", prepare_lstm, run_lstm},
    {"gru", prepare_gru, run_gru},
    {"repeat", prepare_repeat, run_repeat},
    {"fold", prepare_fold, run_fold},
    {"expression", prepare_expression, run_expression, true},
    {"attention", prepare_attention, run_attention},
    {"retention", prepare_retention, run_retention},
    {"linear_attention", prepare_linear_attention, run_linear_attention},
    {"spread", prepare_spread, run_spread},
    {"attend", prepare_attend, run_attend},
    {"places", prepare_places, run_places, true},
    {"blocks", prepare_blocks, run_blocks, false, nullptr, false, true},
    {"binary", prepare_binary, run_binary},
};
// a multiple of every instruction's cycle
constexpr int64_t CYCLE = LONGEST_CYCLE;
// the most blocks, of one or several sessions, that an instruction computes together
constexpr int64_t GROUP = 12;
constexpr int64_t MOST_INSTRUCTIONS = 1 << 16;

}  // namespace

extern "C" speechkit_plan* speechkit_open(const int64_t* program, int64_t length,
                                          const float* weights, int64_t weight_count,
                                          int64_t stride, int64_t channels, int64_t strides,
                                          speechkit_call call, char* error, int64_t error_size) {
  static_assert(sizeof(Source) % sizeof(int64_t) == 0);
  Loader loader({OPERATIONS, sizeof OPERATIONS / sizeof *OPERATIONS}, weights, weight_count, call);
  bool finite = true;
  try {
    expect(length >= 1 && length <= MOST_INSTRUCTIONS, "it has no or too many instructions");
    for (int64_t i = 0; i < weight_count; ++i)
      finite &= std::fabs(weights[i]) <= std::numeric_limits<float>::max();
    expect(finite, "its weights hold NaN or infinity");
    expect(stride >= 1 && strides >= 1 && channels >= 1, "its block is empty");
    loader.plan->first =
        loader.input(product(stride, strides), channels, channels == 1 ? 1 : padded(channels));
    loader.load(reinterpret_cast<const Source*>(program), length, strides);
    return loader.plan.release();
  } catch (const Failure& failure) {
    std::snprintf(error, size_t(error_size), "%s %lld: %s", loader.name, (long long)loader.at,
                  failure.reason.c_str());
  } catch (const std::bad_alloc&) {
    std::snprintf(error, size_t(error_size), "%s %lld: there is too little memory", loader.name,
                  (long long)loader.at);
  }
  return nullptr;
}

extern "C" void speechkit_close(speechkit_plan* plan) { delete plan; }

extern "C" void speechkit_get_sizes(const speechkit_plan* plan, speechkit_sizes* sizes) {
  *sizes = {plan->first.rows,    plan->first.channels,         plan->last.rows,
            plan->last.channels, int64_t(plan->start.size()), plan->scratch,
            GROUP};
}

extern "C" void speechkit_start(const speechkit_plan* plan, float* state) {
  std::memcpy(state, plan->start.data(), sizeof(float) * plan->start.size());
}

namespace {

// Steps of sessions over `blocks` blocks: `session(i)` is the row of the i-th one, `input(i, row)` its
// input from a row on, and `real(i)` its number of valid rows.
template <class Session, class Input, class Real>
void run_steps(const Plan& plan, float* states, float* scratch, int64_t sessions, int64_t blocks,
               Session session_of, Input input, Real real, float* y, bool* valid, void* context) {
  const Value &first = plan.first, &last = plan.last;
  const int64_t size = plan.scratch, state_size = int64_t(plan.start.size());
  const int64_t total = sessions * blocks;
  float* state[GROUP];
  int64_t steps[GROUP], session[GROUP];
  // a session's blocks in order, since each reads the state that the previous one wrote
  for (int64_t group = 0; group < total; group += GROUP) {
    const int64_t count = std::min(GROUP, total - group);
    for (int64_t g = 0; g < count; ++g) {
      const int64_t index = (group + g) / blocks, row = (group + g) % blocks * first.rows;
      const float* from = input(index, row);
      float* own = scratch + g * size + first.at;
      float* flags = own + padded(first.rows * first.width);
      if (first.width == first.channels) {
        std::memcpy(own, from, sizeof(float) * first.rows * first.channels);
      } else {
        for (int64_t n = 0; n < first.rows; ++n)
          std::memcpy(own + n * first.width, from + n * first.channels,
                      sizeof(float) * first.channels);
      }
      for (int64_t n = 0; n < first.rows; ++n) flags[n] = row + n < real(index);
      session[g] = session_of(index);
      state[g] = states + session[g] * state_size;
      // a state may be from a file: any number there is a place in the strips
      steps[g] = int64_t(std::min(std::max(0.0f, state[g][0]), float(CYCLE - 1)));
      state[g][0] = float((steps[g] + 1) % CYCLE);
    }
    for (const Instruction& op : plan.instructions) {
      for (int64_t g = 0; g < count; ++g)
        run(op, scratch + g * size, state[g], steps[g], session[g], plan.call, context);
      if (op.operation->together) op.operation->together(op, scratch, size, count);
    }
    for (int64_t g = 0; g < count; ++g) {
      const float* own = scratch + g * size + last.at;
      const float* flags = own + padded(last.rows * last.width);
      for (int64_t r = 0; r < last.rows; ++r) {
        const int64_t at = (group + g) * last.rows + r;
        std::memcpy(y + at * last.channels, own + r * last.width, sizeof(float) * last.channels);
        valid[at] = flags[r] != 0;
      }
    }
  }
}

}  // namespace

extern "C" void speechkit_step(const speechkit_plan* plan, float* states, float* scratch,
                               int64_t sessions, int64_t blocks, const int64_t* rows,
                               const int64_t* real, const float* x, int64_t x_step, float* y,
                               bool* valid, void* context) {
  const int64_t channels = plan->first.channels;
  run_steps(
      *plan, states, scratch, sessions, blocks,
      [=](int64_t i) { return rows ? rows[i] : i; },
      [=](int64_t i, int64_t row) { return x + i * x_step + row * channels; },
      [=](int64_t i) { return real[i]; }, y, valid, context);
}

// Sessions whose sound waits in rings, sample i of session s at sound[s, i % room]: `given` so far, of
// which steps have taken `taken`; `room` is a multiple of the block. The rest is as for
// `speechkit_step`.
struct Waiting {
  const speechkit_plan* plan;
  float *states, *scratch;
  const float* sound;
  int64_t room;
  const int64_t *given, *taken;
  float* y;
  bool* valid;
  void* context;
  const int64_t* rows;
  int64_t sessions, blocks;
};

extern "C" void step_waiting(const Waiting* w) {
  run_steps(
      *w->plan, w->states, w->scratch, w->sessions, w->blocks,
      [=](int64_t i) { return w->rows[i]; },
      [=](int64_t i, int64_t row) {
        const int64_t session = w->rows[i], block = w->plan->first.rows;
        // a session that has ended within a block goes on at the next block, without real samples
        const int64_t at = (w->taken[session] + row + block - 1) / block * block;
        return w->sound + session * w->room + at % w->room;
      },
      [=](int64_t i) { return w->given[w->rows[i]] - w->taken[w->rows[i]]; }, w->y, w->valid,
      w->context);
}

struct Samples {
  const float* sound;
  int64_t first, count;
};

// True if `count` samples from number `first` on are within [−1, 1]; false for a NaN.
extern "C" bool samples_are_sound(const Samples* s) {
  bool sound = true;
  for (int64_t n = 0; n < s->count; ++n) sound &= std::fabs(s->sound[s->first + n]) <= 1;
  return sound;
}

// The floats of a register: a session's state has another layout where it differs.
extern "C" int64_t speechkit_lanes() { return LANES; }
