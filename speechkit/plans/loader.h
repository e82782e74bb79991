// Verifies the instructions of a plan and lays out memory for blocks of one size.

#pragma once

#include <memory>
#include <vector>

#include "arena.h"
#include "program.h"

namespace speechkit {

// the largest number in an instruction, and the most floats of one array
constexpr int64_t MOST = int64_t(1) << 28;
// the most steps in a strip of past.h: with more, rows move less often, but the states of many
// sessions fill the cache
constexpr int64_t LONGEST_CYCLE = 4;

// a · b · c, at most MOST
inline int64_t product(int64_t a, int64_t b, int64_t c = 1) {
  int64_t ab, abc;
  const bool over = __builtin_mul_overflow(a, b, &ab) || __builtin_mul_overflow(ab, c, &abc);
  expect(!over && abc >= 0 && abc <= MOST, "it needs too much memory");
  return abc;
}

struct Value {
  int64_t rows, channels, width, at;
};

}  // namespace speechkit

// A plan that is ready to run; speechkit.h names it.
struct speechkit_plan {
  std::vector<speechkit::Instruction> instructions;
  speechkit::Arena memory;
  speechkit::Buffer<float> start;
  int64_t scratch = 0;
  speechkit::Value first, last;
  std::vector<std::shared_ptr<speechkit::Body>> bodies;
  speechkit_call call;

  speechkit_plan(int64_t weight_count, speechkit_call outside) : memory(weight_count), call(outside) {}
};

namespace speechkit {

typedef speechkit_plan Plan;

// A plan inside an instruction, of its next `left` ones, which computes from a block of rows and a
// memory. Its values 0 and 1 are those, and their rows are not for a stride.
struct Body {
  std::unique_ptr<Plan> plan;
  Value block, memory, leaving, next;
};

// The kinds of instructions, of which codes are numbers.
struct Operations {
  const Operation* first;
  int64_t count;
};

class Loader {
 public:
  Loader(Operations operations, const float* weights, int64_t weight_count, speechkit_call call)
      : plan(new Plan(weight_count, call)), operations_(operations), weights_(weights),
        count_(weight_count), memory_(&plan->memory) {
    // the first float counts a session's steps
    plan->start.resize(COLUMNS);
  }

  std::unique_ptr<Plan> plan;

  // `count` numbers of the weights from `at` on
  const float* numbers(int64_t at, int64_t count) const {
    expect(at >= 0 && count >= 0 && count <= count_ && at <= count_ - count,
           "it lies outside the weights");
    return weights_ + at;
  }

  // zeros that live as long as the plan
  float* hold(int64_t count) { return memory_->take(product(count, 1)); }

  // a copy of `rows` rows of `columns` numbers of the weights, each padded to `width` with zeros
  const float* table(int64_t at, int64_t rows, int64_t columns, int64_t width) {
    const float* from = numbers(at, product(rows, columns));
    float* to = hold(product(rows, width));
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(to + r * width, from + r * columns, sizeof(float) * columns);
    return to;
  }

  // Reserves `count` floats of a session's state, and returns their first values, zeros.
  float* state(Instruction& op, int64_t count) {
    op.state = int64_t(plan->start.size());
    plan->start.resize(product(op.state + padded(product(count, 1)), 1));
    return plan->start.data() + op.state;
  }

  // Reserves `count` floats of scratch for this instruction only.
  void work(Instruction& op, int64_t count) {
    working_ = padded(product(count, 1));
    op.work = take(working_);
  }

  // How many steps a strip of past.h has room for.
  void choose_cycle(Instruction& op) {
    op.cycle = 1;
    while (op.cycle < LONGEST_CYCLE && op.cycle * op.rows_in < op.keep) op.cycle *= 2;
  }

  // Keeps the last `keep` rows of the input, for `slide`.
  void past(Instruction& op) {
    choose_cycle(op);
    const int64_t rows = op.keep + op.cycle * op.rows_in;
    state(op, product(rows, op.width_in + 1));
  }

