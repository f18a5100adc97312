// The backward pass of project_kernels.cpp: it computes the forward values again, which is cheaper than keeping them.
#include "project_kernels.h"
#include "rows.h"

namespace moegs::MOEGS_ISA {
namespace {

// Gradients that reach 16 Gaussians from the image.
struct Incoming {
  f16 x, y, conic[3], level, color[3], depth;
  m16 finite;
};

struct Columns {
  alignas(64) float v[12][16];
};
enum { kX, kY, kA, kB, kC, kLevel, kRed, kGreen, kBlue, kDepth, kAbsX, kAbsY };

// Adds up a Gaussian's slots, always in the same order: 16 columns into `sum` (fewer may mean something: the array has
// room to be read past its end), features into their row.
void sum_slots(const SlotLayout& layout, uint64_t first, uint32_t count, float* sum, float* features, int n_features) {
  f16 total = spread(0.0f);
  for (uint64_t slot = first; slot < first + count; ++slot) {
    if (layout.touched[slot] == 0) continue;
    const float* value = layout.slots + slot * layout.stride;
    total = total + load(value);
    if (features == nullptr) continue;
    for (int c = 0; c < n_features; ++c) features[c] += value[layout.features + c];
  }
  store(sum, total);
}

// `first_slot`: of the chunk that the Gaussian is in.
void collect_lane(const Scene& s, const Record& r, const SlotLayout& layout, uint64_t first_slot, float* features, int lane,
                  Columns& out) {
  alignas(64) float sum[16];
  const uint32_t count = uint32_t(r.x1 - r.x0) * uint32_t(r.y1 - r.y0);
  sum_slots(layout, first_slot + r.slot, count, sum, layout.features >= 0 ? features : nullptr, s.n_features);
  if (layout.geometry)
    for (int c = 0; c < kSlotGeometry; ++c) out.v[c][lane] = sum[c];
  const int extra = layout.absolute ? kSlotGeometry : kSlotX;
  out.v[kAbsX][lane] = sum[extra], out.v[kAbsY][lane] = sum[extra + 1];
  if (layout.color >= 0)
    for (int c = 0; c < 3; ++c) out.v[kRed + c][lane] = sum[layout.color + c];
  if (layout.depth >= 0) out.v[kDepth][lane] = sum[layout.depth];
}

void collect_rows(const ProjectedGrads& g, uint32_t row, int lane, Columns& out) {
  const size_t i = row;
  if (g.means2d != nullptr) out.v[kX][lane] = g.means2d[2 * i], out.v[kY][lane] = g.means2d[2 * i + 1];
  for (int c = 0; c < 3; ++c) {
    if (g.conics != nullptr) out.v[kA + c][lane] = g.conics[3 * i + c];
    if (g.colors != nullptr) out.v[kRed + c][lane] = g.colors[3 * i + c];
  }
  if (g.depths != nullptr) out.v[kDepth][lane] = g.depths[i];
  if (g.opacities != nullptr) out.v[kLevel][lane] = g.opacities[i];
}

Incoming incoming(const Columns& c) {
  Incoming g;
  f16 watch = spread(0.0f);
  f16* const order[10] = {&g.x, &g.y, &g.conic[0], &g.conic[1], &g.conic[2], &g.level, &g.color[0], &g.color[1],
                          &g.color[2], &g.depth};
  for (int i = 0; i < 10; ++i) {
    *order[i] = load(c.v[i]);
    watch = fma(*order[i], spread(0.0f), watch);
  }
  g.finite = watch <= spread(0.0f);
  return g;
}

// A column of gradients for 16 rows: lanes whose own input was sound but whose gradient overflowed get zero.
struct Writer {
  const uint32_t* row;
  int lanes;
  m16 sound;
};

void write(const Writer& w, float* base, const f16* columns, int width) {
  alignas(64) float v[16][16];
  for (int c = 0; c < width; ++c) store(v[c], keep(w.sound, columns[c]));
  for (int l = 0; l < w.lanes; ++l)
    for (int c = 0; c < width; ++c) base[size_t(w.row[l]) * width + c] = v[c][l];
}

template <int Terms>
void unshade(const Scene& s, const uint32_t* row, int lanes, const f16* mean, const Incoming& g, f16* toward, float* out) {
  f16 inverse_length, value[Terms], sh[3 * Terms], weight[Terms];
  const Direction d = look(s, mean, inverse_length);
  if (toward != nullptr && Terms > 1) {
    load_rows<3 * Terms>(s.sh, row, sh);
    for (int k = 0; k < Terms; ++k)
      weight[k] = fma(sh[3 * k], g.color[0], fma(sh[3 * k + 1], g.color[1], sh[3 * k + 2] * g.color[2]));
    const Direction slope = harmonics_slope<Terms>(d, weight);
    const f16 along = fma(slope.x, d.x, fma(slope.y, d.y, slope.z * d.z));
    toward[0] = fnma(along, d.x, slope.x) * inverse_length;
    toward[1] = fnma(along, d.y, slope.y) * inverse_length;
    toward[2] = fnma(along, d.z, slope.z) * inverse_length;
  }
  if (out == nullptr) return;
  harmonics<Terms>(d, value);
  f16 product[(3 * Terms + 15) / 16 * 16], turned[16];
  for (int k = 0; k < Terms; ++k)
    for (int i = 0; i < 3; ++i) product[3 * k + i] = value[k] * g.color[i];
  for (int c = 0; c < 3 * Terms; c += 16) {
    const int width = 3 * Terms - c < 16 ? 3 * Terms - c : 16;
    for (int i = width; i < 16; ++i) product[c + i] = spread(0.0f);
    transpose(product + c, turned);
    for (int l = 0; l < lanes; ++l) store_first(out + size_t(row[l]) * 3 * Terms + c, turned[l], width);
  }
}

void unshade_any(const Scene& s, const uint32_t* row, int lanes, const f16* mean, const Incoming& g, f16* toward, float* out) {
  switch (s.sh_terms) {
    case 1: return unshade<1>(s, row, lanes, mean, g, toward, out);
    case 4: return unshade<4>(s, row, lanes, mean, g, toward, out);
    case 9: return unshade<9>(s, row, lanes, mean, g, toward, out);
    default: return unshade<16>(s, row, lanes, mean, g, toward, out);
  }
}

// Gradients of 16 Gaussians with respect to everything but colour.
struct Outgoing {
  f16 mean[3], quat[4], scale[3], covar[9], opacity;
  f16 pose[kPoseTerms];
};

// T = J W to the sight, from the gradient of the ellipse.
void shape_backward(const Axes& axes, const Rotation& r, const Shape& shape, const Sight& v,
                    const f16* cov, f16 (*gt)[3], Outgoing& o) {
  f16 gr[3][3];
  const f16 both = spread(2.0f);
  for (int k = 0; k < 3; ++k) {
    const f16 n0 = axes.n[0][k], n1 = axes.n[1][k];
    const f16 g0 = fma(both * cov[0], n0, cov[1] * n1), g1 = fma(both * cov[2], n1, cov[1] * n0);
    o.scale[k] = fma(g0, axes.u[0][k], g1 * axes.u[1][k]);
    const f16 u0 = g0 * shape.scale[k], u1 = g1 * shape.scale[k];
    for (int j = 0; j < 3; ++j) {
      gt[0][j] = k == 0 ? u0 * r.m[j][k] : fma(u0, r.m[j][k], gt[0][j]);
      gt[1][j] = k == 0 ? u1 * r.m[j][k] : fma(u1, r.m[j][k], gt[1][j]);
      gr[j][k] = fma(v.t[0][j], u0, v.t[1][j] * u1);
    }
  }
  rotation_backward(r, gr, o.quat);
}

void covar_backward(const f16 (*half)[3], const Sight& v, const f16* cov, f16 (*gt)[3], Outgoing& o) {
  const f16 both = spread(2.0f), mid = spread(0.5f) * cov[1];
  for (int j = 0; j < 3; ++j) {
    gt[0][j] = fma(both * cov[0], half[0][j], cov[1] * half[1][j]);
    gt[1][j] = fma(both * cov[2], half[1][j], cov[1] * half[0][j]);
    for (int i = 0; i < 3; ++i) {
      const f16 cross = mid * fma(v.t[0][i], v.t[1][j], v.t[1][i] * v.t[0][j]);
      o.covar[3 * i + j] = fma(cov[0] * v.t[0][i], v.t[0][j], fma(cov[2] * v.t[1][i], v.t[1][j], cross));
    }
  }
}

void outline_backward(const Scene& s, const Made& made, const Shape& shape, const Sight& v, const f16* cov, f16 (*gt)[3],
                      Outgoing& o) {
  if (s.by_covar != nullptr) {  // rows of the other kind get zeros
    for (int i = 0; i < 9; ++i) o.covar[i] = spread(0.0f);
    for (int i = 0; i < 4; ++i) o.quat[i] = spread(0.0f);
    for (int i = 0; i < 3; ++i) o.scale[i] = spread(0.0f);
  }
  if (shape.turned) shape_backward(made.axes, made.rotation, shape, v, cov, gt, o);
  if (!shape.given) return;
  if (!shape.turned) return covar_backward(made.half, v, cov, gt, o);
  f16 other[2][3];
  covar_backward(made.half, v, cov, other, o);
  for (int i = 0; i < 2; ++i) choose(shape.by_covar, gt[i], other[i], 3);
  for (int i = 0; i < 9; ++i) o.covar[i] = keep(shape.by_covar, o.covar[i]);
  for (int i = 0; i < 4; ++i) o.quat[i] = keep(~shape.by_covar, o.quat[i]);
  for (int i = 0; i < 3; ++i) o.scale[i] = keep(~shape.by_covar, o.scale[i]);
}

// Camera-space point and T to the world mean and the pose.
void world_backward(const Scene& s, const f16* mean, const SightGrads& g, const f16* toward, Outgoing& o) {
  for (int j = 0; j < 3; ++j) {
    o.mean[j] = toward[j];
    for (int i = 0; i < 3; ++i) {
      o.mean[j] = fma(spread(s.rotation[3 * i + j]), g.point[i], o.mean[j]);
      o.pose[3 * i + j] = fma(g.point[i], mean[j], g.w[3 * i + j]);
    }
    o.pose[9 + j] = g.point[j];
    o.pose[12 + j] = -toward[j];
  }
}

void geometry_backward(const Scene& s, const Lens& k, const uint32_t* row, const f16* mean, const Incoming& g,
                       bool level_is_opacity, const f16* toward, Outgoing& o) {
  Shape shape;
  Made made;
  f16 opacity, cov[3], gt[2][3];
  const Lanes options = options_of(s, row);
  load_shape(s, row, shape);
  load_rows<1>(s.opacities, row, &opacity);
  const Sight v = see(s, k, mean);
  const Ellipse e = ellipse(v, shape, options.eps2d, made);
  // level is the logarithm of the compensated opacity o sqrt(ratio): 1/o to the opacity, 1/(2 ratio) to the ratio
  const f16 root = select(options.compensate, sqrt(e.ratio), spread(1.0f));
  const f16 level = level_is_opacity ? g.level * (opacity * root) : g.level;
  o.opacity = level_is_opacity ? g.level * root : level / opacity;
  const m16 compensated = options.compensate & (e.ratio > spread(0.0f));
  filter_backward(e, g.conic, keep(compensated, spread(0.5f) * level / e.ratio), cov);
  outline_backward(s, made, shape, v, cov, gt, o);
  world_backward(s, mean, see_backward(s, k, v, gt, g.x, g.y, g.depth), toward, o);
}

m16 sound_lanes(const Scene& s, const Outgoing& o, m16 finite_input) {
  f16 watch = o.opacity * spread(0.0f);
  for (int i = 0; i < 3; ++i) watch = fma(o.mean[i], spread(0.0f), watch);
  if (s.quats != nullptr) {
    for (int i = 0; i < 4; ++i) watch = fma(o.quat[i], spread(0.0f), watch);
    for (int i = 0; i < 3; ++i) watch = fma(o.scale[i], spread(0.0f), watch);
  }
  if (s.covars != nullptr)
    for (int i = 0; i < 9; ++i) watch = fma(o.covar[i], spread(0.0f), watch);
  return (watch <= spread(0.0f)) | ~finite_input;
}

void add_pose(const Writer& w, const f16* pose, double* out) {
  alignas(64) float v[16];
  for (int i = 0; i < kPoseTerms; ++i) {
    store(v, keep(w.sound & finite(pose[i]), pose[i]));
    for (int l = 0; l < w.lanes; ++l) out[i] += double(v[l]);
  }
}

void write_geometry(const Writer& w, const Outgoing& o, const Grads& grads, int64_t chunk) {
  if (grads.means != nullptr) write(w, grads.means, o.mean, 3);
  if (grads.opacities != nullptr) write(w, grads.opacities, &o.opacity, 1);
  if (grads.pose != nullptr) add_pose(w, o.pose, grads.pose + chunk * kPoseTerms);
  if (grads.covars != nullptr) write(w, grads.covars, o.covar, 9);
  if (grads.quats != nullptr) write(w, grads.quats, o.quat, 4);
  if (grads.scales != nullptr) write(w, grads.scales, o.scale, 3);
}

// Colours whose clamp was active carry a negative zero.
void clamp_backward(const Record* records, const uint32_t* row, Columns& in) {
  for (int c = 0; c < 3; ++c)
    for (int l = 0; l < 16; ++l) {
      uint32_t word;
      __builtin_memcpy(&word, &records[row[l]].color[c], 4);
      if (word == 0x80000000u) in.v[kRed + c][l] = 0.0f;
    }
}

struct Batch {
  uint32_t row[16];
  int lanes;
};

void batch_backward(const Scene& s, const Lens& k, const Batch& b, Columns& in, bool geometry, bool rows, const Grads& grads,
                    const Record* records, int64_t chunk) {
  f16 mean[3], toward[3] = {spread(0.0f), spread(0.0f), spread(0.0f)};
  load_rows<3>(s.means, b.row, mean);
  clamp_backward(records, b.row, in);
  const Incoming g = incoming(in);
  unshade_any(s, b.row, b.lanes, mean, g, geometry ? toward : nullptr, grads.sh);
  if (grads.probe != nullptr) {
    const f16 probe[2] = {load(in.v[kAbsX]), load(in.v[kAbsY])};
    write(Writer{b.row, b.lanes, finite(mean[0])}, grads.probe, probe, 2);
  }
  if (!geometry) return;
  Outgoing o;
  geometry_backward(s, k, b.row, mean, g, rows, toward, o);
  write_geometry(Writer{b.row, b.lanes, sound_lanes(s, o, g.finite)}, o, grads, chunk);
}

MOEGS_INLINE void zero(float* base, int64_t begin, int64_t end, int width) {
  if (base != nullptr) __builtin_memset(base + begin * width, 0, size_t(end - begin) * width * sizeof(float));
}

void zero_all(const Scene& s, const Grads& g, int64_t begin, int64_t end) {
  zero(g.means, begin, end, 3);
  zero(g.quats, begin, end, 4);
  zero(g.scales, begin, end, 3);
  zero(g.covars, begin, end, 9);
  zero(g.opacities, begin, end, 1);
  zero(g.sh, begin, end, 3 * s.sh_terms);
  zero(g.features, begin, end, s.n_features);
  zero(g.probe, begin, end, 2);
  if (g.pose != nullptr) __builtin_memset(g.pose + begin / kChunk * kPoseTerms, 0, kPoseTerms * sizeof(double));
}

}  // namespace

void unproject_chunk(const Scene& s, int64_t begin, int64_t end, const Record* records, const float* radii,
                     const SlotLayout* slots, const ProjectedGrads* rows, Grads grads) {
  const Lens k = lens(s);
  const int64_t chunk = begin / kChunk;
  const bool geometry = grads.means || grads.quats || grads.scales || grads.covars || grads.opacities || grads.pose;
  zero_all(s, grads, begin, end);
  int64_t i = begin;
  while (i < end) {
    Batch b;
    Columns in;
    b.lanes = 0;
    for (; i < end && b.lanes < 16; ++i)
      if (radii[2 * i] > 0.0f) b.row[b.lanes++] = uint32_t(i);
    if (b.lanes == 0) break;
    __builtin_memset(&in, 0, sizeof(in));
    for (int l = b.lanes; l < 16; ++l) b.row[l] = b.row[b.lanes - 1];
    for (int l = 0; l < b.lanes; ++l) prefetch_harmonics(s, b.row[l]);  // needed only after the slots have been summed
    for (int l = 0; l < b.lanes; ++l) {
      const size_t row = b.row[l];
      float* features = grads.features != nullptr ? grads.features + row * s.n_features : nullptr;
      if (slots != nullptr)
        collect_lane(s, records[row], *slots, slots->chunk_slot[chunk], features, l, in);
      else
        collect_rows(*rows, b.row[l], l, in);
    }
    batch_backward(s, k, b, in, geometry, slots == nullptr, grads, records, chunk);
  }
}

}  // namespace moegs::MOEGS_ISA
