// From a 3D Gaussian to its ellipse in the image and back, sixteen at a time. Only for *_kernels.cpp files.
//
// EWA splatting with gsplat's clamps. Quaternions and scales never pass through a 3D covariance: the 2x3 matrix
// N = J W R S gives the image covariance N N^T, and its determinant as a sum of squared minors, which does not cancel
// for needles.
#pragma once

#include "raster_types.h"
#include "simd.h"

namespace moegs::MOEGS_ISA {

constexpr float kTinyQuat = 1e-12f;
constexpr float kHuge = 1e36f;  // image covariances beyond (px²) count as not finite

struct Lens {  // what is constant over a call, and a group's options lane by lane
  f16 fx, fy, cx, cy, low_x, high_x, low_y, high_y;
};

MOEGS_INLINE Lens lens(const Scene& s) {
  const float margin_x = 0.15f * s.width / s.fx, margin_y = 0.15f * s.height / s.fy;
  return {spread(s.fx), spread(s.fy), spread(s.cx), spread(s.cy),
          spread(-(s.cx / s.fx + margin_x)), spread((s.width - s.cx) / s.fx + margin_x),
          spread(-(s.cy / s.fy + margin_y)), spread((s.height - s.cy) / s.fy + margin_y)};
}

// A point seen from the camera, and the local affine map T = J W from the world to the image.
struct Sight {
  f16 z, inverse_z, ux, uy;  // slopes x/z, y/z
  f16 sx, sy;                // the same, clamped
  m16 free_x, free_y;        // where the clamp is idle
  f16 t[2][3];
};

MOEGS_INLINE Sight see(const Scene& s, const Lens& k, const f16* mean) {
  Sight v;
  f16 p[3];
  for (int i = 0; i < 3; ++i) {
    const float* w = s.rotation + 3 * i;
    p[i] = fma(spread(w[0]), mean[0], fma(spread(w[1]), mean[1], fma(spread(w[2]), mean[2], spread(s.translation[i]))));
  }
  v.z = p[2];
  v.inverse_z = spread(1.0f) / p[2];
  v.ux = p[0] / p[2];
  v.uy = p[1] / p[2];
  v.sx = clamp(v.ux, k.low_x, k.high_x);
  v.sy = clamp(v.uy, k.low_y, k.high_y);
  v.free_x = (v.ux >= k.low_x) & (v.ux <= k.high_x);
  v.free_y = (v.uy >= k.low_y) & (v.uy <= k.high_y);
  const f16 gx = k.fx * v.inverse_z, gy = k.fy * v.inverse_z;
  for (int j = 0; j < 3; ++j) {
    const f16 w2 = spread(s.rotation[6 + j]);
    v.t[0][j] = gx * fnma(v.sx, w2, spread(s.rotation[j]));
    v.t[1][j] = gy * fnma(v.sy, w2, spread(s.rotation[3 + j]));
  }
  return v;
}

struct Rotation {
  f16 q[4], inverse_length;  // inverse_length 0 where the quaternion is (nearly) zero
  f16 m[3][3];
};

MOEGS_INLINE Rotation rotation(const f16* quat) {
  Rotation r;
  const f16 zero = spread(0.0f), one = spread(1.0f), two_ = spread(2.0f);
  const f16 largest = max(max(abs(quat[0]), abs(quat[1])), max(abs(quat[2]), abs(quat[3])));
  const m16 there = spread(kTinyQuat) <= largest;
  const f16 scale = one / select(there, largest, one);
  f16 square = zero;
  for (int i = 0; i < 4; ++i) {
    r.q[i] = quat[i] * scale;
    square = fma(r.q[i], r.q[i], square);
  }
  const f16 unit = one / sqrt(select(there, square, one));
  for (int i = 0; i < 4; ++i) r.q[i] = select(there, r.q[i] * unit, i == 0 ? one : zero);
  r.inverse_length = keep(there, scale * unit);
  const f16 w = r.q[0], x = r.q[1], y = r.q[2], z = r.q[3];
  r.m[0][0] = fnma(two_, fma(y, y, z * z), one);
  r.m[0][1] = two_ * fma(x, y, -(w * z));
  r.m[0][2] = two_ * fma(x, z, w * y);
  r.m[1][0] = two_ * fma(x, y, w * z);
  r.m[1][1] = fnma(two_, fma(x, x, z * z), one);
  r.m[1][2] = two_ * fma(y, z, -(w * x));
  r.m[2][0] = two_ * fma(x, z, -(w * y));
  r.m[2][1] = two_ * fma(y, z, w * x);
  r.m[2][2] = fnma(two_, fma(x, x, y * y), one);
  return r;
}

// Gradient with respect to the quaternion, from that with respect to the matrix.
MOEGS_INLINE void rotation_backward(const Rotation& r, const f16 (*g)[3], f16* out) {
  const f16 w = r.q[0], x = r.q[1], y = r.q[2], z = r.q[3], two_ = spread(2.0f);
  const f16 a = g[2][1] - g[1][2], b = g[0][2] - g[2][0], c = g[1][0] - g[0][1];
  const f16 xy = g[0][1] + g[1][0], xz = g[0][2] + g[2][0], yz = g[1][2] + g[2][1];
  f16 v[4];
  v[0] = two_ * fma(x, a, fma(y, b, z * c));
  v[1] = two_ * (fma(y, xy, fma(z, xz, w * a)) - two_ * x * (g[1][1] + g[2][2]));
  v[2] = two_ * (fma(x, xy, fma(z, yz, w * b)) - two_ * y * (g[0][0] + g[2][2]));
  v[3] = two_ * (fma(x, xz, fma(y, yz, w * c)) - two_ * z * (g[0][0] + g[1][1]));
  const f16 along = fma(w, v[0], fma(x, v[1], fma(y, v[2], z * v[3])));
  for (int i = 0; i < 4; ++i) out[i] = fnma(r.q[i], along, v[i]) * r.inverse_length;
}

// a b - c d without cancellation of rounded products.
MOEGS_INLINE f16 difference_of_products(f16 a, f16 b, f16 c, f16 d) {
#if MOEGS_ISA_LEVEL > 0 || defined(__aarch64__)
  const f16 cd = c * d;
  return fma(a, b, -cd) + fnma(c, d, cd);
#else
  alignas(64) float pa[16], pb[16], pc[16], pd[16];
  store(pa, a), store(pb, b), store(pc, c), store(pd, d);
  for (int i = 0; i < 16; ++i) pa[i] = float(double(pa[i]) * pb[i] - double(pc[i]) * pd[i]);
  return load(pa);
#endif
}

// The ellipse of a Gaussian in the image: covariance xx, xy, yy before filtering, and what filtering makes of it. The
// determinants are in units where the larger diagonal entry is 1, so that they neither overflow nor underflow.
struct Ellipse {
  f16 xx, xy, yy;
  f16 unit;                 // 1 / largest diagonal entry
  f16 eps, det_raw, det;    // in those units
  m16 clamped;              // det is at its floor
  f16 conic[3];
  f16 ratio;                // det_raw / det, >= 0: opacity compensation is its root
};

MOEGS_INLINE Ellipse select(m16 which, const Ellipse& a, const Ellipse& b) {
  Ellipse e;
  e.xx = select(which, a.xx, b.xx), e.xy = select(which, a.xy, b.xy), e.yy = select(which, a.yy, b.yy);
  e.unit = select(which, a.unit, b.unit), e.eps = select(which, a.eps, b.eps);
  e.det_raw = select(which, a.det_raw, b.det_raw), e.det = select(which, a.det, b.det);
  e.clamped = (which & a.clamped) | (~which & b.clamped);
  for (int i = 0; i < 3; ++i) e.conic[i] = select(which, a.conic[i], b.conic[i]);
  e.ratio = select(which, a.ratio, b.ratio);
  return e;
}

MOEGS_INLINE void filter(Ellipse& e, f16 eps2d) {
  const f16 u2 = e.unit * e.unit, floor = spread(kDetMin) * u2;
  e.eps = eps2d * e.unit;
  const f16 whole = fma(e.eps, fma(e.xx, e.unit, e.yy * e.unit) + e.eps, e.det_raw);
  e.clamped = ~(whole > floor);
  e.det = max(whole, floor);
  const f16 scale = e.unit / e.det;
  e.conic[0] = fma(e.yy, e.unit, e.eps) * scale;
  e.conic[1] = -(e.xy * e.unit * scale);
  e.conic[2] = fma(e.xx, e.unit, e.eps) * scale;
  e.ratio = max(e.det_raw / e.det, spread(0.0f));
}

MOEGS_INLINE f16 unit_of(f16 xx, f16 yy, f16 eps2d) {
  return spread(1.0f) / max(max(xx, yy), max(eps2d, spread(1e-10f)));
}

// N = T R S, and the ellipse N N^T.
struct Axes {
  f16 u[2][3], n[2][3];  // T R, T R S
};

MOEGS_INLINE Ellipse ellipse(const Sight& v, const Rotation& r, const f16* scale, f16 eps2d, Axes& a) {
  for (int i = 0; i < 2; ++i)
    for (int k = 0; k < 3; ++k) {
      a.u[i][k] = fma(v.t[i][0], r.m[0][k], fma(v.t[i][1], r.m[1][k], v.t[i][2] * r.m[2][k]));
      a.n[i][k] = a.u[i][k] * scale[k];
    }
  Ellipse e;
  const f16(*n)[3] = a.n;
  e.xx = fma(n[0][0], n[0][0], fma(n[0][1], n[0][1], n[0][2] * n[0][2]));
  e.xy = fma(n[0][0], n[1][0], fma(n[0][1], n[1][1], n[0][2] * n[1][2]));
  e.yy = fma(n[1][0], n[1][0], fma(n[1][1], n[1][1], n[1][2] * n[1][2]));
  e.unit = unit_of(e.xx, e.yy, eps2d);
  e.det_raw = spread(0.0f);
  for (int k = 0; k < 3; ++k) {
    const int j = (k + 1) % 3;
    const f16 minor = difference_of_products(n[0][k], n[1][j], n[0][j], n[1][k]) * e.unit;
    e.det_raw = fma(minor, minor, e.det_raw);
  }
  filter(e, eps2d);
  return e;
}

// The same from a covariance (xx, xy, xz, yy, yz, zz). `half` receives Sigma T^T, one row for each image axis.
MOEGS_INLINE Ellipse ellipse(const Sight& v, const f16* s, f16 eps2d, f16 (*half)[3]) {
  for (int i = 0; i < 2; ++i) {
    const f16* t = v.t[i];
    half[i][0] = fma(s[0], t[0], fma(s[1], t[1], s[2] * t[2]));
    half[i][1] = fma(s[1], t[0], fma(s[3], t[1], s[4] * t[2]));
    half[i][2] = fma(s[2], t[0], fma(s[4], t[1], s[5] * t[2]));
  }
  Ellipse e;
  e.xx = fma(v.t[0][0], half[0][0], fma(v.t[0][1], half[0][1], v.t[0][2] * half[0][2]));
  e.xy = fma(v.t[0][0], half[1][0], fma(v.t[0][1], half[1][1], v.t[0][2] * half[1][2]));
  e.yy = fma(v.t[1][0], half[1][0], fma(v.t[1][1], half[1][1], v.t[1][2] * half[1][2]));
  e.unit = unit_of(e.xx, e.yy, eps2d);
  const f16 xy = e.xy * e.unit;
  e.det_raw = difference_of_products(e.xx * e.unit, e.yy * e.unit, xy, xy);
  filter(e, eps2d);
  return e;
}

// Gradients with respect to the unfiltered covariance entries xx, xy, yy (xy counted once), from those with respect to
// the conic and to det_raw / det. Written so that nothing cancels for needles.
MOEGS_INLINE void filter_backward(const Ellipse& e, const f16* conic, f16 ratio, f16* out) {
  const f16 a = e.conic[0], b = e.conic[1], c = e.conic[2], half = spread(0.5f), zero = spread(0.0f);
  const f16 pa = fma(a, conic[0], half * b * conic[1]), pb = fma(a, half * conic[1], b * conic[2]);
  const f16 pc = fma(b, conic[0], half * c * conic[1]), pd = fma(b, half * conic[1], c * conic[2]);
  const f16 inverse = e.unit / e.det * e.unit;  // 1 / det in pixels^-4
  const f16 open[3] = {-fma(pa, a, pb * b), -(fma(pa, b, pb * c) + fma(pc, a, pd * b)), -fma(pc, b, pd * c)};
  const f16 shut[3] = {conic[2] * inverse, -(conic[1] * inverse), conic[0] * inverse};
  const f16 x = e.xx * e.unit, m = e.xy * e.unit, y = e.yy * e.unit;
  const f16 r = ratio * e.unit / e.det, slope = r * e.eps / e.det, mm = m * m;
  const f16 open_r[3] = {slope * fma(y, y + e.eps, mm), -(spread(2.0f) * slope * m * (x + y + e.eps)),
                         slope * fma(x, x + e.eps, mm)};
  const f16 shut_r[3] = {r * y, -(spread(2.0f) * r * m), r * x};
  const m16 wanted = abs(ratio) > zero;
  for (int i = 0; i < 3; ++i) {
    out[i] = select(e.clamped, shut[i], open[i]) + keep(wanted, select(e.clamped, shut_r[i], open_r[i]));
  }
}

// Gradients that reach the camera-space point and the world rotation through T and the projected centre.
struct SightGrads {
  f16 point[3];
  f16 w[9];  // only where the pose is asked for
};

MOEGS_INLINE SightGrads see_backward(const Scene& s, const Lens& k, const Sight& v, const f16 (*gt)[3], f16 gx, f16 gy,
                                     f16 gz) {
  SightGrads g;
  const f16 fx = k.fx * v.inverse_z, fy = k.fy * v.inverse_z, zero = spread(0.0f);
  f16 slope_x = zero, slope_y = zero, scale = zero;
  for (int j = 0; j < 3; ++j) {
    const f16 w2 = spread(s.rotation[6 + j]);
    slope_x = fnma(fx * gt[0][j], w2, slope_x);
    slope_y = fnma(fy * gt[1][j], w2, slope_y);
    scale = fma(gt[0][j], v.t[0][j], fma(gt[1][j], v.t[1][j], scale));
    g.w[j] = fx * gt[0][j];
    g.w[3 + j] = fy * gt[1][j];
    g.w[6 + j] = -fma(v.sx, g.w[j], v.sy * g.w[3 + j]);
  }
  slope_x = fma(gx, k.fx, keep(v.free_x, slope_x));
  slope_y = fma(gy, k.fy, keep(v.free_y, slope_y));
  g.point[0] = slope_x * v.inverse_z;
  g.point[1] = slope_y * v.inverse_z;
  g.point[2] = gz - v.inverse_z * (scale + fma(slope_x, v.ux, slope_y * v.uy));
  return g;
}

}  // namespace moegs::MOEGS_ISA
