// Pixels go through the network in blocks whose activations stay in the nearest cache, one row of kBlock values a channel.
#include "network_kernels.h"

#include "lanes.h"

namespace moegs::MOEGS_ISA {
namespace {

constexpr int kVectors = 4;
constexpr int kBlock = kVectors * kLanes;

struct Row {
  Lanes v[kVectors];
};

inline Row load_row(const float* p) {
  Row r;
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) r.v[i] = load(p + i * kLanes);
  return r;
}

inline void store_row(float* p, const Row& r) {
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) store(p + i * kLanes, r.v[i]);
}

inline void add_scaled(Row& r, float scale, const float* values) {
  const Lanes s = all(scale);
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) r.v[i] = fma(s, load(values + i * kLanes), r.v[i]);
}

// Where the rows of one block lie: activations[l] are the inputs of layer l.
struct Scratch {
  float* activations;
  float* delta;  // gradients to the outputs of a layer, and
  float* next;   // to its inputs
  float* sums;   // kLanes partial sums for each float of the networks
};

size_t activation_rows(const NetworkTask& t) {
  size_t rows = 0;
  for (size_t l = 0; l <= t.layers; ++l) rows += t.widths[l];
  return rows;
}

size_t widest_layer(const NetworkTask& t) {
  size_t most = 0;
  for (size_t l = 0; l <= t.layers; ++l) most = t.widths[l] > most ? t.widths[l] : most;
  return most;
}

size_t networks(const NetworkTask& t) { return t.shared ? 1 : t.experts; }

Scratch divided(const NetworkTask& t, float* memory) {
  const size_t widest = widest_layer(t);
  memory += kBlock;  // the residual channel's row
  float* delta = memory + activation_rows(t) * kBlock;
  return {memory, delta, delta + widest * kBlock, delta + 2 * widest * kBlock};
}

// All channels of n pixels as rows; zeros behind the last pixel.
inline void load_channels(const float* pixels, size_t channels, size_t n, float* rows) {
  if (channels == 3 && n == size_t(kBlock)) {  // base, view and time weights, and rays: most of what there is to read
    for (int i = 0; i < kBlock; i += kLanes) {
      Lanes channel[3];
      by_channel(pixels + 3 * i, channel);
      for (int c = 0; c < 3; ++c) store(rows + c * kBlock + i, channel[c]);
    }
    return;
  }
  for (size_t c = 0; c < channels; ++c) {
    for (size_t i = 0; i < n; ++i) rows[c * kBlock + i] = pixels[i * channels + c];
    for (size_t i = n; i < size_t(kBlock); ++i) rows[c * kBlock + i] = 0.0f;
  }
}

// Rows of all inputs. The residual channel's comes before them, at rows - kBlock.
void load_inputs(const NetworkTask& t, size_t expert, size_t at, size_t n, float* rows) {
  load_channels(t.own + (expert * t.pixels + at) * t.own_channels, t.own_channels, n, rows - t.residual * kBlock);
  if (t.common_channels > 0 && expert == 0)  // the same rows serve all experts
    load_channels(t.common + at * t.common_channels, t.common_channels, n,
                  rows + (t.own_channels - t.residual) * kBlock);
}

// All layers; returns the row of outputs. Activations that are kept are those after the relu.
const float* run_layers(const NetworkTask& t, const float* network, float* in) {
  const float* weight = network;
  for (size_t l = 0; l < t.layers; ++l) {
    const size_t from = t.widths[l], to = t.widths[l + 1];
    const float* bias = l == 0 ? weight + from * to : nullptr;
    float* out = in + from * kBlock;
    for (size_t o = 0; o < to; ++o) {
      Row r;
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) r.v[i] = all(bias ? bias[o] : 0.0f);
      for (size_t i = 0; i < from; ++i) add_scaled(r, weight[o * from + i], in + i * kBlock);
      if (l + 1 < t.layers) {
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) r.v[i] = relu(r.v[i]);
      }
      store_row(out + o * kBlock, r);
    }
    weight += layer_floats(t.widths, l);
    in = out;
  }
  return in;
}

// The product of two rows, lane by lane, is added to sums[0 … kLanes).
inline void add_product(float* sums, const Row& a, const float* b) {
  Lanes s = load(sums);
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) s = fma(a.v[i], load(b + i * kLanes), s);
  store(sums, s);
}

inline void add_row(float* sums, const Row& a) {
  Lanes s = load(sums);
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) s = s + a.v[i];
  store(sums, s);
}

