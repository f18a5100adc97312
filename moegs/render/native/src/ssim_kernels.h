// SSIM with a separable 11-tap Gaussian and zero padding (the INRIA convention), L1 beside it, and both gradients.
#pragma once

#include <cstddef>

#include "dispatch.h"

namespace moegs {

// Images are [rows][row] floats, channels last; row = width * channels.
struct PhotometricTask {
  const float* image;
  const float* target;
  float* gradient;  // of  l1_weight * mean|image - target| - ssim_weight * mean SSIM,  or null: values only
  size_t rows, row, channels;
  float l1_weight, ssim_weight;
  double* similarity;  // per image row: sum of SSIM
  double* absolute;    // per image row: sum of |image - target|
};

}  // namespace moegs

// Floats of scratch that one call of photometric_band needs.
MOEGS_KERNEL(size_t photometric_scratch(size_t row, size_t channels))

// Rows first … last-1. A row's values do not depend on which band it is computed in.
MOEGS_KERNEL(void photometric_band(const moegs::PhotometricTask& task, size_t first, size_t last, float* scratch))
