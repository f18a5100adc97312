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
// a <= b, only where m already holds: one instruction here.
MOEGS_INLINE leaf_m and_le(leaf_m m, leaf a, leaf b) { return {_mm512_mask_cmp_ps_mask(m.v, a.v, b.v, _CMP_LE_OQ)}; }
// 0 <= a <= b for b >= 0: as unsigned integers, negative numbers and NaN are larger than any positive number.
MOEGS_INLINE leaf_m from_zero_to(leaf a, leaf b) {
  return {_mm512_cmple_epu32_mask(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v))};
}
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
MOEGS_INLINE leaf_m and_le(leaf_m m, leaf a, leaf b) { return m & (a <= b); }
MOEGS_INLINE leaf_m from_zero_to(leaf a, leaf b) { return (leaf{pf{}} <= a) & (a <= b); }
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
MOEGS_INLINE two_m<M> and_le(two_m<M> m, two<H> a, two<H> b) { return {and_le(m.lo, a.lo, b.lo), and_le(m.hi, a.hi, b.hi)}; }
template <class H>
MOEGS_INLINE auto from_zero_to(two<H> a, two<H> b) {
  return two_m<decltype(from_zero_to(a.lo, b.lo))>{from_zero_to(a.lo, b.lo), from_zero_to(a.hi, b.hi)};
}
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

// ---- opacities and logarithms of two ------------------------------------------------------------------------------

// Opacities in units of the least one that is drawn: 2^t / 255 for 0 <= t < 126 with a relative error of 3.3e-6, which is
// far below what the image resolves. The polynomials are minimax ones that join without a step where t passes an integer.
// Lanes outside `there` are zero, whatever t is.

#if MOEGS_ISA_LEVEL == 2

MOEGS_INLINE leaf opacity(leaf_m there, leaf t) {
  const leaf f{_mm512_reduce_ps(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};  // in [0, 1); scalef takes the whole part
  leaf r = fma(f, spread_leaf(5.308767469e-5f), spread_leaf(2.041843618e-4f));
  r = fma(f, r, spread_leaf(9.465058410e-4f));
  r = fma(f, r, spread_leaf(2.717789921e-3f));
  r = fma(f, r, spread_leaf(3.921567799e-3f));
  return {_mm512_maskz_scalef_ps(there.v, r.v, t.v)};
}

// A normal positive number as 2^exponent times a mantissa in [sqrt(1/2), sqrt(2)).
MOEGS_INLINE void split(leaf a, leaf& exponent, leaf& mantissa) {
  const __m512i bits = _mm512_sub_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x3f3504f3));
  exponent.v = _mm512_cvtepi32_ps(_mm512_srai_epi32(bits, 23));
  mantissa.v = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_and_si512(bits, _mm512_set1_epi32(0x7fffff)), _mm512_set1_epi32(0x3f3504f3)));
}

#else

MOEGS_INLINE leaf opacity(leaf_m there, leaf t) {
  const pf shifted = t.v + 12582912.0f;  // the nearest whole number in the lowest bits
  const leaf f{t.v - (shifted - 12582912.0f)};
  leaf r = fma(f, spread_leaf(3.751174648e-5f), spread_leaf(2.194541844e-4f));
  r = fma(f, r, spread_leaf(9.421655899e-4f));
  r = fma(f, r, spread_leaf(2.718103513e-3f));
  r = fma(f, r, spread_leaf(3.921564707e-3f));
  return keep(there, leaf{(pf)((pu)r.v + ((pu)shifted << 23))});
}

MOEGS_INLINE void split(leaf a, leaf& exponent, leaf& mantissa) {
  const pi bits = (pi)a.v - 0x3f3504f3;
  exponent.v = __builtin_convertvector(bits >> 23, pf);
  mantissa.v = (pf)((bits & 0x7fffff) + 0x3f3504f3);
}

#endif

template <class H, class M>
MOEGS_INLINE two<H> opacity(two_m<M> there, two<H> t) { return {opacity(there.lo, t.lo), opacity(there.hi, t.hi)}; }
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

