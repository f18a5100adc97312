#include "splines_kernels.h"

#include "simd.h"

namespace moegs::MOEGS_ISA {
namespace {

constexpr float kTiny = 1e-24f;  // squared length of a quaternion that carries no direction
constexpr float kEdge = 1e-4f;   // the arc cosine's slope is unbounded at one; nearer to it rotations are blended linearly

// Of x in [0, 1]; Abramowitz and Stegun 4.4.46, off by 2e-8 at most.
MOEGS_INLINE f16 arc_cosine(f16 x) {
  constexpr float c[8] = {1.5707963050f, -0.2145988016f, 0.0889789874f, -0.0501743046f,
                          0.0308918810f, -0.0170881256f, 0.0066700901f, -0.0012624911f};
  f16 r = spread(c[7]);
  MOEGS_UNROLL
  for (int i = 6; i >= 0; --i) r = fma(r, x, spread(c[i]));
  return r * sqrt(spread(1.0f) - x);
}

// Taylor's series; of at most a right angle they are off by less than floats can tell.
MOEGS_INLINE f16 sine(f16 x) {
  const f16 s = x * x;
  f16 r = spread(-1.0f / 39916800.0f);
  r = fma(r, s, spread(1.0f / 362880.0f));
  r = fma(r, s, spread(-1.0f / 5040.0f));
  r = fma(r, s, spread(1.0f / 120.0f));
  r = fma(r, s, spread(-1.0f / 6.0f));
  return fma(r * s, x, x);
}

MOEGS_INLINE f16 cosine(f16 x) {
  const f16 s = x * x;
  f16 r = spread(1.0f / 479001600.0f);
  r = fma(r, s, spread(-1.0f / 3628800.0f));
  r = fma(r, s, spread(1.0f / 40320.0f));
  r = fma(r, s, spread(-1.0f / 720.0f));
  r = fma(r, s, spread(1.0f / 24.0f));
  r = fma(r, s, spread(-0.5f));
  return fma(r, s, spread(1.0f));
}

MOEGS_INLINE f16 dot(const f16* a, const f16* b) { return fma(a[0], b[0], fma(a[1], b[1], fma(a[2], b[2], a[3] * b[3]))); }

// One over the length, zero where there is no direction.
MOEGS_INLINE f16 inverse_length(const f16* q) {
  const f16 square = dot(q, q);
  return keep(square >= spread(kTiny), spread(1.0f) / sqrt(max(square, spread(kTiny))));
}

// Sixteen Gaussians from `at` on; lanes past the last repeat it.
struct Block {
  size_t row[16];
  int count;
};

MOEGS_INLINE Block block_at(size_t at, size_t last) {
  Block b;
  b.count = last - at < 16 ? int(last - at) : 16;
  for (int l = 0; l < 16; ++l) b.row[l] = at + size_t(l < b.count ? l : b.count - 1);
  return b;
}

// Rows of `Quads` times four floats, `pitch` floats from one Gaussian's to the next.
template <int Quads>
MOEGS_INLINE void read(const float* base, size_t pitch, const Block& b, f16* out) {
  const float* row[16];
  for (int l = 0; l < 16; ++l) row[l] = base + b.row[l] * pitch;
  transpose_rows<Quads>(row, out);
}

template <int Width>
MOEGS_INLINE void read_narrow(const float* base, const Block& b, f16* out) {
  alignas(64) float v[Width][16];
  for (int l = 0; l < 16; ++l)
    for (int c = 0; c < Width; ++c) v[c][l] = base[b.row[l] * Width + c];
  for (int c = 0; c < Width; ++c) out[c] = load(v[c]);
}

template <int Width>
MOEGS_INLINE void write(float* base, size_t pitch, const Block& b, const f16* values) {
  alignas(64) float v[Width][16];
  for (int c = 0; c < Width; ++c) store(v[c], values[c]);
  for (int l = 0; l < b.count; ++l)
    for (int c = 0; c < Width; ++c) base[b.row[l] * pitch + c] = v[c][l];
}

MOEGS_INLINE void clear(float* base, size_t pitch, const Block& b) {
  __builtin_memset(base + b.row[0] * pitch, 0, sizeof(float) * pitch * size_t(b.count));
}

struct Turn {
  f16 from[4], to[4];              // unit quaternions
  f16 inverse_from, inverse_to;    // of the lengths of those that were given
  f16 sign, cosine, angle;
  m16 free;                        // where the angle follows the cosine
  f16 before, after;               // weights
  f16 sum[4], inverse_sum;
};

MOEGS_INLINE Turn turn(const SplineTask& task, const Block& b) {
  const f16 one = spread(1.0f), zero = spread(0.0f), most = spread(1.0f - kEdge);
  f16 pair[8];
  read<2>(task.rotations + 4 * (task.first + 1), 4 * task.frames, b, pair);
  Turn t;
  t.inverse_from = inverse_length(pair), t.inverse_to = inverse_length(pair + 4);
  MOEGS_UNROLL
  for (int c = 0; c < 4; ++c) t.from[c] = pair[c] * t.inverse_from, t.to[c] = pair[4 + c] * t.inverse_to;
  const f16 between = dot(t.from, t.to);
  t.sign = select(between < zero, -one, one);
  t.cosine = abs(between);
  t.free = t.cosine <= most;
  t.angle = arc_cosine(min(t.cosine, most));
  t.before = sine(spread(1.0f - task.way) * t.angle);
  t.after = sine(spread(task.way) * t.angle) * t.sign;
  MOEGS_UNROLL
  for (int c = 0; c < 4; ++c) t.sum[c] = fma(t.after, t.to[c], t.before * t.from[c]);
  t.inverse_sum = inverse_length(t.sum);
  return t;
}

// Gradients to the two rotations that were given, from that to the unit quaternion between them.
MOEGS_INLINE void turn_back(const SplineTask& task, const Turn& t, const f16* upstream, f16* pair) {
  const f16 one = spread(1.0f);
  f16 unit[4], sum[4], from[4], to[4];
  for (int c = 0; c < 4; ++c) unit[c] = t.sum[c] * t.inverse_sum;
  const f16 along = dot(unit, upstream);
  for (int c = 0; c < 4; ++c) sum[c] = fnma(unit[c], along, upstream[c]) * t.inverse_sum;
  const f16 rest = spread(1.0f - task.way), way = spread(task.way);
  const f16 to_angle = fma(rest * cosine(rest * t.angle), dot(sum, t.from),
                           way * cosine(way * t.angle) * t.sign * dot(sum, t.to));
  const f16 slope = keep(t.free, -to_angle * t.sign / sqrt((one - t.cosine) * (one + t.cosine)));
  for (int c = 0; c < 4; ++c) {
    from[c] = fma(slope, t.to[c], t.before * sum[c]);
    to[c] = fma(slope, t.from[c], t.after * sum[c]);
  }
  const f16 on_from = dot(from, t.from), on_to = dot(to, t.to);
  for (int c = 0; c < 4; ++c) {
    pair[c] = fnma(t.from[c], on_from, from[c]) * t.inverse_from;
    pair[4 + c] = fnma(t.to[c], on_to, to[c]) * t.inverse_to;
  }
}

}  // namespace

void spline_forward(const SplineTask& task, size_t first, size_t last) {
  for (size_t at = first; at < last; at += 16) {
    const Block b = block_at(at, last);
    f16 keys[12], mean[3];
    read<3>(task.keyframes + 3 * task.first, 3 * task.frames, b, keys);
    for (int c = 0; c < 3; ++c) {
      mean[c] = keys[c] * spread(task.weights[0]);
      for (int k = 1; k < 4; ++k) mean[c] = fma(keys[3 * k + c], spread(task.weights[k]), mean[c]);
    }
    write<3>(task.means, 3, b, mean);
    const Turn t = turn(task, b);
    f16 quat[4];
    for (int c = 0; c < 4; ++c) quat[c] = t.sum[c] * t.inverse_sum;
    quat[0] = quat[0] + keep(t.inverse_sum <= spread(0.0f), spread(1.0f));
    write<4>(task.quats, 4, b, quat);
  }
}

void spline_backward(const SplineTask& task, size_t first, size_t last) {
  for (size_t at = first; at < last; at += 16) {
    const Block b = block_at(at, last);
    if (task.to_keyframes != nullptr) {
      clear(task.to_keyframes, 3 * task.frames, b);
      if (task.to_means != nullptr) {
        f16 upstream[3], keys[12];
        read_narrow<3>(task.to_means, b, upstream);
        for (int k = 0; k < 4; ++k)
          for (int c = 0; c < 3; ++c) keys[3 * k + c] = upstream[c] * spread(task.weights[k]);
        write<12>(task.to_keyframes + 3 * task.first, 3 * task.frames, b, keys);
      }
    }
    if (task.to_rotations != nullptr) {
      clear(task.to_rotations, 4 * task.frames, b);
      if (task.to_quats != nullptr) {
        f16 upstream[4], pair[8];
        read<1>(task.to_quats, 4, b, upstream);
        turn_back(task, turn(task, b), upstream, pair);
        write<8>(task.to_rotations + 4 * (task.first + 1), 4 * task.frames, b, pair);
      }
    }
  }
}

}  // namespace moegs::MOEGS_ISA
