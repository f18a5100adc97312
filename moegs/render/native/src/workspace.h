// Buffers that outlive calls, because the first touch of fresh memory costs more than the kernels that use it.
//
// A call leases a whole set; two calls at a time get two sets. Idle sets are kept for the next call, a few of them.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace moegs {

// Grows and never shrinks; contents are lost when it grows.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  template <class T>
  T* get(size_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64 + 64;
    if (bytes > capacity_) grow(bytes);
    return static_cast<T*>(data_);
  }
  size_t capacity() const { return capacity_; }

 private:
  void grow(size_t bytes) {
    std::free(data_);
    capacity_ = 0;
    const size_t wanted = (bytes + bytes / 4 + 63) / 64 * 64;  // some room, so that a growing scene grows rarely
    const size_t page = wanted >= 2 * kHugePage ? kHugePage : 64;
    const size_t whole = (wanted + page - 1) / page * page;
    data_ = std::aligned_alloc(page, whole);
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    if (page == kHugePage) madvise(data_, whole, MADV_HUGEPAGE);  // tables that are read at random
#endif
    capacity_ = whole;
  }

  static constexpr size_t kHugePage = size_t(1) << 21;
  void* data_ = nullptr;
  size_t capacity_ = 0;
};

// What forward leaves for backward, and what only one of them needs.
struct Buffers {
  Buffer a, b, c, d, e, f, g, h;
  size_t bytes() const {
    size_t sum = 0;
    for (const Buffer* x : {&a, &b, &c, &d, &e, &f, &g, &h}) sum += x->capacity();
    return sum;
  }
};

class BufferPool {
 public:
  std::unique_ptr<Buffers> take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<Buffers>();
    std::unique_ptr<Buffers> set = std::move(idle_.back());
    idle_.pop_back();
    return set;
  }
  void give(std::unique_ptr<Buffers> set) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.size() < kIdle && set->bytes() <= kKeep) idle_.push_back(std::move(set));
  }

 private:
  static constexpr size_t kIdle = 8, kKeep = size_t(1) << 31;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Buffers>> idle_;
};

// A set of buffers for as long as this object lives.
class Lease {
 public:
  explicit Lease(BufferPool& pool) : pool_(pool), set_(pool.take()) {}
  ~Lease() { pool_.give(std::move(set_)); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Buffers* operator->() { return set_.get(); }

 private:
  BufferPool& pool_;
  std::unique_ptr<Buffers> set_;
};

}  // namespace moegs
