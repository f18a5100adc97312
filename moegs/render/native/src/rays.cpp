#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>

#include "module.h"
#include "pool.h"
#include "rays_kernels.h"

namespace nb = nanobind;

namespace {

using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Axes = nb::ndarray<const float, nb::shape<3, 3>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

constexpr size_t kPixelsAPiece = 16384;

void directions(const Row& x, const Row& y, const Axes& axes, const Out& out, int threads) {
  if (out.shape(0) != y.shape(0) || out.shape(1) != x.shape(0) || out.shape(2) != 3)
    throw std::invalid_argument("ray directions: out must be [rows, columns, 3].");
  const moegs::RaysTask task{x.data(), y.data(), axes.data(), x.shape(0), out.data()};
  const size_t rows = y.shape(0), band = std::max(kPixelsAPiece / std::max(task.columns, size_t(1)), size_t(1));
  nb::gil_scoped_release release;
  const auto kernel = MOEGS_PICK(ray_rows);
  moegs::parallel((rows + band - 1) / band, threads,
                  [&](size_t i) { kernel(task, i * band, std::min((i + 1) * band, rows)); });
}

}  // namespace

void bind_rays(nb::module_& m) {
  m.def("ray_directions", &directions, nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("axes").noconvert(),
        nb::arg("out").noconvert(), nb::arg("threads"),
        "Unit directions x right + y down + forward for axes (right, down, forward), into out [rows, columns, 3].");
}
