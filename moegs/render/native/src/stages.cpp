#include "stages.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "pool.h"
#include "project_kernels.h"
#include "tile_kernels.h"

namespace moegs {
namespace {

BufferPool& traces() {
  static BufferPool* pool = new BufferPool;  // outlives everything that may still hold a lease at exit
  return *pool;
}

BufferPool& scratch() {
  static BufferPool* pool = new BufferPool;
  return *pool;
}

size_t chunks_of(int64_t n) { return size_t((n + kChunk - 1) / kChunk); }

int64_t chunk_end(const Scene& scene, size_t chunk) { return std::min<int64_t>(scene.n, int64_t(chunk + 1) * kChunk); }

// Least significant digit first; equal depths keep the order of their indices. Returns whichever array holds the result.
uint64_t* sort_by_depth(uint64_t* keys, uint64_t* other, size_t count) {
  constexpr int kBits = 11, kDigits = 3;
  std::vector<uint32_t> histogram(size_t(kDigits) << kBits, 0);
  for (size_t i = 0; i < count; ++i)
    for (int d = 0; d < kDigits; ++d) ++histogram[(size_t(d) << kBits) + (keys[i] >> (32 + kBits * d) & ((1u << kBits) - 1))];
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* bin = histogram.data() + (size_t(d) << kBits);
    if (count == 0 || bin[keys[0] >> (32 + kBits * d) & ((1u << kBits) - 1)] == count) continue;  // all alike
    uint32_t sum = 0;
    for (size_t b = 0; b < (size_t(1) << kBits); ++b) sum += std::exchange(bin[b], sum);
    for (size_t i = 0; i < count; ++i) other[bin[keys[i] >> (32 + kBits * d) & ((1u << kBits) - 1)]++] = keys[i];
    std::swap(keys, other);
  }
  return keys;
}

// What the tile lists need of a record, so that it is fetched only once.
struct Box {
  uint32_t gaussian, slot;
  uint16_t x0, y0, x1, y1;
  int32_t group;
};

// Calls visit(list, place in the box) for every tile of a box that is to be drawn, in slot order.
template <class Visit>
inline void each_tile(const Box& b, const Scene& s, Visit&& visit) {
  const size_t base = size_t(b.group) * s.tiles_x * s.tiles_y;
  uint32_t place = 0;
  for (size_t y = b.y0; y < b.y1; ++y)
    for (size_t x = b.x0; x < b.x1; ++x, ++place) {
      const size_t list = base + y * s.tiles_x + x;
      if (s.tiles == nullptr || s.tiles[list]) visit(list, place);
    }
}

// Counting sort of the depth-ordered Gaussians into tile lists. Each piece takes a run of them: first it counts, then,
// knowing what the pieces before it put into every list, it fills. The lists do not depend on the number of pieces.
void fill_lists(const Scene& s, Pass& t, const uint64_t* order, Lease& tmp, int threads) {
  const size_t lists = t.n_lists;
  const size_t most = std::max<size_t>(1, (size_t(1) << 22) / lists);
  const size_t pieces = threads > 1 ? std::min<size_t>({size_t(threads) * 2, most, t.n_drawn / 1024 + 1}) : 1;
  uint32_t* counts = tmp->d.get<uint32_t>(pieces * lists);
  Box* boxes = tmp->e.get<Box>(t.n_drawn);
  const auto run = [&](size_t piece, auto&& visit) {
    const size_t first = t.n_drawn * piece / pieces, last = t.n_drawn * (piece + 1) / pieces;
    for (size_t i = first; i < last; ++i) visit(i, last);
  };
  parallel(pieces, threads, [&](size_t piece) {
    uint32_t* count = counts + piece * lists;
    std::memset(count, 0, lists * sizeof(uint32_t));
    run(piece, [&](size_t i, size_t last) {
      if (i + 16 < last) __builtin_prefetch(&t.records[uint32_t(order[i + 16])].slot);
      const uint32_t g = uint32_t(order[i]);
      const Record& r = t.records[g];
      boxes[i] = {g, uint32_t(t.chunk_slot[g / kChunk]) + r.slot, r.x0, r.y0, r.x1, r.y1, r.group};
      each_tile(boxes[i], s, [&](size_t list, uint32_t) { ++count[list]; });
    });
  });
  uint64_t sum = 0;
  for (size_t list = 0; list < lists; ++list) {
    t.starts[list] = sum;
    for (size_t piece = 0; piece < pieces; ++piece) {
      uint32_t& count = counts[piece * lists + list];
      sum += std::exchange(count, uint32_t(sum));
    }
  }
  t.starts[lists] = sum;
  parallel(pieces, threads, [&](size_t piece) {
    uint32_t* at = counts + piece * lists;
    run(piece, [&](size_t i, size_t) {
      const Box& b = boxes[i];
      each_tile(b, s, [&](size_t list, uint32_t place) { t.entries[at[list]++] = {b.gaussian, b.slot + place}; });
    });
  });
}

// Projects all chunks. Returns the drawn Gaussians' keys, one after the other.
uint64_t* project_all(const Scene& s, Pass& t, float* radii, Lease& tmp, int threads) {
  const size_t chunks = chunks_of(s.n);
  t.records = t.lease->a.get<Record>(size_t(s.n));
  t.chunk_slot = t.lease->b.get<uint64_t>(chunks + 1);
  uint64_t* keys = tmp->a.get<uint64_t>(size_t(s.n));
  ChunkResult* results = tmp->b.get<ChunkResult>(chunks);
  const auto kernel = MOEGS_PICK(project_chunk);
  parallel(chunks, threads, [&](size_t c) {
    results[c] = kernel(s, int64_t(c) * kChunk, chunk_end(s, c), t.records, radii, keys);
  });
  for (size_t c = 0; c < chunks; ++c) {
    t.chunk_slot[c] = t.n_entries;
    t.n_entries += results[c].tiles;
    t.finite = t.finite && results[c].finite;
    std::memmove(keys + t.n_drawn, keys + c * kChunk, results[c].drawn * sizeof(uint64_t));
    t.n_drawn += results[c].drawn;
  }
  t.chunk_slot[chunks] = t.n_entries;
  return keys;
}

void check_entries(const Scene& s, uint64_t entries) {
  if (entries <= kMaxEntries) return;
  throw TooManyEntries("the Gaussians cover " + std::to_string(entries) + " tiles of the " + std::to_string(s.width) + "x" +
                       std::to_string(s.height) + " image, more than " + std::to_string(kMaxEntries) +
                       " can be held; are their scales sound? Otherwise render a smaller image or fewer Gaussians at a time");
}

std::vector<Channel> channels_of(const Scene& s, const Pass& t, const Images& image, const ImageGrads* grads) {
  constexpr size_t stride = sizeof(Record) / sizeof(float);
  const size_t f = size_t(s.n_features);
  const float* color = reinterpret_cast<const float*>(t.records) + offsetof(Record, color) / sizeof(float);
  const float* depth = reinterpret_cast<const float*>(t.records) + offsetof(Record, depth) / sizeof(float);
  std::vector<Channel> all;
  if (grads == nullptr || grads->color != nullptr)
    for (size_t c = 0; c < 3; ++c) all.push_back({color + c, stride, image.color + c, grads ? grads->color + c : nullptr, 3});
  if (grads == nullptr || grads->depth != nullptr) all.push_back({depth, stride, image.depth, grads ? grads->depth : nullptr, 1});
  if (grads == nullptr || grads->features != nullptr)
    for (size_t c = 0; c < f; ++c)
      all.push_back({s.features + c, f, image.features + c, grads ? grads->features + c : nullptr, f});
  return all;
}

TileJob tile_job(const Scene& s, const Pass& t, const std::vector<Channel>& channels, float* alpha) {
  TileJob job{};
  job.records = t.records;
  job.entries = t.entries;
  job.starts = t.starts;
  job.n_entries = t.starts[t.n_lists];
  job.masks = t.masks;
  job.used = t.used;
  job.width = s.width, job.height = s.height;
  job.tiles_x = s.tiles_x, job.tiles_y = s.tiles_y;
  job.n_channels = int(channels.size());
  job.channels = channels.data();
  job.alpha = alpha;
  return job;
}

// Calls tile(list) for every list. A piece is a run of tiles side by side, which share many Gaussians; it is short enough
// for the last ones to come out even.
template <class F>
void each_list(size_t lists, int threads, F&& tile) {
  const size_t run = std::clamp<size_t>(lists / (size_t(std::max(threads, 1)) * 32), 1, 8);
  parallel((lists + run - 1) / run, threads, [&](size_t piece) {
    for (size_t list = piece * run; list < std::min(lists, (piece + 1) * run); ++list) tile(list);
  });
}

void add_pose(const double* sums, size_t chunks, double* total) {
  for (size_t c = 0; c < chunks; ++c)
    for (int i = 0; i < kPoseTerms; ++i) total[i] += sums[c * kPoseTerms + i];
}

// Gradient of the 4x4 view matrix from that of rotation, translation, and the camera centre -R^T t.
void pose_gradient(const Scene& s, const double* g, float* viewmat) {
  std::fill(viewmat, viewmat + 16, 0.0f);
  for (int i = 0; i < 3; ++i) {
    double shift = g[9 + i];
    for (int j = 0; j < 3; ++j) {
      viewmat[4 * i + j] = float(g[3 * i + j] - double(s.translation[i]) * g[12 + j]);
      shift -= double(s.rotation[3 * i + j]) * g[12 + j];
    }
    viewmat[4 * i + 3] = float(shift);
  }
}

void background_gradient(const Scene& s, const float* alpha, const float* grad_color, float* out) {
  const size_t pixels = size_t(s.width) * s.height;
  for (int g = 0; g < s.n_groups; ++g) {
    double sum[3] = {};
    for (size_t p = g * pixels; p < (g + 1) * pixels && grad_color != nullptr; ++p)
      for (int c = 0; c < 3; ++c) sum[c] += double(1.0f - alpha[p]) * grad_color[3 * p + c];
    for (int c = 0; c < 3; ++c) out[3 * g + c] = float(sum[c]);
  }
}

SlotLayout layout_of(const Scene& s, const Pass& t, const ImageGrads& given, bool geometry, bool absolute) {
  SlotLayout layout{};
  int column = geometry ? int(kSlotGeometry) + (absolute ? 2 : 0) : 0;
  const auto place = [&column](bool there, int width) {
    if (!there) return -1;
    column += width;
    return column - width;
  };
  layout.geometry = geometry, layout.absolute = geometry && absolute;
  layout.color = place(given.color != nullptr, 3);
  layout.depth = place(given.depth != nullptr, 1);
  layout.features = place(given.features != nullptr, s.n_features);
  layout.stride = size_t(column + 3) / 4 * 4;
  layout.chunk_slot = t.chunk_slot;
  return layout;
}

float* row(float* base, int64_t first, int width) { return base != nullptr ? base + first * width : nullptr; }
const float* row(const float* base, int64_t first, int width) { return base != nullptr ? base + first * width : nullptr; }

size_t pixels(const Scene& s) { return size_t(s.width) * s.height; }

// One group as a scene of its own, and what is its part of pictures and gradients.
struct Part {
  int group;
  int64_t first;  // row
  Scene scene;

