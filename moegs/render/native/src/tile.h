// What forward and backward share about a tile: lists of its blocks, and the opacity of one Gaussian at 16 pixels.
// Only for *_kernels.cpp files.
#pragma once

#include "raster_types.h"
#include "simd.h"

namespace moegs::MOEGS_ISA {

constexpr int kBatch = 128;  // entries of a tile list looked at together, small enough for the first-level cache
constexpr int kCheck = 4;    // entries between two looks at whether a block is finished

struct Tile {
  int group, x, y;    // x, y: first pixel
  uint64_t begin, end;
};

MOEGS_INLINE Tile tile_of(const TileJob& job, size_t list) {
  const size_t tiles = size_t(job.tiles_x) * job.tiles_y, tile = list % tiles;
  return {int(list / tiles), int(tile % job.tiles_x) * kTile, int(tile / job.tiles_x) * kTile, job.starts[list],
          job.starts[list + 1]};
}

// Pixel centres of a block relative to its first pixel.
MOEGS_INLINE f16 ramp_x() {
  alignas(64) static const float v[16] = {0.5f, 1.5f, 2.5f, 3.5f, 0.5f, 1.5f, 2.5f, 3.5f,
                                          0.5f, 1.5f, 2.5f, 3.5f, 0.5f, 1.5f, 2.5f, 3.5f};
  return load(v);
}
MOEGS_INLINE f16 ramp_y() {
  alignas(64) static const float v[16] = {0.5f, 0.5f, 0.5f, 0.5f, 1.5f, 1.5f, 1.5f, 1.5f,
                                          2.5f, 2.5f, 2.5f, 2.5f, 3.5f, 3.5f, 3.5f, 3.5f};
  return load(v);
}

// Where the pixels of a block are in an image of some stride.
struct Window {
  size_t first;  // pixel, counted over all groups
  int width, height;
};
MOEGS_INLINE int block_x(const Tile& t, int block) { return t.x + 4 * (block & 3); }
MOEGS_INLINE int block_y(const Tile& t, int block) { return t.y + 4 * (block >> 2); }

MOEGS_INLINE Window window(const TileJob& job, const Tile& t, int block) {
  const int x = block_x(t, block), y = block_y(t, block);
  return {(size_t(t.group) * job.height + y) * job.width + x, job.width - x < 4 ? job.width - x : 4,
          job.height - y < 4 ? job.height - y : 4};
}

// Calls move(lane, place) for every pixel of a block inside the image; place is where it is in an image of this stride.
template <class Move>
MOEGS_INLINE void each_pixel(const TileJob& job, const Window& w, size_t stride, Move&& move) {
  if (w.width == 4 && w.height == 4) {
    for (int j = 0; j < 4; ++j) {
      const size_t row = (w.first + size_t(j) * job.width) * stride;
      for (int i = 0; i < 4; ++i) move(4 * j + i, row + i * stride);
    }
    return;
  }
  for (int j = 0; j < w.height; ++j)
    for (int i = 0; i < w.width; ++i) move(4 * j + i, (w.first + size_t(j) * job.width + i) * stride);
}

// Which pixels of a block lie in the image, as ones and zeros.
MOEGS_INLINE f16 inside(const TileJob& job, int x, int y) {
  const f16 half = spread(0.5f);
  const m16 in = (ramp_x() < spread(float(job.width - x)) ) & (ramp_y() < spread(float(job.height - y)));
  return keep(in, half + half);
}

// Blocks with a pixel centre's rectangle that the ellipse alpha >= 1/255 reaches: the least value of a convex quadratic
// over a rectangle lies on the line through the nearest x or on that through the nearest y.
struct BlockEdges {
  f16 low_x, high_x, low_y, high_y;
};

MOEGS_INLINE BlockEdges block_edges(const Tile& t) {
  const f16 four = spread(4.0f), half = spread(0.5f);
  const f16 x = fma(ramp_x() - half, four, spread(float(t.x) + 0.5f)), y = fma(ramp_y() - half, four, spread(float(t.y) + 0.5f));
  return {x, x + spread(3.0f), y, y + spread(3.0f)};
}

MOEGS_INLINE uint32_t touched_blocks(const Record& r, const BlockEdges& e) {
  const f16 x = spread(r.x), y = spread(r.y), zero = spread(0.0f);
  const f16 lx = e.low_x - x, hx = e.high_x - x, ly = e.low_y - y, hy = e.high_y - y;
  const f16 a = spread(r.a), b = spread(r.b), c = spread(r.c);
  const f16 nx = clamp(zero, lx, hx), ny = clamp(zero, ly, hy);
  const f16 y1 = clamp(spread(r.slope_y) * nx, ly, hy), x2 = clamp(spread(r.slope_x) * ny, lx, hx);
  const f16 q1 = fma(fma(b, y1, a * nx), nx, c * y1 * y1);
  const f16 q2 = fma(fma(b, ny, a * x2), x2, c * ny * ny);
  const float reach = r.level - kLog2AlphaMin;
  return bits(~(min(q1, q2) > spread(reach + 1e-4f * reach + 1e-3f)));
}

// The entries of one batch that touch a living block, and for each block which of them.
template <int Values>
struct Batch {
  alignas(64) float shape[kBatch][8];  // x, y, a, b, c, level
  alignas(64) float value[kBatch][Values];
  alignas(64) uint16_t blocks[kBatch + 16];
  uint16_t list[16][kBatch + 16];      // with room to write past the end
  uint32_t slot[kBatch], length[16];
  int size;
};

// For every block the entries that touch it, in order. Branch-free: which blocks an entry touches is hard to foresee.
template <int Values>
MOEGS_INLINE void list_blocks(Batch<Values>& batch) {
  for (int j = batch.size; j % 16 != 0; ++j) batch.blocks[j] = 0;
#if MOEGS_ISA_LEVEL == 2
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int b = 0; b < 16; ++b) batch.length[b] = 0;
  for (int j = 0; j < batch.size; j += 16) {
    const __m512i blocks = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(batch.blocks + j)));
    const __m512i entry = _mm512_add_epi32(lanes, _mm512_set1_epi32(j));
    for (int b = 0; b < 16; ++b) {
      const __mmask16 m = _mm512_test_epi32_mask(blocks, _mm512_set1_epi32(1 << b));
      const __m256i picked = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(m, entry));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(batch.list[b] + batch.length[b]), picked);
      batch.length[b] += uint32_t(__builtin_popcount(m));
    }
  }
