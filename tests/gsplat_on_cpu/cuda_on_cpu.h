// Just enough of CUDA's C++ for gsplat's kernels to be compiled by a C++ compiler and to run on a CPU: every thread of a
// block is a coroutine, blocks run one after the other. Slow, and exact in what the kernels are promised: barriers, warps
// of 32, sums over a warp, atomic additions, conversions that saturate.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__

struct dim3 {
    uint32_t x, y, z;
    constexpr dim3(uint32_t x = 1, uint32_t y = 1, uint32_t z = 1) : x(x), y(y), z(z) {}
};
struct uint2 {
    uint32_t x, y;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;  // of the thread that runs

namespace cuda_on_cpu {

constexpr uint32_t WARP = 32;
constexpr int64_t SHARED = 227 * 1024;  // bytes that the threads of a block may share at most

// Runs a kernel for every thread of every block. Throws where CUDA refuses a launch, and where threads wait for ever.
void run(dim3 grid, dim3 block, int64_t shared, const std::function<void()>& kernel);

// Waits for those of the block (or of the warp) that have not returned; hands in a value and gives all values back, by
// rank in the block (or lane). Where a thread has returned, `present` is false.
struct Handed {
    const uint64_t* values;
    const bool* present;
    uint32_t count;
};
Handed exchange_in_block(uint64_t value);
Handed exchange_in_warp(uint64_t value);
uint32_t rank_in_block();

template <class T>
uint64_t packed(T value) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}

template <class T>
T unpacked(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

template <class T>
T sum(const Handed& all, uint32_t end) {
    T total = 0;
    for (uint32_t i = 0; i < end; ++i)
        if (all.present[i]) total += unpacked<T>(all.values[i]);
    return total;
}

template <class... P>
auto launch(void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared, int) {
    return [=](P... arguments) { run(grid, block, shared, [&] { kernel(arguments...); }); };
}

// A conversion of a negative or huge number to unsigned saturates on a GPU; in C++ it is undefined.
template <class T>
uint32_t saturated(T value) {
    return value <= 0 ? 0u : value >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(value);
}

}  // namespace cuda_on_cpu

inline int __syncthreads_count(int flag) {
    const auto all = cuda_on_cpu::exchange_in_block(flag != 0);
    return cuda_on_cpu::sum<int>(all, all.count);
}
inline int __syncthreads_or(int flag) { return __syncthreads_count(flag) != 0; }

template <class T>
T gpuAtomicAdd(T* address, std::type_identity_t<T> value) {  // one thread runs at a time
    const T before = *address;
    *address += value;
    return before;
}

using std::abs;  // C's own is of integers alone
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

namespace cooperative_groups {

struct thread_block {
    void sync() const { cuda_on_cpu::exchange_in_block(0); }
    dim3 group_index() const { return blockIdx; }
    dim3 thread_index() const { return threadIdx; }
    uint32_t thread_rank() const { return cuda_on_cpu::rank_in_block(); }
    uint32_t size() const { return blockDim.x * blockDim.y * blockDim.z; }
};
inline thread_block this_thread_block() { return {}; }

struct grid_group {
    uint64_t thread_rank() const {
        const uint64_t block = blockIdx.x + static_cast<uint64_t>(gridDim.x) * (blockIdx.y + gridDim.y * blockIdx.z);
        return block * this_thread_block().size() + cuda_on_cpu::rank_in_block();
    }
};
inline grid_group this_grid() { return {}; }

// Some lanes of a warp; all live lanes of the warp call a collective together, whichever group of it they are in.
template <unsigned>
struct thread_block_tile {
    uint32_t members = ~0u;  // a bit a lane

