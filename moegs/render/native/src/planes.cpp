// Planes arrive channels-last ([rows, columns, c]) or channels-first ([c, rows, columns]). The kernels read and write
// channels-last cells of whole vectors; what is not laid out so is copied there and back.
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "module.h"
#include "planes_kernels.h"
#include "pool.h"

namespace nb = nanobind;

namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Plane = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using OutPlane = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

constexpr size_t kCellsAPiece = 4096, kPointsAPiece = 1024, kPlanes = 6;

struct FreeAligned {
  void operator()(float* p) const { ::operator delete(p, std::align_val_t(64)); }
};
using Buffer = std::unique_ptr<float, FreeAligned>;

Buffer allocate(size_t floats) {
  return Buffer(static_cast<float*>(::operator new((floats + 16) * sizeof(float), std::align_val_t(64))));
}

struct PlaneShape {
  const float* data;
  size_t rows, columns, channels;
  bool channels_last;

  size_t cells() const { return rows * columns; }
  size_t index(size_t row, size_t column, size_t c) const {
    return channels_last ? (row * columns + column) * channels + c : (c * rows + row) * columns + column;
  }
};

PlaneShape shape_of(const Plane& plane, bool channels_last) {
  if (channels_last) return {plane.data(), plane.shape(0), plane.shape(1), plane.shape(2), true};
  return {plane.data(), plane.shape(1), plane.shape(2), plane.shape(0), false};
}

bool is_time_plane(size_t plane) { return moegs::kPlaneAxes[plane % kPlanes][1] == 3; }

// The planes of one call as the kernels want them; lives from forward to backward and does not change in between.
class PlaneSampler {
 public:
  PlaneSampler(const std::vector<Plane>& planes, const std::vector<bool>& channels_last, const Matrix& coords,
               int threads)
      : coords_(coords), threads_(threads) {
    if (planes.empty() || planes.size() % kPlanes != 0 || planes.size() != channels_last.size())
      throw std::invalid_argument("PlaneSampler: expected six planes a level and one layout flag each.");
    if (coords.shape(1) != 4) throw std::invalid_argument("PlaneSampler: expected coords as [n, 4].");
    for (size_t i = 0; i < planes.size(); ++i) shapes_.push_back(shape_of(planes[i], channels_last[i]));
    const size_t lanes = size_t(MOEGS_PICK(plane_lanes)());
    stride_ = (channels() + lanes - 1) / lanes * lanes;
    one_time_ = find_time();
    check_sizes();
    nb::gil_scoped_release release;
    lay_out();
  }

  void forward(const OutMatrix& features) const {
    if (features.shape(0) != points() || features.shape(1) != levels() * channels())
      throw std::invalid_argument("PlaneSampler.forward: features have the wrong shape.");
    nb::gil_scoped_release release;
    const size_t chunks = (points() + kPointsAPiece - 1) / kPointsAPiece;
    const auto kernel = MOEGS_PICK(plane_forward);
    moegs::parallel(levels() * chunks, threads_, [&](size_t piece) {
      const size_t level = piece / chunks, first = piece % chunks * kPointsAPiece;
      moegs::PlaneTask task = new_task();
      task.features = features.data() + level * channels();
      kernel(levels_[level], task, first, std::min(first + kPointsAPiece, points()));
    });
  }

  // Gradients have the layout of their planes; an empty list, or None for the coordinates, asks for none.
  void backward(const Matrix& upstream, std::vector<OutPlane> gradients, nb::object coord_gradient) const {
    if (upstream.shape(0) != points() || upstream.shape(1) != levels() * channels())
      throw std::invalid_argument("PlaneSampler.backward: the upstream gradient has the wrong shape.");
    if (!gradients.empty()) check_gradients(gradients);
    float* coords_out = nullptr;
    if (!coord_gradient.is_none()) {
      auto out = nb::cast<OutMatrix>(coord_gradient);
      if (out.shape(0) != points() || out.shape(1) != 4)
        throw std::invalid_argument("PlaneSampler.backward: coord_gradient has the wrong shape.");
      coords_out = out.data();
    }
    nb::gil_scoped_release release;
    run_backward(upstream.data(), gradients, coords_out);
  }

 private:
  size_t points() const { return coords_.shape(0); }
  size_t levels() const { return shapes_.size() / kPlanes; }
  size_t channels() const { return shapes_[0].channels; }
  bool is_row(size_t plane) const { return one_time_ && is_time_plane(plane); }
  // Floats of the plane as the kernels see it, and whether they can use the caller's memory.
  size_t kernel_floats(size_t plane) const {
    return (is_row(plane) ? shapes_[plane].columns : shapes_[plane].cells()) * stride_;
  }
  bool in_place(size_t plane) const {
    return shapes_[plane].channels_last && channels() == stride_ && !is_row(plane);
  }

  bool find_time() const {
    const float* c = coords_.data();
    for (size_t i = 0; i < points(); ++i)
      if (!(c[4 * i + 3] == c[3])) return false;
    return points() > 0;
  }

