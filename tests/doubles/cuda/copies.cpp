// Copies and fills.
#include <cstring>

#include "double.h"

using namespace cuda_double;

namespace cuda_double {

namespace {

enum class Side { device, pinned, pageable };

Side side_of(uintptr_t address) {
  auto block = block_at(address);
  if (!block) return is_device_range(address) ? Side::device : Side::pageable;
  return block->where == Where::pinned ? Side::pinned : Side::device;
}

std::string direction(Side from, Side to) {
  return std::string(from == Side::device ? "D" : "H") + "to" + (to == Side::device ? "D" : "H");
}

CUresult copy_now(uintptr_t to, uintptr_t from, size_t bytes) {
  std::memcpy(contents(to), contents(from), bytes);
  return CUDA_SUCCESS;
}

Work copy_work(uintptr_t to, uintptr_t from, size_t bytes) {
  Work work;
  work.kind = "copy " + direction(side_of(from), side_of(to));
  work.details = member("bytes", bytes);
  work.accesses = {{from, bytes, false}, {to, bytes, true}};
  work.body = [=](Lock &) { return copy_now(to, from, bytes); };
  work.node_type = CU_GRAPH_NODE_TYPE_MEMCPY;
  return work;
}

// Pageable memory goes through the driver's own staging: a source is read before the call returns, a destination is
// written before the call returns.
CUresult copy_pageable(Lock &lock, const std::shared_ptr<Stream> &stream, Work work, uintptr_t to, uintptr_t from,
                       size_t bytes) {
  note(",\"pageable\":true");
  if (side_of(from) == Side::pageable) {
    auto staged = std::make_shared<std::vector<unsigned char>>(bytes);
    std::memcpy(staged->data(), reinterpret_cast<void *>(from), bytes);
    work.body = [=](Lock &) {
      std::memcpy(contents(to), staged->data(), bytes);
      return CUDA_SUCCESS;
    };
  }
  if (CUresult error = submit(lock, stream, std::move(work))) return error;
  return side_of(to) == Side::pageable ? run_until(lock, stream, stream->submitted) : CUDA_SUCCESS;
}

CUresult copy(Lock &lock, const char *name, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
  auto stream = find_stream(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  note(member("stream", stream->id) + member("direction", direction(side_of(from), side_of(to))));
  if (bytes == 0) return CUDA_SUCCESS;
  if (from < to + bytes && to < from + bytes)
    return break_rule("copy between overlapping ranges", name, CUDA_ERROR_INVALID_VALUE);
  Work work = copy_work(to, from, bytes);
  if (side_of(from) != Side::pageable && side_of(to) != Side::pageable) return submit(lock, stream, std::move(work));
  if (CUresult error = refuse_while_capturing(stream, name)) return error;
  return copy_pageable(lock, stream, std::move(work), to, from, bytes);
}

CUresult copy_async(const char *name, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return api(name, kOrdinary, member("bytes", bytes),
             [&](Lock &lock) { return copy(lock, name, to, from, bytes, stream); });
}

CUresult copy_and_wait(const char *name, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return api(name, kUnsafeInCapture, member("bytes", bytes), [&](Lock &lock) -> CUresult {
    if (CUresult error = copy(lock, name, to, from, bytes, CU_STREAM_LEGACY)) return error;
    auto &stream = state().legacy_stream;
    return run_until(lock, stream, stream->submitted);
  });
}

template <class Element>
CUresult fill_async(const char *name, CUdeviceptr to, Element value, size_t count, CUstream handle) {
  size_t bytes = count * sizeof(Element);
  return api(name, kOrdinary, member("bytes", bytes), [&](Lock &lock) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    if (to % sizeof(Element)) return CUDA_ERROR_INVALID_VALUE;  // cuda.h: must be aligned to the element
    if (count == 0) return CUDA_SUCCESS;
    if (side_of(to) == Side::pageable) return CUDA_ERROR_INVALID_VALUE;
    Work work{"fill", member("bytes", bytes), {{static_cast<uintptr_t>(to), bytes, true}}, nullptr};
    work.node_type = CU_GRAPH_NODE_TYPE_MEMSET;
    work.body = [=](Lock &) {
      auto *first = reinterpret_cast<Element *>(contents(to));
      std::fill(first, first + count, value);
      return CUDA_SUCCESS;
    };
    return submit(lock, stream, std::move(work));
  });
}

CUdeviceptr number(const void *pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

}  // namespace

}  // namespace cuda_double

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy_async("cuMemcpyAsync", to, from, bytes, stream);
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  return copy_async("cuMemcpyHtoDAsync", to, number(from), bytes, stream);
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy_async("cuMemcpyDtoHAsync", number(to), from, bytes, stream);
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy_async("cuMemcpyDtoDAsync", to, from, bytes, stream);
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
  return copy_and_wait("cuMemcpyHtoD", to, number(from), bytes);
}

CUresult CUDAAPI cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
  return copy_and_wait("cuMemcpyDtoH", number(to), from, bytes);
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  return fill_async("cuMemsetD8Async", to, value, count, stream);
}

CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
  return fill_async("cuMemsetD16Async", to, value, count, stream);
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
  return fill_async("cuMemsetD32Async", to, value, count, stream);
}
