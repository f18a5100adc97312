#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "gates_kernels.h"
#include "module.h"
#include "pool.h"

namespace nb = nanobind;

namespace {

using Maps = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // [experts, pixels]
using OutMaps = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Images = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;  // [experts, pixels, 3]
using OutImages = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // [pixels, 3]
using OutImage = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr size_t kPixelsAPiece = 4096;

void expect(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(what);
}

moegs::GatesTask new_task(const Images& images, double temperature) {
  expect(images.size() > 0 && images.shape(2) == 3, "gates: images must be [experts, pixels, 3] and not empty.");
  moegs::GatesTask task{};
  task.images = images.data();
  task.experts = images.shape(0);
  task.pixels = images.shape(1);
  task.temperature = float(temperature);
  return task;
}

template <class Array>
bool are_maps(const Array& maps, const moegs::GatesTask& task) {
  return maps.shape(0) == task.experts && maps.shape(1) == task.pixels;
}

template <class Array>
bool is_image(const Array& image, const moegs::GatesTask& task) {
  return image.shape(0) == task.pixels && image.shape(1) == 3;
}

template <class Kernel>
void run(const moegs::GatesTask& task, int threads, Kernel kernel) {
  nb::gil_scoped_release release;
  moegs::parallel((task.pixels + kPixelsAPiece - 1) / kPixelsAPiece, threads, [&](size_t i) {
    kernel(task, i * kPixelsAPiece, std::min((i + 1) * kPixelsAPiece, task.pixels));
  });
}

void forward(const Maps& logits, const Images& images, double temperature, const OutMaps& gates, const OutImage& color,
             int threads) {
  moegs::GatesTask task = new_task(images, temperature);
  expect(are_maps(logits, task) && are_maps(gates, task), "gates: logits and gates must be [experts, pixels].");
  expect(is_image(color, task), "gates: color must be [pixels, 3].");
  task.logits = logits.data();
  task.gates = gates.data();
  task.color = color.data();
  run(task, threads, MOEGS_PICK(gates_forward));
}

void backward(const OutMaps& gates, const Images& images, double temperature, const std::optional<Image>& to_color,
              const std::optional<Maps>& to_gates, const std::optional<OutMaps>& to_logits,
              const std::optional<OutImages>& to_images, int threads) {
  moegs::GatesTask task = new_task(images, temperature);
  expect(are_maps(gates, task) && (!to_gates || are_maps(*to_gates, task)) && (!to_logits || are_maps(*to_logits, task)),
         "gates: gates and gradients to gates and logits must be [experts, pixels].");
  expect(!to_color || is_image(*to_color, task), "gates: the gradient to the colours must be [pixels, 3].");
  expect(!to_images || (to_images->size() == images.size() && to_images->shape(1) == task.pixels),
         "gates: the gradient to the images has the wrong shape.");
  task.gates = gates.data();
  task.to_color = to_color ? to_color->data() : nullptr;
  task.to_gates = to_gates ? to_gates->data() : nullptr;
  task.to_logits = to_logits ? to_logits->data() : nullptr;
  task.to_images = to_images ? to_images->data() : nullptr;
  run(task, threads, MOEGS_PICK(gates_backward));
}

}  // namespace

void bind_gates(nb::module_& m) {
  m.def("gates_forward", &forward, nb::arg("logits").noconvert(), nb::arg("images").noconvert(), nb::arg("temperature"),
        nb::arg("gates").noconvert(), nb::arg("color").noconvert(), nb::arg("threads"),
        "Softmax of logits over experts into gates, and the blend of the images into color.");
  m.def("gates_backward", &backward, nb::arg("gates").noconvert(), nb::arg("images").noconvert(), nb::arg("temperature"),
        nb::arg("to_color").noconvert().none(), nb::arg("to_gates").noconvert().none(),
        nb::arg("to_logits").noconvert().none(), nb::arg("to_images").noconvert().none(), nb::arg("threads"),
        "Gradients of gates_forward to logits and images, each unless None, from those to colours and gates.");
}
