// Python's view of the rasteriser. Tensors arrive as array views; shapes are checked here once more, because a wrong one
// would read past the end of memory.
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "module.h"
#include "stages.h"

namespace nb = nanobind;

namespace {

using moegs::Scene;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Tags = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;
using MaybeFloats = std::optional<Floats>;
using MaybeMask = std::optional<Mask>;
using MaybeTags = std::optional<Tags>;

float* data(const MaybeFloats& a) { return a ? a->data() : nullptr; }

void expect(const char* name, const MaybeFloats& a, size_t size) {
  if (a && a->size() != size)
    throw nb::value_error((std::string(name) + ": expected " + std::to_string(size) + " values, got " +
                           std::to_string(a->size())).c_str());
}

// What to draw, with everything it points to kept alive.
struct Call {
  Floats means, opacities, sh;
  MaybeFloats quats, scales, covars;
  MaybeMask by_covar;
  MaybeFloats features;
  MaybeTags groups;
  MaybeMask tiles;
  Floats background;
  std::vector<moegs::GroupOptions> options;
  std::vector<int64_t> first_of;
  Scene scene{};
};

struct View {
  std::array<float, 19> camera;  // rotation 9, translation 3, camera centre 3, fx, fy, cx, cy
  int width, height;
};

void fill_view(Scene& s, const View& v) {
  if (v.width < 1 || v.height < 1 || v.width > 1 << 18 || v.height > 1 << 18)
    throw nb::value_error("camera: the image must measure between 1 and 262144 pixels each way");
  for (int i = 0; i < 9; ++i) s.rotation[i] = v.camera[i];
  for (int i = 0; i < 3; ++i) s.translation[i] = v.camera[9 + i], s.centre[i] = v.camera[12 + i];
  s.fx = v.camera[15], s.fy = v.camera[16], s.cx = v.camera[17], s.cy = v.camera[18];
  s.width = v.width, s.height = v.height;
  s.tiles_x = (v.width + moegs::kTile - 1) / moegs::kTile;
  s.tiles_y = (v.height + moegs::kTile - 1) / moegs::kTile;
}

void check_groups(const Call& c) {
  if (!c.groups) return;
  if (c.groups->size() != size_t(c.scene.n)) throw nb::value_error("groups: expected one tag a Gaussian");
  bool sound = true;  // looked at without branches first, many tags at a time
  for (int64_t i = 0; i < c.scene.n; ++i) sound &= uint32_t(c.groups->data()[i]) < uint32_t(c.scene.n_groups);
  if (sound) return;
  for (int64_t i = 0; i < c.scene.n; ++i)
    if (c.groups->data()[i] < 0 || c.groups->data()[i] >= c.scene.n_groups)
      throw nb::value_error(("groups: tag " + std::to_string(c.groups->data()[i]) + " of Gaussian " + std::to_string(i) +
                             " is not one of 0 to " + std::to_string(c.scene.n_groups - 1)).c_str());
}

// Where each group begins, if all of its rows lie together and the groups are in order, as those of stacked scenes.
void find_groups(Call& c) {
  if (!c.groups || c.scene.n_groups < 2) return;
  const int32_t* tags = c.groups->data();
  bool falls = false;
  for (int64_t i = 1; i < c.scene.n; ++i) falls |= tags[i] < tags[i - 1];
  if (falls) return;
  for (int g = 0; g <= c.scene.n_groups; ++g) c.first_of.push_back(std::lower_bound(tags, tags + c.scene.n, g) - tags);
  c.scene.first_of = c.first_of.data();
}

std::unique_ptr<Call> make_call(Floats means, Floats opacities, Floats sh, MaybeFloats quats, MaybeFloats scales,
                                MaybeFloats covars, MaybeMask by_covar, MaybeFloats features, MaybeTags groups,
                                MaybeMask tiles, Floats background, const std::vector<std::array<float, 4>>& options,
                                std::array<float, 19> camera, int width, int height) {
  auto c = std::make_unique<Call>(
      Call{means, opacities, sh, quats, scales, covars, by_covar, features, groups, tiles, background, {}, {}, {}});
  Scene& s = c->scene;
  const size_t n = opacities.size();
  fill_view(s, {camera, width, height});
  if (n >= size_t(1) << 31) throw nb::value_error("means: at most 2^31 - 1 Gaussians can be drawn at a time");
  s.n = int64_t(n);
  s.n_groups = int(options.size());
  s.sh_terms = n > 0 ? int(sh.size() / n / 3) : 1;
  s.n_features = features ? int(features->ndim() == 2 ? features->shape(1) : 0) : 0;
  if (s.sh_terms != 1 && s.sh_terms != 4 && s.sh_terms != 9 && s.sh_terms != 16)
    throw nb::value_error("sh: expected 1, 4, 9 or 16 coefficients a channel");
  if ((!quats || !scales) && (!covars || by_covar)) throw nb::value_error("expected quats and scales, or covars");
  expect("means", means, 3 * n), expect("sh", sh, 3 * n * s.sh_terms), expect("quats", quats, 4 * n);
  expect("scales", scales, 3 * n), expect("covars", covars, 9 * n), expect("features", features, n * s.n_features);
  expect("background", background, 3 * options.size());
  for (const auto& o : options) c->options.push_back({o[0], o[1], o[2], o[3]});
  s.means = means.data(), s.opacities = opacities.data(), s.sh = sh.data();
  s.quats = data(quats), s.scales = data(scales), s.covars = data(covars), s.features = data(features);
  if (by_covar && (by_covar->size() != n || !covars)) throw nb::value_error("by_covar: expected one value a Gaussian, and covars");
  if (!by_covar && covars && quats) throw nb::value_error("expected quats and scales, or covars, or by_covar to choose by");
  s.by_covar = by_covar ? by_covar->data() : nullptr;
  s.groups = groups ? groups->data() : nullptr;
  if (tiles && tiles->size() != size_t(s.n_groups) * s.tiles_x * s.tiles_y)
    throw nb::value_error("tiles: expected one value a tile and group");
  s.tiles = tiles ? tiles->data() : nullptr;
  s.options = c->options.data();
  check_groups(*c);
  find_groups(*c);
  return c;
}

size_t pixels(const Call& c) { return size_t(c.scene.n_groups) * c.scene.width * c.scene.height; }

moegs::Images images_of(const Call& c, const Floats& color, const Floats& depth, const Floats& alpha, const MaybeFloats& features) {
  const size_t p = pixels(c);
  expect("color", color, 3 * p), expect("depth", depth, p), expect("alpha", alpha, p);
  expect("features image", features, p * c.scene.n_features);
  if (c.scene.n_features > 0 && !features) throw nb::value_error("features: expected an image for them");
  return {color.data(), depth.data(), alpha.data(), data(features)};
}

std::unique_ptr<moegs::Trace> forward(const Call& c, Floats color, Floats depth, Floats alpha, MaybeFloats features,
                                      Floats radii, bool keep, int threads) {
  const moegs::Images images = images_of(c, color, depth, alpha, features);
  expect("radii", radii, 2 * size_t(c.scene.n));
  nb::gil_scoped_release release;
  return moegs::forward(c.scene, c.background.data(), images, radii.data(), keep, threads);
}

// Gradient arrays in the order means, quats, scales, covars, opacities, sh, features, probe, viewmat, background.
using GradArrays = std::array<MaybeFloats, 10>;

moegs::Grads grads_of(const Call& c, const GradArrays& g) {
  const size_t n = size_t(c.scene.n);
  const size_t widths[8] = {3, 4, 3, 9, 1, 3 * size_t(c.scene.sh_terms), size_t(c.scene.n_features), 2};
  for (int i = 0; i < 8; ++i) expect("gradient", g[i], n * widths[i]);
  expect("gradient of viewmat", g[8], 16), expect("gradient of background", g[9], 3 * c.options.size());
  return {data(g[0]), data(g[1]), data(g[2]), data(g[3]), data(g[4]), data(g[5]), data(g[6]), data(g[7]), nullptr};
}

void backward(const Call& c, const moegs::Trace& trace, Floats radii, std::array<MaybeFloats, 4> images,
              std::array<MaybeFloats, 4> given, GradArrays wanted, bool absolute, int threads) {
  const moegs::Images seen = images_of(c, images[0].value(), images[1].value(), images[2].value(), images[3]);
  const size_t p = pixels(c), widths[4] = {3, 1, 1, size_t(c.scene.n_features)};
  for (int i = 0; i < 4; ++i) expect("image gradient", given[i], p * widths[i]);
  expect("radii", radii, 2 * size_t(c.scene.n));
  const moegs::Grads grads = grads_of(c, wanted);
  const moegs::ImageGrads in{data(given[0]), data(given[1]), data(given[2]), data(given[3])};
  nb::gil_scoped_release release;
  moegs::backward(c.scene, trace, radii.data(), seen, in, grads, absolute, data(wanted[8]), data(wanted[9]), threads);
}

// Arrays in the order means2d, conics, depths, colors, opacities, and for project also radii.
bool project(const Call& c, std::array<Floats, 6> out, int threads) {
  const size_t n = size_t(c.scene.n), widths[6] = {2, 3, 1, 3, 1, 2};
  for (int i = 0; i < 6; ++i) expect("projection", out[i], n * widths[i]);
  nb::gil_scoped_release release;
  return moegs::project(c.scene, {out[0].data(), out[1].data(), out[2].data(), out[3].data(), out[4].data(), out[5].data()},
                        threads);
}

void unproject(const Call& c, std::array<MaybeFloats, 5> given, GradArrays wanted, int threads) {
  const size_t n = size_t(c.scene.n), widths[5] = {2, 3, 1, 3, 1};
  for (int i = 0; i < 5; ++i) expect("projection gradient", given[i], n * widths[i]);
  const moegs::Grads grads = grads_of(c, wanted);
  nb::gil_scoped_release release;
  moegs::unproject(c.scene, {data(given[0]), data(given[1]), data(given[2]), data(given[3]), data(given[4])}, grads,
                   data(wanted[8]), threads);
}

}  // namespace