  Images images(const Images& all) const {
    const int64_t p = int64_t(group * pixels(scene));
    return {row(all.color, p, 3), row(all.depth, p, 1), row(all.alpha, p, 1), row(all.features, p, scene.n_features)};
  }
  ImageGrads given(const ImageGrads& all) const {
    const int64_t p = int64_t(group * pixels(scene));
    return {row(all.color, p, 3), row(all.depth, p, 1), row(all.alpha, p, 1), row(all.features, p, scene.n_features)};
  }
  Grads wanted(const Grads& all) const {
    return {row(all.means, first, 3), row(all.quats, first, 4), row(all.scales, first, 3), row(all.covars, first, 9),
            row(all.opacities, first, 1), row(all.sh, first, 3 * scene.sh_terms),
            row(all.features, first, scene.n_features), row(all.probe, first, 2), nullptr};
  }
};

size_t passes_of(const Scene& s) { return s.first_of != nullptr ? size_t(s.n_groups) : 1; }

Part part_of(const Scene& s, size_t group) {
  if (s.first_of == nullptr) return {0, 0, s};
  const int64_t i = s.first_of[group];
  Scene p = s;
  p.n = s.first_of[group + 1] - i, p.n_groups = 1;
  p.groups = nullptr, p.first_of = nullptr;
  p.means = row(s.means, i, 3), p.quats = row(s.quats, i, 4), p.scales = row(s.scales, i, 3), p.covars = row(s.covars, i, 9);
  p.opacities = row(s.opacities, i, 1), p.sh = row(s.sh, i, 3 * s.sh_terms), p.features = row(s.features, i, s.n_features);
  if (s.by_covar != nullptr) p.by_covar = s.by_covar + i;
  if (s.tiles != nullptr) p.tiles = s.tiles + group * s.tiles_x * s.tiles_y;
  p.options = s.options + group;
  return {int(group), i, p};
}

std::unique_ptr<Pass> forward_pass(const Scene& s, const float* background, const Images& images, float* radii, int threads) {
  auto t = std::make_unique<Pass>();
  Lease tmp(scratch());
  uint64_t* keys = project_all(s, *t, radii, tmp, threads);
  if (!t->finite) return t;
  check_entries(s, t->n_entries);
  t->n_lists = size_t(s.n_groups) * s.tiles_x * s.tiles_y;
  t->starts = t->lease->c.get<uint64_t>(t->n_lists + 1);
  t->used = t->lease->d.get<uint32_t>(t->n_lists);
  t->entries = t->lease->e.get<Entry>(t->n_entries);
  t->masks = t->lease->f.get<uint16_t>(t->n_entries);
  const uint64_t* order = sort_by_depth(keys, tmp->c.get<uint64_t>(t->n_drawn), t->n_drawn);
  fill_lists(s, *t, order, tmp, threads);
  const std::vector<Channel> channels = channels_of(s, *t, images, nullptr);
  TileJob job = tile_job(s, *t, channels, images.alpha);
  job.background = background;
  const auto kernel = MOEGS_PICK(forward_tile);
  each_list(t->n_lists, threads, [&](size_t list) { kernel(job, list); });
  return t;
}

void backward_pass(const Scene& s, const Pass& t, const float* radii, const Images& images, const ImageGrads& given,
                   const Grads& wanted, bool absolute, double* pose, float* background, int threads) {
  Lease tmp(scratch());
  const size_t chunks = chunks_of(s.n);
  Grads grads = wanted;
  if (pose != nullptr) grads.pose = tmp->c.get<double>(chunks * kPoseTerms);
  const bool geometry = grads.means || grads.quats || grads.scales || grads.covars || grads.opacities || grads.pose || grads.probe;
  const std::vector<Channel> channels = channels_of(s, t, images, &given);
  SlotLayout layout = layout_of(s, t, given, geometry, absolute && grads.probe);
  TileJob job = tile_job(s, t, channels, images.alpha);
  job.grad_alpha = given.alpha;
  job.geometry = layout.geometry, job.absolute = layout.absolute;
  job.slots = tmp->a.get<float>(t.n_entries * layout.stride + 16);
  job.touched = tmp->b.get<uint8_t>(t.n_entries);
  job.slot_stride = layout.stride;
  layout.slots = job.slots;
  layout.touched = job.touched;
  std::memset(job.touched, 0, t.n_entries);
  const auto tile = MOEGS_PICK(backward_tile);
  each_list(t.n_lists, threads, [&](size_t list) { tile(job, list); });
  const auto chunk = MOEGS_PICK(unproject_chunk);
  parallel(chunks, threads, [&](size_t c) {
    chunk(s, int64_t(c) * kChunk, chunk_end(s, c), t.records, radii, &layout, nullptr, grads);
  });
  if (pose != nullptr) add_pose(grads.pose, chunks, pose);
  if (background != nullptr) background_gradient(s, images.alpha, given.color, background);
}

}  // namespace

