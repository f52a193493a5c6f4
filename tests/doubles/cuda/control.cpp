// What tests use to watch and to disturb the stand-in. tests/doubles/cuda_double.py wraps these for Python.
#include <cstring>

#include "double.h"

using namespace cuda_double;

namespace {

uint64_t count_blocks(bool pinned, bool bytes) {
  uint64_t sum = 0;
  for (const auto &[address, block] : state().blocks)
    if ((block->where == Where::pinned) == pinned) sum += bytes ? block->bytes : 1;
  return sum;
}

}  // namespace

EXPORTED size_t double_log_size(void) {
  Lock lock(state().mutex);
  return state().log.size();
}

// The log is one JSON object a line; copies ``bytes`` of it from ``offset``.
EXPORTED void double_log_copy(char *out, size_t offset, size_t bytes) {
  Lock lock(state().mutex);
  std::memcpy(out, state().log.data() + offset, std::min(bytes, state().log.size() - offset));
}

EXPORTED void double_log_clear(void) {
  Lock lock(state().mutex);
  state().log.clear();
  state().counts.clear();
}

// Counts go on while the log is not kept.
EXPORTED void double_log_keep(int kept) {
  Lock lock(state().mutex);
  state().log_kept = kept != 0;
}

// How often a function was called; "run:NAME" counts operations that ran.
EXPORTED uint64_t double_count(const char *name) {
  Lock lock(state().mutex);
  auto found = state().counts.find(name);
  return found == state().counts.end() ? 0 : found->second;
}

// The ``nth`` call of ``name`` from now on, counted from 1, returns ``error`` and does nothing.
EXPORTED void double_fail(const char *name, uint64_t nth, int error) {
  Lock lock(state().mutex);
  state().faults[name] = {nth, static_cast<CUresult>(error)};
}

EXPORTED void double_set_memory_limit(size_t bytes) {
  Lock lock(state().mutex);
  state().memory_limit = bytes;
}

// Runs what waits, forgets the failed context, requested failures, the limit and the log. Live objects stay.
EXPORTED void double_reset(void) {
  Lock lock(state().mutex);
  run_everything(lock);
  State &s = state();
  s.context_error = CUDA_SUCCESS;
  s.faults.clear();
  s.memory_limit = kDefaultMemory;
  s.log.clear();
  s.counts.clear();
  s.log_kept = true;
  run_deferred(lock);
}

// Live objects: device_blocks, device_bytes, pinned_blocks, pinned_bytes, streams, events, graphs, graph_execs, pools,
// user_objects, captures. Memory whose free is still waiting in a stream is live.
EXPORTED uint64_t double_live(const char *kind) {
  Lock lock(state().mutex);
  const State &s = state();
  const std::map<std::string, uint64_t> live = {
      {"device_blocks", count_blocks(false, false)}, {"device_bytes", count_blocks(false, true)},
      {"pinned_blocks", count_blocks(true, false)},  {"pinned_bytes", count_blocks(true, true)},
      {"streams", s.streams.size()},                 {"events", s.events.size()},
      {"graphs", s.graphs.size()},                   {"graph_execs", s.execs.size()},
      {"pools", s.pools.size()},                     {"user_objects", s.user_objects.size()},
      {"captures", s.captures.size()},
  };
  auto found = live.find(kind);
  return found == live.end() ? UINT64_MAX : found->second;
}

// The most bytes of device memory that were live at one time since the last call.
EXPORTED uint64_t double_peak(void) {
  Lock lock(state().mutex);
  uint64_t peak = state().memory_used_high;
  state().memory_used_high = state().memory_used;
  return peak;
}

// Where the host can read and write device memory; null when the range is not inside one live block. For host functions
// that stand for kernels: device addresses themselves are not readable.
EXPORTED void *double_host_view(uint64_t address, size_t bytes) {
  Lock lock(state().mutex);
  auto block = block_at(address);
  if (!block || address + bytes > block->address + block->bytes) return nullptr;
  return block->contents + (address - block->address);
}

// Declares what the next host function on the stream reads or writes; it is then checked as copies are: bounds,
// lifetime and order. Returns a CUresult.
EXPORTED int double_will_access(CUstream handle, uint64_t address, size_t bytes, int writes) {
  Lock lock(state().mutex);
  auto stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  stream->next_host_function.push_back({static_cast<uintptr_t>(address), bytes, writes != 0});
  return CUDA_SUCCESS;
}