void bind_rasterize(nb::module_& m) {
  static_assert(sizeof(moegs::Record) == 64, "a record is one cache line");
  nb::class_<Call>(m, "Call");
  nb::class_<moegs::Trace>(m, "Trace")
      .def_prop_ro("finite", [](const moegs::Trace& t) { return t.finite; })
      .def_prop_ro("drawn", [](const moegs::Trace& t) { return t.n_drawn; })
      .def_prop_ro("entries", [](const moegs::Trace& t) { return t.n_entries; });
  m.def("call", &make_call, nb::arg("means"), nb::arg("opacities"), nb::arg("sh"), nb::arg("quats").none(),
        nb::arg("scales").none(), nb::arg("covars").none(), nb::arg("by_covar").none(), nb::arg("features").none(), nb::arg("groups").none(),
        nb::arg("tiles").none() = nb::none(), nb::arg("background"), nb::arg("options"), nb::arg("camera"), nb::arg("width"), nb::arg("height"));
  m.def("forward", &forward, nb::arg("call"), nb::arg("color"), nb::arg("depth"), nb::arg("alpha"),
        nb::arg("features").none(), nb::arg("radii"), nb::arg("keep"), nb::arg("threads"));
  m.def("backward", &backward, nb::arg("call"), nb::arg("trace"), nb::arg("radii"), nb::arg("images"), nb::arg("given"),
        nb::arg("wanted"), nb::arg("absolute"), nb::arg("threads"));
  m.def("project", &project, nb::arg("call"), nb::arg("out"), nb::arg("threads"));
  m.def("unproject", &unproject, nb::arg("call"), nb::arg("given"), nb::arg("wanted"), nb::arg("threads"));
}
