// Device memory, pinned memory and stream-ordered pools. Copies and fills are in copies.cpp.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "double.h"

using namespace cuda_double;

namespace cuda_double {

namespace {

constexpr size_t kAddressSpace = size_t{1} << 40;  // bytes of device addresses; reserved, never backed by memory
constexpr size_t kPage = 64 << 10;                 // allocations start on a page and leave a page free behind them
constexpr unsigned char kFresh = 0xFF;             // NaN in fp16, bf16 and fp32: memory that nobody filled shows

uintptr_t device_addresses() {
  static const uintptr_t base = [] {
    void *range = mmap(nullptr, kAddressSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) std::abort();
    return reinterpret_cast<uintptr_t>(range);
  }();
  return base;
}

uintptr_t next_device_address(size_t bytes) {
  static size_t used = 0;
  uintptr_t address = device_addresses() + used;
  used += (bytes + 2 * kPage - 1) / kPage * kPage;
  if (used > kAddressSpace) std::abort();
  return address;
}

void count_pool_use(Pool &pool, size_t bytes) {
  pool.used += bytes;
  pool.used_high = std::max(pool.used_high, pool.used);
}

CUresult add_block(uintptr_t *address, size_t bytes, Where where, std::shared_ptr<Pool> pool = nullptr) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;  // cuMemAlloc: "if bytesize is 0, returns INVALID_VALUE"
  bool pinned = where == Where::pinned;
  if (!pinned && bytes > state().memory_limit - std::min(state().memory_limit, state().memory_used))
    return CUDA_ERROR_OUT_OF_MEMORY;
  auto block = std::make_shared<Block>();
  block->contents = static_cast<unsigned char *>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
  if (!block->contents) return CUDA_ERROR_OUT_OF_MEMORY;
  std::memset(block->contents, kFresh, bytes);
  block->id = next_id();
  block->bytes = bytes;
  block->where = where;
  block->pool = pool;
  block->address = pinned ? reinterpret_cast<uintptr_t>(block->contents) : next_device_address(bytes);
  if (!pinned) state().memory_used += bytes;
  state().memory_used_high = std::max(state().memory_used_high, state().memory_used);
  if (pool) count_pool_use(*pool, bytes);
  state().blocks[block->address] = block;
  *address = block->address;
  note(member("address", block->address));
  return CUDA_SUCCESS;
}

std::shared_ptr<Block> block_starting_at(uintptr_t address) {
  auto found = state().blocks.find(address);
  return found == state().blocks.end() ? nullptr : found->second;
}

CUresult free_now(Lock &lock, uintptr_t address, Where where, bool waits) {
  auto block = block_starting_at(address);
  if (!block || block->where != where || block->free_submitted)
    return break_rule("free of something not allocated", std::to_string(address), CUDA_ERROR_INVALID_VALUE);
  if (waits) run_everything(lock);
  release_block(address);
  return CUDA_SUCCESS;
}

std::shared_ptr<Pool> find_pool(CUmemoryPool handle) {
  auto &pool = state().default_pool;
  return handle == Registry<Pool>::handle<CUmemoryPool>(pool->id) ? pool : state().pools.find(handle);
}

// Memory that is freed in stream order comes back when its free runs; a full device waits for those first.
CUresult allocate_in_order(Lock &lock, CUdeviceptr *out, size_t bytes, const std::shared_ptr<Pool> &pool,
                           const std::shared_ptr<Stream> &stream) {
  uintptr_t address = 0;
  CUresult error = add_block(&address, bytes, Where::pool, pool);
  if (error == CUDA_ERROR_OUT_OF_MEMORY) {
    if (CUresult failed = run_everything(lock)) return failed;
    error = add_block(&address, bytes, Where::pool, pool);
  }
  if (error) return error;
  *out = address;
  // The allocation counts as a write: who uses it on another stream must be ordered after it.
  Work work{"allocate", member("address", address) + member("bytes", bytes), {{address, bytes, true}},
            [](Lock &) { return CUDA_SUCCESS; }};
  error = submit(lock, stream, std::move(work));
  if (error) release_block(address);
  return error;
}

CUresult allocate_async(const char *name, CUdeviceptr *out, size_t bytes, CUmemoryPool pool_handle, CUstream handle) {
  return api(name, kOrdinary, member("bytes", bytes), [&](Lock &lock) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    auto pool = find_pool(pool_handle);
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult error = refuse_while_capturing(stream, name)) return error;
    return allocate_in_order(lock, out, bytes, pool, stream);
  });
}

