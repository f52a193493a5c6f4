// Streams: queues of work that run late, in order, and the check that conflicting work is ordered.
#include <algorithm>

#include "double.h"

using namespace cuda_double;

namespace cuda_double {

namespace {

bool is_blocking(const Stream &stream) { return !(stream.flags & CU_STREAM_NON_BLOCKING); }

bool overlap(const PastAccess &past, const Access &access) {
  return past.begin < access.address + access.bytes && access.address < past.end;
}

bool is_ordered(const PastAccess &past, const Clock &clock) {
  auto known = clock.find(past.stream);
  return known != clock.end() && past.position <= known->second;
}

// An older access need not be kept when the new one is ordered after it and conflicts with all that it conflicts with.
bool is_covered(const PastAccess &past, const Access &access, const Clock &clock) {
  bool inside = access.address <= past.begin && past.end <= access.address + access.bytes;
  return inside && (access.writes || !past.writes) && is_ordered(past, clock);
}

CUresult check_order(const Work &work, const Clock &clock) {
  for (const Access &access : work.accesses) {
    auto block = block_at(access.address);
    if (!block) continue;
    for (const PastAccess &past : block->history)
      if (overlap(past, access) && (past.writes || access.writes) && !is_ordered(past, clock))
        return break_rule("no order between two streams' work on the same memory", past.kind + " and " + work.kind,
                          CUDA_ERROR_LAUNCH_FAILED);
  }
  return CUDA_SUCCESS;
}

void remember(const Work &work, const Clock &clock, uint64_t stream, uint64_t position) {
  for (const Access &access : work.accesses) {
    auto block = block_at(access.address);
    if (!block) continue;
    auto &history = block->history;
    history.erase(std::remove_if(history.begin(), history.end(),
                                 [&](const PastAccess &past) { return is_covered(past, access, clock); }),
                  history.end());
    history.push_back({access.address, access.address + access.bytes, access.writes, stream, position, work.kind});
  }
}

// The legacy default stream waits for all blocking streams and they wait for it (cuda.h, "stream synchronization
// behavior").
CUresult wait_implicitly(Lock &lock, const std::shared_ptr<Stream> &stream) {
  State &s = state();
  auto wait = [&](const std::shared_ptr<Stream> &other) {
    return other->submitted > other->completed
               ? wait_for(lock, stream, other, other->submitted, other->clock)
               : (merge(stream->clock, other->clock), CUDA_SUCCESS);
  };
  if (stream != s.legacy_stream)
    return is_blocking(*stream) && s.legacy_stream->submitted ? wait(s.legacy_stream) : CUDA_SUCCESS;
  for (const auto &[id, other] : s.streams.all()) {
    if (!is_blocking(*other)) continue;
    if (other->capture) {
      invalidate(*other->capture, "work on the legacy stream");
      return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    if (CUresult error = wait(other)) return error;
  }
  return CUDA_SUCCESS;
}

CUresult enqueue(Lock &lock, const std::shared_ptr<Stream> &stream, Work work) {
  merge(stream->clock, state().host_clock);
  uint64_t position = stream->submitted + 1;
  Clock clock = stream->clock;
  clock[stream->id] = position;
  if (CUresult error = check_order(work, clock)) return error;
  remember(work, clock, stream->id, position);
  stream->clock = clock;
  stream->submitted = position;
  stream->queue.push_back(std::move(work));
  while (stream->queue.size() > kQueueDepth && !in_host_function()) run_next(lock, stream);
  return state().context_error;
}

// What streams were destroyed with runs on too, as it would on a GPU.
void run_destroyed(Lock &lock) {
  auto destroyed = std::move(state().destroyed_streams);
  state().destroyed_streams.clear();
  for (const auto &stream : destroyed) run_until(lock, stream, stream->submitted);
}

// A destroyed stream for whose work the host has waited is ordered before all that follows: nothing about it is needed.
void forget(const Stream &stream) {
  State &s = state();
  auto waited = s.host_clock.find(stream.id);
  if (waited == s.host_clock.end() || waited->second < stream.submitted) return;
  s.host_clock.erase(stream.id);
  for (const auto &[id, other] : s.streams.all()) other->clock.erase(stream.id);
  for (const auto &[address, block] : s.blocks) {
    auto &history = block->history;
    history.erase(std::remove_if(history.begin(), history.end(),
                                 [&](const PastAccess &past) { return past.stream == stream.id; }),
                  history.end());
  }
}

CUresult synchronize(Lock &lock, const std::shared_ptr<Stream> &stream) {
  if (CUresult error = refuse_while_capturing(stream, "cuStreamSynchronize")) return error;
  run_destroyed(lock);
  Clock clock = stream->clock;
  if (CUresult error = run_until(lock, stream, stream->submitted)) return error;
  merge(state().host_clock, clock);
  return CUDA_SUCCESS;
}

}  // namespace

void merge(Clock &into, const Clock &other) {
  for (const auto &[stream, position] : other) into[stream] = std::max(into[stream], position);
}

std::shared_ptr<Stream> find_stream(CUstream handle) {
  if (!handle || handle == CU_STREAM_LEGACY) return state().legacy_stream;
  if (handle == CU_STREAM_PER_THREAD) return state().per_thread_stream;
  return state().streams.find(handle);
}

CUresult submit(Lock &lock, const std::shared_ptr<Stream> &stream, Work work) {
  if (CUresult error = check_bounds(work.accesses)) return error;
  return submit_unchecked(lock, stream, std::move(work));
}

CUresult submit_unchecked(Lock &lock, const std::shared_ptr<Stream> &stream, Work work) {
  if (stream->capture) return record_node(stream, std::move(work));
  if (CUresult error = wait_implicitly(lock, stream)) return error;
  return enqueue(lock, stream, std::move(work));
}

// Makes ``waiter`` run nothing more before ``awaited`` has reached ``position``.
CUresult wait_for(Lock &lock, const std::shared_ptr<Stream> &waiter, const std::shared_ptr<Stream> &awaited,
                  uint64_t position, const Clock &clock) {
  merge(waiter->clock, clock);
  if (waiter == awaited) return CUDA_SUCCESS;
  Work work;
  work.kind = "wait";
  work.body = [awaited, position](Lock &inner) { return run_until(inner, awaited, position); };
  return enqueue(lock, waiter, std::move(work));
}

CUresult execute(Lock &lock, const Work &work, uint64_t stream, uint64_t graph) {
  if (CUresult error = check_lifetime(work.accesses)) return error;
  log_run(work, stream, graph);
  return work.body(lock);
}

// Runs the stream's oldest operation, or waits for the thread that is running it.
void run_next(Lock &lock, const std::shared_ptr<Stream> &stream) {
  if (stream->running) {
    uint64_t before = stream->completed;
    state().progress.wait(lock, [&] { return stream->completed != before; });
    return;
  }
  stream->running = true;
  Work work = std::move(stream->queue.front());
  stream->queue.pop_front();
  bool gives_back = work.kind == "free";  // memory is given back even in a failed context, to tell leaks from failures
  if (!state().context_error || gives_back)
    if (CUresult error = execute(lock, work, stream->id, 0)) state().context_error = error;
  ++stream->completed;
  stream->running = false;
  state().progress.notify_all();
}

CUresult run_until(Lock &lock, const std::shared_ptr<Stream> &stream, uint64_t position) {
  while (stream->completed < position) run_next(lock, stream);
  return state().context_error;
}

CUresult run_everything(Lock &lock) {
  State &s = state();
  std::vector<std::shared_ptr<Stream>> all = {s.legacy_stream, s.per_thread_stream};
  for (const auto &[id, stream] : s.streams.all()) all.push_back(stream);
  all.insert(all.end(), s.destroyed_streams.begin(), s.destroyed_streams.end());
  for (const auto &stream : all) {
    Clock clock = stream->clock;
    run_until(lock, stream, stream->submitted);
    merge(s.host_clock, clock);
  }
  s.destroyed_streams.clear();
  return s.context_error;
}

}  // namespace cuda_double

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority) {
  return api("cuStreamCreateWithPriority", kOrdinary, "", [&](Lock &) -> CUresult {
    if (flags & ~unsigned{CU_STREAM_NON_BLOCKING}) return CUDA_ERROR_INVALID_VALUE;
    auto stream = std::make_shared<Stream>();
    stream->flags = flags;
    stream->priority = priority;
    *out = state().streams.add<CUstream>(stream);
    note(member("stream", stream->id));
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuStreamCreate(CUstream *out, unsigned flags) { return cuStreamCreateWithPriority(out, flags, 0); }

// cuda.h: what was submitted still runs. Here it runs before the call returns, except inside a host function.
CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
  return api("cuStreamDestroy", kInHostFunction | kRelease, "", [&](Lock &lock) -> CUresult {
    auto stream = state().streams.find(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    if (stream->capture) invalidate(*stream->capture, "a capturing stream was destroyed");
    state().streams.remove(handle);
    if (in_host_function()) {
      state().destroyed_streams.push_back(stream);
      return CUDA_SUCCESS;
    }
    run_until(lock, stream, stream->submitted);
    forget(*stream);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
  return api("cuStreamSynchronize", kOrdinary, "", [&](Lock &lock) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    return synchronize(lock, stream);
  });
}

CUresult CUDAAPI cuStreamQuery(CUstream handle) {
  return api("cuStreamQuery", kOrdinary, "", [&](Lock &lock) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    if (CUresult error = refuse_while_capturing(stream, "cuStreamQuery")) return error;
    if (stream->completed == stream->submitted) {
      merge(state().host_clock, stream->clock);
      return CUDA_SUCCESS;
    }
    if (!stream->running) run_next(lock, stream);
    return state().context_error ? state().context_error : CUDA_ERROR_NOT_READY;
  });
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned) {
  return api("cuStreamWaitEvent", kOrdinary, "", [&](Lock &lock) -> CUresult {
    auto stream = find_stream(handle);
    auto event = state().events.find(event_handle);
    if (!stream || !event) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    if (event->capture) return join_capture(stream, *event);
    if (stream->capture) {
      invalidate(*stream->capture, "wait for an event recorded outside the capture");
      return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    return event->stream ? wait_for(lock, stream, event->stream, event->position, event->clock) : CUDA_SUCCESS;
  });
}

// The function must not call the driver. Its declared accesses (double_will_access) are checked like a copy's.
CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn function, void *data) {
  return api("cuLaunchHostFunc", kOrdinary, "", [&](Lock &lock) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!function) return CUDA_ERROR_INVALID_VALUE;
    note(member("stream", stream->id));
    Work work;
    work.kind = "host function";
    work.accesses.swap(stream->next_host_function);
    work.node_type = CU_GRAPH_NODE_TYPE_HOST;
    work.body = [=](Lock &inner) {
      inner.unlock();
      in_host_function() = true;
      function(data);
      in_host_function() = false;
      inner.lock();
      return CUDA_SUCCESS;
    };
    return submit(lock, stream, std::move(work));
  });
}

CUresult CUDAAPI cuStreamGetFlags(CUstream handle, unsigned *flags) {
  return api("cuStreamGetFlags", kOrdinary, "", [&](Lock &) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *flags = stream->flags;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuStreamGetPriority(CUstream handle, int *priority) {
  return api("cuStreamGetPriority", kOrdinary, "", [&](Lock &) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *priority = stream->priority;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuStreamGetCtx(CUstream handle, CUcontext *context) {
  return api("cuStreamGetCtx", kOrdinary, "", [&](Lock &) -> CUresult {
    if (!find_stream(handle)) return CUDA_ERROR_INVALID_HANDLE;
    *context = primary_context();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuStreamGetDevice(CUstream handle, CUdevice *device) {
  return api("cuStreamGetDevice", kOrdinary, "", [&](Lock &) -> CUresult {
    if (!find_stream(handle)) return CUDA_ERROR_INVALID_HANDLE;
    *device = 0;
    return CUDA_SUCCESS;
  });
}
