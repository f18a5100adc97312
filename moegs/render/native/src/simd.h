// Sixteen floats at a time, in whatever registers the instruction set has: one 512-bit, two 256-bit or four 128-bit ones.
//
// Only for *_kernels.cpp files (see dispatch.h). Products and sums are never contracted by the compiler, so a
// computation written twice rounds alike twice.
#pragma once

#include <cstdint>
#include <cstring>

#if MOEGS_ISA_LEVEL > 0
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifdef MOEGS_SANITIZE  // instrumented code that is inlined everywhere takes many minutes to compile
#define MOEGS_INLINE inline
#else
#define MOEGS_INLINE inline __attribute__((always_inline))
#endif

#define MOEGS_UNROLL _Pragma("GCC unroll 32")

namespace moegs::MOEGS_ISA {

constexpr int kLanes = 16;

// ---- one register: leaf (floats) and leaf_m (mask) ----------------------------------------------------------------

#if MOEGS_ISA_LEVEL == 2

struct leaf {
  static constexpr int lanes = 16;
  __m512 v;
};
struct leaf_m {
  __mmask16 v;
};

MOEGS_INLINE leaf load_leaf(const float* p) { return {_mm512_loadu_ps(p)}; }
MOEGS_INLINE void store_leaf(float* p, leaf a) { _mm512_storeu_ps(p, a.v); }
MOEGS_INLINE leaf spread_leaf(float x) { return {_mm512_set1_ps(x)}; }
MOEGS_INLINE leaf operator+(leaf a, leaf b) { return {_mm512_add_ps(a.v, b.v)}; }
MOEGS_INLINE leaf operator-(leaf a, leaf b) { return {_mm512_sub_ps(a.v, b.v)}; }
MOEGS_INLINE leaf operator*(leaf a, leaf b) { return {_mm512_mul_ps(a.v, b.v)}; }
MOEGS_INLINE leaf operator/(leaf a, leaf b) { return {_mm512_div_ps(a.v, b.v)}; }
MOEGS_INLINE leaf fma(leaf a, leaf b, leaf c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
MOEGS_INLINE leaf fnma(leaf a, leaf b, leaf c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
MOEGS_INLINE leaf min(leaf a, leaf b) { return {_mm512_min_ps(a.v, b.v)}; }
MOEGS_INLINE leaf max(leaf a, leaf b) { return {_mm512_max_ps(a.v, b.v)}; }
MOEGS_INLINE leaf abs(leaf a) { return {_mm512_abs_ps(a.v)}; }
MOEGS_INLINE leaf sqrt(leaf a) { return {_mm512_sqrt_ps(a.v)}; }
MOEGS_INLINE leaf_m operator<(leaf a, leaf b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
MOEGS_INLINE leaf_m operator<=(leaf a, leaf b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
MOEGS_INLINE leaf_m operator&(leaf_m a, leaf_m b) { return {static_cast<__mmask16>(a.v & b.v)}; }
MOEGS_INLINE leaf_m operator|(leaf_m a, leaf_m b) { return {static_cast<__mmask16>(a.v | b.v)}; }
MOEGS_INLINE leaf_m operator~(leaf_m a) { return {static_cast<__mmask16>(~a.v)}; }
MOEGS_INLINE leaf select(leaf_m m, leaf a, leaf b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
MOEGS_INLINE leaf keep(leaf_m m, leaf a) { return {_mm512_maskz_mov_ps(m.v, a.v)}; }
MOEGS_INLINE uint32_t bits(leaf_m m) { return m.v; }
MOEGS_INLINE bool any(leaf_m m) { return m.v != 0; }
// 1/a to float precision for a well inside the range of normal numbers.
MOEGS_INLINE leaf reciprocal(leaf a) {
  const __m512 r = _mm512_rcp14_ps(a.v);
  return {_mm512_fmadd_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(1.0f)), r)};
}

#else

#if MOEGS_ISA_LEVEL == 1
#define MOEGS_REGISTER 32
#else
#define MOEGS_REGISTER 16
#endif

typedef float pf __attribute__((vector_size(MOEGS_REGISTER)));
typedef int32_t pi __attribute__((vector_size(MOEGS_REGISTER)));
typedef uint32_t pu __attribute__((vector_size(MOEGS_REGISTER)));

struct leaf {
  static constexpr int lanes = MOEGS_REGISTER / 4;
  pf v;
};
struct leaf_m {
  pi v;
};

MOEGS_INLINE leaf load_leaf(const float* p) {
  leaf a;
  __builtin_memcpy(&a.v, p, sizeof(pf));
  return a;
}
MOEGS_INLINE void store_leaf(float* p, leaf a) { __builtin_memcpy(p, &a.v, sizeof(pf)); }
MOEGS_INLINE leaf spread_leaf(float x) { return {x - pf{}}; }
MOEGS_INLINE leaf operator+(leaf a, leaf b) { return {a.v + b.v}; }
MOEGS_INLINE leaf operator-(leaf a, leaf b) { return {a.v - b.v}; }
MOEGS_INLINE leaf operator*(leaf a, leaf b) { return {a.v * b.v}; }
MOEGS_INLINE leaf operator/(leaf a, leaf b) { return {a.v / b.v}; }
MOEGS_INLINE leaf_m operator<(leaf a, leaf b) { return {a.v < b.v}; }
MOEGS_INLINE leaf_m operator<=(leaf a, leaf b) { return {a.v <= b.v}; }
MOEGS_INLINE leaf_m operator&(leaf_m a, leaf_m b) { return {a.v & b.v}; }
MOEGS_INLINE leaf_m operator|(leaf_m a, leaf_m b) { return {a.v | b.v}; }
MOEGS_INLINE leaf_m operator~(leaf_m a) { return {~a.v}; }
MOEGS_INLINE leaf abs(leaf a) { return {(pf)((pi)a.v & 0x7fffffff)}; }
MOEGS_INLINE leaf keep(leaf_m m, leaf a) { return {(pf)((pi)a.v & m.v)}; }

#if MOEGS_ISA_LEVEL == 1
MOEGS_INLINE leaf fma(leaf a, leaf b, leaf c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
MOEGS_INLINE leaf fnma(leaf a, leaf b, leaf c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
MOEGS_INLINE leaf min(leaf a, leaf b) { return {_mm256_min_ps(a.v, b.v)}; }
MOEGS_INLINE leaf max(leaf a, leaf b) { return {_mm256_max_ps(a.v, b.v)}; }
MOEGS_INLINE leaf sqrt(leaf a) { return {_mm256_sqrt_ps(a.v)}; }
MOEGS_INLINE leaf select(leaf_m m, leaf a, leaf b) { return {_mm256_blendv_ps(b.v, a.v, (__m256)m.v)}; }
MOEGS_INLINE uint32_t bits(leaf_m m) { return uint32_t(_mm256_movemask_ps((__m256)m.v)); }
MOEGS_INLINE bool any(leaf_m m) { return !_mm256_testz_si256((__m256i)m.v, (__m256i)m.v); }
MOEGS_INLINE leaf reciprocal(leaf a) {
  const __m256 r = _mm256_rcp_ps(a.v), s = _mm256_fmadd_ps(r, _mm256_fnmadd_ps(a.v, r, _mm256_set1_ps(1.0f)), r);
  return {s};
}
#else
#if defined(__ARM_NEON) && defined(__aarch64__)
MOEGS_INLINE leaf fma(leaf a, leaf b, leaf c) { return {(pf)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v)}; }
MOEGS_INLINE leaf fnma(leaf a, leaf b, leaf c) { return {(pf)vfmsq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v)}; }
#else
MOEGS_INLINE leaf fma(leaf a, leaf b, leaf c) { return {a.v * b.v + c.v}; }
MOEGS_INLINE leaf fnma(leaf a, leaf b, leaf c) { return {c.v - a.v * b.v}; }
#endif
MOEGS_INLINE leaf select(leaf_m m, leaf a, leaf b) { return {(pf)(((pi)a.v & m.v) | ((pi)b.v & ~m.v))}; }
MOEGS_INLINE leaf min(leaf a, leaf b) { return {a.v < b.v ? a.v : b.v}; }
MOEGS_INLINE leaf max(leaf a, leaf b) { return {a.v > b.v ? a.v : b.v}; }
MOEGS_INLINE leaf sqrt(leaf a) {
  for (int i = 0; i < leaf::lanes; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
MOEGS_INLINE uint32_t bits(leaf_m m) {
  const pi b = m.v & pi{1, 2, 4, 8};
  return uint32_t(b[0] | b[1] | b[2] | b[3]);
}
MOEGS_INLINE bool any(leaf_m m) { return (m.v[0] | m.v[1] | m.v[2] | m.v[3]) != 0; }
MOEGS_INLINE leaf reciprocal(leaf a) { return {1.0f / a.v}; }
#endif

#endif

// ---- two halves side by side --------------------------------------------------------------------------------------

template <class H>
struct two {
  static constexpr int lanes = 2 * H::lanes;
  H lo, hi;
};
template <class H>
struct two_m {
  H lo, hi;
};

#define MOEGS_UNARY(op) \
  template <class H>    \
  MOEGS_INLINE two<H> op(two<H> a) { return {op(a.lo), op(a.hi)}; }
#define MOEGS_BINARY(op) \
  template <class H>     \
  MOEGS_INLINE two<H> op(two<H> a, two<H> b) { return {op(a.lo, b.lo), op(a.hi, b.hi)}; }
#define MOEGS_OPERATOR(op) \
  template <class H>       \
  MOEGS_INLINE two<H> operator op(two<H> a, two<H> b) { return {a.lo op b.lo, a.hi op b.hi}; }
#define MOEGS_COMPARE(op)                                   \
  template <class H>                                        \
  MOEGS_INLINE auto operator op(two<H> a, two<H> b) {       \
    return two_m<decltype(a.lo op b.lo)>{a.lo op b.lo, a.hi op b.hi}; \
  }
#define MOEGS_LOGIC(op) \
  template <class M>    \
  MOEGS_INLINE two_m<M> operator op(two_m<M> a, two_m<M> b) { return {a.lo op b.lo, a.hi op b.hi}; }
MOEGS_UNARY(abs)
MOEGS_UNARY(sqrt)
MOEGS_UNARY(reciprocal)
MOEGS_BINARY(min)
MOEGS_BINARY(max)
MOEGS_OPERATOR(+)
MOEGS_OPERATOR(-)
MOEGS_OPERATOR(*)
MOEGS_OPERATOR(/)
MOEGS_COMPARE(<)
MOEGS_COMPARE(<=)
MOEGS_LOGIC(&)
MOEGS_LOGIC(|)
template <class H>
MOEGS_INLINE two<H> fma(two<H> a, two<H> b, two<H> c) { return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)}; }
template <class H>
MOEGS_INLINE two<H> fnma(two<H> a, two<H> b, two<H> c) { return {fnma(a.lo, b.lo, c.lo), fnma(a.hi, b.hi, c.hi)}; }
template <class M>
MOEGS_INLINE two_m<M> operator~(two_m<M> a) { return {~a.lo, ~a.hi}; }
template <class H, class M>
MOEGS_INLINE two<H> select(two_m<M> m, two<H> a, two<H> b) { return {select(m.lo, a.lo, b.lo), select(m.hi, a.hi, b.hi)}; }
template <class H, class M>
MOEGS_INLINE two<H> keep(two_m<M> m, two<H> a) { return {keep(m.lo, a.lo), keep(m.hi, a.hi)}; }
#if MOEGS_ISA_LEVEL < 2
MOEGS_INLINE uint32_t bits(two_m<leaf_m> m) { return bits(m.lo) | bits(m.hi) << leaf::lanes; }
MOEGS_INLINE uint32_t bits(two_m<two_m<leaf_m>> m) { return bits(m.lo) | bits(m.hi) << 2 * leaf::lanes; }
MOEGS_INLINE bool any(two_m<leaf_m> m) { return any(m.lo | m.hi); }
MOEGS_INLINE bool any(two_m<two_m<leaf_m>> m) { return any(m.lo | m.hi); }
#endif
MOEGS_INLINE void load_into(leaf& a, const float* p) { a = load_leaf(p); }
MOEGS_INLINE void spread_into(leaf& a, float x) { a = spread_leaf(x); }
MOEGS_INLINE void store(float* p, leaf a) { store_leaf(p, a); }
template <class H>
MOEGS_INLINE void load_into(two<H>& a, const float* p) {
  load_into(a.lo, p);
  load_into(a.hi, p + H::lanes);
}
template <class H>
MOEGS_INLINE void spread_into(two<H>& a, float x) {
  spread_into(a.lo, x);
  a.hi = a.lo;
}
template <class H>
MOEGS_INLINE void store(float* p, two<H> a) {
  store(p, a.lo);
  store(p + H::lanes, a.hi);
}

#if MOEGS_ISA_LEVEL == 2
using f16 = leaf;
using m16 = leaf_m;
#elif MOEGS_ISA_LEVEL == 1
using f16 = two<leaf>;
using m16 = two_m<leaf_m>;
#else
using f16 = two<two<leaf>>;
using m16 = two_m<two_m<leaf_m>>;
#endif

MOEGS_INLINE f16 load(const float* p) {
  f16 a;
  load_into(a, p);
  return a;
}
MOEGS_INLINE f16 spread(float x) {
  f16 a;
  spread_into(a, x);
  return a;
}
MOEGS_INLINE f16 operator-(f16 a) { return spread(0.0f) - a; }
MOEGS_INLINE m16 operator>(f16 a, f16 b) { return b < a; }
MOEGS_INLINE m16 operator>=(f16 a, f16 b) { return b <= a; }
MOEGS_INLINE f16 clamp(f16 a, f16 low, f16 high) { return min(max(a, low), high); }
MOEGS_INLINE m16 finite(f16 a) { return abs(a) <= spread(3.402823466e38f); }

// ---- powers and logarithms of two ---------------------------------------------------------------------------------

// 2^f for |f| <= 1/2 with a relative error below 1e-7: a minimax polynomial that is exact at 0.
MOEGS_INLINE leaf exp2_fraction(leaf f) {
  leaf r = fma(f, spread_leaf(1.326472725e-3f), spread_leaf(9.671512786e-3f));
  r = fma(f, r, spread_leaf(5.550733744e-2f));
  r = fma(f, r, spread_leaf(2.402224208e-1f));
  r = fma(f, r, spread_leaf(6.931469776e-1f));
  return fma(f, r, spread_leaf(1.0f));
}

#if MOEGS_ISA_LEVEL == 2

// 2^p; p anything below 128, 0 far below.
MOEGS_INLINE leaf exp2(leaf p) {
  const __m512 n = _mm512_roundscale_ps(p.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return {_mm512_scalef_ps(exp2_fraction(leaf{_mm512_sub_ps(p.v, n)}).v, n)};
}

// A normal positive number as 2^exponent times a mantissa in [sqrt(1/2), sqrt(2)).
MOEGS_INLINE void split(leaf a, leaf& exponent, leaf& mantissa) {
  const __m512i bits = _mm512_sub_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x3f3504f3));
  exponent.v = _mm512_cvtepi32_ps(_mm512_srai_epi32(bits, 23));
  mantissa.v = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_and_si512(bits, _mm512_set1_epi32(0x7fffff)), _mm512_set1_epi32(0x3f3504f3)));
}

#else

// 2^p for -126 <= p < 128; some finite or infinite number below that, so mask the lanes out.
MOEGS_INLINE leaf exp2(leaf p) {
  const pf shifted = p.v + 12582912.0f;
  const leaf r = exp2_fraction(leaf{p.v - (shifted - 12582912.0f)});
  return {(pf)((pu)r.v + ((pu)shifted << 23))};
}

MOEGS_INLINE void split(leaf a, leaf& exponent, leaf& mantissa) {
  const pi bits = (pi)a.v - 0x3f3504f3;
  exponent.v = __builtin_convertvector(bits >> 23, pf);
  mantissa.v = (pf)((bits & 0x7fffff) + 0x3f3504f3);
}

#endif

template <class H>
MOEGS_INLINE two<H> exp2(two<H> p) { return {exp2(p.lo), exp2(p.hi)}; }
template <class H>
MOEGS_INLINE void split(two<H> a, two<H>& exponent, two<H>& mantissa) {
  split(a.lo, exponent.lo, mantissa.lo);
  split(a.hi, exponent.hi, mantissa.hi);
}

// log2(a) of a normal positive number, to a few units in the last place: with s = (m-1)/(m+1),
// log2(m) = 2/ln2 (s + s^3/3 + s^5/5 + ...), |s| < 0.172.
MOEGS_INLINE f16 log2(f16 a) {
  f16 exponent, m;
  split(a, exponent, m);
  const f16 s = (m - spread(1.0f)) / (m + spread(1.0f)), s2 = s * s;
  f16 r = fma(s2, spread(0.4317430656f), spread(0.5767141189f));
  r = fma(s2, r, spread(0.9617988500f));
  r = fma(s2, r, spread(2.885390080f));
  return fma(s, r, exponent);
}

// ---- moving data --------------------------------------------------------------------------------------------------

#if MOEGS_ISA_LEVEL == 2
MOEGS_INLINE __m512 quarters(const float* p, int row) {  // 4 floats each of rows row, row+4, row+8, row+12
  const float* q = p + 16 * row;
  __m512 v = _mm512_castps128_ps512(_mm_load_ps(q));
  v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_load_ps(q + 64));
  v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_load_ps(q + 128));
  return _mm512_mask_broadcast_f32x4(v, 0xf000, _mm_load_ps(q + 192));
}
#endif

