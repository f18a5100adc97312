// The rasteriser's stages strung together: project, sort, fill tile lists, composite; and back.
#pragma once

#include <memory>
#include <stdexcept>
#include <vector>

#include "raster_types.h"
#include "workspace.h"

namespace moegs {

constexpr uint64_t kMaxEntries = uint64_t(1) << 27;  // of all tile lists of a pass together

struct TooManyEntries : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What forward leaves behind of Gaussians that were drawn together. Frees its buffers for other calls when it dies.
struct Pass {
  Pass();
  Lease lease;
  Record* records = nullptr;
  Entry* entries = nullptr;
  uint64_t* starts = nullptr;
  uint64_t* chunk_slot = nullptr;
  uint16_t* masks = nullptr;
  uint32_t* used = nullptr;
  uint64_t n_entries = 0, n_drawn = 0;
  size_t n_lists = 0;
  bool finite = true;
};

// What forward leaves behind for backward: one pass a group where each group's rows lie together, else one for all.
struct Trace {
  Trace() = default;
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
  std::vector<std::unique_ptr<Pass>> passes;
  uint64_t n_entries = 0, n_drawn = 0;
  bool finite = true;
};

struct Images {
  float *color, *depth, *alpha, *features;
};

struct ImageGrads {
  const float *color, *depth, *alpha, *features;
};

// Radii [n, 2] are written to `radii`; images only where all inputs are finite (Trace::finite). `keep`: whether a backward
// may follow; where none does, all passes use the same buffers.
std::unique_ptr<Trace> forward(const Scene& scene, const float* background, const Images& images, float* radii, bool keep,
                               int threads);

// `viewmat` (row-major 4x4) and `background` ([groups, 3]) receive gradients where not null. `radii` are forward's,
// which must have kept its passes (std::invalid_argument).
void backward(const Scene& scene, const Trace& trace, const float* radii, const Images& images, const ImageGrads& given, const Grads& wanted,
              bool absolute, float* viewmat, float* background, int threads);

// Projection alone. Rows of Gaussians that are not drawn are zero. Returns whether all inputs are finite.
struct Projection {
  float *means2d, *conics, *depths, *colors, *opacities, *radii;
};
bool project(const Scene& scene, const Projection& out, int threads);
void unproject(const Scene& scene, const ProjectedGrads& given, const Grads& wanted, float* viewmat, int threads);

}  // namespace moegs
