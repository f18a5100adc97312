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
  size_t row = w.first * stride;
  for (int j = 0; j < w.height; ++j, row += size_t(job.width) * stride) {
    size_t place = row;
    for (int i = 0; i < w.width; ++i, place += stride) move(4 * j + i, place);
  }
}

MOEGS_INLINE bool whole(const Window& w) { return w.width == 4 && w.height == 4; }

// One channel of a block between the image and 16 lanes, if it can be, a row of four pixels at a time.
MOEGS_INLINE void write_pixels(const TileJob& job, const Window& w, float* image, size_t stride, const float* lanes) {
  if (stride == 1 && whole(w)) {
    for (int j = 0; j < 4; ++j) store_quad(image + w.first + size_t(j) * job.width, load_quad(lanes + 4 * j));
    return;
  }
  each_pixel(job, w, stride, [=](int lane, size_t place) { image[place] = lanes[lane]; });
}
MOEGS_INLINE void read_pixels(const TileJob& job, const Window& w, const float* image, size_t stride, float* lanes) {
  if (stride == 1 && whole(w)) {
    for (int j = 0; j < 4; ++j) store_quad(lanes + 4 * j, load_quad(image + w.first + size_t(j) * job.width));
    return;
  }
  each_pixel(job, w, stride, [=](int lane, size_t place) { lanes[lane] = image[place]; });
}

// Three interleaved channels of a block wholly inside the image, a row of four pixels at a time.
MOEGS_INLINE void write_triple(const TileJob& job, const Window& w, float* image, const float (*lanes)[16]) {
  for (int j = 0; j < 4; ++j)
    interleave(load_quad(lanes[0] + 4 * j), load_quad(lanes[1] + 4 * j), load_quad(lanes[2] + 4 * j),
               image + 3 * (w.first + size_t(j) * job.width));
}
MOEGS_INLINE void read_triple(const TileJob& job, const Window& w, const float* image, float (*lanes)[16]) {
  for (int j = 0; j < 4; ++j) {
    quad c[3];
    separate(image + 3 * (w.first + size_t(j) * job.width), c[0], c[1], c[2]);
    for (int i = 0; i < 3; ++i) store_quad(lanes[i] + 4 * j, c[i]);
  }
}

// Whether channels c, c + 1 and c + 2 of n are one interleaved image, as colours are and the paper's router channels.
MOEGS_INLINE bool triple_at(const Channel* channels, int c, int n) {
  return c + 3 <= n && channels[c].image_stride == 3 && channels[c + 2].image == channels[c].image + 2;
}

// Asks for what will soon be read or written: a tile's rows of an image, and the records of the entries from `at` on, be
// they the next tile's. The processor cannot guess either, and waits for many at a time as long as for one.
template <int Write>
MOEGS_INLINE void prefetch_image(const TileJob& job, const Tile& t, const float* image, size_t stride) {
  const size_t width = job.width - t.x < kTile ? job.width - t.x : kTile, height = job.height - t.y < kTile ? job.height - t.y : kTile;
  for (size_t j = 0; j < height; ++j) {
    const float* row = image + ((size_t(t.group) * job.height + t.y + j) * job.width + t.x) * stride;
    for (size_t i = 0; i < width * stride; i += 16) __builtin_prefetch(row + i, Write);
  }
}

