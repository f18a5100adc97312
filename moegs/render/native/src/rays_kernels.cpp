// Plain loops, which the compiler turns into vectors of each instruction set.
#include "rays_kernels.h"

namespace moegs::MOEGS_ISA {

void ray_rows(const RaysTask& t, size_t first, size_t last) {
  const float *right = t.axes, *down = t.axes + 3, *forward = t.axes + 6;
  for (size_t row = first; row < last; ++row) {
    const float y = t.y[row], square = y * y + 1.0f;
    const float a = y * down[0] + forward[0], b = y * down[1] + forward[1], c = y * down[2] + forward[2];
    float* __restrict const out = t.out + row * t.columns * 3;
    for (size_t i = 0; i < t.columns; ++i) {
      const float x = t.x[i], inverse = 1.0f / __builtin_sqrtf(x * x + square);
      out[3 * i] = (x * right[0] + a) * inverse;
      out[3 * i + 1] = (x * right[1] + b) * inverse;
      out[3 * i + 2] = (x * right[2] + c) * inverse;
    }
  }
}

}  // namespace moegs::MOEGS_ISA