  void check_sizes() const {
    for (size_t i = 0; i < shapes_.size(); ++i) {
      const PlaneShape *level = &shapes_[i / kPlanes * kPlanes], &p = shapes_[i];
      const size_t size[4] = {level[0].columns, level[0].rows, level[1].rows, level[2].rows};
      const int* axes = moegs::kPlaneAxes[i % kPlanes];
      if (p.cells() == 0 || p.channels == 0 || p.channels != channels() || p.columns != size[axes[0]] ||
          p.rows != size[axes[1]])
        throw std::invalid_argument("PlaneSampler: the planes disagree in cells or channels.");
    }
  }

  moegs::PlaneTask new_task() const {
    moegs::PlaneTask task{};
    task.coords = coords_.data();
    task.points = points();
    task.pitch = levels() * channels();
    return task;
  }

  void lay_out() {
    size_t floats = 0;
    for (size_t i = 0; i < shapes_.size(); ++i)
      if (!in_place(i)) floats += kernel_floats(i) * (is_row(i) ? 2 : 1);
    packed_ = allocate(floats);
    levels_.resize(levels());
    float* at = packed_.get();
    for (size_t i = 0; i < shapes_.size(); ++i) {
      moegs::PlaneLevel& level = levels_[i / kPlanes];
      level.cells[i % kPlanes] = in_place(i) ? shapes_[i].data : at;
      if (is_row(i)) level.time_slope[i % kPlanes] = at + kernel_floats(i);
      if (!in_place(i)) at += kernel_floats(i) * (is_row(i) ? 2 : 1);
    }
    for (size_t l = 0; l < levels(); ++l) describe(levels_[l], &shapes_[l * kPlanes]);
    for_each_piece([&](size_t plane, size_t first, size_t last) { pack(plane, first, last); });
  }

  void describe(moegs::PlaneLevel& level, const PlaneShape* planes) const {
    level.size[0] = planes[0].columns;
    level.size[1] = planes[0].rows;
    level.size[2] = planes[1].rows;
    level.size[3] = planes[2].rows;
    level.stride = stride_;
    level.channels = channels();
    level.one_time = one_time_;
  }

  // Calls f(plane, first cell, last cell) over all planes, in parallel.
  template <class F>
  void for_each_piece(F&& f) const {
    struct Piece {
      size_t plane, first, last;
    };
    std::vector<Piece> pieces;
    for (size_t i = 0; i < shapes_.size(); ++i)
      for (size_t first = 0; first < shapes_[i].cells(); first += kCellsAPiece)
        pieces.push_back({i, first, std::min(first + kCellsAPiece, shapes_[i].cells())});
    moegs::parallel(pieces.size(), threads_, [&](size_t k) { f(pieces[k].plane, pieces[k].first, pieces[k].last); });
  }

  void pack(size_t plane, size_t first, size_t last) {
    const PlaneShape& shape = shapes_[plane];
    float* cells = const_cast<float*>(levels_[plane / kPlanes].cells[plane % kPlanes]);
    if (in_place(plane)) return;
    if (is_row(plane)) {
      if (first == 0) interpolate_row(plane, cells);
    } else if (!shape.channels_last) {
      MOEGS_PICK(plane_pack)(shape.data, cells, shape.cells(), channels(), stride_, first, last);
    } else {
      for (size_t i = first; i < last; ++i) {
        std::memcpy(cells + i * stride_, shape.data + i * channels(), channels() * sizeof(float));
        std::fill(cells + i * stride_ + channels(), cells + (i + 1) * stride_, 0.0f);
      }
    }
  }

  struct Time {
    size_t low, high;
    float fraction;
  };

  Time time_in(const PlaneShape& plane) const {
    const float last = float(plane.rows - 1), at = (coords_.data()[3] + 1.0f) * 0.5f * last;
    const float clamped = at > 0.0f ? std::min(at, last) : 0.0f;
    const size_t low = size_t(clamped);
    return {low, std::min(low + 1, plane.rows - 1), clamped - float(low)};
  }

  void interpolate_row(size_t plane, float* row) {
    const PlaneShape& shape = shapes_[plane];
    const Time time = time_in(shape);
    float* slope = row + kernel_floats(plane);
    for (size_t i = 0; i < shape.columns; ++i)
      for (size_t c = 0; c < stride_; ++c) {
        const float low = c < channels() ? shape.data[shape.index(time.low, i, c)] : 0.0f;
        const float high = c < channels() ? shape.data[shape.index(time.high, i, c)] : 0.0f;
        slope[i * stride_ + c] = high - low;
        row[i * stride_ + c] = low + time.fraction * (high - low);
      }
  }

  void check_gradients(const std::vector<OutPlane>& gradients) const {
    bool fits = gradients.size() == shapes_.size();
    for (size_t i = 0; fits && i < shapes_.size(); ++i) {
      const PlaneShape& p = shapes_[i];
      const OutPlane& g = gradients[i];
      fits = p.channels_last ? g.shape(0) == p.rows && g.shape(1) == p.columns && g.shape(2) == p.channels
                             : g.shape(0) == p.channels && g.shape(1) == p.rows && g.shape(2) == p.columns;
    }
    if (!fits) throw std::invalid_argument("PlaneSampler.backward: gradients must be laid out like their planes.");
  }

