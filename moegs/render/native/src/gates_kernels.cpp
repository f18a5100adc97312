// One vector of pixels at a time; colours are three vectors of interleaved channels.
#include "gates_kernels.h"

#include "lanes.h"

namespace moegs::MOEGS_ISA {
namespace {

constexpr float kLeast = -87.0f;  // below, exp is no normal number: zero

// exp(a) for a <= 0; NaN stays NaN. a is n ln2 + r with |r| <= ln2 / 2, and exp(r) a polynomial.
inline Lanes exp_below_zero(Lanes a) {
  const Lanes bounded = max(a, all(kLeast));
  const Lanes magic = all(12582912.0f);  // 1.5 * 2^23: the sum's last bits are the integer
  const Lanes shifted = fma(bounded, all(1.44269504f), magic);
  const Lanes n = shifted - magic;
  const Lanes r = fma(n, all(2.12194440e-4f), fma(n, all(-0.693359375f), bounded));  // ln2 in two parts
  Lanes p = all(1.0f / 5040.0f);
  p = fma(p, r, all(1.0f / 720.0f));
  p = fma(p, r, all(1.0f / 120.0f));
  p = fma(p, r, all(1.0f / 24.0f));
  p = fma(p, r, all(1.0f / 6.0f));
  p = fma(p, r, all(0.5f));
  p = fma(p, r, all(1.0f));
  p = fma(p, r, all(1.0f));
  return past_relu(p * power_of_two(shifted), a - all(kLeast));
}

// The three vectors of n interleaved pixels, zeros behind them.
inline void load_pixels(const float* pixels, int n, Lanes* out) {
  for (int v = 0; v < 3; ++v) {
    const int there = 3 * n - v * kLanes;
    out[v] = there >= kLanes ? load(pixels + v * kLanes) : load_first(pixels + v * kLanes, there > 0 ? there : 0);
  }
}

inline void store_pixels(float* pixels, int n, const Lanes* in) {
  for (int v = 0; v < 3; ++v) {
    const int there = 3 * n - v * kLanes;
    if (there >= kLanes)
      store(pixels + v * kLanes, in[v]);
    else if (there > 0)
      store_first(pixels + v * kLanes, in[v], there);
  }
}

// The sum of each pixel's three channels.
inline Lanes channel_sums(const Lanes* pixels) {
  float memory[3 * kLanes];
  for (int v = 0; v < 3; ++v) store(memory + v * kLanes, pixels[v]);
  Lanes channel[3];
  by_channel(memory, channel);
  return channel[0] + channel[1] + channel[2];
}

// n <= kLanes pixels from `at`; a row of an expert's values is t.pixels long.
void forward_vector(const GatesTask& t, size_t at, int n) {
  Lanes largest = load_first(t.logits + at, n);
  for (size_t k = 1; k < t.experts; ++k) largest = max(load_first(t.logits + k * t.pixels + at, n), largest);
  Lanes total = all(0.0f);
  for (size_t k = 0; k < t.experts; ++k) {
    const Lanes below = load_first(t.logits + k * t.pixels + at, n) - largest;
    const Lanes weight = exp_below_zero(below / all(t.temperature));
    total = total + weight;
    store_first(t.gates + k * t.pixels + at, weight, n);
  }
  Lanes color[3] = {all(0.0f), all(0.0f), all(0.0f)};
  for (size_t k = 0; k < t.experts; ++k) {
    float* const row = t.gates + k * t.pixels + at;
    const Lanes gate = load_first(row, n) / total;
    store_first(row, gate, n);
    Lanes image[3], thrice[3];
    load_pixels(t.images + 3 * (k * t.pixels + at), n, image);
    three_times(gate, thrice);
    for (int v = 0; v < 3; ++v) color[v] = fma(thrice[v], image[v], color[v]);
  }
  store_pixels(t.color + 3 * at, n, color);
}

// The gradient to one expert's gate.
inline Lanes to_gate(const GatesTask& t, size_t k, size_t at, int n, const Lanes* to_color) {
  Lanes found = t.to_gates ? load_first(t.to_gates + k * t.pixels + at, n) : all(0.0f);
  if (t.to_color == nullptr) return found;
  Lanes image[3];
  load_pixels(t.images + 3 * (k * t.pixels + at), n, image);
  for (int v = 0; v < 3; ++v) image[v] = image[v] * to_color[v];
  return found + channel_sums(image);
}

void backward_vector(const GatesTask& t, size_t at, int n) {
  Lanes to_color[3] = {all(0.0f), all(0.0f), all(0.0f)};
  if (t.to_color) load_pixels(t.to_color + 3 * at, n, to_color);
  Lanes mean = all(0.0f);
  for (size_t k = 0; k < t.experts; ++k) {
    const Lanes gate = load_first(t.gates + k * t.pixels + at, n);
    if (t.to_images) {
      Lanes thrice[3];
      three_times(gate, thrice);
      for (int v = 0; v < 3; ++v) thrice[v] = thrice[v] * to_color[v];
      store_pixels(t.to_images + 3 * (k * t.pixels + at), n, thrice);
    }
    if (t.to_logits) {
      const Lanes slope = to_gate(t, k, at, n, to_color);
      mean = fma(gate, slope, mean);
      store_first(t.to_logits + k * t.pixels + at, slope, n);
    }
  }
  for (size_t k = 0; t.to_logits != nullptr && k < t.experts; ++k) {
    float* const row = t.to_logits + k * t.pixels + at;
    const Lanes gate = load_first(t.gates + k * t.pixels + at, n);
    store_first(row, gate * (load_first(row, n) - mean) / all(t.temperature), n);
  }
}

inline int lanes_left(size_t at, size_t last) { return last - at < size_t(kLanes) ? int(last - at) : kLanes; }

}  // namespace

void gates_forward(const GatesTask& t, size_t first, size_t last) {
  for (size_t at = first; at < last; at += kLanes) forward_vector(t, at, lanes_left(at, last));
}

void gates_backward(const GatesTask& t, size_t first, size_t last) {
  for (size_t at = first; at < last; at += kLanes) backward_vector(t, at, lanes_left(at, last));
}

}  // namespace moegs::MOEGS_ISA
