// The threads that share a row, and how they bring together what each has found.
//
//     One      a thread by itself
//     Warp     32 lanes: shuffles
//     Block    warps, then their results by shared memory
//     Cluster  blocks, then their results by one another's shared memory (capability 9.0)
//
// After `settle` and a reduction no thread finds in memory what another writes later.
//
// Every thread of a group gets the same bits, and what is added in which order follows from the
// group's size. Shared memory of a reduction alternates between two halves, so that one barrier
// serves: nobody writes a half again before all have passed the barrier of the other one.

#pragma once

#include "numbers.cuh"

constexpr int WARP = 32;
constexpr int MOST_VALUES = 8;  // that are reduced together

struct Sum {
    template <typename Value>
    static __device__ __forceinline__ Value of(Value a, Value b) {
        return a + b;
    }
};

struct Largest {
    static __device__ __forceinline__ Real of(Real a, Real b) { return larger(a, b); }
};

struct Least {
    static __device__ __forceinline__ long long of(long long a, long long b) { return a < b ? a : b; }
};

struct One {
    static constexpr int SIZE = 1;
    __device__ __forceinline__ int rank() const { return 0; }
    __device__ __forceinline__ void settle() {}
    template <typename Rule, int COUNT, typename Value>
    __device__ __forceinline__ void reduce(Value (&)[COUNT]) {}
};

// Neighbouring lanes of a warp.
template <int COUNT>
struct Lanes {
    static constexpr int SIZE = COUNT;
    __device__ __forceinline__ int rank() const { return threadIdx.x % COUNT; }
    __device__ __forceinline__ void settle() { warp_sync(); }

    template <typename Rule, int VALUES, typename Value>
    __device__ __forceinline__ void reduce(Value (&values)[VALUES]) {
#pragma unroll
        for (int distance = COUNT / 2; distance > 0; distance /= 2) {
#pragma unroll
            for (int i = 0; i < VALUES; ++i) {
                values[i] = Rule::of(values[i], warp_shuffle_xor(values[i], distance));
            }
        }
    }
};

using Warp = Lanes<WARP>;

// Shared memory that a group of warps needs, by warps of one block.
template <int IN_BLOCK, int PARTS>
struct Exchange {
    long long by_warp[2][IN_BLOCK][MOST_VALUES];
    long long by_block[2][PARTS][MOST_VALUES];
};

template <int WIDTH, int PARTS>
struct Cluster {
    static constexpr int SIZE = WIDTH * PARTS;
    static constexpr int IN_BLOCK = WIDTH / WARP;  // warps

    Exchange<IN_BLOCK, PARTS>* exchange;
    int half = 0;

    __device__ __forceinline__ Cluster()
        : exchange(reinterpret_cast<Exchange<IN_BLOCK, PARTS>*>(shared_memory())) {}

    __device__ __forceinline__ int rank() const {
        return (PARTS == 1 ? 0 : static_cast<int>(cluster_rank()) * WIDTH) + threadIdx.x;
    }

    __device__ __forceinline__ void settle() {}  // a reduction does, by its barriers

    template <typename Rule, int COUNT, typename Value>
    __device__ __forceinline__ void reduce(Value (&values)[COUNT]) {
        static_assert(COUNT <= MOST_VALUES && sizeof(Value) <= sizeof(long long), "exchange");
        Warp().reduce<Rule>(values);
        Value(*slots)[MOST_VALUES] = reinterpret_cast<Value(*)[MOST_VALUES]>(exchange->by_warp[half]);
        if (threadIdx.x % WARP == 0) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) slots[threadIdx.x / WARP][i] = values[i];
        }
        block_sync();
        collect<Rule, IN_BLOCK>(slots, values);
        if (PARTS > 1) across_blocks<Rule>(values);
        half ^= 1;
    }

  private:
    // Each warp brings together what lies in ROWS slots, a lane for each.
    template <typename Rule, int ROWS, int COUNT, typename Value>
    __device__ __forceinline__ static void collect(Value (*slots)[MOST_VALUES], Value (&values)[COUNT]) {
        static_assert((ROWS & (ROWS - 1)) == 0 && ROWS <= WARP, "slots");
#pragma unroll
        for (int i = 0; i < COUNT; ++i) values[i] = slots[threadIdx.x % ROWS][i];
        Lanes<ROWS>().template reduce<Rule>(values);
    }

    // Each block's values lie in its first slots; some threads fetch those of all.
    template <typename Rule, int COUNT, typename Value>
    __device__ __forceinline__ void across_blocks(Value (&values)[COUNT]) {
        Value(*mine)[MOST_VALUES] = reinterpret_cast<Value(*)[MOST_VALUES]>(exchange->by_block[half]);
        Value(*own)[MOST_VALUES] = reinterpret_cast<Value(*)[MOST_VALUES]>(exchange->by_warp[half]);
        block_sync();  // all have collected from the slots
        if (threadIdx.x == 0) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) own[0][i] = values[i];
        }
        cluster_sync();
        if (threadIdx.x < PARTS * COUNT) {
            const int block = threadIdx.x / COUNT, i = threadIdx.x % COUNT;
            mine[block][i] = cluster_read(&own[0][i], block);
        }
        block_sync();
        collect<Rule, PARTS>(mine, values);
    }
};

template <int WIDTH>
using Block = Cluster<WIDTH, 1>;
