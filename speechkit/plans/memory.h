// Memories of outer products: a matrix for each head, which fades or is a sum.

#pragma once

#include "loader.h"

namespace speechkit {

// The numbers of a head in a row, the queries and keys of all heads before their values.
struct Heads {
  int64_t count, keys, values, wide;
};

inline Heads heads_of(const Instruction& op) {
  const int64_t values = op.channels / op.size;
  return {op.size, op.taps, values, padded(values)};
}

inline Heads prepare_heads(Loader& loader, Instruction& op) {
  expect(op.width_in > 1 && product(op.rows, op.stride) == op.rows_in,
         "its rows differ from its input's");
  expect(op.size >= 1 && op.channels % op.size == 0, "its channels do not divide by its heads");
  expect(op.taps >= 1 && op.channels_in == product(2, op.size, op.taps) + op.channels,
         "its input's channels are not queries, keys and values");
  const Heads heads = heads_of(op);
  // the values and the output of a head, in whole registers, and a number for each key
  loader.work(op, product(2, heads.wide) + heads.keys);
  return heads;
}

// advance(h, q, k, v, o) for every head of each valid row; v is padded with zeros, and o has as many
// numbers. Row o of the output is that after row o · stride, and 0 if that is not valid.
template <class F>
inline void run_heads(const Instruction& op, const Memory& m, F advance) {
  const Heads heads = heads_of(op);
  const int64_t keys = heads.count * heads.keys, bytes = sizeof(float) * heads.values;
  float *v = m.work, *o = m.work + heads.wide;
  std::memset(v, 0, sizeof(float) * heads.wide);
  for (int64_t r = 0; r < op.rows_in; ++r) {
    const float *q = m.in + r * op.width_in, *k = q + keys, *values = k + keys;
    float* y = r % op.stride ? nullptr : m.out + r / op.stride * op.width;
    if (m.valid[r] == 0) {
      if (y) std::memset(y, 0, sizeof(float) * op.width);
      continue;
    }
    for (int64_t h = 0; h < heads.count; ++h) {
      std::memcpy(v, values + h * heads.values, bytes);
      advance(h, q + h * heads.keys, k + h * heads.keys, v, o);
      if (y) std::memcpy(y + h * heads.values, o, bytes);
    }
  }
  mark(op, m, m.valid, 0, op.stride);
}

// o = Re(q̄ S) with S = a S + k v for each of `size` heads. Input: q, k [size, taps] and v [size,
// channels / size]; of a head's q and k, the first half are real parts, the second imaginary parts.
// weights [4, size · taps / 2]: a, real and imaginary, and the same of what rounding took from it.
// state: S [size, taps, values]
inline void prepare_retention(Loader& loader, Instruction& op) {
  const Heads heads = prepare_heads(loader, op);
  expect(op.taps % 2 == 0, "its keys are not pairs");
  const int64_t pairs = heads.count * heads.keys / 2;
  op.table = loader.table(op.weights, 4, pairs, pairs);
  loader.state(op, product(heads.count, heads.keys, heads.wide));
}

inline void run_retention(const Instruction& op, const Memory& m) {
  const Heads heads = heads_of(op);
  const int64_t pairs = heads.keys / 2, all = heads.count * pairs;
  run_heads(op, m, [&](int64_t h, const float* q, const float* k, const float* v, float* o) {
    const float *re = op.table + h * pairs, *im = re + all, *re_rest = im + all,
                *im_rest = re_rest + all;
    for (int64_t c = 0; c < heads.wide; c += LANES) {
      const Register value = load(v + c);
      Register real = {}, imaginary = {};
      float* s = m.state + h * heads.keys * heads.wide + c;
      float* t = s + pairs * heads.wide;
      for (int64_t i = 0; i < pairs; ++i, s += heads.wide, t += heads.wide) {
        const Register x = load(s), y = load(t);
        const Register next_x = re[i] * x - im[i] * y + (re_rest[i] * x - im_rest[i] * y + k[i] * value);
        const Register next_y =
            re[i] * y + im[i] * x + (re_rest[i] * y + im_rest[i] * x + k[pairs + i] * value);
        store(s, next_x);
        store(t, next_y);
        real += q[i] * next_x;
        imaginary += q[pairs + i] * next_y;
      }
      store(o + c, real + imaginary);
    }
  });
}

// o = q S / (q · n + eps) with S = S + k v and n = n + k for each of `size` heads, from q, k and v as
// above; or, if the second number is not 0, o = Σ_i q_i S_i / n_i over the keys i. The sums are
// compensated (Kahan, 1965), since a float no longer grows after some hours of rows. numbers: eps, 0 or
// 1; state: S and its rest [size, taps, values] each, n and its rest [size, taps]
inline void prepare_linear_attention(Loader& loader, Instruction& op) {
  const Heads heads = prepare_heads(loader, op);
  op.parameters = loader.table(op.numbers, 1, 2, COLUMNS);
  loader.state(op, product(2, product(heads.count, heads.keys), heads.wide + 1));
}

template <class T>
inline void add_to(T& sum, T& rest, T x) {
  const T y = x - rest, next = sum + y;
  rest = (next - sum) - y;
  sum = next;
}

inline void run_linear_attention(const Instruction& op, const Memory& m) {
  const Heads heads = heads_of(op);
  const int64_t keys = heads.count * heads.keys, size = keys * heads.wide;
  const bool each = op.parameters[1] != 0;
  run_heads(op, m, [&](int64_t h, const float* q, const float* k, const float* v, float* o) {
    float *n = m.state + 2 * size + h * heads.keys, *rest = n + keys, *share = o + heads.wide;
    float all = op.parameters[0];
    for (int64_t i = 0; i < heads.keys; ++i) {
      add_to(n[i], rest[i], k[i]);
      all += q[i] * n[i];
    }
    for (int64_t i = 0; i < heads.keys; ++i) share[i] = q[i] / (each ? n[i] : all);
    for (int64_t c = 0; c < heads.wide; c += LANES) {
      const Register value = load(v + c);
      Register sum = {};
      float* s = m.state + h * heads.keys * heads.wide + c;
      for (int64_t i = 0; i < heads.keys; ++i, s += heads.wide) {
        Register total = load(s), left = load(s + size);
        add_to(total, left, k[i] * value);
        store(s, total);
        store(s + size, left);
        sum += share[i] * total;
      }
      store(o + c, sum);
    }
  });
}

}  // namespace speechkit