Pass::Pass() : lease(traces()) {}

// Groups whose rows lie together are drawn one after the other: the buffers that one has just used are still in the cache
// when the next needs them, most of all the slots of backward. Groups that are mixed up take one pass together.
std::unique_ptr<Trace> forward(const Scene& s, const float* background, const Images& images, float* radii, bool keep,
                               int threads) {
  auto t = std::make_unique<Trace>();
  for (size_t g = 0; g < passes_of(s) && t->finite; ++g) {
    const Part p = part_of(s, g);
    auto pass = forward_pass(p.scene, background + 3 * g, p.images(images), radii + 2 * p.first, threads);
    t->n_entries += pass->n_entries, t->n_drawn += pass->n_drawn;
    t->finite = pass->finite;
    if (keep) t->passes.push_back(std::move(pass));
  }
  return t;
}

void backward(const Scene& s, const Trace& t, const float* radii, const Images& images, const ImageGrads& given,
              const Grads& wanted, bool absolute, float* viewmat, float* background, int threads) {
  if (t.passes.size() != passes_of(s)) throw std::invalid_argument("backward: forward was told that none would follow");
  double pose[kPoseTerms] = {};
  for (size_t g = 0; g < t.passes.size(); ++g) {
    const Part p = part_of(s, g);
    backward_pass(p.scene, *t.passes[g], radii + 2 * p.first, p.images(images), p.given(given), p.wanted(wanted), absolute,
                  viewmat != nullptr ? pose : nullptr, row(background, int64_t(g), 3), threads);
  }
  if (viewmat != nullptr) pose_gradient(s, pose, viewmat);
}

