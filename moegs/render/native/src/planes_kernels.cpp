#include "planes_kernels.h"

#include "lanes.h"

namespace moegs::MOEGS_ISA {
namespace {

constexpr int kBlock = 16;  // cells turned around together when the channels change sides

struct Position {
  AxisPosition axis[4];
  bool valid;
};

// grid_sample's align_corners=True with border padding; a coordinate on the border or beyond has no slope.
inline AxisPosition place(float coordinate, size_t cells) {
  const float last = float(cells - 1), scale = 0.5f * last;
  float at = (coordinate + 1.0f) * 0.5f * last;
  const bool inside = at > 0.0f && at < last;
  at = at > 0.0f ? (at < last ? at : last) : 0.0f;
  const size_t low = size_t(at);
  return {low, low + 1 < cells ? low + 1 : low, at - float(low), inside ? scale : 0.0f};
}

inline Position locate(const PlaneLevel& level, const float* coords) {
  Position p;
  p.valid = true;
  for (int a = 0; a < 4; ++a) {
    p.valid = p.valid && coords[a] == coords[a];
    p.axis[a] = place(coords[a], level.size[a]);
  }
  return p;
}

// Corners of one bilinear sample, and what is needed of it.
struct Corners {
  size_t at[4];  // offsets in floats: (row low, column low), (low, high), (high, low), (high, high)
};

inline Corners corners(const PlaneLevel& level, const Position& p, int plane) {
  const AxisPosition &column = p.axis[kPlaneAxes[plane][0]], &row = p.axis[kPlaneAxes[plane][1]];
  const size_t width = level.size[kPlaneAxes[plane][0]];
  return {{(row.low * width + column.low) * level.stride, (row.low * width + column.high) * level.stride,
           (row.high * width + column.low) * level.stride, (row.high * width + column.high) * level.stride}};
}

inline Lanes mix(Lanes a, Lanes b, Lanes fraction) { return fma(fraction, b - a, a); }

constexpr bool on_time(int plane) { return kPlaneAxes[plane][1] == 3; }

struct Sample {
  Lanes value, along_column, along_row;  // and its derivatives along the two axes, in cells
};

template <bool kOneTime, bool kSlopes>
inline Sample sample(const PlaneLevel& level, const Position& p, int plane, size_t channel) {
  const float* cells = level.cells[plane] + channel;
  const AxisPosition &column = p.axis[kPlaneAxes[plane][0]], &row = p.axis[kPlaneAxes[plane][1]];
  const Lanes u = all(column.fraction);
  Sample s{};
  if (kOneTime && on_time(plane)) {
    const size_t low = column.low * level.stride, high = column.high * level.stride;
    const Lanes a = load(cells + low), b = load(cells + high);
    s.value = mix(a, b, u);
    if (kSlopes) {
      const float* slope = level.time_slope[plane] + channel;
      s.along_column = b - a;
      s.along_row = mix(load(slope + low), load(slope + high), u);
    }
    return s;
  }
  const Corners c = corners(level, p, plane);
  const Lanes a = load(cells + c.at[0]), b = load(cells + c.at[1]);
  const Lanes d = load(cells + c.at[2]), e = load(cells + c.at[3]);
  const Lanes top = b - a, bottom = e - d, v = all(row.fraction);
  const Lanes upper = fma(u, top, a), lower = fma(u, bottom, d);
  s.value = mix(upper, lower, v);
  if (kSlopes) {
    s.along_column = mix(top, bottom, v);
    s.along_row = lower - upper;
  }
  return s;
}

inline void add_to(float* at, Lanes value) { store(at, load(at) + value); }

template <bool kOneTime>
inline void scatter(const PlaneLevel& level, const Position& p, int plane, size_t channel, Lanes value) {
  float* gradient = level.gradient[plane] + channel;
  const Lanes u = all(p.axis[kPlaneAxes[plane][0]].fraction), v = all(p.axis[kPlaneAxes[plane][1]].fraction);
  const size_t stride = level.stride;
  if (kOneTime && on_time(plane)) {
    const AxisPosition& column = p.axis[kPlaneAxes[plane][0]];
    const Lanes right = value * u;
    add_to(gradient + column.low * stride, value - right);
    add_to(gradient + column.high * stride, right);
    return;
  }
  const Corners c = corners(level, p, plane);
  const Lanes lower = value * v, upper = value - lower;
  const Lanes upper_right = upper * u, lower_right = lower * u;
  add_to(gradient + c.at[0], upper - upper_right);
  add_to(gradient + c.at[1], upper_right);
  add_to(gradient + c.at[2], lower - lower_right);
  add_to(gradient + c.at[3], lower_right);
}

template <bool kOneTime>
void forward(const PlaneLevel& level, const PlaneTask& task, size_t first, size_t last) {
  for (size_t i = first; i < last; ++i) {
    const Position p = locate(level, task.coords + 4 * i);
    float* out = task.features + i * task.pitch;
    for (size_t channel = 0; channel < level.channels; channel += kLanes) {
      Lanes product = all(p.valid ? 1.0f : __builtin_nanf(""));
#pragma GCC unroll 6
      for (int plane = 0; plane < 6; ++plane)
        product = product * sample<kOneTime, false>(level, p, plane, channel).value;
      const size_t left = level.channels - channel;
      if (left >= size_t(kLanes))
        store(out + channel, product);
      else
        store_first(out + channel, product, int(left));
    }
  }
}

template <bool kOneTime, bool kCells, bool kCoords>
void backward(const PlaneLevel& level, const PlaneTask& task, size_t channel) {
  const size_t left = level.channels - channel;
  const int n = left < size_t(kLanes) ? int(left) : kLanes;
  for (size_t i = 0; i < task.points; ++i) {
    const Position p = locate(level, task.coords + 4 * i);
    if (!p.valid) {
      if (kCoords) __builtin_memset(task.coord_gradient + 4 * i, 0, 4 * sizeof(float));
      continue;
    }
    Sample s[6];
#pragma GCC unroll 6
    for (int plane = 0; plane < 6; ++plane) s[plane] = sample<kOneTime, kCoords>(level, p, plane, channel);
    // after[k] = upstream times the samples of the planes behind k, before = those in front of it.
    Lanes after[6];
    after[5] = load_first(task.upstream + i * task.pitch + channel, n);
#pragma GCC unroll 5
    for (int plane = 5; plane > 0; --plane) after[plane - 1] = after[plane] * s[plane].value;
    Lanes before = all(1.0f), slope[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
#pragma GCC unroll 6
    for (int plane = 0; plane < 6; ++plane) {
      const Lanes value = before * after[plane];
      before = before * s[plane].value;
      if (kCells) scatter<kOneTime>(level, p, plane, channel, value);
      if (kCoords) {
        Lanes &along_column = slope[kPlaneAxes[plane][0]], &along_row = slope[kPlaneAxes[plane][1]];
        along_column = fma(value, s[plane].along_column, along_column);
        along_row = fma(value, s[plane].along_row, along_row);
      }
    }
    if (kCoords)
#pragma GCC unroll 4
      for (int a = 0; a < 4; ++a) task.coord_gradient[4 * i + a] = total(slope[a]) * p.axis[a].slope;
  }
}

template <bool kOneTime>
void backward_of(const PlaneLevel& level, const PlaneTask& task, size_t channel) {
  const bool cells = level.gradient[0] != nullptr, coords = task.coord_gradient != nullptr;
  if (cells && coords) backward<kOneTime, true, true>(level, task, channel);
  if (cells && !coords) backward<kOneTime, true, false>(level, task, channel);
  if (!cells && coords) backward<kOneTime, false, true>(level, task, channel);
}

}  // namespace

int plane_lanes() { return kLanes; }

void plane_pack(const float* channels_first, float* cells, size_t n_cells, size_t channels, size_t stride, size_t first,
                size_t last) {
  float block[kBlock][kBlock];
  for (size_t i = first; i < last; i += kBlock) {
    const size_t n = last - i < size_t(kBlock) ? last - i : size_t(kBlock);
    for (size_t c = 0; c < stride; c += kBlock) {
      const size_t m = stride - c < size_t(kBlock) ? stride - c : size_t(kBlock);
      for (size_t k = 0; k < m; ++k) {
        if (c + k >= channels)
          __builtin_memset(block[k], 0, sizeof(block[k]));
        else if (n == size_t(kBlock))
          __builtin_memcpy(block[k], channels_first + (c + k) * n_cells + i, sizeof(block[k]));
        else
          __builtin_memcpy(block[k], channels_first + (c + k) * n_cells + i, n * sizeof(float));
      }
      for (size_t j = 0; j < n; ++j)
        for (size_t k = 0; k < m; ++k) cells[(i + j) * stride + c + k] = block[k][j];
    }
  }
}

void plane_unpack(const float* cells, float* channels_first, size_t n_cells, size_t channels, size_t stride,
                  size_t first, size_t last) {
  float block[kBlock][kBlock];
  for (size_t i = first; i < last; i += kBlock) {
    const size_t n = last - i < size_t(kBlock) ? last - i : size_t(kBlock);
    for (size_t c = 0; c < channels; c += kBlock) {
      const size_t m = channels - c < size_t(kBlock) ? channels - c : size_t(kBlock);
      for (size_t j = 0; j < n; ++j)
        for (size_t k = 0; k < m; ++k) block[k][j] = cells[(i + j) * stride + c + k];
      for (size_t k = 0; k < m; ++k)
        __builtin_memcpy(channels_first + (c + k) * n_cells + i, block[k], n * sizeof(float));
    }
  }
}

void plane_forward(const PlaneLevel& level, const PlaneTask& task, size_t first, size_t last) {
  if (level.one_time)
    forward<true>(level, task, first, last);
  else
    forward<false>(level, task, first, last);
}

void plane_backward(const PlaneLevel& level, const PlaneTask& task, size_t channel) {
  if (level.one_time)
    backward_of<true>(level, task, channel);
  else
    backward_of<false>(level, task, channel);
}

}  // namespace moegs::MOEGS_ISA
