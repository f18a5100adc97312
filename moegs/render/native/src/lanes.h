// One native-width vector of floats, for kernel files only (they are compiled once per instruction set).
//
// Lanes is 16, 8 or 4 wide. fma() is fused where the set has it. Everything is in an anonymous namespace, so that no
// instruction set's copy can be linked into another.
#pragma once

#include <cstddef>

#if MOEGS_ISA_LEVEL > 0
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace moegs::MOEGS_ISA {
namespace {

#if MOEGS_ISA_LEVEL == 2

constexpr int kLanes = 16;
struct Lanes {
  __m512 v;
};
inline Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Lanes a) { _mm512_storeu_ps(p, a.v); }
inline Lanes all(float x) { return {_mm512_set1_ps(x)}; }
inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline Lanes load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store_first(float* p, Lanes a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
inline Lanes keep_first(Lanes a, int n) { return {_mm512_maskz_mov_ps(first(n), a.v)}; }
inline Lanes magnitude(Lanes a) { return {_mm512_abs_ps(a.v)}; }
inline Lanes relu(Lanes a) { return {_mm512_max_ps(_mm512_setzero_ps(), a.v)}; }  // NaN stays NaN
// The gradient of a relu's input from that of its output: nothing where the output is zero, however large the gradient.
inline Lanes past_relu(Lanes gradient, Lanes output) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(output.v, _mm512_setzero_ps(), _CMP_NLE_UQ), gradient.v)};
}
inline Lanes max(Lanes a, Lanes b) { return {_mm512_max_ps(b.v, a.v)}; }  // a NaN in a stays
// 2^n where a is 1.5 * 2^23 + n.
inline Lanes power_of_two(Lanes a) {
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(a.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(127 << 23)))};
}
// Every lane three times, in three vectors.
inline void three_times(Lanes a, Lanes* out) {
  const __m512i first = _mm512_setr_epi32(0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5);
  const __m512i second = _mm512_setr_epi32(5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8, 9, 9, 9, 10, 10);
  const __m512i third = _mm512_setr_epi32(10, 11, 11, 11, 12, 12, 12, 13, 13, 13, 14, 14, 14, 15, 15, 15);
  out[0].v = _mm512_permutexvar_ps(first, a.v);
  out[1].v = _mm512_permutexvar_ps(second, a.v);
  out[2].v = _mm512_permutexvar_ps(third, a.v);
}
// kLanes pixels of three interleaved channels, channel by channel.
inline void by_channel(const float* pixels, Lanes* out) {
  const __m512 a = _mm512_loadu_ps(pixels), b = _mm512_loadu_ps(pixels + 16), c = _mm512_loadu_ps(pixels + 32);
  out[0].v = _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0), b);
  out[0].v = _mm512_permutex2var_ps(out[0].v, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29), c);
  out[1].v = _mm512_permutex2var_ps(a, _mm512_setr_epi32(1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0), b);
  out[1].v = _mm512_permutex2var_ps(out[1].v, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30), c);
  out[2].v = _mm512_permutex2var_ps(a, _mm512_setr_epi32(2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0), b);
  out[2].v = _mm512_permutex2var_ps(out[2].v, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31), c);
}
// 1, -1 or 0 with the sign of a; NaN stays NaN.
inline Lanes sign(Lanes a) {
  const __m512 one = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
      _mm512_castps_si512(a.v), _mm512_set1_epi32(int(0x80000000)), _mm512_castps_si512(_mm512_set1_ps(1.0f)), 0xEA));
  return {_mm512_mask_mov_ps(a.v, _mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_NEQ_OQ), one)};
}

#elif MOEGS_ISA_LEVEL == 1

constexpr int kLanes = 8;
struct Lanes {
  __m256 v;
};
inline Lanes load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Lanes a) { _mm256_storeu_ps(p, a.v); }
inline Lanes all(float x) { return {_mm256_set1_ps(x)}; }
inline Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Lanes load_first(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
inline void store_first(float* p, Lanes a, int n) { _mm256_maskstore_ps(p, first(n), a.v); }
inline Lanes keep_first(Lanes a, int n) { return {_mm256_and_ps(a.v, _mm256_castsi256_ps(first(n)))}; }
inline Lanes magnitude(Lanes a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Lanes relu(Lanes a) { return {_mm256_max_ps(_mm256_setzero_ps(), a.v)}; }
inline Lanes past_relu(Lanes gradient, Lanes output) {
  return {_mm256_and_ps(gradient.v, _mm256_cmp_ps(output.v, _mm256_setzero_ps(), _CMP_NLE_UQ))};
}
inline Lanes max(Lanes a, Lanes b) { return {_mm256_max_ps(b.v, a.v)}; }
inline Lanes power_of_two(Lanes a) {
  const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(a.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(127 << 23)))};
}
inline void three_times(Lanes a, Lanes* out) {
  out[0].v = _mm256_permutevar8x32_ps(a.v, _mm256_setr_epi32(0, 0, 0, 1, 1, 1, 2, 2));
  out[1].v = _mm256_permutevar8x32_ps(a.v, _mm256_setr_epi32(2, 3, 3, 3, 4, 4, 4, 5));
  out[2].v = _mm256_permutevar8x32_ps(a.v, _mm256_setr_epi32(5, 5, 6, 6, 6, 7, 7, 7));
}
inline void by_channel(const float* pixels, Lanes* out) {
  const __m256 a = _mm256_loadu_ps(pixels), b = _mm256_loadu_ps(pixels + 8), c = _mm256_loadu_ps(pixels + 16);
  const __m256i from0 = _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5);
  out[0].v = _mm256_blend_ps(_mm256_blend_ps(_mm256_permutevar8x32_ps(a, from0), _mm256_permutevar8x32_ps(b, from0), 56),
                             _mm256_permutevar8x32_ps(c, from0), 192);
  const __m256i from1 = _mm256_setr_epi32(1, 4, 7, 2, 5, 0, 3, 6);
  out[1].v = _mm256_blend_ps(_mm256_blend_ps(_mm256_permutevar8x32_ps(a, from1), _mm256_permutevar8x32_ps(b, from1), 24),
                             _mm256_permutevar8x32_ps(c, from1), 224);
  const __m256i from2 = _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7);
  out[2].v = _mm256_blend_ps(_mm256_blend_ps(_mm256_permutevar8x32_ps(a, from2), _mm256_permutevar8x32_ps(b, from2), 28),
                             _mm256_permutevar8x32_ps(c, from2), 224);
}
inline Lanes sign(Lanes a) {
  const __m256 one = _mm256_or_ps(_mm256_and_ps(a.v, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(1.0f));
  return {_mm256_blendv_ps(a.v, one, _mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_NEQ_OQ))};
}

