// Every primitive of `device.cuh`, so that the emulation and the compiler for the GPU are held to the same text.
//
// One macro chooses what the one entry does; VALUE is the type it does it with, BLOCKS the size of its cluster.

#include "device.cuh"

struct Arguments {
    const void* input;
    void* output;
    long long count;
};

#ifndef VALUE
#define VALUE float
#endif

#ifndef BLOCKS
#define BLOCKS 1
#endif

using Value = VALUE;

__device__ __forceinline__ const Value* input_of(const Arguments& arguments) {
    return static_cast<const Value*>(arguments.input);
}

__device__ __forceinline__ Value* output_of(const Arguments& arguments) {
    return static_cast<Value*>(arguments.output);
}

#if defined(SUM)

// output[block] = sum of the block's `count` inputs, by shuffles within a warp and shared memory between warps.
__device__ __forceinline__ void run(const Arguments& arguments) {
    Value* of_warps = reinterpret_cast<Value*>(shared_memory());
    const Value* input = input_of(arguments) + blockIdx.x * arguments.count;
    Value sum = 0;
    for (long long at = threadIdx.x; at < arguments.count; at += blockDim.x) sum += load_once(input + at);
    for (int mask = 16; mask > 0; mask /= 2) sum += warp_shuffle_xor(sum, mask);
    of_warps[threadIdx.x / 32] = sum;
    block_sync();
    if (threadIdx.x != 0) return;
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) sum += of_warps[warp];
    store_once(output_of(arguments) + blockIdx.x, sum);
}

#elif defined(SHUFFLE)

// output[0] = the inputs of the neighbours, output[1] = those of the warp's lane 7, twice in turn.
__device__ __forceinline__ void run(const Arguments& arguments) {
    const Value mine = load_again(input_of(arguments) + threadIdx.x);
    const Value neighbour = warp_shuffle_xor(warp_shuffle_xor(warp_shuffle_xor(mine, 5), 1), 5);
    store_once(output_of(arguments) + threadIdx.x, neighbour);
    store_once(output_of(arguments) + blockDim.x + threadIdx.x, warp_shuffle(mine, 32 + 7));
}

#elif defined(VOTE)

// output[0] = the lanes whose input is not 0, output[1] = whether there is one, output[2] = what lane 0 left for all.
__device__ __forceinline__ void run(const Arguments& arguments) {
    const bool here = input_of(arguments)[threadIdx.x] != 0;
    Value* output = output_of(arguments) + threadIdx.x;
    volatile Value* of_warps = reinterpret_cast<Value*>(shared_memory());
    output[0] = warp_ballot(here);
    output[blockDim.x] = warp_any(here);
    if (threadIdx.x % 32 == 31) of_warps[threadIdx.x / 32] = threadIdx.x;
    warp_sync();
    output[2 * blockDim.x] = of_warps[threadIdx.x / 32];
}

#elif defined(CLUSTER)

// output[block][rank] = the input of the cluster's block `rank`; the first thread of each asks for it.
__device__ __forceinline__ void run(const Arguments& arguments) {
    Value* held = reinterpret_cast<Value*>(shared_memory());
    if (threadIdx.x == 0) held[1] = input_of(arguments)[blockIdx.x];
#ifndef OMIT_FIRST
    cluster_sync();
#endif
    const unsigned rank = threadIdx.x;
    if (rank < cluster_blocks())
        output_of(arguments)[blockIdx.x * cluster_blocks() + rank] =
            cluster_read(held + 1, (rank + cluster_rank()) % cluster_blocks());
#ifndef OMIT_LAST
    cluster_sync();
#endif
}

#elif defined(MOVE)

// output = input, in packs and then the rest of `count` one by one.
__device__ __forceinline__ void run(const Arguments& arguments) {
    const long long each = sizeof(Pack) / sizeof(Value), packs = arguments.count / each;
    const Pack* input = static_cast<const Pack*>(arguments.input);
    Pack* output = static_cast<Pack*>(arguments.output);
    for (long long at = threadIdx.x; at < packs; at += blockDim.x)
        store_once(output + at, at % 2 == 0 ? load_once(input + at) : load_again(input + at));
    for (long long at = packs * each + threadIdx.x; at < arguments.count; at += blockDim.x)
        store_once(output_of(arguments) + at, load_once(input_of(arguments) + at));
}

#elif defined(COPY)

