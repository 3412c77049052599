// The kernels' language and primitives on the processor: what `device.cuh` gives a C++ compiler.
//
// Every name here promises what the same name in `device.cuh` promises, and faults where a kernel leaves the promise:
// a misaligned pack, memory outside the block's own, a cluster read before the first or after the last meeting.
// Copies arrive as late as they may: in `copy_async_wait`.

#pragma once

#include <math.h>

#include <algorithm>

#include "machine.hpp"

#define __global__
#define __device__ __attribute__((unused))
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define CLUSTER_OF(blocks)

#define threadIdx (gpu_on_cpu::current->index)
#define blockIdx (gpu_on_cpu::current->block->index)
#define blockDim (gpu_on_cpu::machine->block)
#define gridDim (gpu_on_cpu::machine->grid)

using std::max;
using std::min;

namespace gpu_on_cpu {

// The same bytes as another type; what the shorter lacks is zero.
template <typename To, typename From>
inline To same_bytes(From from) {
    To to{};
    memcpy(&to, &from, std::min(sizeof to, sizeof from));
    return to;
}

template <typename Value>
inline void expect_aligned(const Value* address, size_t bytes, const char* primitive) {
    const void* at = address;
    if (reinterpret_cast<uintptr_t>(at) % bytes != 0)
        machine->fail("%s at %p, which is not aligned to %zu bytes", primitive, at, bytes);
}

// The offset of bytes that must lie in this block's shared memory.
inline size_t offset_in_shared(const void* address, size_t bytes, const char* primitive) {
    const SharedMemory& shared = current->block->shared;
    const auto offset = static_cast<const unsigned char*>(address) - shared.start;
    if (offset < 0 || static_cast<size_t>(offset) + bytes > shared.bytes)
        machine->fail("%s at byte %lld of the %zu bytes of its shared memory", primitive,
                      static_cast<long long>(offset), shared.bytes);
    return static_cast<size_t>(offset);
}

// Each lane gives a word; afterwards all words of the warp are there to be read until this lane's next exchange.
inline const unsigned long long* exchange_in_warp(unsigned long long word, const char* primitive) {
    Warp& warp = *current->warp;
    unsigned long long* words = warp.words[warp.exchange.generation % 2];
    words[current->lane] = word;
    machine->meet(warp.exchange, primitive);
    return words;
}

template <typename Value>
inline Value shuffle(Value value, unsigned source, const char* primitive) {
    static_assert(sizeof(Value) == 4 || sizeof(Value) == 8, "a warp exchanges words of 4 or 8 bytes");
    return same_bytes<Value>(exchange_in_warp(same_bytes<unsigned long long>(value), primitive)[source % WARP]);
}

inline unsigned ballot(bool here, const char* primitive) {
    const unsigned long long* words = exchange_in_warp(here, primitive);
    unsigned lanes = 0;
    for (unsigned lane = 0; lane < WARP; ++lane) lanes |= static_cast<unsigned>(words[lane]) << lane;
    return lanes;
}

// Block `rank` of the running cluster, if its shared memory can be read now.
inline const Block& readable_block(unsigned rank) {
    if (rank >= machine->blocks.size())
        machine->fail("cluster_read of block %u of a cluster of %zu", rank, machine->blocks.size());
    const Block& block = machine->blocks[rank];
    if (&block == current->block) return block;
    if (machine->cluster.generation == 0)
        machine->fail("cluster_read of block %u before the first cluster_sync", block.index.x);
    if (block.ended > 0) machine->fail("cluster_read of block %u, of which threads have ended", block.index.x);
    return block;
}

}  // namespace gpu_on_cpu

inline unsigned char* shared_memory() { return gpu_on_cpu::current->block->shared.start; }

// ---- warp and block ----

template <typename Value>
inline Value warp_shuffle_xor(Value value, int lane_mask) {
    const unsigned source = gpu_on_cpu::current->lane ^ static_cast<unsigned>(lane_mask);
    return gpu_on_cpu::shuffle(value, source, "warp_shuffle_xor");
}

template <typename Value>
inline Value warp_shuffle(Value value, int lane) {
    return gpu_on_cpu::shuffle(value, static_cast<unsigned>(lane), "warp_shuffle");
}

inline bool warp_any(bool here) { return gpu_on_cpu::ballot(here, "warp_any") != 0; }
inline unsigned warp_ballot(bool here) { return gpu_on_cpu::ballot(here, "warp_ballot"); }
inline void warp_sync() { gpu_on_cpu::machine->meet(gpu_on_cpu::current->warp->exchange, "warp_sync"); }
inline void block_sync() { gpu_on_cpu::machine->meet(gpu_on_cpu::current->block->exchange, "block_sync"); }

// ---- clusters ----

inline unsigned cluster_rank() { return gpu_on_cpu::current->block->rank; }
inline unsigned cluster_blocks() { return static_cast<unsigned>(gpu_on_cpu::machine->blocks.size()); }
inline void cluster_sync() { gpu_on_cpu::machine->meet(gpu_on_cpu::machine->cluster, "cluster_sync"); }

