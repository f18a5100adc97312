// What the stages of the rasteriser hand to each other. Plain data, the same for every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moegs {

constexpr int kTile = 16;           // pixels; a tile is 4x4 blocks of 4x4 pixels, a block is one vector
constexpr int kChunk = 1024;        // Gaussians that one piece of a per-Gaussian stage handles
constexpr int kMaxPass = 20;        // channels composited by one walk over a tile
constexpr int kPoseTerms = 15;      // gradient of rotation (9), translation (3) and camera centre (3)
constexpr float kAlphaMax = 0.999f;
constexpr float kAlphaMin = 1.0f / 255.0f;
constexpr float kTransmittanceMin = 1e-4f;
constexpr float kLog2AlphaMin = -7.99435344f;
constexpr float kLevelMax = 7.99f;  // log2(kAlphaMax / kAlphaMin), less a margin
constexpr float kDetMin = 1e-10f;

struct GroupOptions {
  float eps2d, compensate, near, far;
};

// What to draw and from where. Pointers are to contiguous float32 arrays, one row a Gaussian; absent ones are null.
struct Scene {
  int64_t n;
  int sh_terms, n_features, n_groups;
  const float *means, *quats, *scales, *covars, *opacities, *sh, *features;
  const uint8_t* by_covar;  // which rows are given by covars where quats and scales are there too; null: not mixed
  const int32_t* groups;
  const int64_t* first_of;  // [groups + 1]: each group's first row, then n; null: groups are mixed up, or there is one
  const uint8_t* tiles;  // [groups, tiles_y, tiles_x]: which lists are drawn; null: all
  const GroupOptions* options;
  float rotation[9], translation[3], centre[3];
  float fx, fy, cx, cy;
  int width, height, tiles_x, tiles_y;
};

// A Gaussian in the image; one cache line. Written only for those that are drawn.
//   alpha(pixel) = 2^(level - (a dx² + b dx dy + c dy²)), (dx, dy) = (x, y) - pixel
struct alignas(64) Record {
  float x, y, a, b, c, level;
  float slope_y, slope_x;  // -b/2c and -b/2a: where the ellipse is nearest to a line of constant dx, of constant dy
  float color[3], depth;
  uint32_t slot;           // first gradient slot, counted from that of its chunk
  uint16_t x0, y0, x1, y1; // tiles [x0, x1) x [y0, y1)
  int32_t group;
};

struct Entry {
  uint32_t gaussian, slot;
};

// One value channel: where a Gaussian's value is, and where the image of it (or its gradient) is.
struct Channel {
  const float* values;  // values[gaussian * value_stride]
  size_t value_stride;
  float* image;         // image[pixel * image_stride], pixel counted over all groups
  const float* grad;    // backward only
  size_t image_stride;
};

struct TileJob {
  const Record* records;
  const Entry* entries;    // tile lists one after the other, front to back
  const uint64_t* starts;  // where each list begins, and the end of the last
  uint64_t n_entries;
  uint16_t* masks;         // per entry: which blocks of the tile the ellipse touches
  uint32_t* used;          // per list: how many entries forward looked at
  int width, height, tiles_x, tiles_y;
  int n_channels;
  const Channel* channels;
  float* alpha;             // [groups, h, w]
  const float* background;  // [groups, 3]; the first three channels get it in forward

  // backward only
  const float* grad_alpha;  // null: zero
  bool geometry, absolute;  // which gradients besides those of the values
  float* slots;
  uint8_t* touched;
  size_t slot_stride;
};

// Gradients of what projection hands to the rasteriser, one row a Gaussian, for the stand-alone projection.
struct ProjectedGrads {
  const float *means2d, *conics, *depths, *colors, *opacities;
};

// Where gradients go; null where nobody asks.
struct Grads {
  float *means, *quats, *scales, *covars, *opacities, *sh, *features, *probe;
  double* pose;  // kPoseTerms for each chunk
};

// Columns of a gradient slot. Values follow the geometry (and the absolute image-plane gradient, where asked).
enum SlotColumn { kSlotX, kSlotY, kSlotA, kSlotB, kSlotC, kSlotLevel, kSlotGeometry };

struct SlotLayout {
  const float* slots;
  const uint8_t* touched;
  const uint64_t* chunk_slot;  // first slot of each chunk
  size_t stride;
  bool geometry, absolute;
  int color, depth, features;  // columns, -1 where absent; at most 16 columns before the features
};

}  // namespace moegs
