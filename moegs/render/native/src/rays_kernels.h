// Unit directions through the pixels of a pinhole camera.
#pragma once

#include <cstddef>

#include "dispatch.h"

namespace moegs {

// out[row][column] = (x[column] right + y[row] down + forward) over its length, which is that of (x, y, 1).
struct RaysTask {
  const float* x;          // [columns]
  const float* y;          // [rows]
  const float* axes;       // right, down and forward, [3][3]
  size_t columns;
  float* out;              // [rows][columns][3]
};

}  // namespace moegs

// Rows first … last-1.
MOEGS_KERNEL(void ray_rows(const moegs::RaysTask& task, size_t first, size_t last))