// Four pixels of a row of an image with three interleaved channels, and the same four channel by channel.
typedef float quad __attribute__((vector_size(16)));

MOEGS_INLINE quad load_quad(const float* p) {
  quad a;
  __builtin_memcpy(&a, p, sizeof(a));
  return a;
}
MOEGS_INLINE void store_quad(float* p, quad a) { __builtin_memcpy(p, &a, sizeof(a)); }

MOEGS_INLINE void interleave(quad r, quad g, quad b, float* pixels) {
  const quad rg = __builtin_shufflevector(r, g, 0, 4, 1, 5), gb = __builtin_shufflevector(g, b, 2, 6, 3, 7);
  store_quad(pixels, __builtin_shufflevector(rg, b, 0, 1, 4, 2));
  const quad middle = __builtin_shufflevector(rg, b, 3, 5, 5, 3), next = __builtin_shufflevector(r, gb, 2, 4, 5, 5);
  store_quad(pixels + 4, __builtin_shufflevector(middle, next, 0, 1, 4, 5));
  store_quad(pixels + 8, __builtin_shufflevector(gb, __builtin_shufflevector(r, b, 3, 3, 7, 7), 1, 4, 2, 6));
}

MOEGS_INLINE void separate(const float* pixels, quad& r, quad& g, quad& b) {
  const quad u = load_quad(pixels), v = load_quad(pixels + 4), w = load_quad(pixels + 8);  // rgbr gbrg brgb
  const quad uv = __builtin_shufflevector(u, v, 1, 2, 4, 5), vw = __builtin_shufflevector(v, w, 2, 3, 5, 6);  // gbgb rgrg
  r = __builtin_shufflevector(u, vw, 0, 3, 4, 6);
  g = __builtin_shufflevector(uv, vw, 0, 2, 5, 7);
  b = __builtin_shufflevector(uv, w, 1, 3, 4, 7);
}

#if MOEGS_ISA_LEVEL == 2
// Four columns from the same four floats of 16 rows, in the order a: 0 4 8 12, b: 1 5 9 13, and so on.
MOEGS_INLINE void turn_quads(__m512 a, __m512 b, __m512 c, __m512 d, f16* out) {
  const __m512 ab0 = _mm512_unpacklo_ps(a, b), ab1 = _mm512_unpackhi_ps(a, b);
  const __m512 cd0 = _mm512_unpacklo_ps(c, d), cd1 = _mm512_unpackhi_ps(c, d);
  out[0].v = _mm512_shuffle_ps(ab0, cd0, 0x44);
  out[1].v = _mm512_shuffle_ps(ab0, cd0, 0xee);
  out[2].v = _mm512_shuffle_ps(ab1, cd1, 0x44);
  out[3].v = _mm512_shuffle_ps(ab1, cd1, 0xee);
}

MOEGS_INLINE __m256 halves(const float* a, const float* b) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
}

MOEGS_INLINE __m512 quarters(const float* const* row, int from, int column) {  // of rows from, from+4, from+8, from+12
  const __m256 low = halves(row[from] + column, row[from + 4] + column);
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), halves(row[from + 8] + column, row[from + 12] + column), 1);
}
#endif

