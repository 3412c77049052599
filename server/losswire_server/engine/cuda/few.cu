// Loss and gradient of rows of few classes: a thread per row, THREADS rows per block.
//
// The block reads its rows as they lie, 16 bytes a thread, into shared memory, where each row begins
// an odd number of words after the one before, so that threads at the same class of their rows meet
// in no bank. Gradients go back the same way. With STRIDED, neighbouring threads find neighbouring
// elements anyway, and read them themselves.

#include "tilings.cuh"

#include LOSS

#include "row.cuh"

// Rows of a block in shared memory: values [THREADS, pitch].
struct SharedRows {
    Real* values;
    int pitch;

    __device__ __forceinline__ Real& at(int row, int c) const { return values[row * pitch + c]; }
};

// i / classes for fewer than 128 rows of up to 64 classes, without a division.
struct Divisor {
    unsigned factor;
    int classes;

    explicit __device__ __forceinline__ Divisor(int count)
        : factor(((1u << 19) + count - 1) / count), classes(count) {}
    __device__ __forceinline__ int quotient(int i) const {
        return static_cast<int>((static_cast<unsigned long long>(i) * factor) >> 19);
    }
};

// Moves `count` elements, the rows of this block one after another, between tensor and shared memory.
template <typename Value>
__device__ __forceinline__ void read_flat(
    const Value* from, const SharedRows& to, const Divisor& divisor, int count) {
    constexpr int EACH = 16 / static_cast<int>(sizeof(Value));
    for (int start = threadIdx.x * EACH; start < count; start += THREADS * EACH) {
        Value values[EACH];
        const bool is_whole = start + EACH <= count;
        if (is_whole) {
            const Pack pack = load_once(reinterpret_cast<const Pack*>(from + start));
            memcpy(values, &pack, 16);
        }
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            if (start + i >= count) continue;
            const int row = divisor.quotient(start + i), c = start + i - row * divisor.classes;
            to.at(row, c) = is_whole ? static_cast<Real>(Format<Value>::read(values[i]))
                                     : read_one<Reading::LAST>(from + start + i);
        }
    }
}

template <typename Value>
__device__ __forceinline__ void write_flat(
    Value* to, const SharedRows& from, const Divisor& divisor, int count) {
    constexpr int EACH = 16 / static_cast<int>(sizeof(Value));
    for (int start = threadIdx.x * EACH; start < count; start += THREADS * EACH) {
        Value values[EACH];
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            if (start + i >= count) continue;
            const int row = divisor.quotient(start + i), c = start + i - row * divisor.classes;
            const auto value = static_cast<typename Format<Value>::Real>(from.at(row, c));
            values[i] = Format<Value>::write(value);
            if (start + EACH > count) write_one(to + start + i, static_cast<Real>(value));
        }
        if (start + EACH <= count) {
            Pack pack;
            memcpy(&pack, values, 16);
            store_once(reinterpret_cast<Pack*>(to + start), pack);
        }
    }
}

// A thread's row, and its labels, in shared memory.
struct InShared {
    static constexpr bool IS_KEPT = true;

    const Arguments& arguments;
    const Row& row;
    SharedRows logits, labels;

    template <typename Visit>
    __device__ __forceinline__ void sweep(const Visit& visit) {
        const int classes = static_cast<int>(arguments.classes);
        for (int c = 0; c < classes; ++c) {
            visit(c, logits.at(threadIdx.x, c), HAS_LABELS ? labels.at(threadIdx.x, c) : Real(0));
        }
    }

    template <typename Gradients>
    __device__ __forceinline__ void write(const Gradients& gradients) {
        sweep([&](int c, Real& kept, Real label) {
            const Element element = gradients.element(c, kept, label);
            if (GRAD_LABELS) labels.at(threadIdx.x, c) = gradients.of_label(element);
            if (GRAD_LOGITS) {
                kept = gradients.of_logit(element);
                if (SOFTCAP && kept != 0) kept *= slope_at(arguments, row, c);
            }
        });
    }
};

template <typename Value>
__device__ __forceinline__ void read_row(
    const Value* tensor, const Place& place, const SharedRows& to, int classes) {
    for (int c = 0; c < classes; ++c) {
        to.at(threadIdx.x, c) = read_one<Reading::LAST>(tensor + place.base + c * place.step);
    }
}

template <typename Value>
__device__ __forceinline__ void write_own_row(
    Value* tensor, const Place& place, const SharedRows& from, int classes) {
    for (int c = 0; c < classes; ++c) {
        write_one(tensor + place.base + c * place.step, from.at(threadIdx.x, c));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) losswire_few(const Arguments arguments) {
    const int classes = static_cast<int>(arguments.classes);
    const long long first = static_cast<long long>(blockIdx.x) * THREADS;
    const long long left = arguments.rows - first;
    const int rows = left < THREADS ? static_cast<int>(left) : THREADS;
    const bool is_mine = static_cast<int>(threadIdx.x) < rows;
    const Divisor divisor(classes);
    const int pitch = classes | 1;
    Real* shared = reinterpret_cast<Real*>(shared_memory());
    const SharedRows logits{shared, pitch}, labels{shared + THREADS * pitch, pitch};
    const Row row(arguments, is_mine ? first + threadIdx.x : first);
    const LOGIT* from = static_cast<const LOGIT*>(arguments.logits);
    LOGIT* to = static_cast<LOGIT*>(arguments.dense);
    const LABEL* labels_from = static_cast<const LABEL*>(arguments.labels);

    if (!STRIDED) {
        read_flat(from + first * classes, logits, divisor, rows * classes);
        if (HAS_LABELS && !HAS_TABLE) {
            read_flat(labels_from + first * classes, labels, divisor, rows * classes);
        }
    }
    block_sync();
    if (is_mine) {
        if (STRIDED) read_row(from, row.place, logits, classes);
        if (HAS_LABELS && (STRIDED || HAS_TABLE)) read_row(labels_from, row.labels, labels, classes);
        for (int c = 0; c < classes; ++c) {
            Real& z = logits.at(threadIdx.x, c);
            z = shaped(arguments, z);
        }
        One group;
        InShared held{arguments, row, logits, labels};
        compute_row(arguments, row, held, group);
    }
    block_sync();
    if (GRAD_LOGITS && !STRIDED) write_flat(to + first * classes, logits, divisor, rows * classes);
    if (GRAD_LOGITS && STRIDED && is_mine) write_own_row(to, row.place, logits, classes);
#if GRAD_LABELS && LABEL_TABLE
    Real* sums = static_cast<Real*>(arguments.grad_labels);
    write_flat(sums + first * classes, labels, divisor, rows * classes);
#elif GRAD_LABELS
    LABEL* labels_to = static_cast<LABEL*>(arguments.grad_labels);
    if (STRIDED && is_mine) write_own_row(labels_to, row.place, labels, classes);
    if (!STRIDED) write_flat(labels_to + first * classes, labels, divisor, rows * classes);
#endif
}