// output = input backwards, by way of shared memory; 16 bytes a thread.
__device__ __forceinline__ void run(const Arguments& arguments) {
    const unsigned each = sizeof(Pack) / sizeof(Value), last = blockDim.x * each - 1;
    Value* held = reinterpret_cast<Value*>(shared_memory());
    copy_async_16(held + threadIdx.x * each, input_of(arguments) + threadIdx.x * each);
#ifndef OMIT_WAIT
    copy_async_wait();
#endif
    block_sync();
    for (unsigned at = threadIdx.x; at <= last; at += blockDim.x) output_of(arguments)[at] = held[last - at];
#ifdef OMIT_WAIT
    copy_async_wait();
#endif
}

#elif defined(LEAST)

// output[0] = the least input, output[1] = how many times a thread found a greater one there.
__device__ __forceinline__ void run(const Arguments& arguments) {
    const Value mine = input_of(arguments)[blockIdx.x * blockDim.x + threadIdx.x];
    Value* found = reinterpret_cast<Value*>(shared_memory()) + threadIdx.x;
    *found = atomic_min(output_of(arguments), mine) > mine ? 1 : 0;
    block_sync();
    if (threadIdx.x != 0) return;
    for (unsigned thread = 0; thread < blockDim.x; ++thread) output_of(arguments)[1] += found[thread];
}

#elif defined(TO_FLOAT)

// output = the input's 16-bit numbers as float.
__device__ __forceinline__ void run(const Arguments& arguments) {
    const unsigned short* input = static_cast<const unsigned short*>(arguments.input);
    for (long long at = threadIdx.x; at < arguments.count; at += blockDim.x)
        output_of(arguments)[at] = TO_FLOAT(load_once(input + at));
}

#elif defined(FROM_FLOAT)

// output = the input's floats as 16-bit numbers.
__device__ __forceinline__ void run(const Arguments& arguments) {
    unsigned short* output = static_cast<unsigned short*>(arguments.output);
    for (long long at = threadIdx.x; at < arguments.count; at += blockDim.x)
        store_once(output + at, FROM_FLOAT(input_of(arguments)[at]));
}

#elif defined(PAIRS_TO_FLOATS)

// output = the input's 16-bit numbers as float, two by two.
__device__ __forceinline__ void run(const Arguments& arguments) {
    const unsigned* input = static_cast<const unsigned*>(arguments.input);
    for (long long at = threadIdx.x; at < arguments.count / 2; at += blockDim.x)
        PAIRS_TO_FLOATS(load_once(input + at), output_of(arguments)[2 * at], output_of(arguments)[2 * at + 1]);
}

#elif defined(PAIRS_FROM_FLOATS)

// output = the input's floats as 16-bit numbers, two by two.
__device__ __forceinline__ void run(const Arguments& arguments) {
    unsigned* output = static_cast<unsigned*>(arguments.output);
    for (long long at = threadIdx.x; at < arguments.count / 2; at += blockDim.x)
        store_once(output + at, PAIRS_FROM_FLOATS(input_of(arguments)[2 * at], input_of(arguments)[2 * at + 1]));
}

#elif defined(POWER)

// output = 2 to the power of the input.
__device__ __forceinline__ void run(const Arguments& arguments) {
    for (long long at = threadIdx.x; at < arguments.count; at += blockDim.x)
        output_of(arguments)[at] = power_of_2(input_of(arguments)[at]);
}

#elif defined(BITS)

// output = input, taken apart and put together.
__device__ __forceinline__ void run(const Arguments& arguments) {
    output_of(arguments)[threadIdx.x] = BITS(bits_of(input_of(arguments)[threadIdx.x]));
}

#elif defined(ROTATE)

// output[i] = input[i - 1], by way of shared memory.
__device__ __forceinline__ void run(const Arguments& arguments) {
    Value* held = reinterpret_cast<Value*>(shared_memory());
    held[threadIdx.x] = input_of(arguments)[threadIdx.x];
#ifndef OMIT_BARRIER
    block_sync();
#endif
    output_of(arguments)[threadIdx.x] = held[threadIdx.x == 0 ? blockDim.x - 1 : threadIdx.x - 1];
}

#endif

extern "C" __global__ void CLUSTER_OF(BLOCKS) __launch_bounds__(1024) primitive(const Arguments arguments) {
    run(arguments);
}
