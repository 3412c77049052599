// Loss and gradient of rows, each computed by a group of threads: one launch for a whole batch.
//
//     TILING  WARP_PER_ROW   a warp per row, THREADS / 32 rows per block; the row in registers, with
//                            STRIDED by way of a tile in shared memory
//             BLOCK_PER_ROW  a block per row, or CLUSTER blocks; the row in registers
//             TWO_READS      a block per row, which is read twice (RUNS 0)
//
//     RUNS    runs of 16 bytes of logits that a thread holds
//
// A row is read, its peak found, its sums formed, and its gradient written; only the peak and the
// sums go through the group. Where the row is not held, sums are formed beside the peak, and brought
// to a higher one whenever one is found (online softmax).

#include "tilings.cuh"

#include LOSS

#include "row.cuh"

#ifndef CLUSTER
#define CLUSTER 1
#endif

#define WARP_PER_ROW 1
#define BLOCK_PER_ROW 2
#define TWO_READS 3

#define IS_TILED (STRIDED && TILING == WARP_PER_ROW)
#if IS_TILED
#include "tiles.cuh"
#endif

#if TILING == WARP_PER_ROW
using RowGroup = Warp;
#else
using RowGroup = Cluster<THREADS, CLUSTER>;
#endif

#if TILING == TWO_READS
using RowHeld = InMemory<RowGroup>;
#elif IS_TILED
using RowHeld = InRegisters<RowGroup, RUNS, Together>;
#else
using RowHeld = InRegisters<RowGroup, RUNS, Alone>;
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_OF(CLUSTER)
    losswire_rows(const Arguments arguments) {
#if TILING == WARP_PER_ROW
    const long long row = static_cast<long long>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    const bool is_there = row < arguments.rows;
    if (!IS_TILED && !is_there) return;
#else
    const bool is_there = true;
    const long long row = blockIdx.x / CLUSTER;
#endif
    RowGroup group;
    Row place(arguments, is_there ? row : arguments.rows - 1);
    place.is_there = is_there;
    RowHeld held(arguments, place, group);
    compute_row(arguments, place, held, group);
#if CLUSTER > 1
    cluster_sync();  // a block that has ended could not be read
#endif
}
