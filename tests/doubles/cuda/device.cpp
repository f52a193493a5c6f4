// Initialisation, the one device, its primary context, error names.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "double.h"

using namespace cuda_double;

namespace cuda_double {

namespace {

// Which GPU is played: tests set these variables for a whole process, as a GPU is there for a whole process.
std::string played(const char *variable, const char *usual) {
  const char *value = std::getenv(variable);
  return value ? value : usual;
}

const std::string kName = played("CUDA_DOUBLE_NAME", "stand-in driver (no GPU)");
const std::string kCapability = played("CUDA_DOUBLE_CAPABILITY", "8.9");

const std::map<int, int> kAttributes = {
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, std::stoi(kCapability)},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, std::stoi(kCapability.substr(kCapability.find('.') + 1))},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, std::stoi(played("CUDA_DOUBLE_MULTIPROCESSORS", "1"))},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
};

const std::map<int, std::pair<const char *, const char *>> kErrors = {
    {CUDA_SUCCESS, {"CUDA_SUCCESS", "no error"}},
    {CUDA_ERROR_INVALID_VALUE, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {CUDA_ERROR_OUT_OF_MEMORY, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {CUDA_ERROR_NOT_INITIALIZED, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
    {CUDA_ERROR_NO_DEVICE, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {CUDA_ERROR_INVALID_DEVICE, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {CUDA_ERROR_INVALID_CONTEXT, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {CUDA_ERROR_INVALID_HANDLE, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {CUDA_ERROR_ILLEGAL_STATE, {"CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"}},
    {CUDA_ERROR_NOT_FOUND, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {CUDA_ERROR_NOT_READY, {"CUDA_ERROR_NOT_READY", "device not ready"}},
    {CUDA_ERROR_ILLEGAL_ADDRESS, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {CUDA_ERROR_LAUNCH_FAILED, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
    {CUDA_ERROR_NOT_PERMITTED, {"CUDA_ERROR_NOT_PERMITTED", "operation not permitted"}},
    {CUDA_ERROR_NOT_SUPPORTED, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
     {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
     {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {CUDA_ERROR_STREAM_CAPTURE_MERGE, {"CUDA_ERROR_STREAM_CAPTURE_MERGE", "two capture sequences would merge"}},
    {CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
     {"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"}},
    {CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
     {"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"}},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
     {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work"}},
    {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
     {"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing stream"}},
    {CUDA_ERROR_CAPTURED_EVENT,
     {"CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"}},
    {CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
     {"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "capture was begun by another thread"}},
    {CUDA_ERROR_UNKNOWN, {"CUDA_ERROR_UNKNOWN", "unknown error"}},
};

const std::pair<const char *, const char *> *find_error(CUresult error) {
  auto found = kErrors.find(error);
  return found == kErrors.end() ? nullptr : &found->second;
}

}  // namespace

int driver_version() {
  static const int version = std::stoi(played("CUDA_DOUBLE_DRIVER", "13000"));
  return version;
}

CUcontext primary_context() { return reinterpret_cast<CUcontext>(uintptr_t{0xC0}); }

CUcontext current_context() {
  auto &stack = thread_state().contexts;
  return stack.empty() ? nullptr : stack.back();
}

void set_current_context(CUcontext context) {
  auto &context_stack = thread_state().contexts;
  if (!context_stack.empty()) context_stack.pop_back();
  if (context) context_stack.push_back(context);
}

bool is_context(CUcontext context) { return context == primary_context() && state().context_references > 0; }

}  // namespace cuda_double

CUresult CUDAAPI cuInit(unsigned flags) {
  return api("cuInit", kBeforeInit, "", [&](Lock &) -> CUresult {
    if (flags) return CUDA_ERROR_INVALID_VALUE;  // cuda.h: "the Flags parameter must be 0"
    state().initialised = true;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDriverGetVersion(int *version) {
  return api("cuDriverGetVersion", kBeforeInit, "", [&](Lock &) -> CUresult {
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    *version = driver_version();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuGetErrorName(CUresult error, const char **name) {
  const auto *found = find_error(error);
  *name = found ? found->first : nullptr;
  return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char **text) {
  const auto *found = find_error(error);
  *text = found ? found->second : nullptr;
  return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuDeviceGetCount(int *count) {
  return api("cuDeviceGetCount", kWithoutContext, "", [&](Lock &) -> CUresult {
    *count = 1;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal) {
  return api("cuDeviceGet", kWithoutContext, member("ordinal", ordinal), [&](Lock &) -> CUresult {
    if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGetName(char *name, int length, CUdevice) {
  return api("cuDeviceGetName", kWithoutContext, "", [&](Lock &) -> CUresult {
    std::snprintf(name, length, "%s", kName.c_str());
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice) {
  return api("cuDeviceGetUuid", kWithoutContext, "", [&](Lock &) -> CUresult {
    std::memcpy(uuid->bytes, "cuda-double-0000", sizeof uuid->bytes);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice) {
  return api("cuDeviceTotalMem", kWithoutContext, "", [&](Lock &) -> CUresult {
    *bytes = state().memory_limit;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  return api("cuDeviceGetAttribute", kWithoutContext, member("attribute", attribute), [&](Lock &) -> CUresult {
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    auto found = kAttributes.find(attribute);
    *value = found == kAttributes.end() ? 0 : found->second;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  return api("cuDevicePrimaryCtxRetain", kWithoutContext, "", [&](Lock &) -> CUresult {
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    ++state().context_references;
    *context = primary_context();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice) {
  return api("cuDevicePrimaryCtxRelease", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    if (state().context_references == 0) return CUDA_ERROR_INVALID_CONTEXT;
    --state().context_references;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *context) {
  return api("cuCtxGetCurrent", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    *context = current_context();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext context) {
  return api("cuCtxSetCurrent", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    if (context && !is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
    set_current_context(context);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext context) {
  return api("cuCtxPushCurrent", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    if (!is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
    thread_state().contexts.push_back(context);
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext *context) {
  return api("cuCtxPopCurrent", kWithoutContext | kInHostFunction, "", [&](Lock &) -> CUresult {
    auto &context_stack = thread_state().contexts;
    if (context_stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = context_stack.back();
    context_stack.pop_back();
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device) {
  return api("cuCtxGetDevice", kInHostFunction, "", [&](Lock &) -> CUresult {
    *device = 0;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  return api("cuCtxGetStreamPriorityRange", kOrdinary, "", [&](Lock &) -> CUresult {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return CUDA_SUCCESS;
  });
}

CUresult CUDAAPI cuCtxSynchronize(void) {
  return api("cuCtxSynchronize", kUnsafeInCapture, "", [&](Lock &lock) { return run_everything(lock); });
}
