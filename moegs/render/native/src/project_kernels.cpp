#include "project_kernels.h"

#include "rows.h"

namespace moegs::MOEGS_ISA {
namespace {

// Becomes NaN for good once a value is not finite.
MOEGS_INLINE void watch(f16& sentinel, const f16* values, int count) {
  for (int i = 0; i < count; ++i) sentinel = fma(values[i], spread(0.0f), sentinel);
}

MOEGS_INLINE bool calm(f16 sentinel) { return bits(sentinel <= spread(0.0f)) == 0xffff; }

bool all_finite(const float* values, size_t count) {
  uint32_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t word;
    __builtin_memcpy(&word, values + i, 4);
    found |= (word & 0x7f800000u) == 0x7f800000u;
  }
  return found == 0;
}

// What a record is made of, lane by lane.
struct Drawn {
  f16 x, y, depth, level, rx, ry, conic[3];
};

m16 draw(const Scene& s, const Lens& k, const f16* mean, const Shape& shape, f16 opacity, const Lanes& o, Drawn& d) {
  const Sight v = see(s, k, mean);
  Made made;
  const Ellipse e = ellipse(v, shape, o.eps2d, made);
  d.x = fma(v.ux, k.fx, k.cx);
  d.y = fma(v.uy, k.fy, k.cy);
  d.depth = v.z;
  const f16 visible = select(o.compensate, opacity * sqrt(e.ratio), opacity);
  m16 seen = (v.z > o.near) & (v.z < o.far) & (visible >= spread(kAlphaMin)) & finite(visible);
  seen = seen & (e.xx <= spread(kHuge)) & (e.yy <= spread(kHuge)) & (abs(e.xy) <= spread(kHuge));
  for (int i = 0; i < 3; ++i) {
    d.conic[i] = e.conic[i];
    seen = seen & finite(e.conic[i]);
  }
  d.level = log2(select(seen, visible, spread(1.0f)));
  const f16 reach = spread(2.0f * kLn2) * max(d.level - spread(kLog2AlphaMin), spread(1e-12f));
  d.rx = sqrt(reach * (e.xx + o.eps2d));
  d.ry = sqrt(reach * (e.yy + o.eps2d));
  const f16 zero = spread(0.0f);
  seen = seen & (d.x + d.rx > zero) & (d.x - d.rx < spread(float(s.width)));
  return seen & (d.y + d.ry > zero) & (d.y - d.ry < spread(float(s.height)));
}

// Tiles whose pixel centres the interval can reach, [first, last).
MOEGS_INLINE void tile_range(float centre, float radius, int size, uint16_t& first, uint16_t& last) {
  const float reach = radius * 1.00001f + 1e-3f, limit = float(size) + 1.0f;
  float low = centre - reach - 0.5f, high = centre + reach - 0.5f;
  low = low > -1.0f ? low : -1.0f;
  high = high < limit ? high : limit;
  int begin = int(__builtin_ceilf(low)), end = int(__builtin_floorf(high));
  begin = begin > 0 ? begin : 0;
  end = end < size - 1 ? end : size - 1;
  const bool empty = end < begin;
  first = empty ? 0 : uint16_t(begin / kTile);
  last = empty ? 0 : uint16_t(end / kTile + 1);
}

MOEGS_INLINE uint64_t sort_key(float depth, uint32_t index) {
  uint32_t word;
  __builtin_memcpy(&word, &depth, 4);
  word ^= (word >> 31) != 0 ? 0xffffffffu : 0x80000000u;  // unsigned order of the floats, negative ones too
  return uint64_t(word) << 32 | index;
}

// Stores the lanes of `seen` as records; returns how many tiles they cover.
uint64_t write_records(const Scene& s, const Drawn& d, uint32_t seen, const uint32_t* row, uint64_t slot, Record* records,
                       float* radii, uint64_t* keys) {
  alignas(64) float v[12][16];
  const f16 half = spread(0.5f * kLog2E), zero = spread(0.0f);
  const f16 a = half * d.conic[0], b = spread(kLog2E) * d.conic[1], c = half * d.conic[2];
  const f16 slope = -(half * d.conic[1]);
  const f16 columns[12] = {d.x, d.y, a, b, c, d.level, slope / c, slope / a, d.rx, d.ry, d.depth, zero};
  for (int i = 0; i < 11; ++i) store(v[i], columns[i]);
  uint64_t tiles = 0;
  for (; seen != 0; seen &= seen - 1) {
    const int l = __builtin_ctz(seen);
    const uint32_t i = row[l];
    Record& r = records[i];
    r.x = v[0][l], r.y = v[1][l], r.a = v[2][l], r.b = v[3][l], r.c = v[4][l], r.level = v[5][l];
    r.slope_y = v[6][l], r.slope_x = v[7][l], r.depth = v[10][l];
    tile_range(r.x, v[8][l], s.width, r.x0, r.x1);
    tile_range(r.y, v[9][l], s.height, r.y0, r.y1);
    r.group = s.groups != nullptr ? s.groups[i] : 0;
    r.slot = uint32_t(slot + tiles);
    tiles += uint64_t(r.x1 - r.x0) * uint64_t(r.y1 - r.y0);
    radii[2 * i] = v[8][l], radii[2 * i + 1] = v[9][l];
    *keys++ = sort_key(r.depth, i);
  }
  return tiles;
}

// Colours of 16 drawn Gaussians. Where the clamp at zero is active the zero is negative, so that backward can tell.
template <int Terms>
void shade(const Scene& s, const uint32_t* row, const f16* mean, f16* color, f16& sentinel) {
  f16 inverse_length, value[Terms], sh[3 * Terms];
  harmonics<Terms>(look(s, mean, inverse_length), value);
  load_rows<3 * Terms>(s.sh, row, sh);
  watch(sentinel, sh, 3 * Terms);
  for (int c = 0; c < 3; ++c) {
    f16 sum = spread(0.5f);
    for (int k = 0; k < Terms; ++k) sum = fma(value[k], sh[3 * k + c], sum);
    color[c] = select(sum < spread(0.0f), spread(-0.0f), sum);
  }
}

void shade_any(const Scene& s, const uint32_t* row, const f16* mean, f16* color, f16& sentinel) {
  switch (s.sh_terms) {
    case 1: return shade<1>(s, row, mean, color, sentinel);
    case 4: return shade<4>(s, row, mean, color, sentinel);
    case 9: return shade<9>(s, row, mean, color, sentinel);
    default: return shade<16>(s, row, mean, color, sentinel);
  }
}

// Sixteen indices from a list, the last one repeated where it ends.
MOEGS_INLINE int take_rows(const uint64_t* keys, uint32_t count, uint32_t from, uint32_t* row) {
  const int lanes = count - from < 16 ? int(count - from) : 16;
  for (int l = 0; l < 16; ++l) row[l] = uint32_t(keys[from + (l < lanes ? l : lanes - 1)]);
  return lanes;
}

bool shade_drawn(const Scene& s, const uint64_t* keys, uint32_t drawn, Record* records) {
  f16 sentinel = spread(0.0f);
  bool finite_features = true;
  for (uint32_t from = 0; from < drawn; from += 16) {
    uint32_t row[16];
    const int lanes = take_rows(keys, drawn, from, row);
    for (uint32_t ahead = from + 16; ahead < from + 32 && ahead < drawn; ++ahead) prefetch_harmonics(s, uint32_t(keys[ahead]));
    f16 mean[3], color[3];
    load_rows<3>(s.means, row, mean);
    shade_any(s, row, mean, color, sentinel);
    alignas(64) float v[3][16];
    for (int c = 0; c < 3; ++c) store(v[c], color[c]);
    for (int l = 0; l < lanes; ++l) {
      for (int c = 0; c < 3; ++c) records[row[l]].color[c] = v[c][l];
      finite_features &= all_finite(s.features + size_t(row[l]) * s.n_features, s.n_features);
    }
  }
  return finite_features && calm(sentinel);
}

}  // namespace

