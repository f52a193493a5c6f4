// Graphs: templates from capture, executable graphs, launches, and the user objects that graphs keep alive.
#include "double.h"

using namespace cuda_double;

namespace cuda_double {

namespace {

// A graph under capture can be named too (cuStreamGetCaptureInfo gives its handle), to attach user objects.
std::shared_ptr<Graph> find_graph(CUgraph handle) {
  if (auto graph = state().graphs.find(handle)) return graph;
  for (const auto &capture : state().captures)
    if (handle == Registry<Graph>::handle<CUgraph>(capture->graph->id)) return capture->graph;
  return nullptr;
}

bool conflict(const Access &a, const Access &b) {
  bool overlap = a.address < b.address + b.bytes && b.address < a.address + a.bytes;
  return overlap && (a.writes || b.writes);
}

bool conflict(const Work &a, const Work &b) {
  for (const Access &first : a.accesses)
    for (const Access &second : b.accesses)
      if (conflict(first, second)) return true;
  return false;
}

CUresult run_nodes(Lock &lock, const std::vector<std::shared_ptr<Node>> &nodes, uint64_t stream, uint64_t exec) {
  for (const auto &node : nodes)
    if (CUresult error = execute(lock, node->work, stream, exec)) return error;
  return CUDA_SUCCESS;
}

Work launch_work(const std::shared_ptr<GraphExec> &exec, uint64_t stream) {
  Work work;
  work.kind = "graph";
  work.details = member("exec", exec->id);
  for (const auto &node : exec->nodes)
    work.accesses.insert(work.accesses.end(), node->work.accesses.begin(), node->work.accesses.end());
  work.body = [exec, stream](Lock &lock) { return run_nodes(lock, exec->nodes, stream, exec->id); };
  return work;
}

// cuGraphLaunch: "ordered behind both any previous work in the stream and any previous launches of the graph".
CUresult launch(Lock &lock, const std::shared_ptr<GraphExec> &exec, const std::shared_ptr<Stream> &stream) {
  if (exec->last_stream)
    if (CUresult error = wait_for(lock, stream, exec->last_stream, exec->last_position, exec->clock)) return error;
  if (CUresult error = submit_unchecked(lock, stream, launch_work(exec, stream->id))) return error;
  exec->last_stream = stream;
  exec->last_position = stream->submitted;
  exec->clock = stream->clock;
  return CUDA_SUCCESS;
}

CUresult instantiate(CUgraph handle, CUgraphExec *out) {
  auto graph = find_graph(handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult error = check_order_inside(*graph)) return error;
  auto exec = std::make_shared<GraphExec>();
  exec->graph_id = graph->id;
  exec->nodes = graph->nodes;
  exec->user_objects = graph->user_objects;
  for (const auto &[id, count] : exec->user_objects)
    state().user_objects.find(reinterpret_cast<CUuserObject>(id))->references += count;
  *out = state().execs.add<CUgraphExec>(exec);
  note(member("graph", graph->id) + member("exec", exec->id) + member("nodes", exec->nodes.size()));
  return CUDA_SUCCESS;
}

CUresult upload(const std::shared_ptr<GraphExec> &exec, CUstream handle) {
  auto stream = find_stream(handle);
  if (!exec || !stream) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult error = refuse_while_capturing(stream, "cuGraphUpload")) return error;
  exec->uploaded = true;
  return CUDA_SUCCESS;
}

void release_all(const std::map<uint64_t, unsigned> &user_objects) {
  for (const auto &[id, count] : user_objects) release_user_object(id, count);
}

}  // namespace

Graph::~Graph() { release_all(user_objects); }

GraphExec::~GraphExec() { release_all(user_objects); }

bool depends_on(const Node *node, const Node *ancestor) {
  if (node == ancestor) return true;
  for (const Node *dependency : node->dependencies)
    if (depends_on(dependency, ancestor)) return true;
  return false;
}

// Branches of a graph may run at the same time: nodes that touch the same bytes need a path between them.
CUresult check_order_inside(const Graph &graph) {
  for (size_t later = 0; later < graph.nodes.size(); ++later)
    for (size_t earlier = 0; earlier < later; ++earlier) {
      const Node &a = *graph.nodes[earlier], &b = *graph.nodes[later];
      if (conflict(a.work, b.work) && !depends_on(&b, &a))
        return break_rule("no order between two branches of a graph on the same memory",
                          a.work.kind + " and " + b.work.kind, CUDA_ERROR_INVALID_VALUE);
    }
  return CUDA_SUCCESS;
}

