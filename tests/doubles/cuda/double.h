// A stand-in for the NVIDIA driver: libcuda.so.1 for machines without a GPU, written from the public cuda.h.
//
// It does what a driver does with memory, streams, events, stream capture and graphs, on host memory, and refuses what
// cuda.h forbids. It has no kernels: work is copies, fills and host functions.
//
//   * Device addresses are reserved and never readable by the host: what dereferences one crashes, as it would on a
//     GPU. Fresh memory holds 0xFF bytes (NaN in every float format); addresses are never given out twice.
//   * Work runs as late as the documentation allows: a stream's operations run when the host waits for them, one per
//     query when the host polls, or when more than kQueueDepth are waiting. So the host that forgets to wait reads old
//     data every time, and not only on a bad day.
//   * Every operation carries the memory it reads and writes and a vector clock of what is ordered before it. Two
//     operations that touch the same bytes, at least one writing, with no order between them are refused.
//   * Every call, every operation that ran and every broken rule goes into a log. The double_* functions at the end of
//     control.cpp read it, make the n-th call of a name fail, limit the memory and count live objects.
//
// Stricter than a driver, on purpose: allocating from a pool on a capturing stream (a driver would make graph-owned
// memory), copying pageable memory during capture, and host functions that call the driver are refused.
// Not modelled: kernels, managed memory, peers, IPC, graph updates and child graphs, the per-thread default stream as
// one stream per thread. Several host threads count as one when operations are ordered by host waits.
#pragma once

#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace cuda_double {

constexpr size_t kDefaultMemory = size_t{8} << 30;  // bytes of device memory unless a test sets another limit
constexpr size_t kQueueDepth = 1024;                // operations a stream holds back before the oldest runs

using Lock = std::unique_lock<std::mutex>;
using Clock = std::map<uint64_t, uint64_t>;  // stream id -> how many of its operations are known to be ordered before

// ---- work -----------------------------------------------------------------------------------------------------------

struct Access {
  uintptr_t address;
  size_t bytes;
  bool writes;
};

using Body = std::function<CUresult(Lock &)>;

struct Work {
  std::string kind;     // what the log calls it: "copy DtoD", "fill", "host function", ...
  std::string details;  // more JSON members for the log, each with a leading comma
  std::vector<Access> accesses;
  Body body;
  CUgraphNodeType node_type = CU_GRAPH_NODE_TYPE_EMPTY;
};

// ---- objects ----------------------------------------------------------------------------------------------------------

struct PastAccess {
  uintptr_t begin, end;
  bool writes;
  uint64_t stream, position;
  std::string kind;
};

struct Pool {
  uint64_t id = 0;
  std::map<int, uint64_t> attributes;
  uint64_t used = 0, used_high = 0;
};

enum class Where { device, pool, pinned };

struct Block {
  uintptr_t address = 0;
  size_t bytes = 0;
  Where where = Where::device;
  unsigned char *contents = nullptr;  // where the bytes really are; equals the address for pinned memory
  uint64_t id = 0;
  bool free_submitted = false;
  std::shared_ptr<Pool> pool;
  std::vector<PastAccess> history;
  ~Block();
};

struct Node {
  uint64_t id = 0;
  Work work;
  std::vector<const Node *> dependencies;
};

struct UserObject {
  uint64_t id = 0;
  void *pointer = nullptr;
  CUhostFn destroy = nullptr;
  unsigned references = 0;
};

struct Graph {
  uint64_t id = 0;
  std::vector<std::shared_ptr<Node>> nodes;  // every node comes after its dependencies
  std::map<uint64_t, unsigned> user_objects;  // id -> references held
  ~Graph();
};

struct Stream;

struct GraphExec {
  uint64_t id = 0, graph_id = 0;
  std::vector<std::shared_ptr<Node>> nodes;
  std::map<uint64_t, unsigned> user_objects;
  std::shared_ptr<Stream> last_stream;  // launches of one executable graph are ordered after each other
  uint64_t last_position = 0;
  Clock clock;
  bool uploaded = false;
  ~GraphExec();
};

