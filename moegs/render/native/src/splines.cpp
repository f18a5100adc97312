#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "module.h"
#include "pool.h"
#include "splines_kernels.h"

namespace nb = nanobind;

namespace {

using Frames = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using OutFrames = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr size_t kPiece = 1024;  // Gaussians

void expect(bool sound, const char* what) {
  if (!sound) throw std::invalid_argument(std::string("splines: ") + what);
}

moegs::SplineTask task_of(const Frames& keyframes, const Frames& rotations, size_t first, std::array<float, 4> weights, float way) {
  expect(keyframes.shape(2) == 3 && rotations.shape(2) == 4, "expected keyframes [n, k, 3] and rotations [n, k, 4].");
  expect(keyframes.shape(0) == rotations.shape(0) && keyframes.shape(1) == rotations.shape(1), "keyframes and rotations disagree.");
  expect(first + 4 <= keyframes.shape(1), "expected four key frames from the first on.");
  moegs::SplineTask t{};
  t.keyframes = keyframes.data(), t.rotations = rotations.data();
  t.n = keyframes.shape(0), t.frames = keyframes.shape(1), t.first = first;
  std::copy(weights.begin(), weights.end(), t.weights);
  t.way = way;
  return t;
}

template <class Kernel>
void run(const moegs::SplineTask& task, Kernel kernel, int threads) {
  moegs::parallel((task.n + kPiece - 1) / kPiece, threads, [&](size_t piece) {
    kernel(task, piece * kPiece, std::min(task.n, (piece + 1) * kPiece));
  });
}

void forward(const Frames& keyframes, const Frames& rotations, size_t first, std::array<float, 4> weights, float way,
             const OutRows& means, const OutRows& quats, int threads) {
  moegs::SplineTask t = task_of(keyframes, rotations, first, weights, way);
  expect(means.shape(0) == t.n && means.shape(1) == 3, "means have the wrong shape.");
  expect(quats.shape(0) == t.n && quats.shape(1) == 4, "quats have the wrong shape.");
  t.means = means.data(), t.quats = quats.data();
  nb::gil_scoped_release release;
  run(t, MOEGS_PICK(spline_forward), threads);
}

void backward(const Frames& keyframes, const Frames& rotations, size_t first, std::array<float, 4> weights, float way,
              std::optional<Rows> to_means, std::optional<Rows> to_quats, std::optional<OutFrames> to_keyframes,
              std::optional<OutFrames> to_rotations, int threads) {
  moegs::SplineTask t = task_of(keyframes, rotations, first, weights, way);
  expect(!to_means || to_means->size() == 3 * t.n, "the gradient of means has the wrong shape.");
  expect(!to_quats || to_quats->size() == 4 * t.n, "the gradient of quats has the wrong shape.");
  expect(!to_keyframes || to_keyframes->size() == keyframes.size(), "the gradient of keyframes has the wrong shape.");
  expect(!to_rotations || to_rotations->size() == rotations.size(), "the gradient of rotations has the wrong shape.");
  t.to_means = to_means ? to_means->data() : nullptr, t.to_quats = to_quats ? to_quats->data() : nullptr;
  t.to_keyframes = to_keyframes ? to_keyframes->data() : nullptr;
  t.to_rotations = to_rotations ? to_rotations->data() : nullptr;
  nb::gil_scoped_release release;
  run(t, MOEGS_PICK(spline_backward), threads);
}

}  // namespace

void bind_splines(nb::module_& m) {
  m.def("spline_forward", &forward, nb::arg("keyframes"), nb::arg("rotations"), nb::arg("first"), nb::arg("weights"),
        nb::arg("way"), nb::arg("means"), nb::arg("quats"), nb::arg("threads"));
  m.def("spline_backward", &backward, nb::arg("keyframes"), nb::arg("rotations"), nb::arg("first"), nb::arg("weights"),
        nb::arg("way"), nb::arg("to_means").none(), nb::arg("to_quats").none(), nb::arg("to_keyframes").none(),
        nb::arg("to_rotations").none(), nb::arg("threads"));
}
