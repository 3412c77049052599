// Loss and gradient of rows, each computed by a group of threads: one launch for a whole batch.
//
//     TILING  LANES_PER_ROW  LANES neighbours of a warp per row, THREADS / LANES rows per block; the row
//             WARP_PER_ROW   in registers, with STRIDED by way of a tile in shared memory
//             BLOCK_PER_ROW  a block per row, or CLUSTER blocks; the row in registers
//             TWO_READS      a block per row, which is read twice
//
//     RUNS    runs of 16 bytes of logits that a thread has at once; every row has the first CERTAIN_RUNS of
//             all threads
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

#define LANES_PER_ROW 1
#define WARP_PER_ROW 2
#define BLOCK_PER_ROW 3
#define TWO_READS 4

#define IS_IN_WARP (TILING == LANES_PER_ROW || TILING == WARP_PER_ROW)
#define IS_TILED (STRIDED && IS_IN_WARP)
#if IS_TILED
#include "tiles.cuh"
#endif

#if IS_IN_WARP
using RowGroup = Lanes<LANES>;
#else
using RowGroup = Cluster<THREADS, CLUSTER>;
#endif

#if TILING == TWO_READS
using RowHeld = InMemory<RowGroup, RUNS, (CERTAIN_RUNS > 0)>;
#elif IS_TILED
using RowHeld = InRegisters<RowGroup, RUNS, CERTAIN_RUNS, Together>;
#else
using RowHeld = InRegisters<RowGroup, RUNS, CERTAIN_RUNS, Alone>;
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_OF(CLUSTER)
    losswire_rows(const Arguments arguments) {
#if IS_IN_WARP
    const long long row = static_cast<long long>(blockIdx.x) * (THREADS / LANES) + threadIdx.x / LANES;
    const bool is_there = row < arguments.rows;  // all of a warp come to its shuffles
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
