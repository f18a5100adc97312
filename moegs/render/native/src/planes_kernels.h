// HexPlane sampling: per level the product of six bilinear plane samples, with gradients.
#pragma once

#include <cstddef>

#include "dispatch.h"

namespace moegs {

// Where a point falls on one axis: cells low and high, the fraction between them, and how that fraction moves with the
// coordinate (0 where the coordinate is clamped).
struct AxisPosition {
  size_t low, high;
  float fraction, slope;
};

// One level, cells channels-last: cell (row, column) of plane p at cells[p] + (row * columns + column) * stride.
// With one_time the planes xt, yt, zt are single rows, already interpolated at the time that all points share, and
// time_slope[p] holds their derivative along the time axis per cell.
struct PlaneLevel {
  const float* cells[6];
  float* gradient[6];  // like cells, accumulated into; null where none is wanted
  const float* time_slope[6];
  size_t size[4];      // cells along x, y, z, t
  size_t stride;       // floats from one cell to the next, at least `channels` rounded up to whole vectors
  size_t channels;
  bool one_time;
};

struct PlaneTask {
  const float* coords;  // [points][4]
  size_t points;
  const float* upstream;  // gradient of the features of this level, [points] rows of `pitch` floats
  float* features;        // the same shape
  size_t pitch;
  float* coord_gradient;  // [points][4], written by plane_backward; null where none is wanted
};

constexpr int kPlaneAxes[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};

}  // namespace moegs

MOEGS_KERNEL(int plane_lanes())

// cells[i * stride + c] = channels_first[c * n_cells + i] for i in first … last-1, zero past the last channel; and back.
MOEGS_KERNEL(void plane_pack(const float* channels_first, float* cells, size_t n_cells, size_t channels, size_t stride,
                             size_t first, size_t last))
MOEGS_KERNEL(void plane_unpack(const float* cells, float* channels_first, size_t n_cells, size_t channels,
                               size_t stride, size_t first, size_t last))

// Features of points first … last-1. A point with a NaN coordinate gets NaN features and takes no part in gradients.
MOEGS_KERNEL(void plane_forward(const moegs::PlaneLevel& level, const moegs::PlaneTask& task, size_t first,
                                size_t last))

// Adds to the gradients, for the channels channel … channel + plane_lanes() - 1, over all points in their order.
MOEGS_KERNEL(void plane_backward(const moegs::PlaneLevel& level, const moegs::PlaneTask& task, size_t channel))
