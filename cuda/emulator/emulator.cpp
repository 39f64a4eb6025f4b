#include "cuda/emulator/emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fastdl::emulator {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int kLanes = 32;

struct Barrier {
  int members = 0, arrived = 0;
  int64_t generation = 0;

  void release_if_all_arrived() {
    if (arrived < members) return;
    arrived = 0;
    ++generation;
  }
};

struct Warp {
  Barrier barrier;
  alignas(64) char slots[2][kLanes * 64];  // of the exchange under way, and of the one before it
  bool live[kLanes];
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes, size;
};

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t entry;
  jmp_buf resume;
  bool started = false, done = true;
  dim3 index;
  Warp* warp = nullptr;
  const Barrier* waits_for = nullptr;
  int64_t generation = 0;
  std::deque<std::vector<Copy>> copies;  // groups of them, the last one open

  bool ready() const { return !done && !(waits_for && waits_for->generation == generation); }
};

std::mutex one_launch;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<std::unique_ptr<Warp>> warps;
Barrier block_barrier;
Fiber* running;
jmp_buf scheduler;
const std::function<void()>* body;
std::vector<char> shared;
const char* error = nullptr;  // of the kernel, found by require()

// Both leave their stack by a jump and come back to it by another: nothing else may live in them.
[[gnu::noinline]] void yield() {
  if (_setjmp(running->resume) == 0) _longjmp(scheduler, 1);
}

[[gnu::noinline]] void resume(Fiber* fiber) {
  running = fiber;
  thread_index = fiber->index;
  if (_setjmp(scheduler) != 0) return;
  if (running->started) _longjmp(running->resume, 1);
  running->started = true;
  setcontext(&running->entry);
}

void wait(Barrier& barrier) {
  running->waits_for = &barrier;
  running->generation = barrier.generation;
  ++barrier.arrived;
  barrier.release_if_all_arrived();
  while (!running->ready()) yield();
  running->waits_for = nullptr;
}

void leave(Barrier& barrier) {
  --barrier.members;
  if (barrier.members > 0) barrier.release_if_all_arrived();
}

// A fiber runs one thread of the kernel after another.
void run_threads() {
  for (;;) {
    (*body)();
    running->done = true;
    running->warp->live[lane()] = false;
    leave(running->warp->barrier);
    leave(block_barrier);
    yield();
  }
}

void run_block(int threads) {
  block_barrier.members = threads;
  block_barrier.arrived = 0;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = *fibers[i];
    fiber.done = false;
    fiber.waits_for = nullptr;
    fiber.copies.assign(1, {});
    fiber.index =
        dim3(i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y);
    fiber.warp = warps[i / kLanes].get();
    if (i % kLanes == 0) {
      fiber.warp->barrier = {};
      std::fill_n(fiber.warp->live, kLanes, false);
    }
    fiber.warp->live[i % kLanes] = true;
    ++fiber.warp->barrier.members;
  }
  for (bool left = true; left;) {
    bool progress = left = false;
    for (int first = 0; first < threads; first += kLanes) {
      // One warp as long as it goes: most of what lanes wait for is each other.
      for (bool ran = true; ran;) {
        ran = false;
        for (int i = first; i < std::min(first + kLanes, threads); ++i) {
          if (error || !fibers[i]->ready()) continue;
          resume(fibers[i].get());
          ran = progress = true;
        }
      }
      for (int i = first; i < std::min(first + kLanes, threads); ++i) left |= !fibers[i]->done;
    }
    if (left && !progress) error = "threads wait for each other for ever";
    if (error) {
      fibers.clear();  // their stacks hold threads that never end
      throw std::logic_error(std::string("CUDA emulator: ") + std::exchange(error, nullptr));
    }
  }
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  const std::lock_guard lock(one_launch);
  const int threads = static_cast<int>(block.x * block.y * block.z);
  while (static_cast<int>(fibers.size()) < threads) {
    Fiber& fiber = *fibers.emplace_back(std::make_unique<Fiber>());
    getcontext(&fiber.entry);
    fiber.entry.uc_stack.ss_sp = fiber.stack.get();
    fiber.entry.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.entry, run_threads, 0);
  }
  while (static_cast<int>(warps.size()) * kLanes < threads) {
    warps.push_back(std::make_unique<Warp>());
  }
  body = &kernel;
  block_size = block;
  grid_size = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        shared.assign(shared_bytes + 128, '\xff');
        run_block(threads);
      }
    }
  }
}

void* dynamic_shared() {
  const auto address = reinterpret_cast<uintptr_t>(shared.data());
  return reinterpret_cast<void*>((address + 127) / 128 * 128);
}

void sync_block() { wait(block_barrier); }

void sync_warp() { wait(running->warp->barrier); }

const void* exchange(const void* value, size_t bytes) {
  Warp& warp = *running->warp;
  char* const slots = warp.slots[warp.barrier.generation % 2];
  memcpy(slots + static_cast<size_t>(lane()) * bytes, value, bytes);
  wait(warp.barrier);
  return slots;
}

void copy_async(void* to, const void* from, int bytes, int size) {
  memset(to, 0xff, static_cast<size_t>(bytes));
  running->copies.back().push_back(
      {to, from, static_cast<size_t>(bytes), static_cast<size_t>(size)});
}

void copy_commit() { running->copies.emplace_back(); }

void copy_wait(int pending) {
  auto& groups = running->copies;
  for (; static_cast<int>(groups.size()) - 1 > pending; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      memcpy(copy.to, copy.from, copy.size);
      memset(static_cast<char*>(copy.to) + copy.size, 0, copy.bytes - copy.size);
    }
  }
}

void require(bool condition, const char* what) {
  if (condition) return;
  error = what;
  for (;;) yield();  // an exception could not leave the fiber's stack
}

bool lane_is_live(int lane) { return running->warp->live[lane]; }

}  // namespace fastdl::emulator
