// What no kernel may do, one fault for each macro; `place` says where or how much.

#include "device.cuh"

struct Arguments {
    float* memory;
    long long place;
};

extern "C" __global__ void fault(const Arguments arguments) {
    float* held = reinterpret_cast<float*>(shared_memory());
    const int place = static_cast<int>(arguments.place);
#if defined(SHARED)
    if (threadIdx.x == 33) held[place] = 1;
#elif defined(GLOBAL)
    if (threadIdx.x == 33) held[0] = arguments.memory[place];
#elif defined(GLOBAL_WRITE)
    if (threadIdx.x == 33) arguments.memory[place] = 0;
#elif defined(DIVISION)
    if (threadIdx.x == 33) held[0] = static_cast<float>(7 / place);
#elif defined(SHIFT)
    if (threadIdx.x == 33) held[0] = static_cast<float>(1 << place);
#elif defined(PACK)
    if (threadIdx.x == 33) store_once(reinterpret_cast<Pack*>(arguments.memory + place), Pack{});
#elif defined(BLOCK_BARRIER)
    if (threadIdx.x < place) block_sync();
#elif defined(WARP_BARRIER)
    if (threadIdx.x < place) warp_sync();
#elif defined(DIFFERENT)
    if (threadIdx.x < place)
        held[threadIdx.x] = warp_shuffle_xor(1.0f, 1);
    else
        held[threadIdx.x] = warp_any(true);
#elif defined(CLUSTER_BARRIER)
    if (cluster_rank() < place) cluster_sync();
#elif defined(CLUSTER_RANK)
    cluster_sync();
    held[threadIdx.x] = cluster_read(held, place);
    cluster_sync();
#elif defined(CLUSTER_OUTSIDE)
    cluster_sync();
    held[0] = cluster_read(held + place, 0);
    cluster_sync();
#elif defined(COPY)
    copy_async_16(held, arguments.memory);
#elif defined(STACK)
    volatile float frame[1 << 16];
    for (int at = 0; at < 1 << 16; ++at) frame[at] = 0;
    held[0] = frame[place];
#elif defined(SEEN)
    arguments.memory[threadIdx.x] = held[place];
#endif
}