bool project(const Scene& s, const Projection& out, int threads) {
  Pass t;
  Lease tmp(scratch());
  project_all(s, t, out.radii, tmp, threads);
  constexpr float kScale = 1.3862943611198906f;  // 2 ln 2: the record's quadratic form is in powers of two
  for (int64_t i = 0; i < s.n && t.finite; ++i) {
    const bool drawn = out.radii[2 * i] > 0.0f;
    const Record none{}, &r = drawn ? t.records[i] : none;
    out.means2d[2 * i] = r.x, out.means2d[2 * i + 1] = r.y;
    out.conics[3 * i] = kScale * r.a, out.conics[3 * i + 1] = 0.5f * kScale * r.b, out.conics[3 * i + 2] = kScale * r.c;
    out.depths[i] = r.depth;
    for (int c = 0; c < 3; ++c) out.colors[3 * i + c] = std::max(0.0f, r.color[c]);
    out.opacities[i] = drawn ? std::exp2(r.level) : 0.0f;
  }
  return t.finite;
}

void unproject(const Scene& s, const ProjectedGrads& given, const Grads& wanted, float* viewmat, int threads) {
  Pass t;
  Lease tmp(scratch());
  float* radii = t.lease->h.get<float>(size_t(s.n) * 2);
  project_all(s, t, radii, tmp, threads);
  const size_t chunks = chunks_of(s.n);
  Grads grads = wanted;
  if (viewmat != nullptr) grads.pose = tmp->c.get<double>(chunks * kPoseTerms);
  const auto kernel = MOEGS_PICK(unproject_chunk);
  parallel(chunks, threads, [&](size_t c) {
    kernel(s, int64_t(c) * kChunk, chunk_end(s, c), t.records, radii, nullptr, &given, grads);
  });
  if (viewmat == nullptr) return;
  double pose[kPoseTerms] = {};
  add_pose(grads.pose, chunks, pose);
  pose_gradient(s, pose, viewmat);
}

}  // namespace moegs
