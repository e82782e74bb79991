// Elementwise programs: what `speechkit.ops.bytecode` makes of an expression such as
// "x * sigmoid(beta * x)". An instruction computes a strip of numbers at a time, so that to decode
// it costs little. A program may come from a file: `read_code` refuses what is not safe to run.

#pragma once

#include "vector_math.h"

namespace speechkit {

// In the order of OPERATIONS in expressions.py, by the number of their operands.
enum class Elementary : int32_t {
  COPY, NEGATIVE, ABS, SIGN, FLOOR, ROUND, SQRT, EXP, EXPM1, LOG, LOG1P, SIGMOID, TANH, ERF, SIN,
  COS, ATAN, ASIN, ADD, SUBTRACT, MULTIPLY, DIVIDE, MAX, MIN, POWER, LESS, LESS_EQUAL, EQUAL,
  NOT_EQUAL, MULTIPLY_ADD, SELECT
};
constexpr int32_t FIRST_OF_TWO = int32_t(Elementary::ADD),
                  FIRST_OF_THREE = int32_t(Elementary::MULTIPLY_ADD),
                  LAST_OPERATION = int32_t(Elementary::SELECT);

// Operands: registers, the two inputs, then constants, then vectors with a number for each channel.
constexpr int32_t REGISTERS = 32, FIRST_INPUT = 32, SECOND_INPUT = 33, CONSTANTS = 34;
// The destination of the last instruction.
constexpr int32_t RESULT = REGISTERS;
constexpr int32_t MAX_INSTRUCTIONS = 512, MAX_CONSTANTS = 256, MAX_VECTORS = 256;
constexpr int64_t CODE_HEADER = 4, CODE_LANES = 16, STRIP = 128;

struct Calculation {
  int32_t operation, to, a, b, c;

  int operands() const { return operation < FIRST_OF_TWO ? 1 : operation < FIRST_OF_THREE ? 2 : 3; }
};

// A program that `read_code` has checked; its numbers stay where they were read from.
struct Code {
  const float* words = nullptr;
  int32_t count = 0, constant_count = 0, vector_count = 0;
  bool second = false;
  int64_t width = 0;