CUresult pointer_attribute(void *out, CUpointer_attribute attribute, uintptr_t address) {
  auto block = block_at(address);
  bool pinned = block && block->where == Where::pinned;
  auto put = [out](auto value) { std::memcpy(out, &value, sizeof value); };
  switch (static_cast<int>(attribute)) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: put(block ? primary_context() : nullptr); break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      put(static_cast<unsigned>(!block ? 0 : pinned ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE));
      break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: put(static_cast<CUdeviceptr>(block ? address : 0)); break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER: put(pinned ? address : uintptr_t{0}); break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: put(0u); break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: put(block ? 0 : -2); break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: put(static_cast<CUdeviceptr>(block ? block->address : 0)); break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: put(block ? block->bytes : size_t{0}); break;
    default: return CUDA_ERROR_NOT_SUPPORTED;
  }
  return CUDA_SUCCESS;
}

}  // namespace

Block::~Block() { std::free(contents); }

bool is_device_range(uintptr_t address) {
  return address >= device_addresses() && address < device_addresses() + kAddressSpace;
}

std::shared_ptr<Block> block_at(uintptr_t address) {
  auto &blocks = state().blocks;
  auto after = blocks.upper_bound(address);
  if (after == blocks.begin()) return nullptr;
  auto block = std::prev(after)->second;
  return address < block->address + block->bytes ? block : nullptr;
}

CUresult check_bounds(const std::vector<Access> &accesses) {
  for (const Access &access : accesses) {
    auto block = block_at(access.address);
    std::string what = std::to_string(access.bytes) + " bytes at " + std::to_string(access.address);
    if (!block) {
      if (!is_device_range(access.address)) continue;  // the host's own memory
      return break_rule("use of memory that is not allocated", what, CUDA_ERROR_INVALID_VALUE);
    }
    if (block->free_submitted) return break_rule("use of freed memory", what, CUDA_ERROR_INVALID_VALUE);
    if (access.address + access.bytes > block->address + block->bytes)
      return break_rule("out of bounds", what + " in a block of " + std::to_string(block->bytes),
                        CUDA_ERROR_INVALID_VALUE);
  }
  return CUDA_SUCCESS;
}

CUresult check_lifetime(const std::vector<Access> &accesses) {
  for (const Access &access : accesses)
    if (is_device_range(access.address) && !block_at(access.address))
      return break_rule("memory was freed before the work that uses it ran", std::to_string(access.address),
                        CUDA_ERROR_ILLEGAL_ADDRESS);
  return CUDA_SUCCESS;
}

unsigned char *contents(uintptr_t address) {
  auto block = block_at(address);
  return block ? block->contents + (address - block->address) : reinterpret_cast<unsigned char *>(address);
}

void release_block(uintptr_t address) {
  auto block = state().blocks.at(address);
  if (block->where != Where::pinned) state().memory_used -= block->bytes;
  if (block->pool) block->pool->used -= block->bytes;
  state().blocks.erase(address);
}

}  // namespace cuda_double

CUresult CUDAAPI cuMemGetInfo(size_t *available, size_t *total) {
  return api("cuMemGetInfo", kOrdinary, "", [&](Lock &) -> CUresult {
    *total = state().memory_limit;
    *available = state().memory_limit - std::min(state().memory_limit, state().memory_used);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *out, size_t bytes) {
  return api("cuMemAlloc", kUnsafeInCapture, member("bytes", bytes), [&](Lock &) -> CUresult {
    uintptr_t address = 0;
    CUresult error = add_block(&address, bytes, Where::device);
    *out = address;
    return error;
  });
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
  return api("cuMemFree", kUnsafeInCapture | kRelease, member("address", address), [&](Lock &lock) -> CUresult {
    if (address == 0) return CUDA_SUCCESS;
    auto block = block_starting_at(address);
    if (block && block->where == Where::pool) return free_now(lock, address, Where::pool, false);  // see cuda.h: no wait
    return free_now(lock, address, Where::device, true);
  });
}

CUresult CUDAAPI cuMemAllocHost(void **out, size_t bytes) {
  return api("cuMemAllocHost", kUnsafeInCapture, member("bytes", bytes), [&](Lock &) -> CUresult {
    uintptr_t address = 0;
    CUresult error = add_block(&address, bytes, Where::pinned);
    *out = reinterpret_cast<void *>(address);
    return error;
  });
}

// Frees at once: cuda.h promises no wait here, so copies still under way would read freed memory.
CUresult CUDAAPI cuMemFreeHost(void *pointer) {
  auto address = reinterpret_cast<uintptr_t>(pointer);
  return api("cuMemFreeHost", kUnsafeInCapture | kRelease, member("address", address), [&](Lock &lock) -> CUresult {
    auto block = block_starting_at(address);
    if (block)
      for (const auto &[id, stream] : state().streams.all())
        for (const Work &work : stream->queue)
          for (const Access &access : work.accesses)
            if (block_at(access.address) == block)
              return break_rule("pinned memory freed while a copy of it is waiting", work.kind,
                                CUDA_ERROR_INVALID_VALUE);
    return free_now(lock, address, Where::pinned, false);
  });
}

CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr *out, size_t bytes, CUstream stream) {
  auto pool = Registry<Pool>::handle<CUmemoryPool>(state().default_pool->id);
  return allocate_async("cuMemAllocAsync", out, bytes, pool, stream);
}

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr *out, size_t bytes, CUmemoryPool pool, CUstream stream) {
  return allocate_async("cuMemAllocFromPoolAsync", out, bytes, pool, stream);
}

