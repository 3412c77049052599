// What the kernels may use of the device, and nothing else of it.
//
// A kernel file includes this header alone. The compiler for the GPU takes the text below: inline PTX and functions
// that it knows without a header, since the wheels of NVRTC do not always bring CUDA's headers. A C++ compiler takes
// the same names from the tests' emulation instead, which also looks for misuse.
//
// Promises asked of every kernel: one parameter, a struct by value; only dynamic shared memory; blocks of whole warps
// in x; all threads of a warp, block or cluster come to each of its exchanges.

#pragma once

#if !defined(__CUDACC__) && !defined(__CUDACC_RTC__)
#include "gpu_on_cpu.hpp"
#else

constexpr unsigned WHOLE_WARP = 0xffffffffu;

#if __CUDA_ARCH__ >= 900
// Blocks that share one another's shared memory; one block before compute capability 9.0.
#define CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)
#else
#define CLUSTER_OF(blocks)
#endif

extern __shared__ uint4 dynamic_shared_memory[];

// The block's dynamic shared memory, aligned to 16 bytes, with nothing in it that can be relied on.
__device__ __forceinline__ unsigned char* shared_memory() {
    return reinterpret_cast<unsigned char*>(dynamic_shared_memory);
}

// The address in shared memory as PTX takes it.
__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// ---- warp and block ----

// The value of the lane whose number differs by the bits of `lane_mask`.
template <typename Value>
__device__ __forceinline__ Value warp_shuffle_xor(Value value, int lane_mask) {
    return __shfl_xor_sync(WHOLE_WARP, value, lane_mask);
}

// The value of `lane`, modulo 32.
template <typename Value>
__device__ __forceinline__ Value warp_shuffle(Value value, int lane) {
    return __shfl_sync(WHOLE_WARP, value, lane);
}

// Whether it is true in any lane.
__device__ __forceinline__ bool warp_any(bool here) { return __any_sync(WHOLE_WARP, here); }

// A bit per lane in which it is true; lane 0 is the lowest.
__device__ __forceinline__ unsigned warp_ballot(bool here) { return __ballot_sync(WHOLE_WARP, here); }

// What the warp wrote before to memory is seen by all its lanes after.
__device__ __forceinline__ void warp_sync() { __syncwarp(); }

// What the block wrote before to memory is seen by all its threads after.
__device__ __forceinline__ void block_sync() { __syncthreads(); }

// ---- clusters ----

#if __CUDA_ARCH__ >= 900

// This block's place in its cluster, from 0.
__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// The blocks of the cluster.
__device__ __forceinline__ unsigned cluster_blocks() {
    unsigned blocks;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    return blocks;
}

// What the cluster wrote before to shared memory is seen by all its threads after. One comes before the first
// `cluster_read`, one after the last: a block that has ended has no shared memory.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Where block `rank` has what this block has at `own`.
__device__ __forceinline__ unsigned cluster_address(const void* own, unsigned rank) {
    unsigned theirs;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(shared_address(own)), "r"(rank));
    return theirs;
}

#define LOSSWIRE_CLUSTER_READ(Value, type, constraint)                                                          \
    __device__ __forceinline__ Value cluster_read(const Value* own, unsigned rank) {                            \
        Value value;                                                                                            \
        asm volatile("ld.shared::cluster." type " %0, [%1];"                                                    \
                     : "=" constraint(value) : "r"(cluster_address(own, rank)) : "memory");                     \
        return value;                                                                                           \
    }

#else

__device__ __forceinline__ unsigned cluster_rank() { return 0; }
__device__ __forceinline__ unsigned cluster_blocks() { return 1; }
__device__ __forceinline__ void cluster_sync() { block_sync(); }

#define LOSSWIRE_CLUSTER_READ(Value, type, constraint)                                                          \
    __device__ __forceinline__ Value cluster_read(const Value* own, unsigned) { return *own; }

#endif

// What block `rank` of the cluster holds where this block has `own` in its shared memory.
LOSSWIRE_CLUSTER_READ(float, "f32", "f")
LOSSWIRE_CLUSTER_READ(double, "f64", "d")
LOSSWIRE_CLUSTER_READ(int, "s32", "r")
LOSSWIRE_CLUSTER_READ(unsigned, "u32", "r")
LOSSWIRE_CLUSTER_READ(long long, "s64", "l")

// ---- global memory ----

// 16 bytes, the most that a thread moves at once.
struct alignas(16) Pack {
    unsigned word[4];
};

#if __CUDA_ARCH__ >= 800
// Rules for lines of the second-level cache, to be hinted at with a load: as `createpolicy.fractional.L2::evict_first`
// and `evict_last` make them of all lines, but known when a kernel is compiled.
constexpr unsigned long long LEAVE_FIRST = 0x12f0000000000000ull;
constexpr unsigned long long LEAVE_LAST = 0x14f0000000000000ull;
#define LOSSWIRE_HINT ".L2::cache_hint"
#define LOSSWIRE_RULE_OPERAND(operand) ", " operand
#define LOSSWIRE_RULE(rule) , "l"(rule)
#else
#define LOSSWIRE_HINT
#define LOSSWIRE_RULE_OPERAND(operand)
#define LOSSWIRE_RULE(rule)
#endif

#define LOSSWIRE_LOAD_PACK(name, rule)                                                                          \
    __device__ __forceinline__ Pack name(const Pack* from) {                                                    \
        Pack pack;                                                                                              \
        asm volatile("ld.global.L1::no_allocate" LOSSWIRE_HINT ".v4.u32 {%0, %1, %2, %3}, [%4]"                 \
            LOSSWIRE_RULE_OPERAND("%5") ";"                                                                     \
            : "=r"(pack.word[0]), "=r"(pack.word[1]), "=r"(pack.word[2]), "=r"(pack.word[3])                    \
            : "l"(from) LOSSWIRE_RULE(rule));                                                                   \
        return pack;                                                                                            \
    }