  Calculation operator[](int64_t i) const {
    Calculation op;
    std::memcpy(&op, words + CODE_HEADER + i * 5, sizeof op);
    return op;
  }
  const float* constants() const {
    const int64_t words_before = CODE_HEADER + 5 * int64_t(count);
    return words + (words_before + CODE_LANES - 1) / CODE_LANES * CODE_LANES;
  }
  const float* vectors() const { return constants() + CODE_LANES * constant_count; }
};

// Why a program may not run, or null. Constants and vectors may be any numbers.
inline const char* verify(const Code& code) {
  uint32_t written = 0;
  for (int32_t i = 0; i < code.count; ++i) {
    const Calculation op = code[i];
    if (op.operation < 0 || op.operation > LAST_OPERATION)
      return "an elementwise program has an unknown operation";
    const int32_t given[] = {op.a, op.b, op.c};
    for (int n = 0; n < op.operands(); ++n) {
      const int32_t at = given[n];
      if (at < 0 || at >= CONSTANTS + code.constant_count + code.vector_count)
        return "an elementwise program reads an operand that is not there";
      if (at < REGISTERS && !(written >> at & 1))
        return "an elementwise program reads a register before it is written";
      if (at == SECOND_INPUT && !code.second) return "an elementwise program reads a second input";
    }
    if ((i == code.count - 1) != (op.to == RESULT) || op.to < 0 || op.to > RESULT)
      return "an elementwise program does not end with its result";
    if (op.to < REGISTERS) written |= uint32_t(1) << op.to;
  }
  return nullptr;
}

// A program that was checked before.
inline Code code_at(const float* words, int64_t channels, bool second) {
  int32_t header[CODE_HEADER];
  std::memcpy(header, words, sizeof header);
  const int64_t width = (channels + CODE_LANES - 1) / CODE_LANES * CODE_LANES;
  return {words, header[0], header[1], header[2], second, width};
}

// How many floats a program for `channels` channels takes, of which `header` are the first four; −1
// if the sizes in it are out of range.
inline int64_t code_size(const float* header, int64_t channels) {
  const Code found = code_at(header, channels, false);
  if (found.count < 1 || found.count > MAX_INSTRUCTIONS || found.constant_count < 0 ||
      found.constant_count > MAX_CONSTANTS || found.vector_count < 0 ||
      found.vector_count > MAX_VECTORS || channels < 1 || channels > INT32_MAX)
    return -1;
  return found.vectors() + found.vector_count * found.width - header;
}

// Reads a program for `channels` channels from at most `size` floats: [instructions, constants,
// vectors, 0 | instructions of 5 words, padded to 16 | constants, each 16 times | vectors, padded
// to a multiple of 16]; the first two parts hold the bits of int32. Returns why not, or null.
inline const char* read_code(const float* from, int64_t size, int64_t channels, bool second,
                             Code& code) {
  if (size < CODE_HEADER) return "an elementwise program is cut off";
  const int64_t needed = code_size(from, channels);
  if (needed < 0) return "an elementwise program has sizes out of range";
  if (needed > size) return "an elementwise program is cut off";
  const Code found = code_at(from, channels, second);
  if (const char* why = verify(found)) return why;
  code = found;
  return nullptr;
}

// Numbers in memory; a constant is read again and again.
struct Numbers {
  const float* at;
  int64_t step;
};

template <class F>
inline void for_strip(Numbers a, float* to, int64_t count, F f) {
  for (int64_t i = 0; i < count; i += LANES, a.at += a.step) store(to + i, f(load(a.at)));
}

template <class F>
inline void for_strip(Numbers a, Numbers b, float* to, int64_t count, F f) {
  for (int64_t i = 0; i < count; i += LANES, a.at += a.step, b.at += b.step)
    store(to + i, f(load(a.at), load(b.at)));
}

template <class F>
inline void for_strip(Numbers a, Numbers b, Numbers c, float* to, int64_t count, F f) {
  for (int64_t i = 0; i < count; i += LANES, a.at += a.step, b.at += b.step, c.at += c.step)
    store(to + i, f(load(a.at), load(b.at), load(c.at)));
}

inline void calculate(int32_t operation, Numbers a, Numbers b, Numbers c, float* to, int64_t n) {
  typedef Register R;
  const auto truth = [](Integers is) { return is ? constant(1.0f) : Register{}; };
  switch (Elementary(operation)) {
    case Elementary::COPY: return for_strip(a, to, n, [](R x) { return x; });
    case Elementary::NEGATIVE: return for_strip(a, to, n, [](R x) { return -x; });
    case Elementary::ABS: return for_strip(a, to, n, absolute);
    case Elementary::SIGN: return for_strip(a, to, n, sign_of);
    case Elementary::FLOOR: return for_strip(a, to, n, round_down);
    case Elementary::ROUND: return for_strip(a, to, n, round_even);
    case Elementary::SQRT: return for_strip(a, to, n, root);
    case Elementary::EXP: return for_strip(a, to, n, exponential);
    case Elementary::EXPM1: return for_strip(a, to, n, exponential_minus_1);
    case Elementary::LOG: return for_strip(a, to, n, natural_logarithm);
    case Elementary::LOG1P: return for_strip(a, to, n, logarithm_of_1_plus);
    case Elementary::SIGMOID: return for_strip(a, to, n, sigmoid);
    case Elementary::TANH: return for_strip(a, to, n, hyperbolic_tangent);
    case Elementary::ERF: return for_strip(a, to, n, error_function);
    case Elementary::SIN: return for_strip(a, to, n, sinusoid<0>);
    case Elementary::COS: return for_strip(a, to, n, sinusoid<1>);
    case Elementary::ATAN: return for_strip(a, to, n, arctangent);
    case Elementary::ASIN: return for_strip(a, to, n, arcsine);
    case Elementary::ADD: return for_strip(a, b, to, n, [](R x, R y) { return x + y; });
    case Elementary::SUBTRACT: return for_strip(a, b, to, n, [](R x, R y) { return x - y; });
    case Elementary::MULTIPLY: return for_strip(a, b, to, n, [](R x, R y) { return x * y; });
    case Elementary::DIVIDE: return for_strip(a, b, to, n, [](R x, R y) { return x / y; });
    case Elementary::MAX: return for_strip(a, b, to, n, largest);
    case Elementary::MIN: return for_strip(a, b, to, n, smallest);
    case Elementary::POWER: return for_strip(a, b, to, n, power);
    case Elementary::LESS: return for_strip(a, b, to, n, [=](R x, R y) { return truth(x < y); });
    case Elementary::LESS_EQUAL: return for_strip(a, b, to, n, [=](R x, R y) { return truth(x <= y); });
    case Elementary::EQUAL: return for_strip(a, b, to, n, [=](R x, R y) { return truth(x == y); });
    case Elementary::NOT_EQUAL: return for_strip(a, b, to, n, [=](R x, R y) { return truth(x != y); });
    case Elementary::MULTIPLY_ADD: return for_strip(a, b, c, to, n, [](R x, R y, R z) { return x * y + z; });
    case Elementary::SELECT: return for_strip(a, b, c, to, n, [](R m, R x, R y) { return m != 0 ? x : y; });
  }
}

// f of `count` numbers, a multiple of LANES, from channel `channel` on.
inline void run_code(const Code& code, const float* first, const float* second, int64_t channel,
                int64_t count, float* out) {
  alignas(64) float registers[REGISTERS * STRIP];
  const float *constants = code.constants(), *vectors = code.vectors() + channel;
  const auto operand = [&](int32_t at, int64_t start) -> Numbers {
    if (at < REGISTERS) return {registers + at * STRIP, LANES};
    if (at == FIRST_INPUT) return {first + start, LANES};
    if (at == SECOND_INPUT) return {second + start, LANES};
    at -= CONSTANTS;
    if (at < code.constant_count) return {constants + at * CODE_LANES, 0};
    return {vectors + (at - code.constant_count) * code.width + start, LANES};
  };
  for (int64_t start = 0; start < count; start += STRIP) {
    const int64_t n = std::min(STRIP, count - start);
    for (int32_t i = 0; i < code.count; ++i) {
      const Calculation op = code[i];
      // operands that an operation does not have are set to `a`, so that they can be read
      const int given = op.operands();
      const Numbers a = operand(op.a, start), b = given > 1 ? operand(op.b, start) : a,
                    c = given > 2 ? operand(op.c, start) : a;
      calculate(op.operation, a, b, c, op.to == RESULT ? out + start : registers + op.to * STRIP, n);
    }
  }
}

// y = f(first, second) of `rows` rows of `channels` numbers that are `step` apart, in `out`
// `out_step` apart; `out` may be `first` with the same step. Where both steps are the channels
// padded to 16, the padding is computed too. A program with vectors was read for `channels`.
inline void elementwise(const Code& code, const float* first, const float* second, int64_t step,
                        int64_t rows, int64_t channels, float* out, int64_t out_step) {
  const int64_t padded = (channels + CODE_LANES - 1) / CODE_LANES * CODE_LANES;
  const bool dense = step == out_step && (step == channels || step == padded);
  int64_t count = dense ? step : channels;
  if (dense && (!code.vector_count || rows == 1)) count *= rows, rows = 1;
  const int64_t full = count / LANES * LANES, rest = count - full;
  for (int64_t r = 0; r < rows; ++r) {
    const float *x = first + r * step, *other = second ? second + r * step : nullptr;
    float* y = out + r * out_step;
    run_code(code, x, other, 0, full, y);
    if (rest) {
      float some[3][LANES] = {};
      std::memcpy(some[0], x + full, sizeof(float) * rest);
      if (other) std::memcpy(some[1], other + full, sizeof(float) * rest);
      run_code(code, some[0], some[1], full, LANES, some[2]);
      std::memcpy(y + full, some[2], sizeof(float) * rest);
    }
  }
}

}  // namespace speechkit