// The memory must not be used by anything submitted later; it is given back when the free runs in stream order.
CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  return api("cuMemFreeAsync", kInHostFunction | kRelease, member("address", address), [&](Lock &lock) -> CUresult {
    auto stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note(member("stream", stream->id));
    if (CUresult error = refuse_while_capturing(stream, "cuMemFreeAsync")) return error;
    auto block = block_starting_at(address);
    if (!block || block->where == Where::pinned || block->free_submitted)
      return break_rule("free of something not allocated", std::to_string(address), CUDA_ERROR_INVALID_VALUE);
    if (state().context_error) {  // nothing runs any more; the process's memory goes with the context
      release_block(address);
      return CUDA_SUCCESS;
    }
    Work work{"free", member("address", address), {{address, block->bytes, true}}, [address](Lock &) {
                release_block(address);
                return CUDA_SUCCESS;
              }};
    CUresult error = submit(lock, stream, std::move(work));
    if (!error) block->free_submitted = true;
    return error;
  });
}

CUresult CUDAAPI cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) {
  return api("cuDeviceGetDefaultMemPool", kWithoutContext, "", [&](Lock &) -> CUresult {
    *pool = Registry<Pool>::handle<CUmemoryPool>(state().default_pool->id);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice) {
  return api("cuDeviceGetMemPool", kWithoutContext, "", [&](Lock &) -> CUresult {
    *pool = Registry<Pool>::handle<CUmemoryPool>(state().default_pool->id);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *properties) {
  return api("cuMemPoolCreate", kWithoutContext, "", [&](Lock &) -> CUresult {
    if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE || properties->location.id != 0)
      return CUDA_ERROR_NOT_SUPPORTED;
    *out = state().pools.add<CUmemoryPool>(std::make_shared<Pool>());
    return CUDA_SUCCESS;
  });
}

// cuda.h: the pool's resources go when its last allocation is freed; blocks hold on to their pool for that.
CUresult CUDAAPI cuMemPoolDestroy(CUmemoryPool pool) {
  return api("cuMemPoolDestroy", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    return state().pools.remove(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult CUDAAPI cuMemPoolTrimTo(CUmemoryPool pool, size_t) {
  return api("cuMemPoolTrimTo", kWithoutContext, "", [&](Lock &) -> CUresult {
    return find_pool(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult CUDAAPI cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *, size_t) {
  return api("cuMemPoolSetAccess", kWithoutContext, "", [&](Lock &) -> CUresult {
    return find_pool(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

namespace {

// The first three attributes are ints, the others 64-bit counts.
bool is_int(CUmemPool_attribute attribute) { return attribute <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES; }

}  // namespace

CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void *value) {
  return api("cuMemPoolSetAttribute", kWithoutContext, member("attribute", attribute), [&](Lock &) -> CUresult {
    auto pool = find_pool(handle);
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    if (is_int(attribute))
      pool->attributes[attribute] = *static_cast<int *>(value);
    else
      pool->attributes[attribute] = *static_cast<cuuint64_t *>(value);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void *value) {
  return api("cuMemPoolGetAttribute", kWithoutContext, member("attribute", attribute), [&](Lock &) -> CUresult {
    auto pool = find_pool(handle);
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    uint64_t found = pool->attributes[attribute];
    if (attribute == CU_MEMPOOL_ATTR_USED_MEM_CURRENT || attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
      found = pool->used;
    if (attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH || attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)
      found = pool->used_high;
    if (is_int(attribute))
      *static_cast<int *>(value) = static_cast<int>(found);
    else
      *static_cast<cuuint64_t *>(value) = found;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuPointerGetAttribute(void *out, CUpointer_attribute attribute, CUdeviceptr address) {
  return api("cuPointerGetAttribute", kOrdinary, member("attribute", attribute), [&](Lock &) -> CUresult {
    if (!block_at(address)) return CUDA_ERROR_INVALID_VALUE;
    return pointer_attribute(out, attribute, address);
  });
}

// Unlike the singular function this succeeds for foreign pointers, with zeros (cuda.h).
CUresult CUDAAPI cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **out, CUdeviceptr address) {
  return api("cuPointerGetAttributes", kOrdinary, "", [&](Lock &) -> CUresult {
    for (unsigned i = 0; i < count; ++i)
      if (CUresult error = pointer_attribute(out[i], attributes[i], address)) return error;
    return CUDA_SUCCESS;
  });
}
