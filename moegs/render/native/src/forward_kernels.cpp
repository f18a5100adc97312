#include "tile.h"
#include "tile_kernels.h"

namespace moegs::MOEGS_ISA {
namespace {

template <int Values>
struct State {  // of a block: transmittance, the same frozen where a pixel stopped, and sums of values
  alignas(64) float open[16], final[16], sum[Values][16];
};

// One block through its list. A pixel stops before the Gaussian that would leave it too little light: from then on
// `open` is at most the threshold and `final` keeps its value. Returns whether any pixel goes on. Not inlined, so that it
// has all registers to itself.
template <int Values>
__attribute__((noinline)) bool walk(const Batch<Values>& batch, int block, int x, int y, State<Values>& state) {
  const f16 px = ramp_x() + spread(float(x)), py = ramp_y() + spread(float(y));
  const uint16_t* list = batch.list[block];
  const int length = batch.length[block];
  const f16 least = spread(kTransmittanceMin), cap = spread(kAlphaMax);
  const bool opaque = batch.opaque;
  f16 open = load(state.open), final = load(state.final), sum[Values];
  MOEGS_UNROLL
  for (int c = 0; c < Values; ++c) sum[c] = load(state.sum[c]);
  bool going = true;
  for (int i = 0; i < length && going;) {
    const int stop = i + kCheck < length ? i + kCheck : length;
    for (; i < stop; ++i) {
      const float* row = batch.row[list[i]];
      f16 alpha = opacity_at(row, px, py).alpha;
      if (opaque) alpha = min(alpha, cap);
      const f16 weight = open * alpha;
      open = fnma(open, alpha, open);
      const m16 lit = open > least;
      const f16 shown = keep(lit, weight);
      final = select(lit, open, final);
      MOEGS_UNROLL
      for (int c = 0; c < Values; ++c) sum[c] = fma(shown, spread(row[kRowValues + c]), sum[c]);
    }
    const m16 lit = open > least;
    open = keep(lit, open);
    going = any(lit);
  }
  store(state.open, open);
  store(state.final, final);
  MOEGS_UNROLL
  for (int c = 0; c < Values; ++c) store(state.sum[c], sum[c]);
  return going;
}

template <int Values>
void write_block(const TileJob& job, const Tile& t, int block, int first, const State<Values>& state) {
  const Window w = window(job, t, block);
  const int n = job.n_channels - first < Values ? job.n_channels - first : Values;
  const Channel* channels = job.channels + first;
  alignas(64) float v[Values + 1][16];
  const f16 final = load(state.final);
  for (int c = 0; c < n; ++c) {
    const float behind = first + c < 3 ? job.background[3 * t.group + first + c] : 0.0f;
    store(v[c], load(state.sum[c]) + spread(behind) * final);
  }
  for (int c = 0; c < n;) {
    const bool triple = whole(w) && triple_at(channels, c, n);
    if (triple)
      write_triple(job, w, channels[c].image, v + c);
    else
      write_pixels(job, w, channels[c].image, channels[c].image_stride, v[c]);
    c += triple ? 3 : 1;
  }
  if (first > 0) return;
  store(v[Values], spread(1.0f) - final);
  write_pixels(job, w, job.alpha, 1, v[Values]);
}

// Channels [first, first + Values) of one tile. The first walk also finds the block masks; later ones read them.
template <int Values>
void composite(const TileJob& job, size_t list, int first) {
  const Tile t = tile_of(job, list);
  const BlockEdges edges = block_edges(t);
  State<Values> state[16];
  __builtin_memset(state, 0, sizeof(state));
  uint32_t alive = 0;
  for (int b = 0; b < 16; ++b) {
    const f16 in = inside(job, block_x(t, b), block_y(t, b));
    store(state[b].open, in);
    store(state[b].final, spread(1.0f));
    alive |= uint32_t(any(in > spread(0.0f))) << b;
  }
  const uint32_t all = alive;
  Batch<Values> batch;
  uint64_t at = t.begin;
  while (at < t.end && alive != 0) {
    const uint64_t stop = t.end - at < kBatch ? t.end : at + kBatch;
    if (first == 0)
      for (uint64_t k = at; k < stop; ++k) {
        job.masks[k] = uint16_t(touched_blocks(job.records[job.entries[k].gaussian], edges));
      }
    fill_batch(job, first, at, stop, alive, batch);
    prefetch_records(job, stop);
    at = stop;
    for (uint32_t left = alive; left != 0; left &= left - 1) {
      const int b = __builtin_ctz(left);
      if (!walk(batch, b, block_x(t, b), block_y(t, b), state[b])) alive &= ~(1u << b);
    }
  }
  job.used[list] = uint32_t(at - t.begin);
  for (int c = first; c < job.n_channels && c < first + Values; c += int(job.channels[c].image_stride))
    prefetch_image<1>(job, t, job.channels[c].image, job.channels[c].image_stride);
  for (uint32_t left = all; left != 0; left &= left - 1) {
    const int b = __builtin_ctz(left);
    write_block(job, t, b, first, state[b]);
  }
}

}  // namespace

void forward_tile(const TileJob& job, size_t list) {
  for (int first = 0; first < job.n_channels; first += kMaxPass) {
    const int n = job.n_channels - first;
#ifndef MOEGS_SANITIZE  // instrumented, each of these takes long to compile
    if (n <= 4)
      composite<4>(job, list, first);
    else if (n <= 7)  // colour, depth and the paper's router channels
      composite<7>(job, list, first);
    else if (n <= 8)
      composite<8>(job, list, first);
    else if (n <= 12)
      composite<12>(job, list, first);
    else if (n <= 16)
      composite<16>(job, list, first);
    else
#endif
      composite<20>(job, list, first);
  }
}

}  // namespace moegs::MOEGS_ISA
