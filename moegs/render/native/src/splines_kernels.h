// Where key-framed Gaussians are and how they are turned, between two key frames, and the gradients of that.
#pragma once

#include <cstddef>

#include "dispatch.h"

namespace moegs {

// Positions are a weighted sum of key frames first … first + 3 (cubic Hermite interpolation), rotations turn at constant
// speed, the short way, from key frame first + 1 to first + 2. Rows are one Gaussian's.
struct SplineTask {
  const float* keyframes;  // [n][frames][3]
  const float* rotations;  // [n][frames][4], of any length
  size_t n, frames, first;
  float weights[4];
  float way;               // from first + 1 to first + 2, in [0, 1]
  float* means;            // [n][3], forward
  float* quats;            // [n][4], forward; unit length
  const float* to_means;   // gradients, backward; null: none
  const float* to_quats;
  float* to_keyframes;     // like keyframes, written all over; null where none is wanted
  float* to_rotations;
};

}  // namespace moegs

MOEGS_KERNEL(void spline_forward(const moegs::SplineTask& task, size_t first, size_t last))
MOEGS_KERNEL(void spline_backward(const moegs::SplineTask& task, size_t first, size_t last))