#else
  for (int b = 0; b < 16; ++b) {
    uint32_t n = 0;
    for (int j = 0; j < batch.size; ++j) {
      batch.list[b][n] = uint16_t(j);
      n += batch.blocks[j] >> b & 1;
    }
    batch.length[b] = n;
  }
#endif
}

// Reads entries [from, to), whose block masks are known, into a batch.
template <int Values>
MOEGS_INLINE void fill_batch(const TileJob& job, int first, uint64_t from, uint64_t to, uint32_t alive, Batch<Values>& batch) {
  const int n = job.n_channels - first < Values ? job.n_channels - first : Values;
  const Channel* channels = job.channels + first;
  uint32_t kept[kBatch + 1];
  int size = 0;
  for (uint64_t at = from; at < to; ++at) {
    const uint32_t blocks = job.masks[at] & alive;
    kept[size] = uint32_t(at - from);
    batch.blocks[size] = uint16_t(blocks);
    size += blocks != 0;
  }
  batch.size = size;
  for (int j = 0; j < size; ++j) {
    const Entry entry = job.entries[from + kept[j]];
    if (j + 8 < size) {
      const size_t ahead = job.entries[from + kept[j + 8]].gaussian;
      __builtin_prefetch(&job.records[ahead]);
      if (n > 4) __builtin_prefetch(channels[4].values + ahead * channels[4].value_stride);
      if (n > 4) __builtin_prefetch(channels[n - 1].values + ahead * channels[n - 1].value_stride);
    }
    __builtin_memcpy(batch.shape[j], &job.records[entry.gaussian].x, sizeof(batch.shape[j]));
    batch.slot[j] = entry.slot;
    for (int c = 0; c < n; ++c) batch.value[j][c] = channels[c].values[entry.gaussian * channels[c].value_stride];
    for (int c = n; c < Values; ++c) batch.value[j][c] = 0.0f;
  }
  list_blocks(batch);
}

// sigma >= 0 and alpha >= 1/255 decide who takes part; both passes must decide alike, so both call this.
struct Opacity {
  f16 dx, dy, alpha;  // alpha is meaningful where `there`
  m16 there;
};

MOEGS_INLINE Opacity opacity_at(const float* shape, f16 px, f16 py) {
  Opacity o;
  o.dx = spread(shape[0]) - px;
  o.dy = spread(shape[1]) - py;
  const f16 level = spread(shape[5]);
  const f16 q = fma(fma(spread(shape[3]), o.dy, spread(shape[2]) * o.dx), o.dx, spread(shape[4]) * o.dy * o.dy);
  const f16 power = level - q;
  o.there = (power >= spread(kLog2AlphaMin)) & (q >= spread(0.0f));
  o.alpha = keep(o.there, exp2(power));
  return o;
}

}  // namespace moegs::MOEGS_ISA