template <typename Value>
inline Value cluster_read(const Value* own, unsigned rank) {
    static_assert(sizeof(Value) == 4 || sizeof(Value) == 8, "a cluster reads words of 4 or 8 bytes");
    gpu_on_cpu::expect_aligned(own, sizeof(Value), "cluster_read");
    const size_t offset = gpu_on_cpu::offset_in_shared(own, sizeof(Value), "cluster_read");
    Value value;
    memcpy(&value, gpu_on_cpu::readable_block(rank).shared.start + offset, sizeof value);
    return value;
}

// ---- global memory ----

struct alignas(16) Pack {
    unsigned word[4];
};

template <typename Value>
inline Value load_once(const Value* from) {
    gpu_on_cpu::expect_aligned(from, sizeof(Value), "load_once");
    return *from;
}

template <typename Value>
inline Value load_again(const Value* from) {
    gpu_on_cpu::expect_aligned(from, sizeof(Value), "load_again");
    return *from;
}

template <typename Value>
inline void store_once(Value* to, Value value) {
    gpu_on_cpu::expect_aligned(to, sizeof(Value), "store_once");
    *to = value;
}

inline void copy_async_16(void* shared, const void* global) {
    gpu_on_cpu::expect_aligned(static_cast<const unsigned char*>(shared), 16, "copy_async_16");
    gpu_on_cpu::expect_aligned(static_cast<const unsigned char*>(global), 16, "copy_async_16");
    gpu_on_cpu::offset_in_shared(shared, 16, "copy_async_16");
    gpu_on_cpu::current->copies.push_back(
        {static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global)});
}

inline void copy_async_wait() {
    for (const gpu_on_cpu::Copy& copy : gpu_on_cpu::current->copies) memcpy(copy.to, copy.from, 16);
    gpu_on_cpu::current->copies.clear();
}

inline unsigned long long atomic_min(unsigned long long* at, unsigned long long value) {
    gpu_on_cpu::expect_aligned(at, sizeof *at, "atomic_min");
    const unsigned long long before = *at;
    *at = std::min(before, value);
    return before;
}

// ---- numbers ----

inline float power_of_2(float x) {
    const float power = exp2f(x);
    return power < 0x1p-126f ? 0.0f : power;
}

inline unsigned bits_of(float value) { return gpu_on_cpu::same_bytes<unsigned>(value); }
inline float float_of(unsigned bits) { return gpu_on_cpu::same_bytes<float>(bits); }
inline unsigned long long bits_of(double value) { return gpu_on_cpu::same_bytes<unsigned long long>(value); }
inline double double_of(unsigned long long bits) { return gpu_on_cpu::same_bytes<double>(bits); }

inline float half_to_float(unsigned short half) {
    const unsigned sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 0x1fu, fraction = half & 0x3ffu;
    if (exponent == 0) return copysignf(ldexpf(static_cast<float>(fraction), -24), float_of(sign | 1u));
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    return float_of(sign | (exponent + 112u) << 23 | fraction << 13);
}

inline unsigned short float_to_half(float value) {
    if (isnan(value)) return 0x7fff;
    const unsigned sign = bits_of(value) >> 16 & 0x8000u;
    const float size = fabsf(value);
    unsigned half = 0x7c00u;
    if (size < 0x1p-14f) {
        half = static_cast<unsigned>(nearbyintf(size * 0x1p24f));
    } else if (size < 65520.0f) {
        const unsigned bits = bits_of(size);
        half = (bits + 0xfffu + (bits >> 13 & 1u) - (112u << 23)) >> 13;
    }
    return static_cast<unsigned short>(sign | half);
}

inline float bfloat16_to_float(unsigned short bfloat16) { return float_of(static_cast<unsigned>(bfloat16) << 16); }

inline unsigned short float_to_bfloat16(float value) {
    if (isnan(value)) return 0x7fff;
    const unsigned bits = bits_of(value);
    return static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline void halves_to_floats(unsigned pair, float& first, float& second) {
    first = half_to_float(static_cast<unsigned short>(pair));
    second = half_to_float(static_cast<unsigned short>(pair >> 16));
}

inline unsigned floats_to_halves(float first, float second) {
    return float_to_half(first) | static_cast<unsigned>(float_to_half(second)) << 16;
}

inline void bfloat16s_to_floats(unsigned pair, float& first, float& second) {
    first = bfloat16_to_float(static_cast<unsigned short>(pair));
    second = bfloat16_to_float(static_cast<unsigned short>(pair >> 16));
}

inline unsigned floats_to_bfloat16s(float first, float second) {
    return float_to_bfloat16(first) | static_cast<unsigned>(float_to_bfloat16(second)) << 16;
}

// ---- registers ----

template <typename Number>
inline Number anew(Number value) {
    return value;
}
