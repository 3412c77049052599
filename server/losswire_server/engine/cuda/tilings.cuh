// What a group of threads does with its share of a row: three ways to hold it.
//
//     InRegisters  read once; a thread has RUNS runs of it
//     InThread     the same of a whole row of few classes (`few.cu`)
//     InMemory     read again for each sweep, the second time from the cache
//
// Rows of one warp or less whose classes lie apart come by way of a tile (`tiles.cuh`).
//
// Each offers `sweep(visit, after)`, which visits the thread's classes, with the logit's z and the label, and
// comes to `after` whenever it has visited FEW; and `write` for what is computed from them. What a sweep is
// given as `kept` is z, unless one before put e in its place. Words of a row are there or not as a whole, and
// of most it is certain that they are: so few branches come between the classes, and a thread works on
// several at once.

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
constexpr bool HAS_GRADIENTS = GRAD_LOGITS || GRAD_LABELS;
constexpr bool IS_LABEL_STRIDED = STRIDED && !HAS_TABLE;

// Classes that are added up by themselves; fewer where a thread has fewer at once.
constexpr int FEW = 8;

struct Nothing {
    __device__ __forceinline__ void operator()() const {}
};

// Where class c of a row is.
template <typename Value>
__device__ __forceinline__ Value* at(Value* tensor, const Place& place, int c) {
    return tensor + place.base + (STRIDED ? c * place.step : c);
}

#if LABEL_TABLE
using LabelGradient = Real;
constexpr int LABEL_GRADIENT_ALIGNMENT = sizeof(Real);
#else
using LabelGradient = LABEL;
constexpr int LABEL_GRADIENT_ALIGNMENT = LABEL_ALIGNMENT;
#endif

// How what a thread has comes from memory and goes back to it: by the thread itself.
struct Alone {
    static constexpr bool IS_TOGETHER = false;
    static constexpr int GRAIN = EACH;  // classes that are written as one

    using Logits = Neighbours<EACH, LOGIT_ALIGNMENT, STRIDED, LOGIT>;
    using Labels = Neighbours<EACH, LABEL_ALIGNMENT, IS_LABEL_STRIDED, LABEL>;
    using LabelGradients = Neighbours<EACH, LABEL_GRADIENT_ALIGNMENT, IS_LABEL_STRIDED, LabelGradient>;

    const Arguments& arguments;
    const Row& row;

    // Of a thread whose first class of the row is `first`; all have the first CERTAIN of the HELD runs.
    template <Reading READING, typename Own, int CERTAIN, int HELD>
    __device__ __forceinline__ void logits(int first, Real (&to)[HELD][RUN]) const {
        const LOGIT* from = static_cast<const LOGIT*>(arguments.logits);
        read<READING, Logits, Own, CERTAIN>(at(from, row.place, first), row.place.step, first, to);
    }

    template <Reading READING, typename Own, int CERTAIN, int HELD>
    __device__ __forceinline__ void labels(int first, Real (&to)[HELD][RUN]) const {
        const LABEL* from = static_cast<const LABEL*>(arguments.labels);
        read<READING, Labels, Own, CERTAIN>(at(from, row.labels, first), row.labels.step, first, to);
    }

    // Whether the row has what a thread has at the offset from its first class.
    __device__ __forceinline__ bool has(int first, int offset) const { return offset < row.classes - first; }

    __device__ __forceinline__ void write_label_gradients(int first, int offset, const Real (&from)[EACH]) const {
        const long long step = row.label_gradient.step;
        LabelGradient* to = at(static_cast<LabelGradient*>(arguments.grad_labels), row.label_gradient, first);
        LabelGradients::write(to + (IS_LABEL_STRIDED ? offset * step : offset), step, from);
    }

    __device__ __forceinline__ void write_gradients(int first, int offset, Real (&from)[EACH]) const {
        const long long step = STRIDED ? anew(row.place.step) : 1, there = STRIDED ? offset * step : offset;
        if (SOFTCAP) {
            Real logits[EACH];
            const LOGIT* again = at(static_cast<const LOGIT*>(arguments.logits), row.place, first);
            Logits::template read<Reading::LAST>(again + there, step, logits);
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                if (from[i] != 0) from[i] *= slope_of_softcap(arguments, logits[i]);
            }
        }
        Logits::write(at(static_cast<LOGIT*>(arguments.dense), row.place, first) + there, step, from);
    }

  private:
    template <Reading READING, typename Moved, typename Own, int CERTAIN, typename Value, int HELD>
    __device__ __forceinline__ void read(const Value* from, long long step, int first, Real (&to)[HELD][RUN]) const {
        if (STRIDED) step = anew(step);
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int i = 0; i < RUN; i += EACH) {
                const int offset = Own::offset(k, i);
                if (k >= CERTAIN && !has(first, offset)) continue;
                Moved::template read<READING>(from + (STRIDED ? offset * step : offset), step, &to[k][i]);
            }
        }
    }
};

// z of one class, read by itself.
__device__ __forceinline__ Real z_at(const Arguments& arguments, const Row& row, int c) {
    const LOGIT* from = at(static_cast<const LOGIT*>(arguments.logits), row.place, c);
    return shaped(arguments, read_one<Reading::LAST>(from));
}

// HELD runs that a thread has of a row, of which the row surely has the first CERTAIN.
template <typename Group, int HELD, int CERTAIN, typename Moves>
struct InRegisters {
    static constexpr bool IS_KEPT = true;
    static constexpr bool IS_TOGETHER = Moves::IS_TOGETHER;
    using Own = Share<Group::SIZE>;

