// What every call passes through: the conditions cuda.h sets for all functions, requested failures, and the log.
#include "double.h"

namespace cuda_double {

State &state() {
  static State *const all = [] {
    auto *fresh = new State;  // never destroyed: Python releases objects after static destructors have run
    fresh->default_pool = std::make_shared<Pool>();
    fresh->default_pool->id = next_id();
    fresh->legacy_stream = std::make_shared<Stream>();
    fresh->legacy_stream->id = next_id();
    fresh->per_thread_stream = std::make_shared<Stream>();
    fresh->per_thread_stream->id = next_id();
    return fresh;
  }();
  return *all;
}

ThreadState &thread_state() {
  static thread_local ThreadState *const own = new ThreadState;
  return *own;
}

uint64_t next_id() {
  static uint64_t last = 0x1000;  // above the special handles CU_STREAM_LEGACY and CU_STREAM_PER_THREAD
  return last += 16;
}

bool &in_host_function() {
  static thread_local bool inside = false;
  return inside;
}

namespace {

CUresult requested_failure(const char *name) {
  auto fault = state().faults.find(name);
  if (fault == state().faults.end() || --fault->second.countdown > 0) return CUDA_SUCCESS;
  CUresult error = fault->second.error;
  state().faults.erase(fault);
  return error;
}

bool this_thread_captures() {
  for (const auto &capture : state().captures)
    if (capture->thread == std::this_thread::get_id()) return true;
  return false;
}

std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

void append(const std::string &line) {
  if (state().log_kept) state().log += "{\"n\":" + std::to_string(++state().sequence) + line + "}\n";
}

}  // namespace

CUresult admit(const char *name, unsigned rules) {
  State &s = state();
  thread_state().noted.clear();
  ++s.counts[name];
  if (CUresult error = requested_failure(name)) return error;
  // cuLaunchHostFunc: "the host function must not make any CUDA API calls"
  if (in_host_function() && !(rules & kInHostFunction))
    return break_rule("driver call inside a host function", name, CUDA_ERROR_NOT_PERMITTED);
  if (!s.initialised && !(rules & kBeforeInit)) return CUDA_ERROR_NOT_INITIALIZED;
  if (!(rules & (kWithoutContext | kBeforeInit)) && !current_context()) return CUDA_ERROR_INVALID_CONTEXT;
  if (!(rules & (kWithoutContext | kBeforeInit)) && s.context_error) return s.context_error;
  if (rules & kUnsafeInCapture) return refuse_unsafe_call(name);
  return CUDA_SUCCESS;
}

void log_call(const char *name, const std::string &details, CUresult result) {
  std::string line = ",\"type\":\"call\",\"name\":" + quoted(name) + member("result", result) + details + thread_state().noted;
  if (this_thread_captures()) line += ",\"capturing\":true";
  append(line);
}

void log_run(const Work &work, uint64_t stream, uint64_t graph) {
  ++state().counts["run:" + work.kind];
  append(",\"type\":\"run\",\"name\":" + quoted(work.kind) + member("stream", stream) +
         (graph ? member("graph", graph) : "") + work.details);
}

CUresult break_rule(const char *rule, const std::string &what, CUresult error) {
  append(",\"type\":\"rule\",\"name\":" + quoted(rule) + member("what", what));
  return error;
}

void note(const std::string &more) { thread_state().noted += more; }

std::string member(const char *name, uint64_t value) {
  return std::string(",\"") + name + "\":" + std::to_string(value);
}

std::string member(const char *name, const std::string &text) {
  return std::string(",\"") + name + "\":" + quoted(text);
}

// Calls user code (destructors of user objects, which may take Python's lock) without holding the mutex.
void run_deferred(Lock &lock) {
  if (in_host_function()) return;
  while (!state().deferred.empty()) {
    auto calls = std::move(state().deferred);
    state().deferred.clear();
    lock.unlock();
    for (auto &call : calls) call();
    lock.lock();
  }
}

}  // namespace cuda_double