// out[i] lane j = row[j][i] for i < 4 Quads: rows wherever they are, turned on their side.
template <int Quads>
MOEGS_INLINE void transpose_rows(const float* const* row, f16* out) {
#if MOEGS_ISA_LEVEL == 2
#pragma GCC unroll 4
  for (int c = 0; c < Quads; ++c)
    turn_quads(quarters(row, 0, 4 * c), quarters(row, 1, 4 * c), quarters(row, 2, 4 * c), quarters(row, 3, 4 * c),
               out + 4 * c);
#else
  alignas(64) float columns[4 * Quads][16];
  for (int c = 0; c < Quads; ++c)
    for (int r = 0; r < 4; ++r) {
      const quad a = load_quad(row[4 * r] + 4 * c), b = load_quad(row[4 * r + 1] + 4 * c);
      const quad d = load_quad(row[4 * r + 2] + 4 * c), e = load_quad(row[4 * r + 3] + 4 * c);
      const quad ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const quad de0 = __builtin_shufflevector(d, e, 0, 4, 1, 5), de1 = __builtin_shufflevector(d, e, 2, 6, 3, 7);
      store_quad(&columns[4 * c][4 * r], __builtin_shufflevector(ab0, de0, 0, 1, 4, 5));
      store_quad(&columns[4 * c + 1][4 * r], __builtin_shufflevector(ab0, de0, 2, 3, 6, 7));
      store_quad(&columns[4 * c + 2][4 * r], __builtin_shufflevector(ab1, de1, 0, 1, 4, 5));
      store_quad(&columns[4 * c + 3][4 * r], __builtin_shufflevector(ab1, de1, 2, 3, 6, 7));
    }
  for (int i = 0; i < 4 * Quads; ++i) out[i] = load(columns[i]);
#endif
}

// out[i] lane j = in[j] lane i, from registers to registers where there are enough of them.
MOEGS_INLINE void transpose(const f16* in, f16* out) {
#if MOEGS_ISA_LEVEL == 2
  __m512 q[4][4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const __m512 a = _mm512_shuffle_f32x4(in[r].v, in[r + 4].v, 0x44);
    const __m512 b = _mm512_shuffle_f32x4(in[r + 8].v, in[r + 12].v, 0x44);
    const __m512 c = _mm512_shuffle_f32x4(in[r].v, in[r + 4].v, 0xee);
    const __m512 d = _mm512_shuffle_f32x4(in[r + 8].v, in[r + 12].v, 0xee);
    q[0][r] = _mm512_shuffle_f32x4(a, b, 0x88);
    q[1][r] = _mm512_shuffle_f32x4(a, b, 0xdd);
    q[2][r] = _mm512_shuffle_f32x4(c, d, 0x88);
    q[3][r] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) turn_quads(q[c][0], q[c][1], q[c][2], q[c][3], out + 4 * c);
#else
  alignas(64) float square[16][16];
  const float* row[16];
  for (int i = 0; i < 16; ++i) {
    store(square[i], in[i]);
    row[i] = square[i];
  }
  transpose_rows<4>(row, out);
#endif
}

// The same for 16 rows of 16 floats in memory, `stride` floats from one to the next.
MOEGS_INLINE void transpose(const float* in, size_t stride, f16* out) {
#if MOEGS_ISA_LEVEL == 2
  f16 rows[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = load(in + i * stride);
  transpose(rows, out);
#else
  const float* row[16];
  for (int i = 0; i < 16; ++i) row[i] = in + i * stride;
  transpose_rows<4>(row, out);
#endif
}

// The first n of 16 floats.
MOEGS_INLINE void store_first(float* p, f16 a, int n) {
#if MOEGS_ISA_LEVEL == 2
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v);
#else
  alignas(64) float v[16];
  store(v, a);
  for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// Rows row[0..15] of `Width` contiguous floats, one vector a column.
template <int Width>
MOEGS_INLINE void load_rows(const float* base, const uint32_t* row, f16* out) {
  constexpr int whole = Width / 16, rest = Width % 16;
  const float* at[16];
  for (int b = 0; b < whole; ++b) {
    for (int l = 0; l < 16; ++l) at[l] = base + size_t(row[l]) * Width + 16 * b;
    transpose_rows<4>(at, out + 16 * b);
  }
  if constexpr (rest > 0) {
    alignas(64) float square[16][16];
    f16 columns[16];
    for (int l = 0; l < 16; ++l) {
      at[l] = base + size_t(row[l]) * Width + 16 * whole;
      if constexpr (rest % 4 != 0) at[l] = static_cast<const float*>(__builtin_memcpy(square[l], at[l], 4 * rest));
    }
    transpose_rows<(rest + 3) / 4>(at, columns);
    for (int c = 0; c < rest; ++c) out[16 * whole + c] = columns[c];
  }
}

}  // namespace moegs::MOEGS_ISA