struct Capture {
  uint64_t id = 0;
  std::shared_ptr<Graph> graph;
  std::shared_ptr<Stream> origin;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;
  bool invalid = false;
  std::vector<std::shared_ptr<Stream>> members;  // the origin and what forked from it
};

struct Stream {
  uint64_t id = 0;
  unsigned flags = CU_STREAM_DEFAULT;
  int priority = 0;
  std::deque<Work> queue;
  uint64_t submitted = 0, completed = 0;  // operation n has position n, counted from 1
  Clock clock;
  bool running = false;  // a host thread is executing this stream's oldest operation
  std::shared_ptr<Capture> capture;
  std::vector<const Node *> tail;            // what the next captured node depends on
  std::vector<CUgraphNode> tail_handles;     // the same for cuStreamGetCaptureInfo, which hands out the array
  std::vector<Access> next_host_function;    // see double_will_access
};

struct Event {
  uint64_t id = 0;
  unsigned flags = 0;
  std::shared_ptr<Stream> stream;  // null until recorded
  uint64_t position = 0;
  Clock clock;
  std::shared_ptr<double> milliseconds;
  std::shared_ptr<Capture> capture;  // set when last recorded on a capturing stream
  std::vector<const Node *> tail;
};

// ---- all state --------------------------------------------------------------------------------------------------------

uint64_t next_id();

// Live objects by handle. Handles are numbers that are never used again, so a stale one is always found out.
template <class T>
class Registry {
 public:
  template <class Handle>
  Handle add(const std::shared_ptr<T> &object) {
    if (object->id == 0) object->id = next_id();
    live_[object->id] = object;
    return handle<Handle>(object->id);
  }
  template <class Handle>
  std::shared_ptr<T> find(Handle handle) const {
    auto found = live_.find(reinterpret_cast<uintptr_t>(handle));
    return found == live_.end() ? nullptr : found->second;
  }
  template <class Handle>
  bool remove(Handle handle) {
    return live_.erase(reinterpret_cast<uintptr_t>(handle)) == 1;
  }
  template <class Handle>
  static Handle handle(uint64_t id) {
    return reinterpret_cast<Handle>(static_cast<uintptr_t>(id));
  }
  size_t size() const { return live_.size(); }
  const std::map<uintptr_t, std::shared_ptr<T>> &all() const { return live_; }

 private:
  std::map<uintptr_t, std::shared_ptr<T>> live_;
};

struct Fault {
  uint64_t countdown;
  CUresult error;
};

struct State {
  std::mutex mutex;
  std::condition_variable progress;  // an operation has run

  bool initialised = false;
  unsigned context_references = 0;
  CUresult context_error = CUDA_SUCCESS;  // an operation failed: cuda.h says the context can't be used any more

  std::map<uintptr_t, std::shared_ptr<Block>> blocks;
  size_t memory_limit = kDefaultMemory, memory_used = 0, memory_used_high = 0;
  Registry<Pool> pools;
  std::shared_ptr<Pool> default_pool;

  std::shared_ptr<Stream> legacy_stream, per_thread_stream;
  Registry<Stream> streams;
  std::vector<std::shared_ptr<Stream>> destroyed_streams;  // destroyed with work waiting, which still runs
  Registry<Event> events;
  Clock host_clock;  // what the host has waited for

  std::vector<std::shared_ptr<Capture>> captures;
  Registry<Graph> graphs;
  Registry<GraphExec> execs;
  Registry<UserObject> user_objects;
  std::vector<std::function<void()>> deferred;  // user code, called when the mutex is free

  std::string log;
  bool log_kept = true;
  uint64_t sequence = 0;
  std::map<std::string, uint64_t> counts;
  std::map<std::string, Fault> faults;
};