ChunkResult project_chunk(const Scene& s, int64_t begin, int64_t end, Record* records, float* radii, uint64_t* keys) {
  const Lens k = lens(s);
  ChunkResult result{0, 0, true};
  f16 sentinel = spread(0.0f);
  __builtin_memset(radii + 2 * begin, 0, size_t(end - begin) * 2 * sizeof(float));
  for (int64_t from = begin; from < end; from += 16) {
    uint32_t row[16];
    const int lanes = end - from < 16 ? int(end - from) : 16;
    for (int l = 0; l < 16; ++l) row[l] = uint32_t(from + (l < lanes ? l : lanes - 1));
    f16 mean[3], opacity;
    Shape shape;
    Drawn d;
    load_rows<3>(s.means, row, mean);
    load_rows<1>(s.opacities, row, &opacity);
    load_shape(s, row, shape);
    watch(sentinel, mean, 3);
    watch(sentinel, &opacity, 1);
    if (shape.given) watch(sentinel, shape.covar, 6);
    if (shape.turned) {
      watch(sentinel, shape.quat, 4);
      watch(sentinel, shape.scale, 3);
    }
    const uint32_t seen = bits(draw(s, k, mean, shape, opacity, options_of(s, row), d)) & ((1u << lanes) - 1);
    result.tiles += write_records(s, d, seen, row, result.tiles, records, radii, keys + begin + result.drawn);
    result.drawn += uint32_t(__builtin_popcount(seen));
  }
  result.finite = calm(sentinel) && shade_drawn(s, keys + begin, result.drawn, records);
  return result;
}

}  // namespace moegs::MOEGS_ISA