#else

constexpr int kLanes = 4;
typedef float Float4 __attribute__((vector_size(16)));
struct Lanes {
  Float4 v;
};
inline Lanes load(const float* p) {
  Lanes a;
  __builtin_memcpy(&a.v, p, sizeof(a.v));
  return a;
}
inline void store(float* p, Lanes a) { __builtin_memcpy(p, &a.v, sizeof(a.v)); }
inline Lanes all(float x) { return {Float4{x, x, x, x}}; }
inline Lanes operator+(Lanes a, Lanes b) { return {a.v + b.v}; }
inline Lanes operator-(Lanes a, Lanes b) { return {a.v - b.v}; }
inline Lanes operator*(Lanes a, Lanes b) { return {a.v * b.v}; }
inline Lanes operator/(Lanes a, Lanes b) { return {a.v / b.v}; }
#if defined(__ARM_NEON)
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return {(Float4)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v)};
}
#else
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {a.v * b.v + c.v}; }
#endif
inline Lanes load_first(const float* p, int n) {
  Lanes a = all(0.0f);
  for (int i = 0; i < n; ++i) a.v[i] = p[i];
  return a;
}
inline void store_first(float* p, Lanes a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
inline Lanes keep_first(Lanes a, int n) {
  for (int i = n; i < kLanes; ++i) a.v[i] = 0.0f;
  return a;
}
inline Lanes magnitude(Lanes a) {
  for (int i = 0; i < kLanes; ++i) a.v[i] = __builtin_fabsf(a.v[i]);
  return a;
}
inline Lanes relu(Lanes a) {
  for (int i = 0; i < kLanes; ++i) a.v[i] = a.v[i] < 0.0f ? 0.0f : a.v[i];
  return a;
}
inline Lanes past_relu(Lanes gradient, Lanes output) {
  for (int i = 0; i < kLanes; ++i) gradient.v[i] = output.v[i] <= 0.0f ? 0.0f : gradient.v[i];
  return gradient;
}
inline Lanes max(Lanes a, Lanes b) {
  for (int i = 0; i < kLanes; ++i) a.v[i] = a.v[i] < b.v[i] ? b.v[i] : a.v[i];
  return a;
}
inline Lanes power_of_two(Lanes a) {
  typedef unsigned int Bits __attribute__((vector_size(16)));
  return {(Float4)(((Bits)a.v << 23) + (127u << 23))};
}
inline void three_times(Lanes a, Lanes* out) {
  out[0].v = Float4{a.v[0], a.v[0], a.v[0], a.v[1]};
  out[1].v = Float4{a.v[1], a.v[1], a.v[2], a.v[2]};
  out[2].v = Float4{a.v[2], a.v[3], a.v[3], a.v[3]};
}
inline void by_channel(const float* pixels, Lanes* out) {
  for (int c = 0; c < 3; ++c) out[c].v = Float4{pixels[c], pixels[3 + c], pixels[6 + c], pixels[9 + c]};
}
inline Lanes sign(Lanes a) {
  for (int i = 0; i < kLanes; ++i) a.v[i] = a.v[i] > 0.0f ? 1.0f : a.v[i] < 0.0f ? -1.0f : a.v[i];
  return a;
}

#endif

// Sum over the lanes, in double, left to right.
inline double sum(Lanes a) {
  float lane[kLanes];
  store(lane, a);
  double total = 0.0;
  for (int i = 0; i < kLanes; ++i) total += lane[i];
  return total;
}

// The same in float, by halves.
inline float total(Lanes a) {
#if MOEGS_ISA_LEVEL == 2
  const __m256 low = _mm512_maskz_extractf32x8_ps(0xff, a.v, 0), high = _mm512_maskz_extractf32x8_ps(0xff, a.v, 1);
  const __m256 half = _mm256_add_ps(low, high);
  __m128 part = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif MOEGS_ISA_LEVEL == 1
  __m128 part = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
#endif
#if MOEGS_ISA_LEVEL > 0
  part = _mm_add_ps(part, _mm_movehl_ps(part, part));
  return _mm_cvtss_f32(_mm_add_ss(part, _mm_movehdup_ps(part)));
#else
  return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
#endif
}

}  // namespace
}  // namespace moegs::MOEGS_ISA