// out[i] lane j = in[16 j + i]: 16 rows of 16 floats, 64-byte aligned, turned on their side. With fewer `Quads` only the
// first 4 Quads columns are read.
template <int Quads = 4>
MOEGS_INLINE void transpose(const float* in, f16* out) {
#if MOEGS_ISA_LEVEL == 2
#pragma GCC unroll 4
  for (int c = 0; c < Quads; ++c) {
    const float* p = in + 4 * c;
    const __m512 a = quarters(p, 0), b = quarters(p, 1), d = quarters(p, 2), e = quarters(p, 3);
    const __m512 ab0 = _mm512_unpacklo_ps(a, b), ab1 = _mm512_unpackhi_ps(a, b);
    const __m512 de0 = _mm512_unpacklo_ps(d, e), de1 = _mm512_unpackhi_ps(d, e);
    out[4 * c + 0].v = _mm512_shuffle_ps(ab0, de0, 0x44);
    out[4 * c + 1].v = _mm512_shuffle_ps(ab0, de0, 0xee);
    out[4 * c + 2].v = _mm512_shuffle_ps(ab1, de1, 0x44);
    out[4 * c + 3].v = _mm512_shuffle_ps(ab1, de1, 0xee);
  }
#else
  alignas(64) float columns[16][16];
  for (int c = 0; c < Quads; ++c)
    for (int r = 0; r < 4; ++r) {
      typedef float v4 __attribute__((vector_size(16)));
      v4 row[4];
      for (int k = 0; k < 4; ++k) __builtin_memcpy(&row[k], in + 16 * (4 * r + k) + 4 * c, 16);
      const v4 ab0 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5), ab1 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
      const v4 de0 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5), de1 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
      const v4 turned[4] = {__builtin_shufflevector(ab0, de0, 0, 1, 4, 5), __builtin_shufflevector(ab0, de0, 2, 3, 6, 7),
                            __builtin_shufflevector(ab1, de1, 0, 1, 4, 5), __builtin_shufflevector(ab1, de1, 2, 3, 6, 7)};
      for (int k = 0; k < 4; ++k) __builtin_memcpy(&columns[4 * c + k][4 * r], &turned[k], 16);
    }
  for (int i = 0; i < 4 * Quads; ++i) out[i] = load(columns[i]);
#endif
}

// Rows row[0..15] of `Width` contiguous floats, one vector a column.
template <int Width>
MOEGS_INLINE void load_rows(const float* base, const uint32_t* row, f16* out) {
  alignas(64) float square[16][16];
  constexpr int whole = Width / 16, rest = Width % 16;
  for (int b = 0; b < whole; ++b) {
    for (int l = 0; l < 16; ++l) __builtin_memcpy(square[l], base + size_t(row[l]) * Width + 16 * b, 64);
    transpose(square[0], out + 16 * b);
  }
  if constexpr (rest > 0) {
    f16 columns[16];
    for (int l = 0; l < 16; ++l) __builtin_memcpy(square[l], base + size_t(row[l]) * Width + 16 * whole, 4 * rest);
    transpose<(rest + 3) / 4>(square[0], columns);
    for (int c = 0; c < rest; ++c) out[16 * whole + c] = columns[c];
  }
}

}  // namespace moegs::MOEGS_ISA
