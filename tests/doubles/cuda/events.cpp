// Events: points in a stream that the host and other streams can wait for, with times.
#include <chrono>

#include "double.h"

using namespace cuda_double;

namespace cuda_double {

namespace {

double now_ms() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

bool is_done(const Event &event) { return !event.stream || event.stream->completed >= event.position; }

CUresult record(Lock &lock, Event &event, const std::shared_ptr<Stream> &stream) {
  if (stream->capture) {  // becomes a point in the graph, not a time
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    event.capture = stream->capture;
    event.tail = stream->tail;
    return CUDA_SUCCESS;
  }
  auto stamp = std::make_shared<double>(0.0);
  Work work;
  work.kind = "event";
  work.body = [stamp](Lock &) {
    *stamp = now_ms();
    return CUDA_SUCCESS;
  };
  if (CUresult error = submit(lock, stream, std::move(work))) return error;
  event.capture = nullptr;
  event.stream = stream;
  event.position = stream->submitted;
  event.clock = stream->clock;
  event.milliseconds = stamp;
  return CUDA_SUCCESS;
}

bool has_time(const Event &event) { return event.stream && !(event.flags & CU_EVENT_DISABLE_TIMING); }

}  // namespace

}  // namespace cuda_double

CUresult CUDAAPI cuEventCreate(CUevent *out, unsigned flags) {
  return api("cuEventCreate", kOrdinary, "", [&](Lock &) -> CUresult {
    auto event = std::make_shared<Event>();
    event->flags = flags;
    *out = state().events.add<CUevent>(event);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuEventDestroy(CUevent handle) {
  return api("cuEventDestroy", kInHostFunction | kRelease, "", [&](Lock &) -> CUresult {
    return state().events.remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}

CUresult CUDAAPI cuEventRecord(CUevent handle, CUstream stream_handle) {
  return api("cuEventRecord", kOrdinary, "", [&](Lock &lock) -> CUresult {
    auto event = state().events.find(handle);
    auto stream = find_stream(stream_handle);
    if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    return record(lock, *event, stream);
  });
}

// Each query lets one waiting operation run, so a host that polls sees the work go on and never sees it done at once.
CUresult CUDAAPI cuEventQuery(CUevent handle) {
  return api("cuEventQuery", kOrdinary, "", [&](Lock &lock) -> CUresult {
    auto event = state().events.find(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
    if (is_done(*event)) {
      merge(state().host_clock, event->clock);
      return CUDA_SUCCESS;
    }
    if (!event->stream->running) run_next(lock, event->stream);
    return state().context_error ? state().context_error : CUDA_ERROR_NOT_READY;
  });
}

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
  return api("cuEventSynchronize", kOrdinary, "", [&](Lock &lock) -> CUresult {
    auto event = state().events.find(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
    if (!event->stream) return CUDA_SUCCESS;  // cuda.h: an event never recorded is complete
    Clock clock = event->clock;
    auto stream = event->stream;
    if (CUresult error = run_until(lock, stream, event->position)) return error;
    merge(state().host_clock, clock);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent start_handle, CUevent end_handle) {
  return api("cuEventElapsedTime", kOrdinary, "", [&](Lock &) -> CUresult {
    auto start = state().events.find(start_handle), end = state().events.find(end_handle);
    if (!start || !end) return CUDA_ERROR_INVALID_HANDLE;
    if (start->capture || end->capture) return CUDA_ERROR_CAPTURED_EVENT;
    if (!has_time(*start) || !has_time(*end)) return CUDA_ERROR_INVALID_HANDLE;
    if (!is_done(*start) || !is_done(*end)) return CUDA_ERROR_NOT_READY;
    *milliseconds = static_cast<float>(*end->milliseconds - *start->milliseconds);
    return CUDA_SUCCESS;
  });
}