#define LOSSWIRE_LOAD(name, rule, Value, type, constraint)                                                      \
    __device__ __forceinline__ Value name(const Value* from) {                                                  \
        Value value;                                                                                            \
        asm volatile("ld.global.L1::no_allocate" LOSSWIRE_HINT "." type " %0, [%1]"                             \
            LOSSWIRE_RULE_OPERAND("%2") ";"                                                                     \
            : "=" constraint(value) : "l"(from) LOSSWIRE_RULE(rule));                                           \
        return value;                                                                                           \
    }

#define LOSSWIRE_STORE(Value, type, constraint)                                                                 \
    __device__ __forceinline__ void store_once(Value* to, Value value) {                                        \
        asm volatile("st.global.cs." type " [%0], %1;" :: "l"(to), constraint(value) : "memory");               \
    }

#define LOSSWIRE_MEMORY(Value, type, constraint)                                                                \
    LOSSWIRE_LOAD(load_once, LEAVE_FIRST, Value, type, constraint)                                              \
    LOSSWIRE_LOAD(load_again, LEAVE_LAST, Value, type, constraint)                                              \
    LOSSWIRE_STORE(Value, type, constraint)

// `load_once` leaves the caches to others; `load_again` asks the second-level cache to keep what it reads, since it is
// read a second time; `store_once` leaves the caches first. They keep their order among themselves in a thread, so that
// a row may be written where it was read. Addresses are aligned to what is moved.
LOSSWIRE_LOAD_PACK(load_once, LEAVE_FIRST)
LOSSWIRE_LOAD_PACK(load_again, LEAVE_LAST)
LOSSWIRE_MEMORY(unsigned short, "u16", "h")
LOSSWIRE_MEMORY(unsigned, "u32", "r")
LOSSWIRE_MEMORY(int, "s32", "r")
LOSSWIRE_MEMORY(float, "f32", "f")
LOSSWIRE_MEMORY(unsigned long long, "u64", "l")
LOSSWIRE_MEMORY(long long, "s64", "l")
LOSSWIRE_MEMORY(double, "f64", "d")

__device__ __forceinline__ void store_once(Pack* to, Pack pack) {
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(pack.word[0]), "r"(pack.word[1]),
                 "r"(pack.word[2]), "r"(pack.word[3])
                 : "memory");
}

// Starts to bring 16 bytes into shared memory, both aligned to 16; they are there after this thread's
// `copy_async_wait`, and for other threads after a `block_sync` that follows.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
#else
    *static_cast<Pack*>(shared) = load_once(static_cast<const Pack*>(global));
#endif
}

// All that this thread began to copy is there.
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Puts the lesser of both at the address, whole; gives what was there before.
__device__ __forceinline__ unsigned long long atomic_min(unsigned long long* at, unsigned long long value) {
    return atomicMin(at, value);
}

// ---- numbers ----

// 2^x, off by 2 units in the last place at most; 0 where it is less than 2^-126, NaN for NaN.
__device__ __forceinline__ float power_of_2(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

// The same bits as another type.
__device__ __forceinline__ unsigned bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float float_of(unsigned bits) { return __uint_as_float(bits); }
__device__ __forceinline__ unsigned long long bits_of(double value) {
    return static_cast<unsigned long long>(__double_as_longlong(value));
}
__device__ __forceinline__ double double_of(unsigned long long bits) {
    return __longlong_as_double(static_cast<long long>(bits));
}

// Exactly; NaN stays NaN.
__device__ __forceinline__ float half_to_float(unsigned short half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

// To the nearest, ties to even; infinity beyond; NaN stays NaN.
__device__ __forceinline__ unsigned short float_to_half(float value) {
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

// Exactly; NaN stays NaN.
__device__ __forceinline__ float bfloat16_to_float(unsigned short bfloat16) {
    return float_of(static_cast<unsigned>(bfloat16) << 16);
}

// To the nearest, ties to even; infinity beyond; NaN stays NaN.
__device__ __forceinline__ unsigned short float_to_bfloat16(float value) {
#if __CUDA_ARCH__ >= 800
    unsigned short bfloat16;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bfloat16) : "f"(value));
    return bfloat16;
#else
    const unsigned bits = bits_of(value);
    if (value != value) return 0x7fff;
    return static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}

// Two of a format in a word, the first in its lower half; each becomes what it becomes by itself.
__device__ __forceinline__ void halves_to_floats(unsigned pair, float& first, float& second) {
    asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(first), "=f"(second)
        : "r"(pair));
}

__device__ __forceinline__ unsigned floats_to_halves(float first, float second) {
#if __CUDA_ARCH__ >= 800
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#else
    return float_to_half(first) | static_cast<unsigned>(float_to_half(second)) << 16;
#endif
}

__device__ __forceinline__ void bfloat16s_to_floats(unsigned pair, float& first, float& second) {
    first = float_of(pair << 16);
    second = float_of(pair & 0xffff0000u);
}

__device__ __forceinline__ unsigned floats_to_bfloat16s(float first, float second) {
#if __CUDA_ARCH__ >= 800
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#else
    return float_to_bfloat16(first) | static_cast<unsigned>(float_to_bfloat16(second)) << 16;
#endif
}

// ---- registers ----

// The same number, as one that the compiler knows nothing of: what was worked out from it before is worked out
// again, and needs no register in between.
__device__ __forceinline__ long long anew(long long value) {
    asm volatile("" : "+l"(value));
    return value;
}
template <typename Value>
__device__ __forceinline__ Value* anew(Value* value) {
    asm volatile("" : "+l"(value));
    return value;
}

#endif
