// What no kernel may do, one deed at a time; `place` says where or how much. The test has the deeds in this order.

#include "device.cuh"

enum Deed : long long {
    SHARED,
    GLOBAL,
    GLOBAL_WRITE,
    DIVISION,
    SHIFT,
    PACK,
    BLOCK_BARRIER,
    WARP_BARRIER,
    DIFFERENT,
    CLUSTER_BARRIER,
    CLUSTER_RANK,
    CLUSTER_OUTSIDE,
    COPY,
    STACK,
    SEEN,
};

struct Arguments {
    float* memory;
    long long place;
    Deed deed;
};

__device__ void fill_the_stack(float* held, int place) {
    volatile float frame[1 << 16];
    for (int at = 0; at < 1 << 16; ++at) frame[at] = 0;
    held[0] = frame[place];
}

extern "C" __global__ void fault(const Arguments arguments) {
    float* held = reinterpret_cast<float*>(shared_memory());
    const int place = static_cast<int>(arguments.place);
    const unsigned limit = static_cast<unsigned>(place), thread = threadIdx.x;
    switch (arguments.deed) {
        case SHARED:
            if (thread == 33) held[place] = 1;
            break;
        case GLOBAL:
            if (thread == 33) held[0] = arguments.memory[place];
            break;
        case GLOBAL_WRITE:
            if (thread == 33) arguments.memory[place] = 0;
            break;
        case DIVISION:
            if (thread == 33) held[0] = static_cast<float>(7 / place);
            break;
        case SHIFT:
            if (thread == 33) held[0] = static_cast<float>(1 << place);
            break;
        case PACK:
            if (thread == 33) store_once(reinterpret_cast<Pack*>(arguments.memory + place), Pack{});
            break;
        case BLOCK_BARRIER:
            if (thread < limit) block_sync();
            break;
        case WARP_BARRIER:
            if (thread < limit) warp_sync();
            break;
        case DIFFERENT:
            if (thread < limit)
                held[thread] = warp_shuffle_xor(1.0f, 1);
            else
                held[thread] = warp_any(true);
            break;
        case CLUSTER_BARRIER:
            if (cluster_rank() < limit) cluster_sync();
            break;
        case CLUSTER_RANK:
            cluster_sync();
            held[thread] = cluster_read(held, limit);
            cluster_sync();
            break;
        case CLUSTER_OUTSIDE:
            cluster_sync();
            held[0] = cluster_read(held + place, 0);
            cluster_sync();
            break;
        case COPY:
            copy_async_16(held, arguments.memory);
            break;
        case STACK:
            fill_the_stack(held, place);
            break;
        case SEEN:
            arguments.memory[thread] = held[place];
            break;
    }
}
