// What a group of threads does with its share of a row: three ways to hold it.
//
//     InRegisters  read once; a thread has RUNS runs of it
//     InShared     read once by a whole block; a thread has a row of few classes for itself
//     InMemory     read again for each sweep, the second time from the cache
//
// Rows of one warp each whose classes lie apart come by way of a tile (`tiles.cuh`).
//
// Each offers `sweep(visit)` over the thread's classes, with the logit's z and the label, and `write`
// for what is computed from them. `kept` is z, and from `exponentiate` on e where a loss needs z no
// more. Runs go round the threads of the group in turn, so that a row is read in whole lines.

#pragma once

#include "places.cuh"
#include "softmax.cuh"

struct Row {
    long long number;
    int classes;
    Place place;
    Place labels;
    Place label_gradient;
    bool is_there = true;  // otherwise its warp only helps others, and computes what nobody sees

    __device__ __forceinline__ Row(const Arguments& arguments, long long row)
        : number(row),
          classes(static_cast<int>(arguments.classes)),
          place(place_of(arguments, row)),
          labels(label_place(arguments, row, place)),
          label_gradient(label_gradient_place(arguments, row, place)) {}
};

constexpr bool HAS_LABELS = LABELS && !IDS;
constexpr bool IS_LABEL_STRIDED = STRIDED && !HAS_TABLE;

// Where class c of a row is.
template <typename Value>
__device__ __forceinline__ Value* at(Value* tensor, const Place& place, int c) {
    return tensor + place.base + (STRIDED ? c * place.step : c);
}

template <Reading READING>
__device__ __forceinline__ void read_logits(
    const Arguments& arguments, const Row& row, int c, int left, Real (&to)[RUN]) {
    const LOGIT* from = at(static_cast<const LOGIT*>(arguments.logits), row.place, c);
    read_run<LOGIT_ALIGNMENT, READING, STRIDED>(from, row.place.step, left, to);
}

template <Reading READING>
__device__ __forceinline__ void read_labels(
    const Arguments& arguments, const Row& row, int c, int left, Real (&to)[RUN]) {
    if (!HAS_LABELS) return;
    const LABEL* from = at(static_cast<const LABEL*>(arguments.labels), row.labels, c);
    read_run<LABEL_ALIGNMENT, READING, IS_LABEL_STRIDED>(from, row.labels.step, left, to);
}

// The factor of one logit's gradient that softcap brings.
__device__ __forceinline__ Real slope_at(const Arguments& arguments, const Row& row, int c) {
    const LOGIT* from = at(static_cast<const LOGIT*>(arguments.logits), row.place, c);
    return slope_of_softcap(arguments, read_one<Reading::LAST>(from));
}

#if LABEL_TABLE
using LabelGradient = Real;
constexpr int LABEL_GRADIENT_ALIGNMENT = sizeof(Real);
#else
using LabelGradient = LABEL;
constexpr int LABEL_GRADIENT_ALIGNMENT = LABEL_ALIGNMENT;
#endif

// How runs come from memory and go back to it: by the thread that has them.
struct Alone {
    static constexpr bool IS_TOGETHER = false;

    const Arguments& arguments;
    const Row& row;

    template <Reading READING, int ROUND, int HELD>
    __device__ __forceinline__ void logits(int first, Real (&to)[HELD][RUN]) const {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int c = first + k * ROUND;
            read_logits<READING>(arguments, row, c, row.classes - c, to[k]);
        }
    }

    template <int ROUND, int HELD>
    __device__ __forceinline__ void labels(int first, Real (&to)[HELD][RUN]) const {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int c = first + k * ROUND;
            read_labels<Reading::LAST>(arguments, row, c, row.classes - c, to[k]);
        }
    }

    __device__ __forceinline__ void write_label_gradients(int c, int left, const Real (&from)[RUN]) const {
        LabelGradient* to = at(static_cast<LabelGradient*>(arguments.grad_labels), row.label_gradient, c);
        write_run<LABEL_GRADIENT_ALIGNMENT, IS_LABEL_STRIDED>(to, row.label_gradient.step, left, from);
    }

    __device__ __forceinline__ void write_gradients(int c, int left, Real (&from)[RUN]) const {
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            if (SOFTCAP && i < left && from[i] != 0) from[i] *= slope_at(arguments, row, c + i);
        }
        LOGIT* to = at(static_cast<LOGIT*>(arguments.dense), row.place, c);
        write_run<LOGIT_ALIGNMENT, STRIDED>(to, row.place.step, left, from);
    }
};

