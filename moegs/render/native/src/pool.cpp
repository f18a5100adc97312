#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace moegs {
namespace {

constexpr int kMaxHelpers = 255;
// A helper that sleeps comes some 200 µs late. The stages of one call follow each other within this, and a call follows
// within it on rouse().
constexpr std::chrono::microseconds kAwake{300};

struct Job {
  PieceFunction function;
  void* context;
  size_t pieces;
  std::atomic<size_t> next{0};
  std::atomic<size_t> done{0};
  int seats = 0;  // helpers that may still join, guarded by Pool::mutex

  // Returns how many pieces it did. The context is touched only after a successful claim, while the caller is still waiting
  // for that very piece.
  size_t work() {
    size_t count = 0;
    for (size_t piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < pieces; ++count) {
      function(context, piece);
      done.fetch_add(1, std::memory_order_release);
    }
    return count;
  }
};

// Whether helpers are worth calling. Beside a busy process a helper can lose its processor in the middle of a piece, and
// the caller then waits for it, in bad cases longer than the helper saved. Time lost that way is owed, time saved is paid
// back; while there is a debt the caller works alone, which pays it back too, more slowly, so that helpers get another try.
class Account {
 public:
  using Clock = std::chrono::steady_clock;

  bool in_debt() const { return owed_.load(std::memory_order_relaxed) > 0; }

  // The caller did `mine` of the pieces in `working` and then waited until `total` had passed.
  void settle(Clock::duration working, Clock::duration total, size_t mine, size_t pieces) {
    if (mine > 0) add(total.count() - int64_t(double(working.count()) * double(pieces) / double(mine)));
  }
  void alone(Clock::duration working) { add(-working.count() / kPatience); }

 private:
  static constexpr int64_t kPatience = 4;
  static constexpr int64_t kMostOwed = Clock::duration(std::chrono::milliseconds(4)).count();
  static constexpr int64_t kMostSaved = Clock::duration(std::chrono::milliseconds(8)).count();

  // Concurrent callers may overwrite each other's entry; it is an estimate.
  void add(int64_t loss) {
    const int64_t owed = owed_.load(std::memory_order_relaxed) + loss;
    owed_.store(std::clamp(owed, -kMostSaved, kMostOwed), std::memory_order_relaxed);
  }

  std::atomic<int64_t> owed_{0};
};

class Pool {
 public:
  void run(size_t pieces, int helpers, PieceFunction function, void* context) {
    auto job = std::make_shared<Job>();
    job->function = function;
    job->context = context;
    job->pieces = pieces;
    job->seats = helpers;
    publish(job, helpers);
    const auto start = Account::Clock::now();
    const size_t mine = job->work();
    const auto working = Account::Clock::now() - start;
    retire(job);
    while (job->done.load(std::memory_order_acquire) < pieces) std::this_thread::yield();
    account_.settle(working, Account::Clock::now() - start, mine, pieces);
  }

  // Helpers wake up while the caller still prepares its job.
  void rouse(int helpers) {
    if (account_.in_debt()) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ensure(helpers);
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
  }

  // The caller alone, for as long as that is what pays. Returns whether it did the work.
  bool run_alone(size_t pieces, PieceFunction function, void* context) {
    if (!account_.in_debt()) return false;
    const auto start = Account::Clock::now();
    for (size_t piece = 0; piece < pieces; ++piece) function(context, piece);
    account_.alone(Account::Clock::now() - start);
    return true;
  }

 private:
  void publish(const std::shared_ptr<Job>& job, int helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ensure(helpers);
      jobs_.push_back(job);
      waiting_.fetch_add(1, std::memory_order_release);
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
  }

  void retire(const std::shared_ptr<Job>& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    remove(job);
  }

  void remove(const std::shared_ptr<Job>& job) {
    for (auto it = jobs_.begin(); it != jobs_.end(); ++it)
      if (*it == job) {
        jobs_.erase(it);
        waiting_.fetch_sub(1, std::memory_order_release);
        return;
      }
  }

  void ensure(int helpers) {
    while (helpers_ < helpers && helpers_ < kMaxHelpers && start_helper()) {
    }
  }

  bool start_helper() {
    try {
      std::thread([this] { help(); }).detach();
    } catch (...) {
      return false;  // no more threads to be had: the caller does the work alone
    }
    ++helpers_;
    return true;
  }

  [[noreturn]] void help() {
    for (;;) take()->work();
  }

  std::shared_ptr<Job> take() {
    for (;;) {
      const auto until = std::chrono::steady_clock::now() + kAwake;
      while (waiting_.load(std::memory_order_acquire) == 0 && std::chrono::steady_clock::now() < until) {
        for (int i = 0; i < 32 && waiting_.load(std::memory_order_relaxed) == 0; ++i) relax();
        std::this_thread::yield();  // whoever else is on this processor, the caller perhaps, has better things to do
      }
      std::unique_lock<std::mutex> lock(mutex_);
      if (jobs_.empty()) wake_.wait(lock);  // for a job, or to be roused and stay awake for a while
      if (jobs_.empty()) continue;
      std::shared_ptr<Job> job = jobs_.front();
      if (--job->seats <= 0) remove(job);
      return job;
    }
  }

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::atomic<int> waiting_{0};
  int helpers_ = 0;
  Account account_;
};

// Never destroyed: helpers outlive main(). A forked child has no helpers and starts with a new pool.
std::atomic<Pool*> the_pool{nullptr};
std::once_flag once;

Pool& pool() {
  std::call_once(once, [] {
    the_pool.store(new Pool);
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { the_pool.store(new Pool); });
#endif
  });
  return *the_pool.load(std::memory_order_acquire);
}

}  // namespace

void parallel_for(size_t pieces, int threads, PieceFunction function, void* context) {
  const size_t limit = pieces < size_t(kMaxHelpers) + 1 ? pieces : size_t(kMaxHelpers) + 1;
  const int helpers = threads > 1 && limit > 1 ? int(size_t(threads) < limit ? size_t(threads) : limit) - 1 : 0;
  if (helpers > 0) {
    if (!pool().run_alone(pieces, function, context)) pool().run(pieces, helpers, function, context);
    return;
  }
  for (size_t piece = 0; piece < pieces; ++piece) function(context, piece);
}

void rouse_helpers(int threads) {
  if (threads > 1) pool().rouse(std::min(threads - 1, kMaxHelpers));
}

}  // namespace moegs
