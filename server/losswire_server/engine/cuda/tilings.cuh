// What a group of threads does with its share of a row: three ways to hold it.
//
//     InRegisters  read once; a thread has RUNS runs of it
//     InShared     read once by a whole block; a thread has a row of few classes for itself
//     InMemory     read again for each sweep, the second time from the cache
//
// Each offers `sweep(visit)` over the thread's classes, with the logit's z and the label, and `write`
// for what is computed from them. `kept` is z, and from `exponentiate` on e where a loss needs z no
// more. Runs go round the threads of the group in turn, so that a row is read in whole lines.

#pragma once

#include "places.cuh"
#include "softmax.cuh"

struct Row {
    long long number;
    Place place;
    Place labels;
    Place label_gradient;

    __device__ __forceinline__ Row(const Arguments& arguments, long long row)
        : number(row),
          place(place_of(arguments, row)),
          labels(label_place(arguments, row, place)),
          label_gradient(label_gradient_place(arguments, row, place)) {}
};

constexpr bool HAS_LABELS = LABELS && !IDS;

template <int ALIGNMENT, Reading READING>
__device__ __forceinline__ void read_labels(
    const Arguments& arguments, const Row& row, long long c, Real (&to)[RUN]) {
    if (HAS_LABELS) {
        read_run<ALIGNMENT, READING, STRIDED && !HAS_TABLE>(
            static_cast<const LABEL*>(arguments.labels), row.labels, c, arguments.classes, to);
    }
}

// The factor of one logit's gradient that softcap brings.
__device__ __forceinline__ Real slope_at(const Arguments& arguments, const Row& row, long long c) {
    const LOGIT* logits = static_cast<const LOGIT*>(arguments.logits);
    const LOGIT* at = logits + row.place.base + c * row.place.step;
    return slope_of_softcap(arguments, read_one<Reading::LAST>(at));
}

// Writes what `gradient` and `label_gradient` say of a run.
template <typename Element_, typename Gradients>
__device__ __forceinline__ void write_gradients(
    const Arguments& arguments, const Row& row, const Element_ (&elements)[RUN], long long c,
    const Gradients& gradients) {
    Real values[RUN];
    if (GRAD_LABELS) {
#if LABEL_TABLE
        using Written = Real;
#else
        using Written = LABEL;
#endif
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            values[i] = c + i < arguments.classes ? gradients.of_label(elements[i]) : Real(0);
        }
        write_run<LABEL_TABLE ? static_cast<int>(sizeof(Real)) : LABEL_ALIGNMENT, STRIDED && !HAS_TABLE>(
            static_cast<Written*>(arguments.grad_labels), row.label_gradient, c, arguments.classes, values);
    }
    if (GRAD_LOGITS) {
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            Real value = 0;
            if (c + i < arguments.classes) {
                value = gradients.of_logit(elements[i]);
                if (SOFTCAP && value != 0) value *= slope_at(arguments, row, c + i);
            }
            values[i] = value;
        }
        write_run<LOGIT_ALIGNMENT, STRIDED>(
            static_cast<LOGIT*>(arguments.dense), row.place, c, arguments.classes, values);
    }
}

template <typename Group, int HELD>
struct InRegisters {
    static constexpr bool IS_KEPT = true;

    const Arguments& arguments;
    const Row& row;
    int rank;
    Real kept[HELD][RUN] = {};
    Real label[HAS_LABELS ? HELD : 1][RUN] = {};

    __device__ __forceinline__ InRegisters(const Arguments& all, const Row& which, const Group& group)
        : arguments(all), row(which), rank(group.rank()) {
        const LOGIT* logits = static_cast<const LOGIT*>(arguments.logits);
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            read_run<LOGIT_ALIGNMENT, SOFTCAP ? Reading::FIRST_OF_TWO : Reading::LAST, STRIDED>(
                logits, row.place, first(k), arguments.classes, kept[k]);
        }
        if (HAS_LABELS) {
#pragma unroll
            for (int k = 0; k < HELD; ++k) {
                read_labels<LABEL_ALIGNMENT, Reading::LAST>(arguments, row, first(k), label[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) kept[k][i] = shaped(arguments, kept[k][i]);
        }
    }

    // The first class of the thread's k-th run.
    __device__ __forceinline__ long long first(int k) const {
        return (static_cast<long long>(k) * Group::SIZE + rank) * RUN;
    }

    template <typename Visit>
    __device__ __forceinline__ void sweep(const Visit& visit) {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                const long long c = first(k) + i;
                if (c < arguments.classes) visit(c, kept[k][i], label[HAS_LABELS ? k : 0][i]);
            }
        }
    }

    template <typename Gradients>
    __device__ __forceinline__ void write(const Gradients& gradients) {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            if (first(k) >= arguments.classes) continue;
            Element elements[RUN];
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                elements[i] = gradients.element(first(k) + i, kept[k][i], label[HAS_LABELS ? k : 0][i]);
            }
            write_gradients(arguments, row, elements, first(k), gradients);
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
        const LOGIT* logits = static_cast<const LOGIT*>(arguments.logits);
        for (long long c = static_cast<long long>(rank) * RUN; c < arguments.classes;
             c += static_cast<long long>(Group::SIZE) * RUN) {
            Real z[RUN] = {}, label[RUN] = {};
            read_run<LOGIT_ALIGNMENT, READING, STRIDED>(logits, row.place, c, arguments.classes, z);
            read_labels<LABEL_ALIGNMENT, READING>(arguments, row, c, label);
#pragma unroll
            for (int i = 0; i < RUN; ++i) z[i] = shaped(arguments, z[i]);
            visit(c, z, label);
        }
    }

    template <typename Visit>
    __device__ __forceinline__ void sweep(const Visit& visit) {
        each_run<Reading::FIRST_OF_TWO>([&](long long c, Real(&z)[RUN], Real(&label)[RUN]) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                if (c + i < arguments.classes) visit(c + i, z[i], label[i]);
            }
        });
    }

    template <typename Gradients>
    __device__ __forceinline__ void write(const Gradients& gradients) {
        each_run<Reading::LAST>([&](long long c, Real(&z)[RUN], Real(&label)[RUN]) {
            Element elements[RUN];
#pragma unroll
            for (int i = 0; i < RUN; ++i) elements[i] = gradients.element(c + i, z[i], label[i]);
            write_gradients(arguments, row, elements, c, gradients);
        });
    }
};
