#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include <stdexcept>
#include <vector>

#include "module.h"
#include "pool.h"
#include "ssim_kernels.h"

namespace nb = nanobind;

namespace {

using Image = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Gradient = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

constexpr size_t kSmallestBand = 16;  // rows; each band repeats ten rows of its neighbours' work

bool same_shape(const Image& a, const Image& b) {
  return a.shape(0) == b.shape(0) && a.shape(1) == b.shape(1) && a.shape(2) == b.shape(2);
}

// Two bands a thread, so that a thread that is slow to start leaves something to take over.
size_t count_bands(size_t rows, int threads) {
  const size_t most = (rows + kSmallestBand - 1) / kSmallestBand;
  const size_t wanted = threads > 1 ? 2 * size_t(threads) : 1;
  return wanted < most ? wanted : most;
}

std::pair<double, double> run(moegs::PhotometricTask task, int threads) {
  std::vector<double> similarity(task.rows), absolute(task.rows);
  task.similarity = similarity.data();
  task.absolute = absolute.data();
  const size_t bands = count_bands(task.rows, threads);
  const size_t floats = MOEGS_PICK(photometric_scratch)(task.row, task.channels);
  const auto band = MOEGS_PICK(photometric_band);
  moegs::parallel(bands, threads, [&](size_t i) {
    static thread_local std::vector<float> scratch;  // kept: touching fresh pages costs more than the filter
    if (scratch.size() < floats) scratch.resize(floats);
    band(task, task.rows * i / bands, task.rows * (i + 1) / bands, scratch.data());
  });
  double ssim = 0.0, l1 = 0.0;
  for (size_t r = 0; r < task.rows; ++r) ssim += similarity[r], l1 += absolute[r];
  const double values = double(task.rows) * double(task.row);
  return {l1 / values, ssim / values};
}

std::pair<double, double> photometric(const Image& image, const Image& target, nb::object gradient, double l1_weight,
                                      double ssim_weight, int threads) {
  if (!same_shape(image, target) || image.size() == 0)
    throw std::invalid_argument("photometric: image and target must have one shape and not be empty.");
  moegs::PhotometricTask task{};
  task.image = image.data();
  task.target = target.data();
  task.rows = image.shape(0);
  task.channels = image.shape(2);
  task.row = image.shape(1) * image.shape(2);
  task.l1_weight = float(l1_weight);
  task.ssim_weight = float(ssim_weight);
  if (!gradient.is_none()) {
    auto out = nb::cast<Gradient>(gradient);
    if (out.size() != image.size()) throw std::invalid_argument("photometric: gradient must have the image's shape.");
    task.gradient = out.data();
  }
  nb::gil_scoped_release release;
  return run(task, threads);
}

}  // namespace

void bind_ssim(nb::module_& m) {
  m.def("photometric", &photometric, nb::arg("image"), nb::arg("target"), nb::arg("gradient").none(),
        nb::arg("l1_weight"), nb::arg("ssim_weight"), nb::arg("threads"),
        "(mean |image - target|, mean SSIM); into gradient, unless None, goes the gradient of\n"
        "l1_weight * L1 - ssim_weight * SSIM with respect to the image.");
}
