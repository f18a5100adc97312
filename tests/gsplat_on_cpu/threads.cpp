// The threads of a block as coroutines of one thread, which take turns at barriers.
#include "cuda_on_cpu.h"

#include <csetjmp>
#include <memory>
#include <stdexcept>
#include <ucontext.h>

namespace cuda_on_cpu {
namespace {

constexpr size_t STACK = 256 * 1024;
constexpr uint32_t MOST = 1024;  // threads of a block

uint64_t moves;  // barriers opened and threads ended

// Two sets of values in turn: some may still read the last ones when others hand in the next.
struct Barrier {
    uint64_t values[2][MOST];
    bool present[2][MOST];
    uint32_t waiting = 0, live = 0, count = 0;
    uint64_t generation = 0;

    void start(uint32_t threads) {
        waiting = 0, live = count = threads, generation = 0;
        std::fill(&present[0][0], &present[0][0] + 2 * MOST, false);
    }
    void open() {
        ++moves;
        ++generation;
        waiting = 0;
        std::fill_n(present[generation % 2], count, false);
    }
};

struct Thread {
    ucontext_t context;
    std::jmp_buf place;
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool started = false, done = false;
};

std::vector<Thread> threads;
std::vector<Barrier> warps;
Barrier whole;
uint32_t current;
std::jmp_buf scheduler;
const std::function<void()>* running;

constexpr uint32_t MOST_X = 0x7fffffff, MOST_YZ = 0xffff;

bool fits(dim3 size, uint32_t x, uint32_t yz) {
    return size.x > 0 && size.y > 0 && size.z > 0 && size.x <= x && size.y <= yz && size.z <= yz;
}

void leave(Barrier& barrier) {
    if (--barrier.live > 0 && barrier.waiting == barrier.live) barrier.open();
}

void body() {
    (*running)();
    threads[current].done = true;
    ++moves;
    leave(whole);
    leave(warps[current / WARP]);
    _longjmp(scheduler, 1);
}

void pause() {
    if (_setjmp(threads[current].place) == 0) _longjmp(scheduler, 1);
}

void resume(uint32_t rank) {
    current = rank;
    threadIdx = dim3(rank % blockDim.x, rank / blockDim.x % blockDim.y, rank / (blockDim.x * blockDim.y));
    Thread& thread = threads[rank];
    if (_setjmp(scheduler) != 0) return;
    if (thread.started) _longjmp(thread.place, 1);
    thread.started = true;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, body, 0);
    setcontext(&thread.context);
}

Handed exchange(Barrier& barrier, uint32_t rank, uint64_t value) {
    const uint64_t mine = barrier.generation;
    barrier.values[mine % 2][rank] = value;
    barrier.present[mine % 2][rank] = true;
    if (++barrier.waiting == barrier.live) barrier.open();
    while (barrier.generation == mine) pause();
    return {barrier.values[mine % 2], barrier.present[mine % 2], barrier.count};
}

}  // namespace

Handed exchange_in_block(uint64_t value) { return exchange(whole, current, value); }
Handed exchange_in_warp(uint64_t value) { return exchange(warps[current / WARP], current % WARP, value); }
uint32_t rank_in_block() { return current; }

void run(dim3 grid, dim3 block, int64_t shared, const std::function<void()>& kernel) {
    if (!fits(grid, MOST_X, MOST_YZ) || !fits(block, MOST, MOST) || block.x * block.y * block.z > MOST || shared > SHARED)
        throw std::runtime_error("a launch that CUDA refuses: no or too many blocks or threads, or too much shared memory");
    const uint32_t n = block.x * block.y * block.z;
    gridDim = grid, blockDim = block, running = &kernel;
    if (threads.size() < n) threads.resize(n);
    warps.resize((MOST + WARP - 1) / WARP);
    for (uint32_t b = 0; b < grid.x * grid.y * grid.z; ++b) {
        blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y));
        whole.start(n);
        for (uint32_t w = 0; w * WARP < n; ++w) warps[w].start(std::min(WARP, n - w * WARP));
        for (uint32_t i = 0; i < n; ++i) threads[i].started = threads[i].done = false;
        for (uint32_t left = n; left > 0;) {
            const uint64_t before = moves;
            for (uint32_t i = 0; i < n; ++i) {
                if (threads[i].done) continue;
                resume(i);
                left -= threads[i].done ? 1 : 0;
            }
            if (moves == before) throw std::runtime_error("threads of a block wait for each other at several barriers");
        }
    }
}

}  // namespace cuda_on_cpu
