// Real spherical harmonics of degree 0 to 3 (INRIA signs), sixteen directions at a time. Only for *_kernels.cpp files.
#pragma once

#include "simd.h"

namespace moegs::MOEGS_ISA {

constexpr float kY0 = 0.28209479177387814f, kY1 = 0.4886025119029199f, kY2 = 1.0925484305920792f;
constexpr float kY2z = 0.31539156525252005f, kY3a = 0.5900435899266435f, kY3b = 2.890611442640554f;
constexpr float kY3c = 0.4570457994644658f, kY3d = 0.3731763325901154f;

struct Direction {
  f16 x, y, z;
};

// Values of the first `Terms` (1, 4, 9 or 16) harmonics.
template <int Terms>
MOEGS_INLINE void harmonics(Direction d, f16* value) {
  const f16 x = d.x, y = d.y, z = d.z;
  value[0] = spread(kY0);
  if constexpr (Terms > 1) {
    value[1] = spread(-kY1) * y;
    value[2] = spread(kY1) * z;
    value[3] = spread(-kY1) * x;
  }
  if constexpr (Terms > 4) {
    const f16 xx = x * x, yy = y * y, zz = z * z;
    value[4] = spread(kY2) * (x * y);
    value[5] = spread(-kY2) * (y * z);
    value[6] = spread(kY2z) * (zz + zz - xx - yy);
    value[7] = spread(-kY2) * (x * z);
    value[8] = spread(0.5f * kY2) * (xx - yy);
    if constexpr (Terms > 9) {
      const f16 four = fma(spread(4.0f), zz, -(xx + yy));
      value[9] = spread(-kY3a) * y * fma(spread(3.0f), xx, -yy);
      value[10] = spread(kY3b) * (x * y) * z;
      value[11] = spread(-kY3c) * y * four;
      value[12] = spread(kY3d) * z * fnma(spread(3.0f), xx + yy, zz + zz);
      value[13] = spread(-kY3c) * x * four;
      value[14] = spread(0.5f * kY3b) * z * (xx - yy);
      value[15] = spread(-kY3a) * x * fnma(spread(3.0f), yy, xx);
    }
  }
}

// Gradient of sum_k s[k] Y_k with respect to the direction.
template <int Terms>
MOEGS_INLINE Direction harmonics_slope(Direction d, const f16* s) {
  const f16 x = d.x, y = d.y, z = d.z, zero = spread(0.0f);
  Direction g{zero, zero, zero};
  if constexpr (Terms > 1) {
    const f16 k = spread(kY1);
    g = {zero - k * s[3], zero - k * s[1], k * s[2]};
  }
  if constexpr (Terms > 4) {
    const f16 a = spread(kY2), b2 = spread(2 * kY2z);
    g.x = g.x + a * fma(y, s[4], fma(x, s[8], -(z * s[7]))) - b2 * (x * s[6]);
    g.y = g.y + a * (fma(x, s[4], -(z * s[5])) - y * s[8]) - b2 * (y * s[6]);
    g.z = g.z - a * fma(y, s[5], x * s[7]) + spread(4 * kY2z) * (z * s[6]);
  }
  if constexpr (Terms > 9) {
    const f16 xx = x * x, yy = y * y, zz4 = spread(4.0f) * z * z, xy = x * y, xz = x * z, yz = y * z;
    const f16 p3 = spread(3 * kY3a), p6 = spread(6 * kY3a), q = spread(kY3b), r = spread(kY3c), t6 = spread(6 * kY3d);
    const f16 three = spread(3.0f), difference = xx - yy;
    g.x = g.x + q * fma(yz, s[10], xz * s[14]) + spread(2 * kY3c) * (xy * s[11]) - t6 * (xz * s[12]);
    g.x = g.x - p6 * (xy * s[9]) - r * ((zz4 - three * xx - yy) * s[13]) - p3 * (difference * s[15]);
    g.y = g.y + q * fma(xz, s[10], -(yz * s[14])) + spread(2 * kY3c) * (xy * s[13]) - t6 * (yz * s[12]);
    g.y = g.y + p6 * (xy * s[15]) - r * ((zz4 - xx - three * yy) * s[11]) - p3 * (difference * s[9]);
    g.z = g.z + q * fma(xy, s[10], spread(0.5f) * difference * s[14]) - spread(8 * kY3c) * fma(yz, s[11], xz * s[13]);
    g.z = g.z + spread(3 * kY3d) * ((spread(0.5f) * zz4 - xx - yy) * s[12]);
  }
  return g;
}

}  // namespace moegs::MOEGS_ISA
