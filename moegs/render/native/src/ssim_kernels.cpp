// The forward filter and the backward filter chase each other down the image: a block of rows is blurred, turned into
// the three maps whose blur is the gradient, and those go into a ring of as many rows as the backward filter reads.
//
// With blurred means m_x, m_y, s = blur(x² + y²), p = blur(xy) and
//   A1 = 2 m_x m_y + C1, A2 = 2 (p - m_x m_y) + C2, B1 = m_x² + m_y² + C1, B2 = s - m_x² - m_y² + C2,
// SSIM = A1 A2 / (B1 B2), and d sum(SSIM) / dx = blur(M) + 2 x blur(Q) + y blur(P) with
//   P = dSSIM/dp = 2 A1 / (B1 B2),  Q = dSSIM/ds = -SSIM / B2,
//   M = dSSIM/dm_x = 2 m_y (A2 - A1) / (B1 B2) + 2 m_x SSIM (1/B2 - 1/B1).
#include "ssim_kernels.h"

#include "lanes.h"

namespace moegs::MOEGS_ISA {
namespace {

constexpr int kTaps = 11, kRadius = 5;
constexpr int kRows = MOEGS_ISA_LEVEL == 2 ? 4 : 2;  // rows filtered together: what the registers hold
constexpr int kSpan = kRows + kTaps - 1;
constexpr int kRing = kRows + kSpan;
constexpr float C1 = 0.0001f, C2 = 0.0009f;
// exp(-d² / 4.5) for d = 0 … 5, normalised over the eleven taps.
constexpr float kTap[6] = {0.266011725f, 0.213005538f, 0.109360690f, 0.0360007721f, 0.00759875814f, 0.00102838008f};

constexpr int distance(int tap) { return tap < kRadius ? kRadius - tap : tap - kRadius; }

struct Scratch {
  size_t pitch, margin;  // floats a row; zeros left of column 0
  float* zero;           // a row of zeros
  float* blurred;        // kRows rows of four fields after the vertical filter
  float* ring;           // kRing rows of the three maps
  const Lanes tap[6];
};

size_t pitch_of(size_t row, size_t channels) { return (row + 2 * kRadius * channels + 2 * kLanes) / 16 * 16 + 16; }

// Fields of `Source` (which gives field f of source row s at a column) filtered vertically into s.blurred.
template <int kFields, class Source>
inline void filter_columns(const Scratch& s, size_t row, const Source& source) {
  for (size_t column = 0; column < row; column += kLanes) {
    Lanes sum[kRows][kFields];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int f = 0; f < kFields; ++f) sum[r][f] = all(0.0f);
#pragma GCC unroll 16
    for (int line = 0; line < kSpan; ++line) {
      Lanes value[kFields];
      source(line, column, value);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
        if (line - r >= 0 && line - r < kTaps) {
#pragma GCC unroll 4
          for (int f = 0; f < kFields; ++f) sum[r][f] = fma(s.tap[distance(line - r)], value[f], sum[r][f]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int f = 0; f < kFields; ++f) store(s.blurred + (r * 4 + f) * s.pitch + s.margin + column, sum[r][f]);
  }
}

// Lanes past the end of the row must be zero again before the horizontal filter reads over it.
template <int kFields>
inline void clear_right(const Scratch& s, size_t row) {
  for (int r = 0; r < kRows; ++r)
    for (int f = 0; f < kFields; ++f) {
      float* end = s.blurred + (r * 4 + f) * s.pitch + s.margin + row;
      for (size_t i = 0; i < s.pitch - s.margin - row; ++i) end[i] = 0.0f;
    }
}

// Field f of row r, filtered horizontally at a column.
template <int kFields>
inline void filter_row(const Scratch& s, int r, size_t column, size_t channels, Lanes* value) {
  const float* at = s.blurred + r * 4 * s.pitch + s.margin - kRadius * channels + column;
#pragma GCC unroll 4
  for (int f = 0; f < kFields; ++f) value[f] = all(0.0f);
#pragma GCC unroll 11
  for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 4
    for (int f = 0; f < kFields; ++f)
      value[f] = fma(s.tap[distance(k)], load(at + f * s.pitch + k * channels), value[f]);
}

struct Maps {
  Lanes similarity, m, q, p;
};

inline Maps similarity_maps(Lanes mx, Lanes my, Lanes squares, Lanes product) {
  const Lanes two = all(2.0f);
  const Lanes mxy = mx * my, mm = fma(mx, mx, my * my);
  const Lanes a1 = fma(two, mxy, all(C1)), a2 = fma(two, product - mxy, all(C2));
  const Lanes b1 = mm + all(C1), b2 = squares - mm + all(C2);
  const Lanes inverse = all(1.0f) / (b1 * b2);
  const Lanes ssim = a1 * a2 * inverse;
  const Lanes my_term = my * (a2 - a1) * inverse, mx_term = mx * ssim * ((b1 - b2) * inverse);
  return {ssim, two * (my_term + mx_term), all(0.0f) - ssim * (b1 * inverse), two * a1 * inverse};
}

const float* row_or_zero(const float* image, const Scratch& s, const PhotometricTask& t, ptrdiff_t r) {
  return r >= 0 && r < ptrdiff_t(t.rows) ? image + size_t(r) * t.row : s.zero;
}

float* ring_row(const Scratch& s, size_t r, int field) { return s.ring + ((r % kRing) * 3 + field) * s.pitch; }

// Similarity of rows at … at+count-1, and their maps into the ring.
void forward_block(const PhotometricTask& t, const Scratch& s, size_t at, int count, size_t first, size_t last) {
  const float *x[kSpan], *y[kSpan];
  for (int i = 0; i < kSpan; ++i) {
    x[i] = row_or_zero(t.image, s, t, ptrdiff_t(at) + i - kRadius);
    y[i] = row_or_zero(t.target, s, t, ptrdiff_t(at) + i - kRadius);
  }
  const auto source = [&](int line, size_t column, Lanes* value) {
    const bool whole = column + kLanes <= t.row;
    const Lanes a = whole ? load(x[line] + column) : load_first(x[line] + column, int(t.row - column));
    const Lanes b = whole ? load(y[line] + column) : load_first(y[line] + column, int(t.row - column));
    value[0] = a;
    value[1] = b;
    value[2] = fma(a, a, b * b);
    value[3] = a * b;
  };
  filter_columns<4>(s, t.row, source);
  clear_right<4>(s, t.row);
  for (int r = 0; r < count; ++r) {
    Lanes total = all(0.0f);
    for (size_t column = 0; column < t.row; column += kLanes) {
      const int n = column + kLanes <= t.row ? kLanes : int(t.row - column);
      Lanes v[4];
      filter_row<4>(s, r, column, t.channels, v);
      const Maps maps = similarity_maps(v[0], v[1], v[2], v[3]);
      total = total + keep_first(maps.similarity, n);
      if (t.gradient == nullptr) continue;
      store(ring_row(s, at + r, 0) + column, keep_first(maps.m, n));
      store(ring_row(s, at + r, 1) + column, keep_first(maps.q, n));
      store(ring_row(s, at + r, 2) + column, keep_first(maps.p, n));
    }
    if (at + r >= first && at + r < last) t.similarity[at + r] = sum(total);
  }
}

// Gradient of rows at … at+count-1 from the maps in the ring.
void backward_block(const PhotometricTask& t, const Scratch& s, size_t at, int count) {
  const float* map[kSpan][3];
  for (int i = 0; i < kSpan; ++i)
    for (int f = 0; f < 3; ++f) {
      const ptrdiff_t r = ptrdiff_t(at) + i - kRadius;
      map[i][f] = r >= 0 && r < ptrdiff_t(t.rows) ? ring_row(s, size_t(r), f) : s.zero;
    }
  filter_columns<3>(s, t.row, [&](int line, size_t column, Lanes* value) {
    for (int f = 0; f < 3; ++f) value[f] = load(map[line][f] + column);
  });
  clear_right<3>(s, t.row);
  const float per_value = 1.0f / (float(t.rows) * float(t.row));
  const Lanes ssim_scale = all(-t.ssim_weight * per_value), l1_scale = all(t.l1_weight * per_value);
  for (int r = 0; r < count; ++r) {
    const size_t offset = (at + r) * t.row;
    for (size_t column = 0; column < t.row; column += kLanes) {
      const int n = column + kLanes <= t.row ? kLanes : int(t.row - column);
      Lanes v[3];
      filter_row<3>(s, r, column, t.channels, v);
      const Lanes x = load_first(t.image + offset + column, n), y = load_first(t.target + offset + column, n);
      const Lanes ssim = fma(y, v[2], fma(x + x, v[1], v[0]));
      store_first(t.gradient + offset + column, fma(ssim_scale, ssim, l1_scale * sign(x - y)), n);
    }
  }
}

void absolute_rows(const PhotometricTask& t, size_t first, size_t last) {
  for (size_t r = first; r < last; ++r) {
    Lanes total = all(0.0f);
    for (size_t column = 0; column < t.row; column += kLanes) {
      const int n = column + kLanes <= t.row ? kLanes : int(t.row - column);
      const size_t at = r * t.row + column;
      total = total + magnitude(load_first(t.image + at, n) - load_first(t.target + at, n));
    }
    t.absolute[r] = sum(total);
  }
}

}  // namespace

size_t photometric_scratch(size_t row, size_t channels) {
  return pitch_of(row, channels) * (1 + 4 * kRows + 3 * kRing);
}

void photometric_band(const PhotometricTask& t, size_t first, size_t last, float* scratch) {
  const size_t pitch = pitch_of(t.row, t.channels);
  const Scratch s{pitch,
                  kRadius * t.channels,
                  scratch,
                  scratch + pitch,
                  scratch + pitch * (1 + 4 * kRows),
                  {all(kTap[0]), all(kTap[1]), all(kTap[2]), all(kTap[3]), all(kTap[4]), all(kTap[5])}};
  __builtin_memset(scratch, 0, pitch * (1 + 4 * kRows) * sizeof(float));
  absolute_rows(t, first, last);
  const bool backward = t.gradient != nullptr;
  const size_t begin = !backward ? first : first > kRadius ? first - kRadius : 0;
  const size_t end = !backward ? last : last + kRadius < t.rows ? last + kRadius : t.rows;
  size_t done = first;
  for (size_t at = begin; at < end; at += kRows) {
    const size_t ready = at + kRows < end ? at + kRows : end;
    forward_block(t, s, at, int(ready - at), first, last);
    while (backward && done < last && (ready == end || done + kRows + kRadius <= ready)) {
      const int count = last - done < size_t(kRows) ? int(last - done) : kRows;
      backward_block(t, s, done, count);
      done += count;
    }
  }
}

}  // namespace moegs::MOEGS_ISA
