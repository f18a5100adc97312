// A small network of dense layers and relus at every pixel, for several experts at once, and its gradients.
#pragma once

#include <cstddef>

#include "dispatch.h"

namespace moegs {

// Inputs of an expert at a pixel: `own` [experts][pixels][own_channels] without its first channel where `residual` is set
// (that one is added to the output instead), then `common` [pixels][common_channels], which all experts see.
//
// A network's floats are the first layer [widths[1]][widths[0]], its bias [widths[1]], and the other layers
// [widths[l + 1]][widths[l]], which have none. Relus lie between layers; widths[layers] is 1.
struct NetworkTask {
  const float *own, *common;  // common may be null
  size_t experts, pixels, own_channels, common_channels;
  bool residual;
  const size_t* widths;  // [layers + 1]
  size_t layers;
  const float* weights;   // one network, or one an expert
  size_t network_floats;  // of each
  bool shared;
  float* logits;          // [experts][pixels], forward
  const float* upstream;  // [experts][pixels], backward
  float* own_gradient;    // like own, or null
};

// Floats of layer l, its bias included.
inline size_t layer_floats(const size_t* widths, size_t l) {
  return widths[l] * widths[l + 1] + (l == 0 ? widths[1] : 0);
}

}  // namespace moegs

// Floats of scratch that a call needs.
MOEGS_KERNEL(size_t network_scratch(const moegs::NetworkTask& task))

// Logits of pixels first … last-1.
MOEGS_KERNEL(void network_forward(const moegs::NetworkTask& task, size_t first, size_t last, float* scratch))

// Gradients from these pixels: into task.own_gradient, and to all networks, which `weight_gradient` receives unless null.
MOEGS_KERNEL(void network_backward(const moegs::NetworkTask& task, size_t first, size_t last, float* scratch,
                                   float* weight_gradient))
