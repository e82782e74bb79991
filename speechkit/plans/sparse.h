// Products of 1×1 layers in float32 without their zeros: tiles of a matrix that pruning has emptied,
// and inputs that a ReLU has made zero. Sums are in the order of the dense product, so for finite
// inputs the result equals it.

#pragma once

#include <numeric>

#include "loader.h"

namespace speechkit {

// The rows of X whose sums stay in registers; with six, as matmul.h has, two of eight are left over.
constexpr int SPARSE_ROWS = 4;
// Of the tiles of a matrix at most this part is stored as tiles, and of the inputs of a row at most
// this part is listed. Each has a place to load besides its weights, so a product of 32 channels takes
// about as long as the dense one at this part, and one of more channels less (benchmarks/sparse.py).
constexpr double MOST_KEPT = 0.6;
// the most inputs of a row that may be listed, on the stack
constexpr int64_t MOST_INPUTS = 1024;

// The inputs for which a register of outputs of W [columns, depth] has a weight.
inline std::vector<std::vector<int32_t>> filled(const float* w, int64_t depth, int64_t columns) {
  std::vector<std::vector<int32_t>> lists(padded(columns) / LANES);
  for (int64_t g = 0; g < int64_t(lists.size()); ++g)
    for (int64_t i = 0; i < depth; ++i)
      for (int64_t c = g * LANES; c < std::min(columns, (g + 1) * LANES); ++c)
        if (w[c * depth + i] != 0) {
          lists[g].push_back(int32_t(i));
          break;
        }
  return lists;
}

// Packs W [columns, depth] as tiles of LANES outputs × 1 input; false if too few of them are zero.
// PANEL_REGISTERS columns of tiles are summed side by side, which hides the latency of an addition;
// they are sorted by length, and the shorter ones are filled up with zeros. For each such panel `tiles`
// has its length, the first outputs of its columns, and the inputs of its tiles, and `packed` weights.
inline bool pack_tiles(Loader& loader, Instruction& op, const float* w) {
  const int64_t depth = op.channels_in, columns = op.channels;
  const auto lists = filled(w, depth, columns);
  const int64_t groups = int64_t(lists.size());
  std::vector<int32_t> order(groups);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return lists[a].size() > lists[b].size(); });
  const auto wide = [=](int64_t panel) { return std::min<int64_t>(PANEL_REGISTERS, groups - panel); };
  int64_t tiles = 0, panels = 0;
  for (int64_t p = 0; p < groups; p += PANEL_REGISTERS, ++panels)
    tiles += wide(p) * int64_t(lists[order[p]].size());
  if (double(tiles) > MOST_KEPT * double(groups * depth)) return false;
  int32_t* place = reinterpret_cast<int32_t*>(loader.hold(panels + groups + tiles));
  float* weight = loader.hold(product(tiles, LANES));
  op.tiles = place, op.packed = weight;
  for (int64_t p = 0; p < groups; p += PANEL_REGISTERS) {
    const size_t length = lists[order[p]].size();
    *place++ = int32_t(length);
    for (int64_t v = 0; v < wide(p); ++v) *place++ = int32_t(order[p + v] * LANES);
    for (size_t k = 0; k < length; ++k)
      for (int64_t v = 0; v < wide(p); ++v, ++place, weight += LANES) {
        const std::vector<int32_t>& inputs = lists[order[p + v]];
        if (k >= inputs.size()) continue;
        *place = inputs[k];
        const int64_t first = order[p + v] * LANES;
        for (int64_t c = first; c < std::min(columns, first + LANES); ++c)
          weight[c - first] = w[c * depth + inputs[k]];
      }
  }
  return true;
}

// The sums of R rows of X by a panel of V columns of tiles.
template <int R, int V, class Put>
inline void multiply_tiles(const float* x, int64_t x_step, int64_t length, const int32_t* columns,
                           const int32_t* inputs, const float* weights, int64_t row, Put put) {
  Register sum[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = Register{};
  for (int64_t k = 0; k < length; ++k) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Register w = load(weights + (k * V + v) * LANES);
      const float* from = x + inputs[k * V + v];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][v] = Float32::add(sum[r][v], from + r * x_step, w);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) put(row + r, int64_t(columns[v]), sum[r][v]);
}

