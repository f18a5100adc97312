// Projection and spherical harmonics, sixteen Gaussians at a time.
#pragma once

#include "dispatch.h"
#include "raster_types.h"

namespace moegs {

struct ChunkResult {
  uint32_t drawn;      // how many Gaussians of the chunk can be seen
  uint64_t tiles;      // tiles that their boxes cover
  bool finite;         // whether all inputs looked at are finite
};

}  // namespace moegs

// Gaussians [begin, end): records and radii [n, 2]; keys[i] = depth bits << 32 | index of the drawn ones, in order.
MOEGS_KERNEL(ChunkResult project_chunk(const Scene& scene, int64_t begin, int64_t end, Record* records, float* radii,
                                       uint64_t* keys))

// Gradients of Gaussians [begin, end) from slots (rasteriser) or from rows (stand-alone projection); zero where not drawn.
MOEGS_KERNEL(void unproject_chunk(const Scene& scene, int64_t begin, int64_t end, const Record* records,
                                  const float* radii, const SlotLayout* slots, const ProjectedGrads* rows, Grads grads))
