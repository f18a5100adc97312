// Softmax over experts and the blend of their pictures in one pass over the pixels, and the gradients of both.
#pragma once

#include <cstddef>

#include "dispatch.h"

namespace moegs {

// gates[k] = softmax_k(logits[k] / temperature) and color = sum_k gates[k] * images[k], at every pixel.
struct GatesTask {
  const float* logits;  // [experts][pixels]
  const float* images;  // [experts][pixels][3]
  size_t experts, pixels;
  float temperature;
  float* gates;           // [experts][pixels], written forward and read backward
  float* color;           // [pixels][3], forward
  const float* to_color;  // gradient to the colours, or null, backward
  const float* to_gates;  // and to the gates, or null
  float* to_logits;       // gradients, each unless null
  float* to_images;
};

}  // namespace moegs

// Pixels first … last-1.
MOEGS_KERNEL(void gates_forward(const moegs::GatesTask& task, size_t first, size_t last))
MOEGS_KERNEL(void gates_backward(const moegs::GatesTask& task, size_t first, size_t last))
