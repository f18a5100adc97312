// Gradients of one tile. Like forward, front to back: with R the light that is still to come (known from the image), no
// state of forward but the image itself is needed, and every decision falls the same way.
#include "tile.h"
#include "tile_kernels.h"

namespace moegs::MOEGS_ISA {
namespace {

constexpr float kLn2 = 0.6931471805599453f;

// What is summed over a block's pixels for one Gaussian: moments of s = dL/d(ln alpha) about the tile's centre, then the
// sums of |s d sigma/d mean| if asked for, then one sum a value.
template <int Values, bool Geometry, bool Absolute>
struct Sums {
  static constexpr int moments = Geometry ? 6 : 0, magnitudes = Absolute ? 2 : 0;
  static constexpr int count = moments + magnitudes + Values, rows = (count + 15) / 16;
};

template <int Values>
struct State {  // of a block: transmittance, R, and the image gradients
  alignas(64) float open[16], rest[16], grad[Values][16];
};

// Sixteen entries of a block wait here to be summed together: rows of 16 pixels.
struct Queue {
  alignas(64) float s[16][16], weight[16][16], ax[16][16], ay[16][16];
};

MOEGS_INLINE f16 total(const f16* v) {
  f16 pairs[8];
  for (int i = 0; i < 8; ++i) pairs[i] = v[2 * i] + v[2 * i + 1];
  return ((pairs[0] + pairs[1]) + (pairs[2] + pairs[3])) + ((pairs[4] + pairs[5]) + (pairs[6] + pairs[7]));
}

// v at -1.5, -0.5, 0.5 and 1.5, times those places, summed.
MOEGS_INLINE f16 first_moment(f16 v0, f16 v1, f16 v2, f16 v3) {
  return fma(spread(1.5f), v3 - v0, spread(0.5f) * (v2 - v1));
}

// Moments 1, x, y, xx, xy, yy of 16 entries (lanes) over 16 pixels (vectors), first about the block's centre, where pixels
// lie symmetrically, then about a point from which that centre is (x, y).
MOEGS_INLINE void moments(const f16* s, float x, float y, f16* out) {
  const f16 outer = spread(2.25f), inner = spread(0.25f), cx = spread(x), cy = spread(y);
  f16 sides[4], middle[4], row[4], row_x[4];
  for (int i = 0; i < 4; ++i) {
    const f16* r = s + 4 * i;
    sides[i] = r[0] + r[3];
    middle[i] = r[1] + r[2];
    row[i] = sides[i] + middle[i];
    row_x[i] = first_moment(r[0], r[1], r[2], r[3]);
  }
  const f16 side = (sides[0] + sides[1]) + (sides[2] + sides[3]), mid = (middle[0] + middle[1]) + (middle[2] + middle[3]);
  const f16 mx = (row_x[0] + row_x[1]) + (row_x[2] + row_x[3]), my = first_moment(row[0], row[1], row[2], row[3]);
  const f16 mxx = fma(outer, side, inner * mid), myy = fma(outer, row[0] + row[3], inner * (row[1] + row[2]));
  const f16 mxy = first_moment(row_x[0], row_x[1], row_x[2], row_x[3]);
  out[0] = side + mid;
  out[1] = fma(cx, out[0], mx);
  out[2] = fma(cy, out[0], my);
  out[3] = fma(cx, mx + out[1], mxx);
  out[4] = fma(cx, out[2], fma(cy, mx, mxy));
  out[5] = fma(cy, my + out[2], myy);
}

// Sums the queue's first `size` rows and adds them to the totals (Sums::rows vectors each) of the entries they belong to.
template <int Values, bool Geometry, bool Absolute>
__attribute__((noinline)) void flush(const Queue& queue, const uint16_t* entry, int size, int block,
                                     const State<Values>& state, float* totals) {
  using Sum = Sums<Values, Geometry, Absolute>;
  f16 turned[16], sum[16 * Sum::rows];
  if constexpr (Geometry) {
    transpose(queue.s[0], 16, turned);
    moments(turned, float(4 * (block & 3)) - 6.0f, float(4 * (block >> 2)) - 6.0f, sum);
  }
  if constexpr (Absolute) {
    transpose(queue.ax[0], 16, turned);
    sum[Sum::moments] = total(turned);
    transpose(queue.ay[0], 16, turned);
    sum[Sum::moments + 1] = total(turned);
  }
  transpose(queue.weight[0], 16, turned);
  for (int c = 0; c < Values; ++c) {
    const float* grad = state.grad[c];
    f16 even = turned[0] * spread(grad[0]), odd = turned[1] * spread(grad[1]);
    for (int p = 2; p < 16; p += 2) {
      even = fma(turned[p], spread(grad[p]), even);
      odd = fma(turned[p + 1], spread(grad[p + 1]), odd);
    }
    sum[Sum::moments + Sum::magnitudes + c] = even + odd;
  }
  for (int i = Sum::count; i < 16 * Sum::rows; ++i) sum[i] = spread(0.0f);
  for (int r = 0; r < Sum::rows; ++r) {
    transpose(sum + 16 * r, turned);
    alignas(64) float row[16][16];
    for (int k = 0; k < 16; ++k) store(row[k], turned[k]);
    for (int k = 0; k < size; ++k) {
      float* at = totals + 16 * (Sum::rows * entry[k] + r);
      store(at, load(at) + load(row[k]));
    }
  }
}

// One block through its list, with the decisions of forward. Returns whether any pixel goes on.
template <int Values, bool Geometry, bool Absolute>
__attribute__((noinline)) bool walk(const Batch<Values>& batch, int block, int x, int y, State<Values>& state, Queue& queue,
                                    float* totals) {
  const f16 px = ramp_x() + spread(float(x)), py = ramp_y() + spread(float(y));
  const uint16_t* list = batch.list[block];
  const int length = batch.length[block];
  const f16 least = spread(kTransmittanceMin), cap = spread(kAlphaMax), one = spread(1.0f);
  const bool opaque = batch.opaque;
  f16 open = load(state.open), rest = load(state.rest), grad[Values];
  MOEGS_UNROLL
  for (int c = 0; c < Values; ++c) grad[c] = load(state.grad[c]);
  bool going = true;
  for (int begin = 0; begin < length && going; begin += 16) {
    const int end = length - begin < 16 ? length - begin : 16;
    int k = 0;
    while (k < end && going) {
      const int stop = k + kCheck < end ? k + kCheck : end;
      for (; k < stop; ++k) {
        const float* row = batch.row[list[begin + k]];
        const Opacity o = opacity_at(row, px, py);
        const f16 alpha = opaque ? min(o.alpha, cap) : o.alpha;
        const f16 weight = open * alpha;
        open = fnma(open, alpha, open);
        m16 lit = open > least;
        const f16 shown = keep(lit, weight);
        store(queue.weight[k], shown);
        if constexpr (Geometry) {
          f16 along = spread(row[kRowValues]) * grad[0];
          MOEGS_UNROLL
          for (int c = 1; c < Values; ++c) along = fma(spread(row[kRowValues + c]), grad[c], along);
          rest = fnma(shown, along, rest);
          const f16 behind = rest * reciprocal(one - alpha);
          if (opaque) lit = and_le(lit, o.alpha, cap);
          // alpha dL/d(alpha): along weighted by what it shows, less what it hides
          const f16 s = keep(lit, fnma(alpha, behind, weight * along));
          store(queue.s[k], s);
          if constexpr (Absolute) {
            const f16 sx = fma(spread(2.0f * row[kRowA]), o.dx, spread(row[kRowB]) * o.dy);
            const f16 sy = fma(spread(2.0f * row[kRowC]), o.dy, spread(row[kRowB]) * o.dx);
            store(queue.ax[k], abs(s * sx));
            store(queue.ay[k], abs(s * sy));
          }
        }
      }
      const m16 lit = open > least;
      open = keep(lit, open);
      going = any(lit);
    }
    flush<Values, Geometry, Absolute>(queue, list + begin, k, block, state, totals);
  }
  store(state.open, open);
  store(state.rest, rest);
  return going;
}

MOEGS_INLINE void prefetch_slots(const TileJob& job, const uint32_t* slot, int count) {
  for (int j = 0; j < count; ++j) __builtin_prefetch(job.slots + slot[j] * job.slot_stride, 1, 2);
}

MOEGS_INLINE void prefetch_images(const TileJob& job, const Tile& t) {
  for (int c = 0; c < job.n_channels; c += int(job.channels[c].image_stride)) {
    prefetch_image<0>(job, t, job.channels[c].image, job.channels[c].image_stride);
    prefetch_image<0>(job, t, job.channels[c].grad, job.channels[c].image_stride);
  }
}

// The first n channels of a block, from the image or the gradient that `of` chooses.
template <class Of>
MOEGS_INLINE void read_channels(const TileJob& job, const Window& w, const Channel* channels, int n, Of&& of, float (*lanes)[16]) {
  for (int c = 0; c < n;) {
    const bool triple = whole(w) && triple_at(channels, c, n);
    if (triple)
      read_triple(job, w, of(channels[c]), lanes + c);
    else
      read_pixels(job, w, of(channels[c]), channels[c].image_stride, lanes[c]);
    c += triple ? 3 : 1;
  }
}

template <int Values>
void read_block(const TileJob& job, const Tile& t, int block, int first, State<Values>& state) {
  const Window w = window(job, t, block);
  const int n = job.n_channels - first < Values ? job.n_channels - first : Values;
  __builtin_memset(&state, 0, sizeof(state));
  store(state.open, inside(job, block_x(t, block), block_y(t, block)));
  alignas(64) float image[Values + 2][16];
  __builtin_memset(image, 0, sizeof(image));
  const Channel* channels = job.channels + first;
  read_channels(job, w, channels, n, [](const Channel& c) { return c.grad; }, state.grad);
  read_channels(job, w, channels, n, [](const Channel& c) -> const float* { return c.image; }, image);
  f16 rest = spread(0.0f);
  if (first == 0 && job.grad_alpha != nullptr) {
    read_pixels(job, w, job.grad_alpha, 1, image[Values]);
    read_pixels(job, w, job.alpha, 1, image[Values + 1]);
    rest = load(image[Values]) * (load(image[Values + 1]) - spread(1.0f));
  }
  for (int c = 0; c < n; ++c) rest = fma(load(state.grad[c]), load(image[c]), rest);
  store(state.rest, rest);
}

// From moments about the tile's centre to gradients of the image position, the conic and ln(opacity), in place, for 16
// entries; `shape` holds the columns of their rows.
MOEGS_INLINE void finish_geometry(const f16* shape, const Tile& t, f16* m) {
  const f16 dx = shape[kRowX] - spread(float(t.x + kTile / 2)), dy = shape[kRowY] - spread(float(t.y + kTile / 2));
  const f16 sx = dx * m[0] - m[1], sy = dy * m[0] - m[2];
  const f16 sxx = dx * (sx - m[1]) + m[3], syy = dy * (sy - m[2]) + m[5];
  const f16 sxy = dx * sy - dy * m[1] + m[4];
  const f16 two_a = spread(2.0f * kLn2) * shape[kRowA], b = spread(kLn2) * shape[kRowB];
  const f16 two_c = spread(2.0f * kLn2) * shape[kRowC], level = m[0];
  m[kSlotX] = -(two_a * sx + b * sy);
  m[kSlotY] = -(b * sx + two_c * sy);
  m[kSlotA] = spread(-0.5f) * sxx;
  m[kSlotB] = -sxy;
  m[kSlotC] = spread(-0.5f) * syy;
  m[kSlotLevel] = level;
}

// Sixteen entries' totals, from moments to the columns of gradient slots.
template <int Values, bool Geometry, bool Absolute>
MOEGS_INLINE void finish_sixteen(const Tile& t, const float* rows, float* totals) {
  using Sum = Sums<Values, Geometry, Absolute>;
  constexpr size_t stride = 16 * Sum::rows;
  f16 shape[16], sum[16], turned[16];
  transpose(rows, Batch<Values>::width, shape);
  transpose(totals, stride, sum);
  finish_geometry(shape, t, sum);
  for (int i = 0; i < Sum::magnitudes; ++i) sum[Sum::moments + i] = spread(kLn2) * sum[Sum::moments + i];
  transpose(sum, turned);
  for (int k = 0; k < 16; ++k) store(totals + k * stride, turned[k]);
}

// Writes the totals of a batch to the entries' slots. The first walk's columns are those of a slot; later walks bring more
// values, and add to the geometry.
template <int Values, bool Geometry, bool Absolute>
void finish_batch(const TileJob& job, const Tile& t, int first, const Batch<Values>& batch, float* totals) {
  using Sum = Sums<Values, Geometry, Absolute>;
  constexpr int fixed = Sum::moments + Sum::magnitudes;
  const int n = job.n_channels - first < Values ? job.n_channels - first : Values;
  for (int j = 0; Geometry && j < batch.size; j += 16)
    finish_sixteen<Values, Geometry, Absolute>(t, batch.row[j], totals + 16 * Sum::rows * j);
  for (int j = 0; j < batch.size; ++j) {
    const float* sum = totals + 16 * Sum::rows * j;
    float* out = job.slots + batch.slot[j] * job.slot_stride;
    job.touched[batch.slot[j]] = 1;
    if (first == 0) {
      for (int c = 0; c < fixed + n; c += 16) store_first(out + c, load(sum + c), fixed + n - c < 16 ? fixed + n - c : 16);
      continue;
    }
    for (int i = 0; i < fixed; ++i) out[i] += sum[i];
    for (int c = 0; c < n; ++c) out[fixed + first + c] = sum[fixed + c];
  }
}

template <int Values, bool Geometry, bool Absolute>
void differentiate(const TileJob& job, size_t list, int first) {
  const Tile t = tile_of(job, list);
  State<Values> state[16];
  uint32_t alive = 0;
  const uint64_t end = t.begin + job.used[list];
  if (first == 0) prefetch_images(job, t);
  for (int b = 0; b < 16; ++b) {
    read_block(job, t, b, first, state[b]);
    alive |= uint32_t(any(load(state[b].open) > spread(0.0f))) << b;
  }
  Batch<Values> batch;
  Queue queue;
  __builtin_memset(&queue, 0, sizeof(queue));
  alignas(64) float totals[kBatch * 16 * Sums<Values, Geometry, Absolute>::rows];
  uint64_t at = t.begin;
  while (at < end) {
    const uint64_t stop = end - at < kBatch ? end : at + kBatch;
    fill_batch(job, first, at, stop, alive, batch);
    prefetch_records(job, stop < end ? stop : t.end);
    prefetch_slots(job, batch.slot, batch.size);
    at = stop;
    __builtin_memset(totals, 0, size_t(batch.size) * sizeof(totals) / kBatch);
    for (uint32_t left = alive; left != 0; left &= left - 1) {
      const int b = __builtin_ctz(left);
      const int x = block_x(t, b), y = block_y(t, b);
      if (!walk<Values, Geometry, Absolute>(batch, b, x, y, state[b], queue, totals)) alive &= ~(1u << b);
    }
    finish_batch<Values, Geometry, Absolute>(job, t, first, batch, totals);
  }
}

template <int Values>
void differentiate_any(const TileJob& job, size_t list, int first) {
  if (!job.geometry)
    differentiate<Values, false, false>(job, list, first);
  else if (!job.absolute)
    differentiate<Values, true, false>(job, list, first);
  else
    differentiate<Values, true, true>(job, list, first);
}

}  // namespace

void backward_tile(const TileJob& job, size_t list) {
  if (job.starts[list] == job.starts[list + 1]) return;
  for (int first = 0; first == 0 || first < job.n_channels; first += kMaxPass) {
    const int n = job.n_channels - first;
#ifndef MOEGS_SANITIZE  // instrumented, each of these takes a minute to compile
    if (n <= 3)
      differentiate_any<3>(job, list, first);
    else if (n <= 4)
      differentiate_any<4>(job, list, first);
    else if (n <= 8)
      differentiate_any<8>(job, list, first);
    else if (n <= 12)
      differentiate_any<12>(job, list, first);
    else if (n <= 16)
      differentiate_any<16>(job, list, first);
    else
#endif
      differentiate_any<20>(job, list, first);
  }
}

}  // namespace moegs::MOEGS_ISA
