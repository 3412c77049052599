// Rows whose classes lie apart, moved by a whole block, LANES of its threads for each row.
//
//     memory           class c      |r0 r1 r2 ... r7|   neighbouring rows: ROWS threads, 32 bytes
//                      class c + 1  |r0 r1 r2 ... r7|
//     shared memory    r0 [c c+1 c+2 ...]               a round of classes; each row is LANES threads'
//                      r1 [c c+1 c+2 ...]
//
// All of a row is on its way before the first round is exchanged. A thread ends up with the classes
// that it would have where they lie side by side, so that a row has the same bits either way.

#pragma once

#include "groups.cuh"
#include "tilings.cuh"

struct Together {
    static constexpr bool IS_TOGETHER = true;
    static constexpr int GRAIN = RUN;  // classes of a thread that are written as one
    static constexpr int ROWS = THREADS / LANES;
    static constexpr int ROUND = Share<LANES>::ROUND;
    static constexpr int PITCH = ROUND + 16 / static_cast<int>(sizeof(Real));  // banks differ

    const Arguments& arguments;
    const Row& row;     // that the thread computes
    Place place;        // of the row that it moves
    bool is_there;
    int number, first;  // of that row in the block; its first class of a round, others LANES apart

    __device__ __forceinline__ Together(const Arguments& all, const Row& own)
        : arguments(all), row(own), number(threadIdx.x % ROWS), first(threadIdx.x / ROWS) {
        const long long moved = static_cast<long long>(blockIdx.x) * ROWS + number;
        is_there = moved < arguments.rows;
        place = place_of(arguments, is_there ? moved : arguments.rows - 1);
    }

    __device__ __forceinline__ static Real* tile() { return reinterpret_cast<Real*>(shared_memory()); }

    __device__ __forceinline__ bool has(int c) const { return is_there && c < row.classes; }

    // From the elements that the thread moves to those of its run, or back.
    __device__ __forceinline__ void exchange(Real (&values)[RUN], bool is_back) const {
        Real* moved = tile() + number * PITCH + first;
        Real* own = tile() + threadIdx.x / LANES * PITCH + threadIdx.x % LANES * EACH;
        block_sync();  // all have what was in the tile before
#pragma unroll
        for (int i = 0; i < RUN; ++i) (is_back ? own[Share<LANES>::offset(0, i)] : moved[i * LANES]) = values[i];
        block_sync();
#pragma unroll
        for (int i = 0; i < RUN; ++i) values[i] = is_back ? moved[i * LANES] : own[Share<LANES>::offset(0, i)];
    }

    template <Reading READING, int HELD, typename Value>
    __device__ __forceinline__ void read(const Value* tensor, Real (&to)[HELD][RUN]) const {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                const int c = k * ROUND + first + i * LANES;
                if (has(c)) to[k][i] = read_one<READING>(tensor + place.base + c * place.step);
            }
        }
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            if (k * ROUND < row.classes) exchange(to[k], false);
        }
    }

    template <Reading READING, typename, int, int HELD>
    __device__ __forceinline__ void logits(int, Real (&to)[HELD][RUN]) const {
        read<READING>(static_cast<const LOGIT*>(arguments.logits), to);
    }

    template <Reading READING, typename Own, int CERTAIN, int HELD>
    __device__ __forceinline__ void labels(int mine, Real (&to)[HELD][RUN]) const {
        if constexpr (HAS_TABLE) {
            Alone{arguments, row}.labels<READING, Own, CERTAIN>(mine, to);
        } else {
            read<READING>(static_cast<const LABEL*>(arguments.labels), to);
        }
    }

    // Whether the row has any of a round: all threads of the block move it, or none does.
    __device__ __forceinline__ bool has(int, int offset) const { return offset - offset % ROUND < row.classes; }

    __device__ __forceinline__ void write_label_gradients(int mine, int offset, Real (&from)[RUN]) const {
        if constexpr (HAS_TABLE) {
            if (row.is_there) write_row_of_labels(mine, offset, from);
            return;
        }
        const int round = offset - offset % ROUND;
        exchange(from, true);
        LabelGradient* to = static_cast<LabelGradient*>(arguments.grad_labels) + place.base;
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            const int own = round + first + i * LANES;
            if (has(own)) write_one(to + own * place.step, from[i]);
        }
    }

    __device__ __forceinline__ void write_gradients(int, int offset, Real (&from)[RUN]) const {
        const int round = offset - offset % ROUND;
        exchange(from, true);
        const LOGIT* logits = static_cast<const LOGIT*>(arguments.logits) + place.base;
        LOGIT* to = static_cast<LOGIT*>(arguments.dense) + place.base;
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            const int own = round + first + i * LANES;
            if (!has(own)) continue;
            if (SOFTCAP && from[i] != 0) {
                from[i] *= slope_of_softcap(arguments, read_one<Reading::LAST>(logits + own * place.step));
            }
            write_one(to + own * place.step, from[i]);
        }
    }

  private:
    // By each thread what it has, since the gradients to a table's labels lie row by row.
    __device__ __forceinline__ void write_row_of_labels(int mine, int offset, const Real (&from)[RUN]) const {
#pragma unroll
        for (int i = 0; i < RUN; i += EACH) {
            const int there = offset + Share<LANES>::offset(0, i);
            if (there >= row.classes - mine) continue;
            Real word[EACH];
#pragma unroll
            for (int j = 0; j < EACH; ++j) word[j] = from[i + j];
            Alone{arguments, row}.write_label_gradients(mine, there, word);
        }
    }
};
