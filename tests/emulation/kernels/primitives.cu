// Every primitive of `device.cuh` once, so that the emulation and the compiler for the GPU are held to the same text.
//
// KERNEL chooses what the one entry does; OMIT_BARRIER leaves out what a correct kernel needs.

#include "device.cuh"

struct Arguments {
    const void* input;
    void* output;
    long long count;
};

#if defined(SUM)

// output[block] = sum of the block's `count` inputs, by shuffles within a warp and shared memory between warps.
extern "C" __global__ void __launch_bounds__(256) primitive(const Arguments arguments) {
    float* of_warps = reinterpret_cast<float*>(shared_memory());
    const float* input = static_cast<const float*>(arguments.input) + blockIdx.x * arguments.count;
    float sum = 0;
    for (long long at = threadIdx.x; at < arguments.count; at += blockDim.x) sum += load_once(input + at);
    for (int mask = 16; mask > 0; mask /= 2) sum += warp_shuffle_xor(sum, mask);
    of_warps[threadIdx.x / 32] = sum;
    block_sync();
    if (threadIdx.x == 0) {
        for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) sum += of_warps[warp];
        store_once(static_cast<float*>(arguments.output) + blockIdx.x, sum);
    }
}

#endif
