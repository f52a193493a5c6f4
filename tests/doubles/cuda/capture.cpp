// Stream capture: work on a capturing stream becomes nodes of a graph; what may not happen meanwhile invalidates it.
#include <algorithm>

#include "double.h"

using namespace cuda_double;

namespace cuda_double {

namespace {

void add_member(const std::shared_ptr<Capture> &capture, const std::shared_ptr<Stream> &stream) {
  stream->capture = capture;
  stream->tail.clear();
  capture->members.push_back(stream);
}

bool is_joined(const Stream &member, const Stream &origin) {
  return std::all_of(member.tail.begin(), member.tail.end(), [&](const Node *last) {
    return std::any_of(origin.tail.begin(), origin.tail.end(),
                       [&](const Node *node) { return depends_on(node, last); });
  });
}

CUresult why_incomplete(const Capture &capture) {
  if (capture.invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  for (const auto &member : capture.members)
    if (!is_joined(*member, *capture.origin)) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  return CUDA_SUCCESS;
}

void finish(const std::shared_ptr<Capture> &capture) {
  for (const auto &member : capture->members) {
    member->capture = nullptr;
    member->tail.clear();
  }
  auto &open = state().captures;
  open.erase(std::remove(open.begin(), open.end(), capture), open.end());
}

CUresult end_capture(const std::shared_ptr<Stream> &stream, CUgraph *out) {
  auto capture = stream->capture;
  if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id())
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  CUresult error = why_incomplete(*capture);
  finish(capture);
  *out = nullptr;
  if (error) return error;
  *out = state().graphs.add<CUgraph>(capture->graph);
  note(member("graph", capture->graph->id) + member("nodes", capture->graph->nodes.size()));
  return CUDA_SUCCESS;
}

CUstreamCaptureStatus status(const Stream &stream) {
  if (!stream.capture) return CU_STREAM_CAPTURE_STATUS_NONE;
  return stream.capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

}  // namespace

CUstreamCaptureMode &thread_capture_mode() {
  static thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return mode;
}

void invalidate(Capture &capture, const char *why) {
  capture.invalid = true;
  break_rule("not allowed during capture", why, CUDA_SUCCESS);
}

// cuThreadExchangeStreamCaptureMode: which captures prohibit unsafe calls on this thread.
CUresult refuse_unsafe_call(const char *name) {
  CUstreamCaptureMode here = thread_capture_mode();
  if (here == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  for (const auto &capture : state().captures) {
    if (capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
    bool own = capture->thread == std::this_thread::get_id();
    bool global = here == CU_STREAM_CAPTURE_MODE_GLOBAL && capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (!own && !global) continue;
    invalidate(*capture, name);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return CUDA_SUCCESS;
}

CUresult refuse_while_capturing(const std::shared_ptr<Stream> &stream, const char *name) {
  if (!stream->capture) return CUDA_SUCCESS;
  invalidate(*stream->capture, name);
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult record_node(const std::shared_ptr<Stream> &stream, Work work) {
  auto &capture = *stream->capture;
  if (capture.invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  auto node = std::make_shared<Node>();
  node->id = next_id();
  node->work = std::move(work);
  node->dependencies = stream->tail;
  stream->tail = {node.get()};
  capture.graph->nodes.push_back(node);
  return CUDA_SUCCESS;
}

// A wait for an event of a capture brings the waiting stream into that capture.
CUresult join_capture(const std::shared_ptr<Stream> &stream, const Event &event) {
  auto &open = state().captures;
  if (std::find(open.begin(), open.end(), event.capture) == open.end()) return CUDA_ERROR_CAPTURED_EVENT;
  if (event.capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (stream == state().legacy_stream) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  if (stream->capture && stream->capture != event.capture) {
    invalidate(*stream->capture, "two captures would merge");
    invalidate(*event.capture, "two captures would merge");
    return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  }
  if (!stream->capture) add_member(event.capture, stream);
  stream->tail.insert(stream->tail.end(), event.tail.begin(), event.tail.end());
  return CUDA_SUCCESS;
}

}  // namespace cuda_double

CUresult CUDAAPI cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
  return api("cuStreamBeginCapture", kOrdinary, member("mode", mode), [&](Lock &) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    if (stream == state().legacy_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    auto capture = std::make_shared<Capture>();
    capture->id = next_id();
    capture->graph = std::make_shared<Graph>();
    capture->graph->id = next_id();  // cuStreamGetCaptureInfo hands it out while capture goes on
    capture->origin = stream;
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    add_member(capture, stream);
    state().captures.push_back(capture);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *out) {
  return api("cuStreamEndCapture", kRelease, "", [&](Lock &) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    return end_capture(stream, out);
  });
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *out) {
  return api("cuStreamIsCapturing", kInHostFunction, "", [&](Lock &) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *out = status(*stream);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream handle, CUstreamCaptureStatus *out, cuuint64_t *id, CUgraph *graph,
                                        const CUgraphNode **dependencies, const CUgraphEdgeData **edges, size_t *count) {
  return api("cuStreamGetCaptureInfo", kInHostFunction, "", [&](Lock &) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *out = status(*stream);
    if (*out != CU_STREAM_CAPTURE_STATUS_ACTIVE) return CUDA_SUCCESS;
    stream->tail_handles.clear();
    for (const Node *node : stream->tail)
      stream->tail_handles.push_back(Registry<Node>::handle<CUgraphNode>(node->id));
    auto &captured = stream->capture->graph;
    if (id) *id = stream->capture->id;
    if (graph) *graph = Registry<Graph>::handle<CUgraph>(captured->id);
    if (dependencies) *dependencies = stream->tail_handles.data();
    if (edges) *edges = nullptr;  // no edge has data
    if (count) *count = stream->tail_handles.size();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
  return api("cuThreadExchangeStreamCaptureMode", kWithoutContext, "", [&](Lock &) -> CUresult {
    std::swap(*mode, thread_capture_mode());
    return CUDA_SUCCESS;
  });
}
