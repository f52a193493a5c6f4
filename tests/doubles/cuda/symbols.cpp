// Which functions the stand-in has, found by name and CUDA version as cuGetProcAddress does. What is not listed is "not
// found", which cuda.bindings reports by name when it is called.
#include <algorithm>

#include "double.h"

using namespace cuda_double;

namespace {

struct Symbol {
  const char *name;     // without the version suffix that cuda.h adds
  int since;            // the first CUDA version with this signature
  void *function;
};

#define SYMBOL(name, since) {#name, since, reinterpret_cast<void *>(name)}

CUresult CUDAAPI get_proc_address_v1(const char *symbol, void **function, int version, cuuint64_t flags) {
  return cuGetProcAddress(symbol, function, version, flags, nullptr);
}

const Symbol kSymbols[] = {
    SYMBOL(cuInit, 2000), SYMBOL(cuDriverGetVersion, 2020), SYMBOL(cuGetErrorName, 6000),
    SYMBOL(cuGetErrorString, 6000), {"cuGetProcAddress", 11030, reinterpret_cast<void *>(get_proc_address_v1)},
    SYMBOL(cuGetProcAddress, 12000),
    SYMBOL(cuDeviceGet, 2000), SYMBOL(cuDeviceGetCount, 2000), SYMBOL(cuDeviceGetName, 2000),
    SYMBOL(cuDeviceGetUuid, 11040), SYMBOL(cuDeviceTotalMem, 3020), SYMBOL(cuDeviceGetAttribute, 2000),
    SYMBOL(cuDevicePrimaryCtxRetain, 7000), SYMBOL(cuDevicePrimaryCtxRelease, 11000),
    SYMBOL(cuCtxGetCurrent, 4000), SYMBOL(cuCtxSetCurrent, 4000), SYMBOL(cuCtxPushCurrent, 4000),
    SYMBOL(cuCtxPopCurrent, 4000), SYMBOL(cuCtxGetDevice, 2000), SYMBOL(cuCtxSynchronize, 2000),
    SYMBOL(cuCtxGetStreamPriorityRange, 5050),
    SYMBOL(cuMemGetInfo, 3020), SYMBOL(cuMemAlloc, 3020), SYMBOL(cuMemFree, 3020), SYMBOL(cuMemAllocHost, 3020),
    SYMBOL(cuMemFreeHost, 2000), SYMBOL(cuMemAllocAsync, 11020), SYMBOL(cuMemAllocFromPoolAsync, 11020),
    SYMBOL(cuMemFreeAsync, 11020), SYMBOL(cuDeviceGetDefaultMemPool, 11020), SYMBOL(cuDeviceGetMemPool, 11020),
    SYMBOL(cuMemPoolCreate, 11020), SYMBOL(cuMemPoolDestroy, 11020), SYMBOL(cuMemPoolTrimTo, 11020),
    SYMBOL(cuMemPoolSetAccess, 11020), SYMBOL(cuMemPoolSetAttribute, 11020), SYMBOL(cuMemPoolGetAttribute, 11020),
    SYMBOL(cuPointerGetAttribute, 4000), SYMBOL(cuPointerGetAttributes, 7000),
    SYMBOL(cuMemcpyAsync, 4000), SYMBOL(cuMemcpyHtoDAsync, 3020), SYMBOL(cuMemcpyDtoHAsync, 3020),
    SYMBOL(cuMemcpyDtoDAsync, 3020), SYMBOL(cuMemcpyHtoD, 3020), SYMBOL(cuMemcpyDtoH, 3020),
    SYMBOL(cuMemsetD8Async, 3020), SYMBOL(cuMemsetD16Async, 3020), SYMBOL(cuMemsetD32Async, 3020),
    SYMBOL(cuStreamCreate, 2000), SYMBOL(cuStreamCreateWithPriority, 5050), SYMBOL(cuStreamDestroy, 4000),
    SYMBOL(cuStreamSynchronize, 2000), SYMBOL(cuStreamQuery, 2000), SYMBOL(cuStreamWaitEvent, 3020),
    SYMBOL(cuStreamGetFlags, 5050), SYMBOL(cuStreamGetPriority, 5050), SYMBOL(cuStreamGetCtx, 9020),
    SYMBOL(cuStreamGetDevice, 12080), SYMBOL(cuLaunchHostFunc, 10000),
    SYMBOL(cuEventCreate, 2000), SYMBOL(cuEventDestroy, 4000), SYMBOL(cuEventRecord, 2000),
    SYMBOL(cuEventQuery, 2000), SYMBOL(cuEventSynchronize, 2000), SYMBOL(cuEventElapsedTime, 2000),
    SYMBOL(cuStreamBeginCapture, 10010), SYMBOL(cuStreamEndCapture, 10000), SYMBOL(cuStreamIsCapturing, 10000),
    SYMBOL(cuStreamGetCaptureInfo, 12030), SYMBOL(cuThreadExchangeStreamCaptureMode, 10010),
    SYMBOL(cuGraphDestroy, 10000), SYMBOL(cuGraphInstantiateWithFlags, 11040),
    SYMBOL(cuGraphInstantiateWithParams, 12000), SYMBOL(cuGraphUpload, 11010), SYMBOL(cuGraphLaunch, 10000),
    SYMBOL(cuGraphExecDestroy, 10000), SYMBOL(cuUserObjectCreate, 11030), SYMBOL(cuUserObjectRetain, 11030),
    SYMBOL(cuUserObjectRelease, 11030), SYMBOL(cuGraphRetainUserObject, 11030),
    SYMBOL(cuGraphReleaseUserObject, 11030),
};

// The newest signature that is not newer than the caller's headers, nor than the driver that is played.
const Symbol *find_symbol(const std::string &name, int version) {
  const Symbol *best = nullptr;
  for (const Symbol &symbol : kSymbols)
    if (name == symbol.name && symbol.since <= version && (!best || symbol.since > best->since)) best = &symbol;
  return best;
}

}  // namespace

CUresult CUDAAPI cuGetProcAddress(const char *name, void **function, int version, cuuint64_t,
                                  CUdriverProcAddressQueryResult *status) {
  const Symbol *symbol = find_symbol(name, std::min(version, driver_version()));
  *function = symbol ? symbol->function : nullptr;
  if (status) *status = symbol ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return symbol ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