void release_user_object(uint64_t id, unsigned count) {
  auto object = state().user_objects.find(reinterpret_cast<CUuserObject>(id));
  if (!object) return;
  object->references -= std::min(count, object->references);
  if (object->references > 0) return;
  state().user_objects.remove(reinterpret_cast<CUuserObject>(id));
  state().deferred.push_back([object] { object->destroy(object->pointer); });
}

}  // namespace cuda_double

CUresult CUDAAPI cuGraphDestroy(CUgraph handle) {
  return api("cuGraphDestroy", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    return state().graphs.remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long) {
  return api("cuGraphInstantiate", kOrdinary, "", [&](Lock &) { return instantiate(graph, out); });
}

CUresult CUDAAPI cuGraphInstantiateWithParams(CUgraphExec *out, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
  return api("cuGraphInstantiate", kOrdinary, "", [&](Lock &) -> CUresult {
    CUresult error = instantiate(graph, out);
    if (!error && (params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD))
      error = upload(state().execs.find(*out), params->hUploadStream);
    params->result_out = error ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
    params->hErrNode_out = nullptr;
    return error;
  });
}

CUresult CUDAAPI cuGraphUpload(CUgraphExec handle, CUstream stream) {
  return api("cuGraphUpload", kOrdinary, "", [&](Lock &) { return upload(state().execs.find(handle), stream); });
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
  return api("cuGraphLaunch", kOrdinary, "", [&](Lock &lock) -> CUresult {
    auto exec = state().execs.find(handle);
    auto stream = find_stream(stream_handle);
    if (!exec || !stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id) + member("exec", exec->id));
    if (CUresult error = refuse_while_capturing(stream, "cuGraphLaunch")) return error;
    return launch(lock, exec, stream);
  });
}

// A launch under way keeps the executable graph's nodes until it is done.
CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec handle) {
  return api("cuGraphExecDestroy", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    return state().execs.remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult CUDAAPI cuUserObjectCreate(CUuserObject *out, void *pointer, CUhostFn destroy, unsigned count, unsigned flags) {
  return api("cuUserObjectCreate", kWithoutContext, "", [&](Lock &) -> CUresult {
    if (!destroy || count == 0 || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) return CUDA_ERROR_INVALID_VALUE;
    auto object = std::make_shared<UserObject>();
    object->pointer = pointer;
    object->destroy = destroy;
    object->references = count;
    *out = state().user_objects.add<CUuserObject>(object);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuUserObjectRetain(CUuserObject handle, unsigned count) {
  return api("cuUserObjectRetain", kWithoutContext, "", [&](Lock &) -> CUresult {
    auto object = state().user_objects.find(handle);
    if (!object) return CUDA_ERROR_INVALID_VALUE;
    object->references += count;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuUserObjectRelease(CUuserObject handle, unsigned count) {
  return api("cuUserObjectRelease", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    auto object = state().user_objects.find(handle);
    if (!object) return CUDA_ERROR_INVALID_VALUE;
    release_user_object(object->id, count);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuGraphRetainUserObject(CUgraph graph_handle, CUuserObject handle, unsigned count, unsigned flags) {
  return api("cuGraphRetainUserObject", kWithoutContext, "", [&](Lock &) -> CUresult {
    auto graph = find_graph(graph_handle);
    auto object = state().user_objects.find(handle);
    if (!graph || !object) return CUDA_ERROR_INVALID_VALUE;
    if (!(flags & CU_GRAPH_USER_OBJECT_MOVE)) object->references += count;
    graph->user_objects[object->id] += count;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuGraphReleaseUserObject(CUgraph graph_handle, CUuserObject handle, unsigned count) {
  return api("cuGraphReleaseUserObject", kWithoutContext, "", [&](Lock &) -> CUresult {
    auto graph = find_graph(graph_handle);
    auto object = state().user_objects.find(handle);
    if (!graph || !object || graph->user_objects[object->id] < count) return CUDA_ERROR_INVALID_VALUE;
    graph->user_objects[object->id] -= count;
    release_user_object(object->id, count);
    return CUDA_SUCCESS;
  });
}