// The same for any number of rows; returns the places behind the panel, and moves the weights there.
template <int V, class Put>
const int32_t* multiply_columns(const float* x, int64_t x_step, int64_t rows, const int32_t* places,
                                const float*& weights, Put put) {
  const int64_t length = *places;
  const int32_t *columns = places + 1, *inputs = columns + V;
  const auto some = [&](auto count, int64_t r) {
    multiply_tiles<decltype(count)::value, V>(x + r * x_step, x_step, length, columns, inputs,
                                              weights, r, put);
  };
  int64_t r = 0;
  for (; r + SPARSE_ROWS <= rows; r += SPARSE_ROWS)
    some(std::integral_constant<int, SPARSE_ROWS>{}, r);
  switch (rows - r) {
    case 1: some(std::integral_constant<int, 1>{}, r); break;
    case 2: some(std::integral_constant<int, 2>{}, r); break;
    case 3: some(std::integral_constant<int, 3>{}, r); break;
  }
  weights += length * V * LANES;
  return inputs + length * V;
}

// Calls put(row, column, sums of LANES columns) for all columns and all rows of X, `x_step` apart.
template <class Put>
void multiply_all_tiles(const Instruction& op, const float* x, int64_t x_step, int64_t rows, Put put) {
  const int32_t* places = op.tiles;
  const float* weights = static_cast<const float*>(op.packed);
  for (int64_t left = padded(op.channels) / LANES; left > 0; left -= PANEL_REGISTERS)
    switch (std::min<int64_t>(PANEL_REGISTERS, left)) {
      case 1: places = multiply_columns<1>(x, x_step, rows, places, weights, put); break;
      case 2: places = multiply_columns<2>(x, x_step, rows, places, weights, put); break;
      case 3: places = multiply_columns<3>(x, x_step, rows, places, weights, put); break;
      case 4: places = multiply_columns<4>(x, x_step, rows, places, weights, put); break;
    }
}

// Writes the places of a row's inputs that are not 0; returns how many there are.
inline int64_t list_inputs(const float* x, int64_t depth, int32_t* places) {
  int64_t count = 0;
  for (int64_t i = 0; i < depth; ++i) {
    places[count] = int32_t(i);
    count += x[i] != 0;
  }
  return count;
}

// The sums of one row of X by a panel of V registers of matmul.h, over `count` listed inputs.
template <int V, class Put>
inline void multiply_listed(const float* x, const int32_t* places, int64_t count, const float* panel,
                            int64_t column, Put put) {
  Register sum[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sum[v] = Register{};
  for (int64_t k = 0; k < count; ++k) {
    const int64_t i = places[k];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sum[v] = Float32::add(sum[v], x + i, load(panel + (i * V + v) * LANES));
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) put(0, column + v * LANES, sum[v]);
}

// Calls put(0, column, sums of LANES columns) for all columns of one row; false, and no call, if too
// few of its inputs are 0.
template <class Put>
bool multiply_nonzero(const Instruction& op, const float* x, Put put) {
  int32_t places[MOST_INPUTS];
  const int64_t count = list_inputs(x, op.channels_in, places), width = padded(op.channels);
  if (double(count) > MOST_KEPT * double(op.channels_in)) return false;
  for (int64_t c = 0; c < width; c += PANEL) {
    const float* panel = static_cast<const float*>(op.packed) + c * op.channels_in;
    switch (std::min(PANEL, width - c) / LANES) {
      case 1: multiply_listed<1>(x, places, count, panel, c, put); break;
      case 2: multiply_listed<2>(x, places, count, panel, c, put); break;
      case 3: multiply_listed<3>(x, places, count, panel, c, put); break;
      case 4: multiply_listed<4>(x, places, count, panel, c, put); break;
    }
  }
  return true;
}

// Calls put(row, column, LANES results) of Y = X W + b; false if the dense product is faster. Inputs
// are looked at only where zeros are likely and gain: sums of depthwise taps have hardly any, and two
// rows, which share each weight loaded, have them at different places.
template <class Put>
inline bool multiply_without_zeros(const Instruction& op, const float* x, int64_t x_step,
                                   int64_t rows, Put put) {
  const auto shifted = [=, shift = op.shift](int64_t r, int64_t c, Register sum) {
    put(r, c, sum + load(shift + c));
  };
  if (op.tiles) {
    multiply_all_tiles(op, x, x_step, rows, shifted);
    return true;
  }
  const bool listed = op.precision == FLOAT32 && !op.taps && op.channels_in <= MOST_INPUTS;
  return rows == 1 && listed && multiply_nonzero(op, x, shifted);
}

}  // namespace speechkit
