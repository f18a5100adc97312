// Reading 16 rows of 16 different Gaussians and the small helpers both projection passes need. Only for kernels.
#pragma once

#include "footprint.h"
#include "harmonics.h"
#include "raster_types.h"

namespace moegs::MOEGS_ISA {

constexpr float kLn2 = 0.6931471805599453f, kLog2E = 1.4426950408889634f;

// Options of 16 Gaussians.
struct Lanes {
  f16 eps2d, near, far;
  m16 compensate;
};

MOEGS_INLINE Lanes options_of(const Scene& s, const uint32_t* row) {
  alignas(64) float v[4][16];
  for (int l = 0; l < 16; ++l) {
    const GroupOptions& o = s.options[s.groups != nullptr ? s.groups[row[l]] : 0];
    v[0][l] = o.eps2d, v[1][l] = o.near, v[2][l] = o.far, v[3][l] = o.compensate;
  }
  return {load(v[0]), load(v[1]), load(v[2]), load(v[3]) > spread(0.5f)};
}

// The shape of 16 Gaussians as given: quaternion and scale, or the six entries of a covariance.
struct Shape {
  bool turned, given;  // whether any lane has quaternion and scale, and any a covariance
  m16 by_covar;        // which have one, where both are true
  f16 quat[4], scale[3], covar[6];
};

MOEGS_INLINE void load_shape(const Scene& s, const uint32_t* row, Shape& shape) {
  shape.given = s.covars != nullptr;
  shape.turned = !shape.given;
  if (s.by_covar != nullptr) {
    alignas(64) float v[16];
    for (int l = 0; l < 16; ++l) v[l] = s.by_covar[row[l]];
    shape.by_covar = load(v) > spread(0.5f);
    const uint32_t which = bits(shape.by_covar);
    shape.given = which != 0, shape.turned = which != 0xffff;
  }
  if (shape.turned) {
    load_rows<4>(s.quats, row, shape.quat);
    load_rows<3>(s.scales, row, shape.scale);
  }
  if (!shape.given) return;
  f16 c[9];
  load_rows<9>(s.covars, row, c);
  const f16 half = spread(0.5f);
  shape.covar[0] = c[0], shape.covar[3] = c[4], shape.covar[5] = c[8];
  shape.covar[1] = half * c[1] + half * c[3];
  shape.covar[2] = half * c[2] + half * c[6];
  shape.covar[4] = half * c[5] + half * c[7];
}

MOEGS_INLINE void choose(m16 which, f16* other, const f16* values, int count) {
  for (int i = 0; i < count; ++i) other[i] = select(which, values[i], other[i]);
}

// What the ellipses of 16 Gaussians were made from; only that part is set which a lane needs.
struct Made {
  Rotation rotation;
  Axes axes;
  f16 half[2][3];
};

MOEGS_INLINE Ellipse ellipse(const Sight& v, const Shape& shape, f16 eps2d, Made& made) {
  Ellipse e;
  if (shape.turned) {
    made.rotation = rotation(shape.quat);
    e = ellipse(v, made.rotation, shape.scale, eps2d, made.axes);
    if (!shape.given) return e;
  }
  const Ellipse c = ellipse(v, shape.covar, eps2d, made.half);
  return shape.turned ? select(shape.by_covar, c, e) : c;
}

MOEGS_INLINE void prefetch_harmonics(const Scene& s, size_t row) {
  const size_t width = 3 * size_t(s.sh_terms);
  for (size_t c = 0; c < width; c += 16) __builtin_prefetch(s.sh + row * width + c);
}

// Unit direction from the camera to a point; `inverse_length` of the way there.
MOEGS_INLINE Direction look(const Scene& s, const f16* mean, f16& inverse_length) {
  f16 d[3];
  for (int i = 0; i < 3; ++i) d[i] = mean[i] - spread(s.centre[i]);
  const f16 one = spread(1.0f), largest = max(max(abs(d[0]), abs(d[1])), max(abs(d[2]), spread(1e-12f)));
  const f16 scale = one / largest;
  for (int i = 0; i < 3; ++i) d[i] = d[i] * scale;
  const f16 square = fma(d[0], d[0], fma(d[1], d[1], d[2] * d[2]));
  const f16 unit = one / max(sqrt(square), spread(1e-6f));
  inverse_length = scale * unit;
  return {d[0] * unit, d[1] * unit, d[2] * unit};
}

}  // namespace moegs::MOEGS_ISA