// What the driver keeps for each host thread. Never destroyed: at a thread's end its destructors still call the driver.
struct ThreadState {
  std::vector<CUcontext> contexts;  // the top is current
  std::string noted;                // see note()
};

State &state();
ThreadState &thread_state();
int driver_version();  // as cuDriverGetVersion counts
CUcontext primary_context();
CUcontext current_context();

// ---- log.cpp: entering a call, logging ------------------------------------------------------------------------------

enum Rules : unsigned {
  kOrdinary = 0,
  kWithoutContext = 1,     // needs no current context
  kBeforeInit = 2,         // works before cuInit
  kUnsafeInCapture = 4,    // cuda.h: prohibited while a capture is under way, see cuThreadExchangeStreamCaptureMode
  kInHostFunction = 8,     // tolerated inside a host function: a garbage collector may release objects there
  kRelease = 16,           // releases even in a failed context, still returning the context's error
};

CUresult admit(const char *name, unsigned rules);
void log_call(const char *name, const std::string &details, CUresult result);
void log_run(const Work &work, uint64_t stream, uint64_t graph);
CUresult break_rule(const char *rule, const std::string &what, CUresult error);
void note(const std::string &member);  // adds a member to the log line of the call under way on this thread
std::string member(const char *name, uint64_t value);
std::string member(const char *name, const std::string &text);
void run_deferred(Lock &lock);
bool &in_host_function();

template <class Do>
CUresult api(const char *name, unsigned rules, const std::string &details, Do &&action) {
  Lock lock(state().mutex);
  CUresult result = admit(name, rules);
  bool releases_anyway = result != CUDA_SUCCESS && result == state().context_error && (rules & kRelease);
  if (result == CUDA_SUCCESS || releases_anyway) {
    CUresult outcome = action(lock);
    if (result == CUDA_SUCCESS) result = outcome;
  }
  log_call(name, details, result);
  run_deferred(lock);
  return result;
}

// ---- memory.cpp -------------------------------------------------------------------------------------------------------

std::shared_ptr<Block> block_at(uintptr_t address);
bool is_device_range(uintptr_t address);
CUresult check_bounds(const std::vector<Access> &accesses);   // at submission: inside one live block
CUresult check_lifetime(const std::vector<Access> &accesses); // when it runs: still there
unsigned char *contents(uintptr_t address);
void release_block(uintptr_t address);

// ---- streams.cpp ------------------------------------------------------------------------------------------------------

void merge(Clock &into, const Clock &other);
std::shared_ptr<Stream> find_stream(CUstream handle);
CUresult submit(Lock &lock, const std::shared_ptr<Stream> &stream, Work work);
CUresult submit_unchecked(Lock &lock, const std::shared_ptr<Stream> &stream, Work work);  // bounds only when it runs
CUresult run_until(Lock &lock, const std::shared_ptr<Stream> &stream, uint64_t position);
CUresult run_everything(Lock &lock);
void run_next(Lock &lock, const std::shared_ptr<Stream> &stream);
CUresult execute(Lock &lock, const Work &work, uint64_t stream, uint64_t graph);
CUresult wait_for(Lock &lock, const std::shared_ptr<Stream> &waiter, const std::shared_ptr<Stream> &awaited,
                  uint64_t position, const Clock &clock);

// ---- capture.cpp, graphs.cpp ------------------------------------------------------------------------------------------

CUresult record_node(const std::shared_ptr<Stream> &stream, Work work);
void invalidate(Capture &capture, const char *why);
CUresult refuse_unsafe_call(const char *name);
CUresult refuse_while_capturing(const std::shared_ptr<Stream> &stream, const char *name);
bool depends_on(const Node *node, const Node *ancestor);
CUresult join_capture(const std::shared_ptr<Stream> &stream, const Event &event);
CUresult check_order_inside(const Graph &graph);
void release_user_object(uint64_t id, unsigned count);
CUstreamCaptureMode &thread_capture_mode();

}  // namespace cuda_double
