#include "network_kernels.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <vector>

#include "module.h"
#include "pool.h"

namespace nb = nanobind;

namespace {

using Own = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;        // [experts, pixels, channels]
using OutOwn = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr size_t kPixelsAPiece = 4096;

size_t floats_of(const std::vector<size_t>& widths) {
  size_t floats = 0;
  for (size_t l = 0; l + 1 < widths.size(); ++l) floats += moegs::layer_floats(widths.data(), l);
  return floats;
}

// What both passes need, once its sizes are known to agree; std::invalid_argument otherwise.
moegs::NetworkTask new_task(const Own& own, const std::optional<Matrix>& common, const Matrix& networks,
                            const std::vector<size_t>& widths, bool residual) {
  moegs::NetworkTask task{};
  task.own = own.data();
  task.experts = own.shape(0);
  task.pixels = own.shape(1);
  task.own_channels = own.shape(2);
  if (common) {
    task.common = common->data();
    task.common_channels = common->shape(1);
    if (common->shape(0) != task.pixels) throw std::invalid_argument("pixel network: common and own differ in pixels.");
  }
  task.residual = residual;
  // what sees nothing but its bias is a network too
  const bool empty = widths.size() < 2 || std::find(widths.begin() + 1, widths.end(), size_t(0)) != widths.end();
  if (empty || widths.back() != 1 || task.own_channels < size_t(residual) ||
      widths[0] != task.own_channels - residual + task.common_channels)
    throw std::invalid_argument("pixel network: the widths do not fit the inputs.");
  task.widths = widths.data();
  task.layers = widths.size() - 1;
  task.weights = networks.data();
  task.network_floats = networks.shape(1);
  task.shared = networks.shape(0) == 1;
  if (task.network_floats != floats_of(widths) || (!task.shared && networks.shape(0) != task.experts))
    throw std::invalid_argument("pixel network: the weights do not fit the widths or the experts.");
  return task;
}

// f(piece, first pixel, last pixel, scratch) over all pixels, in parallel.
template <class F>
void for_each_piece(const moegs::NetworkTask& task, int threads, const F& f) {
  const size_t floats = MOEGS_PICK(network_scratch)(task);
  const size_t pieces = (task.pixels + kPixelsAPiece - 1) / kPixelsAPiece;
  moegs::parallel(pieces, threads, [&](size_t i) {
    static thread_local std::vector<float> scratch;  // kept: touching fresh pages costs more than a small network
    if (scratch.size() < floats) scratch.resize(floats);
    f(i, i * kPixelsAPiece, std::min((i + 1) * kPixelsAPiece, task.pixels), scratch.data());
  });
}

void forward(const Own& own, const std::optional<Matrix>& common, const Matrix& networks,
             const std::vector<size_t>& widths, bool residual, const OutMatrix& logits, int threads) {
  moegs::NetworkTask task = new_task(own, common, networks, widths, residual);
  if (logits.shape(0) != task.experts || logits.shape(1) != task.pixels)
    throw std::invalid_argument("pixel network: logits have the wrong shape.");
  task.logits = logits.data();
  nb::gil_scoped_release release;
  const auto kernel = MOEGS_PICK(network_forward);
  for_each_piece(task, threads,
                 [&](size_t, size_t first, size_t last, float* scratch) { kernel(task, first, last, scratch); });
}

void backward(const Own& own, const std::optional<Matrix>& common, const Matrix& networks,
              const std::vector<size_t>& widths, bool residual, const Matrix& upstream,
              const std::optional<OutOwn>& own_gradient, const std::optional<OutMatrix>& network_gradient, int threads) {
  moegs::NetworkTask task = new_task(own, common, networks, widths, residual);
  if (upstream.shape(0) != task.experts || upstream.shape(1) != task.pixels)
    throw std::invalid_argument("pixel network: the upstream gradient has the wrong shape.");
  if (own_gradient && (own_gradient->shape(0) != own.shape(0) || own_gradient->shape(1) != own.shape(1) ||
                       own_gradient->shape(2) != own.shape(2)))
    throw std::invalid_argument("pixel network: the gradient to the inputs has the wrong shape.");
  if (network_gradient &&
      (network_gradient->shape(0) != networks.shape(0) || network_gradient->shape(1) != networks.shape(1)))
    throw std::invalid_argument("pixel network: the gradient to the weights has the wrong shape.");
  task.upstream = upstream.data();
  task.own_gradient = own_gradient ? own_gradient->data() : nullptr;
  nb::gil_scoped_release release;
  const size_t floats = network_gradient ? networks.size() : 0;
  std::vector<float> parts((task.pixels + kPixelsAPiece - 1) / kPixelsAPiece * floats);
  const auto kernel = MOEGS_PICK(network_backward);
  for_each_piece(task, threads, [&](size_t piece, size_t first, size_t last, float* scratch) {
    kernel(task, first, last, scratch, floats > 0 ? parts.data() + piece * floats : nullptr);
  });
  for (size_t i = 0; i < floats; ++i) {  // in the order of the pieces, whoever computed them
    double sum = 0.0;
    for (size_t at = i; at < parts.size(); at += floats) sum += parts[at];
    network_gradient->data()[i] = float(sum);
  }
}

}  // namespace

void bind_network(nb::module_& m) {
  // no conversions: what is written to must be the caller's memory
  m.def("network_forward", &forward, nb::arg("own").noconvert(), nb::arg("common").noconvert().none(),
        nb::arg("networks").noconvert(), nb::arg("widths"), nb::arg("residual"), nb::arg("logits").noconvert(),
        nb::arg("threads"),
        "Outputs of a small network at every pixel of every expert, into logits [experts, pixels].");
  m.def("network_backward", &backward, nb::arg("own").noconvert(), nb::arg("common").noconvert().none(),
        nb::arg("networks").noconvert(), nb::arg("widths"), nb::arg("residual"), nb::arg("upstream").noconvert(),
        nb::arg("own_gradient").noconvert().none(), nb::arg("network_gradient").noconvert().none(), nb::arg("threads"),
        "Gradients of network_forward to own and to the networks, each unless None.");
}