    const Arguments& arguments;
    const Row& row;
    const Moves moves;
    int first;  // class of the thread
    Real kept[HELD][RUN] = {};
    Real label[HAS_LABELS ? HELD : 1][RUN] = {};

    __device__ __forceinline__ InRegisters(const Arguments& all, const Row& which, int first_class)
        : arguments(all), row(which), moves{all, which}, first(first_class) {}

    __device__ __forceinline__ InRegisters(const Arguments& all, const Row& which, const Group& group)
        : InRegisters(all, which, group.rank() * EACH) {
        read<SOFTCAP && HAS_GRADIENTS ? Reading::FIRST_OF_TWO : Reading::LAST, Reading::LAST>();
    }

    __device__ __forceinline__ Real z_at(int c) const { return ::z_at(arguments, row, c); }

    template <Reading LOGITS, Reading LABELS_TOO>
    __device__ __forceinline__ void read() {
        moves.template logits<LOGITS, Own, CERTAIN>(first, kept);
        if constexpr (HAS_LABELS) moves.template labels<LABELS_TOO, Own, CERTAIN>(first, label);
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int i = 0; i < RUN; ++i) kept[k][i] = shaped(arguments, kept[k][i]);
        }
    }

    __device__ __forceinline__ bool has(int k, int i) const {
        return k < CERTAIN || Own::offset(k, i) < row.classes - first;
    }

    template <typename Visit, typename After = Nothing>
    __device__ __forceinline__ void sweep(const Visit& visit, const After& after = After()) {
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int word = 0; word < RUN; word += EACH) {
                if (!has(k, word)) continue;
#pragma unroll
                for (int i = word; i < word + EACH; ++i) {
                    visit(first + Own::offset(k, i), kept[k][i], label[HAS_LABELS ? k : 0][i]);
                }
            }
            if ((k + 1) * RUN % FEW == 0 || k + 1 == HELD) after();
        }
    }

    template <typename Gradients>
    __device__ __forceinline__ void write(const Gradients& gradients) {
        constexpr int GRAIN = Moves::GRAIN;
        const int own = gradients.own_class() - first;
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
#pragma unroll
            for (int grain = 0; grain < RUN; grain += GRAIN) {
                const int offset = Own::offset(k, grain);
                if (k >= CERTAIN && !moves.has(first, offset)) continue;
                Element elements[GRAIN];
                Real values[GRAIN];
#pragma unroll
                for (int i = 0; i < GRAIN; ++i) {
                    // What a row lacks of a grain is computed too: of class 0, whose weight is there.
                    const bool is_absent = IS_TOGETHER && !has(k, grain + i);
                    const int c = is_absent ? 0 : first + Own::offset(k, grain + i);
                    elements[i] = gradients.element(c, kept[k][grain + i], label[HAS_LABELS ? k : 0][grain + i]);
                }
                if (GRAD_LABELS) {
#pragma unroll
                    for (int i = 0; i < GRAIN; ++i) values[i] = gradients.of_label(elements[i]);
                    moves.write_label_gradients(first, offset, values);
                }
                if (GRAD_LOGITS) {
#pragma unroll
                    for (int i = 0; i < GRAIN; ++i) values[i] = gradients.of_logit(elements[i]);
                    if (own >= offset && own <= Own::offset(k, grain + GRAIN - 1)) {
#pragma unroll
                        for (int i = 0; i < GRAIN; ++i) {
                            if (own == Own::offset(k, grain + i)) values[i] = gradients.of_own_class();
                        }
                    }
                    moves.write_gradients(first, offset, values);
                }
            }
        }
    }
};

// A row that is not held: HELD rounds at once, of which each is asked for every run, or, with ARE_CERTAIN, the
// last alone.
template <typename Group, int HELD, bool ARE_CERTAIN>
struct InMemory {
    static constexpr bool IS_KEPT = false;
    static constexpr bool IS_TOGETHER = false;
    static constexpr int STEP = HELD * Share<Group::SIZE>::ROUND;

    template <int CERTAIN>
    using Part = InRegisters<Group, HELD, CERTAIN, Alone>;

    const Arguments& arguments;
    const Row& row;
    int first;

    __device__ __forceinline__ InMemory(const Arguments& all, const Row& which, const Group& group)
        : arguments(all), row(which), first(group.rank() * EACH) {}

    __device__ __forceinline__ Real z_at(int c) const { return ::z_at(arguments, row, c); }

    template <Reading READING, typename Visit>
    __device__ __forceinline__ void each_part(const Visit& visit) {
        int start = 0;
        for (; row.classes - start >= STEP; start += STEP) {
            Part<ARE_CERTAIN ? HELD : 0> part(arguments, row, start + first);
            part.template read<READING, READING>();
            visit(part);
        }
        if (start < row.classes) {
            Part<0> part(arguments, row, start + first);
            part.template read<READING, READING>();
            visit(part);
        }
    }

    template <typename Visit, typename After = Nothing>
    __device__ __forceinline__ void sweep(const Visit& visit, const After& after = After()) {
        each_part<Reading::FIRST_OF_TWO>([&](auto& part) { part.sweep(visit, after); });
    }

    template <typename Gradients>
    __device__ __forceinline__ void write(const Gradients& gradients) {
        each_part<Reading::LAST>([&](auto& part) { part.write(gradients); });
    }
};