// Writes what `gradients` say of a run that begins with class c.
template <typename Moves, typename Gradients>
__device__ __forceinline__ void write_run_of(
    const Moves& moves, const Element (&elements)[RUN], int c, int left, const Gradients& gradients) {
    Real values[RUN] = {};
    if (GRAD_LABELS) {
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            if (i < left) values[i] = gradients.of_label(elements[i]);
        }
        moves.write_label_gradients(c, left, values);
    }
    if (GRAD_LOGITS) {
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            if (i < left) values[i] = gradients.of_logit(elements[i]);
        }
        moves.write_gradients(c, left, values);
    }
}

template <typename Group, int HELD, typename Moves>
struct InRegisters {
    static constexpr bool IS_KEPT = true;
    static constexpr int ROUND = Group::SIZE * RUN;  // classes from one run of a thread to its next

    const Moves moves;
    int first;  // class of the thread
    int left;   // classes of the row from there on
    Real kept[HELD][RUN] = {};
    Real label[HAS_LABELS ? HELD : 1][RUN] = {};

    __device__ __forceinline__ InRegisters(const Arguments& arguments, const Row& row, const Group& group)
        : moves{arguments, row}, first(group.rank() * RUN), left(row.classes - first) {
        constexpr Reading READING = SOFTCAP ? Reading::FIRST_OF_TWO : Reading::LAST;
        moves.template logits<READING, ROUND>(first, kept);
        if (HAS_LABELS) moves.template labels<ROUND>(first, label);
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) kept[k][i] = shaped(arguments, kept[k][i]);
        }
    }

    template <typename Visit>
    __device__ __forceinline__ void sweep(const Visit& visit) {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                if (k * ROUND + i < left) {
                    visit(first + k * ROUND + i, kept[k][i], label[HAS_LABELS ? k : 0][i]);
                }
            }
        }
    }

    template <typename Gradients>
    __device__ __forceinline__ void write(const Gradients& gradients) {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            if (!Moves::IS_TOGETHER && k * ROUND >= left) continue;
            const int c = first + k * ROUND;
            Element elements[RUN];
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                elements[i] = gradients.element(c + i, kept[k][i], label[HAS_LABELS ? k : 0][i]);
            }
            write_run_of(moves, elements, c, left - k * ROUND, gradients);
        }
    }
};

template <typename Group>
struct InMemory {
    static constexpr bool IS_KEPT = false;

    const Arguments& arguments;
    const Row& row;
    int rank;

    __device__ __forceinline__ InMemory(const Arguments& all, const Row& which, const Group& group)
        : arguments(all), row(which), rank(group.rank()) {}

    template <Reading READING, typename Visit>
    __device__ __forceinline__ void each_run(const Visit& visit) {
        for (int c = rank * RUN; c < row.classes; c += Group::SIZE * RUN) {
            const int left = row.classes - c;
            Real z[RUN] = {}, label[RUN] = {};
            read_logits<READING>(arguments, row, c, left, z);
            read_labels<READING>(arguments, row, c, left, label);
#pragma unroll
            for (int i = 0; i < RUN; ++i) z[i] = shaped(arguments, z[i]);
            visit(c, left, z, label);
        }
    }

    template <typename Visit>
    __device__ __forceinline__ void sweep(const Visit& visit) {
        each_run<Reading::FIRST_OF_TWO>([&](int c, int left, Real(&z)[RUN], Real(&label)[RUN]) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                if (i < left) visit(c + i, z[i], label[i]);
            }
        });
    }

    template <typename Gradients>
    __device__ __forceinline__ void write(const Gradients& gradients) {
        each_run<Reading::LAST>([&](int c, int left, Real(&z)[RUN], Real(&label)[RUN]) {
            Element elements[RUN];
#pragma unroll
            for (int i = 0; i < RUN; ++i) elements[i] = gradients.element(c + i, z[i], label[i]);
            write_run_of(Alone{arguments, row}, elements, c, left, gradients);
        });
    }
};