    uint32_t lane() const { return cuda_on_cpu::rank_in_block() % cuda_on_cpu::WARP; }
    uint32_t thread_rank() const {  // among the members
        return __builtin_popcount(members & ((1u << lane()) - 1));
    }
    bool any(bool flag) const {
        const auto all = cuda_on_cpu::exchange_in_warp(flag);
        for (uint32_t i = 0; i < all.count; ++i)
            if (has(all, i) && all.values[i] != 0) return true;
        return false;
    }
    bool has(const cuda_on_cpu::Handed& all, uint32_t i) const { return all.present[i] && (members >> i & 1u) != 0; }
};
using coalesced_group = thread_block_tile<0>;

template <unsigned SIZE>
thread_block_tile<SIZE> tiled_partition(const thread_block&) {
    static_assert(SIZE == cuda_on_cpu::WARP);
    return {};
}

template <unsigned SIZE, class Label>
coalesced_group labeled_partition(const thread_block_tile<SIZE>&, Label label) {
    const auto all = cuda_on_cpu::exchange_in_warp(cuda_on_cpu::packed(label));
    coalesced_group group{0};
    for (uint32_t i = 0; i < all.count; ++i)
        if (all.present[i] && cuda_on_cpu::unpacked<Label>(all.values[i]) == label) group.members |= 1u << i;
    return group;
}

template <class T>
struct plus {
    T operator()(T a, T b) const { return a + b; }
};
template <class T>
struct greater {
    T operator()(T a, T b) const { return a > b ? a : b; }
};

template <unsigned SIZE, class T, class Op>
T reduce(const thread_block_tile<SIZE>& group, T value, Op op) {
    const auto all = cuda_on_cpu::exchange_in_warp(cuda_on_cpu::packed(value));
    bool first = true;
    for (uint32_t i = 0; i < all.count; ++i) {
        if (!group.has(all, i)) continue;
        const T other = cuda_on_cpu::unpacked<T>(all.values[i]);
        value = first ? other : op(value, other);
        first = false;
    }
    return value;
}

}  // namespace cooperative_groups

namespace cub {

template <class T, int>
struct BlockReduce {
    struct TempStorage {};
    explicit BlockReduce(TempStorage&) {}
    T Sum(T value) const {
        const auto all = cuda_on_cpu::exchange_in_block(cuda_on_cpu::packed(value));
        return cuda_on_cpu::sum<T>(all, all.count);
    }
};

template <class T, int>
struct BlockScan {
    struct TempStorage {};
    explicit BlockScan(TempStorage&) {}
    void ExclusiveSum(T value, T& before) const {
        const auto all = cuda_on_cpu::exchange_in_block(cuda_on_cpu::packed(value));
        before = cuda_on_cpu::sum<T>(all, cuda_on_cpu::rank_in_block());
    }
};

template <class T>
struct DoubleBuffer {
    T* buffers[2];
    int selector = 0;
    DoubleBuffer(T* current, T* alternate) : buffers{current, alternate} {}
};

struct DeviceRadixSort {
    template <class K, class V>
    static void SortPairs(
        void*, size_t& bytes, DoubleBuffer<K>& keys, DoubleBuffer<V>& values, int64_t n, int begin, int end, int
    ) {
        if (bytes == 0) {  // the first of two calls asks for the size
            bytes = 1;
            return;
        }
        std::vector<int64_t> order(n);
        std::iota(order.begin(), order.end(), 0);
        const auto digits = [&](int64_t i) {
            const uint64_t shifted = static_cast<uint64_t>(keys.buffers[0][i]) >> begin;
            return end - begin >= 64 ? shifted : shifted & ((uint64_t{1} << (end - begin)) - 1);
        };
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return digits(a) < digits(b); });
        for (int64_t i = 0; i < n; ++i) {
            keys.buffers[1][i] = keys.buffers[0][order[i]];
            values.buffers[1][i] = values.buffers[0][order[i]];
        }
        keys.selector = values.selector = 1;
    }
};

struct DeviceSegmentedRadixSort {
    template <class... A>
    static void SortPairs(A&&...) {
        throw std::runtime_error("segmented sorting is not there");
    }
};

}  // namespace cub

constexpr int cudaSuccess = 0, cudaFuncAttributeMaxDynamicSharedMemorySize = 8;
template <class F>
int cudaFuncSetAttribute(F*, int, int64_t) {
    return cudaSuccess;
}

namespace c10::cuda::CUDACachingAllocator {
struct Memory {
    std::vector<char> bytes;
    void* get() { return bytes.data(); }
};
struct Allocator {
    Memory allocate(size_t n) { return {std::vector<char>(n)}; }
};
inline Allocator* get() {
    static Allocator one;
    return &one;
}
}  // namespace c10::cuda::CUDACachingAllocator

namespace at::cuda {
inline int getCurrentCUDAStream() { return 0; }
using CUDAStream = int;
struct OptionalCUDAGuard {
    template <class T>
    explicit OptionalCUDAGuard(T&&) {}
};
}  // namespace at::cuda