  // The next input of the plan, in rows of `width`.
  Value input(int64_t rows, int64_t channels, int64_t width);

  // Lays out all instructions; throws Failure. The last value is kept, and those that `kept` numbers.
  void load(const Source* sources, int64_t length, int64_t strides,
            std::initializer_list<int64_t> kept = {});

  // Loads the body of an instruction, with `taps` rows of its input's channels and `size` rows of
  // `keep` channels as memory. Of its values, `rate` is the next memory and `dilation` leaves.
  const Body& body(const Instruction& op);

  // the instruction that `load` has come to
  const char* name = "plan";
  int64_t at = 0;

 private:
  void add(const Source& source, int64_t strides);
  // Whether it is a kind of instruction with a body, and has it.
  bool has_body(const Source& source, int64_t behind);

  struct Free {
    int64_t at, count;
  };

  int64_t take(int64_t count);
  void give_back(int64_t at, int64_t count) { free_.push_back({at, count}); }
  static int64_t floats(const Value& v) { return padded(v.rows * v.width) + padded(v.rows); }

  Operations operations_;
  const float* weights_;
  int64_t count_;
  // of the whole plan, also for a body
  Arena* memory_;
  const Source* sources_ = nullptr;
  bool inside_ = false;
  std::vector<Value> values_;
  std::vector<int64_t> readers_;
  std::vector<Free> free_;
  int64_t working_ = 0;
};

inline int64_t Loader::take(int64_t count) {
  // of the free places the smallest that fits, so that little memory is touched
  size_t best = free_.size();
  for (size_t i = 0; i < free_.size(); ++i)
    if (free_[i].count >= count && (best == free_.size() || free_[i].count < free_[best].count))
      best = i;
  if (best < free_.size() && free_[best].count <= 2 * count) {
    Free& place = free_[best];
    const int64_t at = place.at;
    place.at += count, place.count -= count;
    if (!place.count) free_.erase(free_.begin() + int64_t(best));
    return at;
  }
  const int64_t at = plan->scratch;
  plan->scratch = product(plan->scratch + count, 1);
  return at;
}

inline Value Loader::input(int64_t rows, int64_t channels, int64_t width) {
  Value v{product(rows, 1), channels, width, 0};
  product(v.rows, v.width);
  v.at = take(floats(v));
  values_.push_back(v);
  return v;
}

inline bool Loader::has_body(const Source& source, int64_t behind) {
  expect(source.code >= 0 && source.code < operations_.count, "there is no such instruction");
  name = operations_.first[source.code].name;
  if (!operations_.first[source.code].has_body) return false;
  expect(!inside_, "it stands in the body of another");
  expect(source.left >= 1 && source.left <= behind, "its body is not there");
  return true;
}

inline void Loader::load(const Source* sources, int64_t length, int64_t strides,
                         std::initializer_list<int64_t> kept) {
  // those that stand in no body
  std::vector<int64_t> own;
  for (int64_t i = 0; i < length; ++i) {
    at = i, name = "instruction";
    own.push_back(i);
    if (has_body(sources[i], length - i - 1)) i += sources[i].left;
  }
  const int64_t inputs = int64_t(values_.size()), count = int64_t(own.size());
  // the last instruction that reads each value
  readers_.assign(inputs + count, -1);
  for (int64_t n = 0; n < count; ++n)
    for (int64_t value : {sources[own[n]].input, sources[own[n]].other})
      if (value >= 0 && value < inputs + n) readers_[value] = n;
  // results are read after all instructions
  for (int64_t value : kept)
    if (value >= 0 && value < inputs + count) readers_[value] = count;
  readers_[inputs + count - 1] = count;
  sources_ = sources;
  for (int64_t i : own) {
    at = i, name = operations_.first[sources[i].code].name;
    add(sources[i], strides);
  }
}

inline const Body& Loader::body(const Instruction& op) {
  Loader inner(operations_, weights_, count_, nullptr);
  inner.memory_ = memory_, inner.inside_ = true;
  const auto body = std::make_shared<Body>();
  body->block = inner.input(op.taps, op.channels_in, padded(op.channels_in));
  body->memory = inner.input(op.size, op.keep, padded(op.keep));
  try {
    inner.load(sources_ + at + 1, op.left, 1, {op.rate, op.dilation});
  } catch (Failure& failure) {
    failure.reason = std::string("its ") + inner.name + ": " + failure.reason;
    throw;
  }
  const int64_t count = int64_t(inner.values_.size());
  expect(op.rate < count && op.dilation < count, "its body has no such value");
  expect(inner.plan->start.size() == COLUMNS, "its body has a state");
  body->next = inner.values_[op.rate], body->leaving = inner.values_[op.dilation];
  body->plan = std::move(inner.plan);
  plan->bodies.push_back(body);
  return *body;
}

inline void Loader::add(const Source& source, int64_t strides) {
  const Operation& operation = operations_.first[source.code];
  const int64_t number = int64_t(plan->instructions.size()), values = int64_t(values_.size());
  Instruction op{};
  static_cast<Source&>(op) = source;
  op.operation = &operation;
  expect(op.input >= 0 && op.input < values, "it reads a value that is not there");
  expect(op.other >= -1 && op.other < values, "it reads a value that is not there");
  for (int64_t field : {op.keep, op.taps, op.left, op.size, op.activation, op.precision})
    expect(field >= 0 && field <= MOST, "one of its numbers is out of range");
  for (int64_t field : {op.rows, op.channels, op.stride, op.dilation, op.rate})
    expect(field >= 1 && field <= MOST, "one of its numbers is out of range");
  const Value in = values_[op.input];
  op.rows = product(op.rows, strides);
  op.rows_in = in.rows, op.channels_in = in.channels, op.width_in = in.width, op.in = in.at;
  op.width = op.channels == 1 && in.width == 1 ? 1 : padded(op.channels);
  op.second = -1;
  if (op.other >= 0) {
    const Value second = values_[op.other];
    const int64_t channels = operation.joins ? op.channels - op.channels_in : op.channels;
    const int64_t width = operation.joins ? padded(channels) : op.width;
    expect(second.rows == op.rows && second.channels == channels && second.width == width,
           "its two inputs differ in size");
    op.second = second.at;
  }
  product(op.rows, op.width);
  if (operation.in_place)
    expect(op.rows == op.rows_in && op.channels == op.channels_in && op.width == op.width_in,
           "its rows and channels differ from its input's");
  op.work = -1, working_ = 0;
  operation.prepare(*this, op);
  Value out{op.rows, op.channels, op.width, in.at};
  const bool replaces = operation.in_place && readers_[op.input] == number;
  if (!replaces) out.at = take(floats(out));
  op.out = out.at;
  values_.push_back(out);
  plan->instructions.push_back(op);
  for (int64_t value : {op.input, op.other})
    if (value >= 0 && readers_[value] == number && !(replaces && value == op.input)) {
      give_back(values_[value].at, floats(values_[value]));
      readers_[value] = -1;
    }
  if (working_) give_back(op.work, working_);
  // a value that nothing reads
  if (readers_[values] < 0) give_back(out.at, floats(out));
  plan->last = out;
}

// One instruction for a session's block, whose scratch, state and call these are.
inline void run(const Instruction& op, float* scratch, float* state, int64_t steps, int64_t session,
                speechkit_call call, void* context) {
  const int64_t flags_in = padded(op.rows_in * op.width_in), flags = padded(op.rows * op.width);
  const Memory m{scratch + op.in,
                 scratch + op.in + flags_in,
                 op.second < 0 ? nullptr : scratch + op.second,
                 scratch + op.out,
                 scratch + op.out + flags,
                 scratch + op.work,
                 state + op.state,
                 steps,
                 session,
                 call,
                 context};
  op.operation->run(op, m);
}

}  // namespace speechkit