// Gradients of layer l from those of its outputs in s.delta: to its floats into `sums`, unless null, and to the first
// `inputs` of its inputs into s.next.
void back_through(const NetworkTask& t, size_t l, const float* weight, const float* in, const Scratch& s, float* sums,
                  size_t inputs) {
  const size_t from = t.widths[l], to = t.widths[l + 1];
  for (size_t o = 0; sums != nullptr && o < to; ++o) {
    const Row d = load_row(s.delta + o * kBlock);
    for (size_t i = 0; i < from; ++i) add_product(sums + (o * from + i) * kLanes, d, in + i * kBlock);
    if (l == 0) add_row(sums + (from * to + o) * kLanes, d);
  }
  for (size_t i = 0; i < inputs; ++i) {
    Row r;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) r.v[v] = all(0.0f);
    for (size_t o = 0; o < to; ++o) add_scaled(r, weight[o * from + i], s.delta + o * kBlock);
    if (l > 0) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) r.v[v] = past_relu(r.v[v], load(in + i * kBlock + v * kLanes));
    }
    store_row(s.next + i * kBlock, r);
  }
}

void store_own_gradient(const NetworkTask& t, size_t expert, size_t at, size_t n, const float* upstream,
                        const float* rows) {
  float* out = t.own_gradient + (expert * t.pixels + at) * t.own_channels;
  for (size_t i = 0; i < n; ++i) {
    if (t.residual) out[i * t.own_channels] = upstream[i];
    for (size_t c = t.residual; c < t.own_channels; ++c)
      out[i * t.own_channels + c] = rows[(c - t.residual) * kBlock + i];
  }
}

void backward_block(const NetworkTask& t, size_t expert, size_t at, size_t n, Scratch s, bool to_weights) {
  const size_t number = t.shared ? 0 : expert;
  const float* network = t.weights + number * t.network_floats;
  load_inputs(t, expert, at, n, s.activations);
  run_layers(t, network, s.activations);
  const float* upstream = t.upstream + expert * t.pixels + at;
  load_channels(upstream, 1, n, s.delta);
  const size_t own = t.own_gradient ? t.own_channels - t.residual : 0;
  const float *in = s.activations, *weight = network;
  float* sums = s.sums + number * t.network_floats * kLanes;
  for (size_t l = 0; l + 1 < t.layers; ++l) {  // to the last layer
    in += t.widths[l] * kBlock;
    weight += layer_floats(t.widths, l);
  }
  for (size_t l = t.layers; l-- > 0;) {
    float* const into = to_weights ? sums + (weight - network) * kLanes : nullptr;
    back_through(t, l, weight, in, s, into, l > 0 ? t.widths[l] : own);
    float* const swapped = s.delta;
    s.delta = s.next;
    s.next = swapped;
    if (l == 0) break;
    in -= t.widths[l - 1] * kBlock;
    weight -= layer_floats(t.widths, l - 1);
  }
  if (t.own_gradient) store_own_gradient(t, expert, at, n, upstream, s.delta);
}

}  // namespace

size_t network_scratch(const NetworkTask& t) {
  return (1 + activation_rows(t) + 2 * widest_layer(t)) * kBlock + networks(t) * t.network_floats * kLanes;
}

void network_forward(const NetworkTask& t, size_t first, size_t last, float* scratch) {
  float* const rows = divided(t, scratch).activations;
  for (size_t at = first; at < last; at += kBlock) {
    const size_t n = last - at < size_t(kBlock) ? last - at : kBlock;
    for (size_t e = 0; e < t.experts; ++e) {
      load_inputs(t, e, at, n, rows);
      const float* out = run_layers(t, t.weights + (t.shared ? 0 : e * t.network_floats), rows);
      const float* base = rows - kBlock;
      float* logits = t.logits + e * t.pixels + at;
      for (size_t i = 0; i < n; ++i) logits[i] = t.residual ? out[i] + base[i] : out[i];
    }
  }
}

void network_backward(const NetworkTask& t, size_t first, size_t last, float* scratch, float* weight_gradient) {
  const Scratch s = divided(t, scratch);
  const size_t floats = weight_gradient != nullptr ? networks(t) * t.network_floats : 0;
  __builtin_memset(s.sums, 0, floats * kLanes * sizeof(float));
  for (size_t at = first; at < last; at += kBlock) {
    const size_t n = last - at < size_t(kBlock) ? last - at : kBlock;
    for (size_t e = 0; e < t.experts; ++e) backward_block(t, e, at, n, s, weight_gradient != nullptr);
  }
  for (size_t i = 0; i < floats; ++i) weight_gradient[i] = total(load(s.sums + i * kLanes));
}

}  // namespace moegs::MOEGS_ISA