MOEGS_INLINE void prefetch_records(const TileJob& job, uint64_t at) {
  const uint64_t stop = job.n_entries - at < kBatch ? job.n_entries : at + kBatch;
  for (; at < stop; ++at) __builtin_prefetch(&job.records[job.entries[at].gaussian], 0, 2);
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

// What the walk over a block needs of an entry, in one cache line (two with many values).
enum RowColumn { kRowX, kRowY, kRowA, kRowB, kRowC, kRowLevel, kRowCeiling, kRowValues = 8 };

// The entries of one batch that touch a living block, and for each block which of them.
template <int Values>
struct Batch {
  static constexpr int width = kRowValues + Values <= 16 ? 16 : 32;
  alignas(64) float row[kBatch][width];
  alignas(64) uint16_t blocks[kBatch + 16];
  uint16_t list[16][kBatch + 16];      // with room to write past the end
  uint32_t slot[kBatch], length[16];
  int size;
  bool opaque;  // whether any entry's opacity can exceed what is drawn at most
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

// How many of the channels from `first` on lie side by side, as colour and depth do in a record.
MOEGS_INLINE int side_by_side(const TileJob& job, int first, int n) {
  const Channel* channels = job.channels + first;
  int count = n > 0 ? 1 : 0;
  while (count < n && count < 4 && channels[count].values == channels[0].values + count) ++count;
  return count;
}

MOEGS_INLINE void fill_row(const Record& r, float* row) {
  static_assert(offsetof(Record, level) == kRowLevel * sizeof(float), "a row begins as a record does");
  __builtin_memcpy(row, &r, kRowValues * sizeof(float));
  const float level = r.level - kLog2AlphaMin;
  row[kRowLevel] = level;
  row[kRowCeiling] = level + 1e-5f;
}

// Reads entries [from, to), whose block masks are known, into a batch.
template <int Values>
MOEGS_INLINE void fill_batch(const TileJob& job, int first, uint64_t from, uint64_t to, uint32_t alive, Batch<Values>& batch) {
  const int n = job.n_channels - first < Values ? job.n_channels - first : Values;
  const Channel* channels = job.channels + first;
  const int packed = first == 0 && side_by_side(job, first, n) >= 3 ? side_by_side(job, first, n) : 0;
  uint32_t kept[kBatch + 1];
  int size = 0;
  for (uint64_t at = from; at < to; ++at) {
    const uint32_t blocks = job.masks[at] & alive;
    kept[size] = uint32_t(at - from);
    batch.blocks[size] = uint16_t(blocks);
    size += blocks != 0;
  }
  batch.size = size;
  float highest = 0.0f;
  for (int j = 0; j < size; ++j) {
    const Entry entry = job.entries[from + kept[j]];
    if (n > 4 && j + 8 < size) {
      const size_t ahead = job.entries[from + kept[j + 8]].gaussian;
      __builtin_prefetch(channels[4].values + ahead * channels[4].value_stride);
      __builtin_prefetch(channels[n - 1].values + ahead * channels[n - 1].value_stride);
    }
    float* row = batch.row[j];
    fill_row(job.records[entry.gaussian], row);
    highest = row[kRowLevel] > highest ? row[kRowLevel] : highest;
    batch.slot[j] = entry.slot;
    if (packed > 0) __builtin_memcpy(row + kRowValues, channels[0].values + entry.gaussian * channels[0].value_stride, 16);
    for (int c = packed; c < n; ++c) row[kRowValues + c] = channels[c].values[entry.gaussian * channels[c].value_stride];
    for (int c = n; c < Values; ++c) row[kRowValues + c] = 0.0f;
  }
  batch.opaque = highest > kLevelMax;
  list_blocks(batch);
}

// sigma >= 0 and alpha >= 1/255 decide who takes part; both passes must decide alike, so both call this. alpha is zero
// where either fails. A sigma of zero may come out a little below: the ceiling leaves room for that.
struct Opacity {
  f16 dx, dy, alpha;
};

MOEGS_INLINE Opacity opacity_at(const float* row, f16 px, f16 py) {
  Opacity o;
  o.dx = spread(row[kRowX]) - px;
  o.dy = spread(row[kRowY]) - py;
  const f16 slope = fma(spread(row[kRowB]), o.dy, spread(row[kRowA]) * o.dx);
  const f16 level = fnma(spread(row[kRowC]) * o.dy, o.dy, fnma(slope, o.dx, spread(row[kRowLevel])));
  o.alpha = opacity(from_zero_to(level, spread(row[kRowCeiling])), level);
  return o;
}

}  // namespace moegs::MOEGS_ISA