  // A piece is one level and one vector of channels: no two touch the same cell, and each goes through the points in
  // order, so sums come out alike whatever the threads.
  void run_backward(const float* upstream, std::vector<OutPlane>& gradients, float* coords_out) const {
    std::vector<moegs::PlaneLevel> all = levels_;  // with where to put this call's gradients
    const Buffer scratch = gradients.empty() ? nullptr : place_gradients(gradients, all);
    const size_t lanes = size_t(MOEGS_PICK(plane_lanes)()), blocks = stride_ / lanes, units = levels() * blocks;
    const Buffer partial = coords_out != nullptr ? allocate(units * points() * 4) : nullptr;
    const auto kernel = MOEGS_PICK(plane_backward);
    moegs::parallel(units, threads_, [&](size_t unit) {
      const size_t level = levels() - 1 - unit / blocks;  // the last level is the largest: begin with it
      moegs::PlaneTask task = new_task();
      task.upstream = upstream + level * channels();
      if (coords_out != nullptr) task.coord_gradient = partial.get() + unit * points() * 4;
      kernel(all[level], task, unit % blocks * lanes);
    });
    if (coords_out != nullptr) add_up(partial.get(), units, coords_out);
    if (!gradients.empty())
      for_each_piece([&](size_t plane, size_t first, size_t last) {
        const float* cells = all[plane / kPlanes].gradient[plane % kPlanes];
        hand_back(plane, cells, gradients[plane].data(), first, last);
      });
  }

  void add_up(const float* partial, size_t units, float* out) const {
    const size_t values = points() * 4;
    for (size_t i = 0; i < values; ++i) {
      float sum = partial[i];
      for (size_t u = 1; u < units; ++u) sum += partial[u * values + i];
      out[i] = sum;
    }
  }

  Buffer place_gradients(std::vector<OutPlane>& gradients, std::vector<moegs::PlaneLevel>& levels) const {
    size_t floats = 0;
    for (size_t i = 0; i < shapes_.size(); ++i)
      if (!in_place(i)) floats += kernel_floats(i);
    Buffer scratch = allocate(floats);
    float* at = scratch.get();
    for (size_t i = 0; i < shapes_.size(); ++i) {
      levels[i / kPlanes].gradient[i % kPlanes] = in_place(i) ? gradients[i].data() : at;
      if (!in_place(i)) at += kernel_floats(i);
    }
    for_each_piece([&](size_t plane, size_t first, size_t last) {
      clear(plane, levels[plane / kPlanes].gradient[plane % kPlanes], first, last);
    });
    return scratch;
  }

  void clear(size_t plane, float* cells, size_t first, size_t last) const {
    if (is_row(plane)) {
      if (first == 0) std::fill(cells, cells + kernel_floats(plane), 0.0f);
    } else {
      std::fill(cells + first * stride_, cells + last * stride_, 0.0f);
    }
  }

  void hand_back(size_t plane, const float* cells, float* out, size_t first, size_t last) const {
    const PlaneShape& shape = shapes_[plane];
    if (in_place(plane)) return;
    if (is_row(plane)) {
      if (first == 0) spread_row(plane, cells, out);
    } else if (!shape.channels_last) {
      MOEGS_PICK(plane_unpack)(cells, out, shape.cells(), channels(), stride_, first, last);
    } else {
      for (size_t i = first; i < last; ++i)
        std::memcpy(out + i * channels(), cells + i * stride_, channels() * sizeof(float));
    }
  }

  // The gradient of a plane that was read at one time: two rows, the rest is zero.
  void spread_row(size_t plane, const float* row, float* out) const {
    const PlaneShape& shape = shapes_[plane];
    const Time time = time_in(shape);
    std::fill(out, out + shape.cells() * channels(), 0.0f);
    for (size_t i = 0; i < shape.columns; ++i)
      for (size_t c = 0; c < channels(); ++c) {
        const float value = row[i * stride_ + c], high = time.fraction * value;
        out[shape.index(time.low, i, c)] += value - high;
        out[shape.index(time.high, i, c)] += high;
      }
  }

  Matrix coords_;
  int threads_;
  std::vector<PlaneShape> shapes_;
  std::vector<moegs::PlaneLevel> levels_;
  size_t stride_ = 0;
  bool one_time_ = false;
  Buffer packed_;
};

}  // namespace

void bind_planes(nb::module_& m) {
  nb::class_<PlaneSampler>(m, "PlaneSampler", "HexPlane sampling of one set of points; see moegs.deform.")
      .def(nb::init<const std::vector<Plane>&, const std::vector<bool>&, const Matrix&, int>(), nb::arg("planes"),
           nb::arg("channels_last"), nb::arg("coords"), nb::arg("threads"))
      .def("forward", &PlaneSampler::forward, nb::arg("features"))
      .def("backward", &PlaneSampler::backward, nb::arg("upstream"), nb::arg("gradients"),
           nb::arg("coord_gradient").none());
}
