// Loss and gradient of rows of few classes: a thread per row, which it holds in registers; THREADS rows
// per block, all of CLASSES classes.
//
// The block moves its rows as they lie, 16 bytes a thread, to shared memory and back, where each thread
// reads and writes its own in words as wide as every row's alignment allows. Rows whose bytes are an even
// number of times 16 lie 16 further apart there, so that threads at the same class meet in as few banks
// as can be. With STRIDED, neighbouring threads find neighbouring elements anyway, and move them
// themselves.

#include "tilings.cuh"

#include LOSS

#include "row.cuh"

// Whether rows of such a tensor come and go by way of shared memory.
constexpr bool IS_STAGED = !STRIDED;
constexpr bool ARE_LABELS_STAGED = IS_STAGED && HAS_LABELS && !HAS_TABLE;
constexpr bool ARE_LABEL_GRADIENTS_STAGED = GRAD_LABELS && (HAS_TABLE || IS_STAGED);

// Rows of a block in shared memory, each PITCH bytes after the one before.
template <typename Value>
struct Staged {
    static constexpr int SIZE = static_cast<int>(sizeof(Value));
    static constexpr int BYTES = CLASSES * SIZE;
    static constexpr int PACKS = THREADS * BYTES / 16;
    static constexpr int PITCH = BYTES % 32 == 0 ? BYTES + 16 : BYTES;
    static constexpr int ALIGNMENT = word_bytes(BYTES & -BYTES, SIZE, 16);
    static constexpr int AT_ONCE = ALIGNMENT / SIZE;

    unsigned char* start;

    __device__ __forceinline__ Value* row(int number) const {
        return reinterpret_cast<Value*>(start + number * PITCH);
    }
    __device__ __forceinline__ Value* pack(int number) const {
        const int gaps = PITCH == BYTES ? 0 : number / (BYTES / 16);
        return reinterpret_cast<Value*>(start + (number + gaps) * 16);
    }

    // All of `rows` rows, from where they lie one after another; there after `copy_async_wait`.
    __device__ __forceinline__ void bring(const Value* from, int rows) const {
        if (rows == THREADS) {
#pragma unroll
            for (int i = 0; i < PACKS; i += THREADS) {
                const int number = i + threadIdx.x;
                if (i + THREADS <= PACKS || number < PACKS) {
                    copy_async_16(pack(number), reinterpret_cast<const Pack*>(from) + number);
                }
            }
        } else {
            for (int i = threadIdx.x; i < rows * CLASSES; i += THREADS) row(i / CLASSES)[i % CLASSES] = from[i];
        }
    }

    __device__ __forceinline__ void take(Value* to, int rows) const {
        if (rows == THREADS) {
#pragma unroll
            for (int i = 0; i < PACKS; i += THREADS) {
                const int number = i + threadIdx.x;
                if (i + THREADS <= PACKS || number < PACKS) {
                    store_once(reinterpret_cast<Pack*>(to) + number, *reinterpret_cast<const Pack*>(pack(number)));
                }
            }
        } else {
            for (int i = threadIdx.x; i < rows * CLASSES; i += THREADS) to[i] = row(i / CLASSES)[i % CLASSES];
        }
    }

    // The thread's own row, between shared memory and registers.
    __device__ __forceinline__ void read(Real* to) const {
        using Word = typename WordOf<ALIGNMENT>::Type;
        const Value* from = row(threadIdx.x);
#pragma unroll
        for (int c = 0; c < CLASSES; c += AT_ONCE) {
            unpack<AT_ONCE, Value>(*reinterpret_cast<const Word*>(from + c), to + c);
        }
    }
    __device__ __forceinline__ void write(const Real* from) const {
        using Word = typename WordOf<ALIGNMENT>::Type;
        Value* to = row(threadIdx.x);
#pragma unroll
        for (int c = 0; c < CLASSES; c += AT_ONCE) {
            Word word;
            ::pack<AT_ONCE, Value>(from + c, word);
            *reinterpret_cast<Word*>(to + c) = word;
        }
    }
};

template <typename Value>
__device__ __forceinline__ void read_apart(const Value* from, long long step, Real* to) {
#pragma unroll
    for (int c = 0; c < CLASSES; ++c, from = anew(from + step)) to[c] = read_one<Reading::LAST>(from);
}

template <typename Value>
__device__ __forceinline__ void write_apart(Value* to, long long step, const Real* from) {
#pragma unroll
    for (int c = 0; c < CLASSES; ++c, to = anew(to + step)) write_one(to, from[c]);
}

// A row of one thread.
struct InThread {
    static constexpr bool IS_KEPT = true;
    static constexpr bool IS_TOGETHER = false;

    const Arguments& arguments;
    const Row& row;
    const Staged<LOGIT> logits;
    const Staged<LabelGradient> labels;
    Real kept[CLASSES];
    Real label[HAS_LABELS ? CLASSES : 1] = {};

    __device__ __forceinline__ InThread(
        const Arguments& all, const Row& own, const Staged<LOGIT>& rows, const Staged<LabelGradient>& label_rows)
        : arguments(all), row(own), logits(rows), labels(label_rows) {
        if constexpr (IS_STAGED) {
            logits.read(kept);
        } else {
            read_apart(at(static_cast<const LOGIT*>(arguments.logits), row.place, 0), row.place.step, kept);
        }
        if constexpr (ARE_LABELS_STAGED) {
            labels.read(label);
        } else if constexpr (HAS_LABELS) {
            read_apart(at(static_cast<const LABEL*>(arguments.labels), row.labels, 0), row.labels.step, label);
        }
#pragma unroll
        for (int c = 0; c < CLASSES; ++c) kept[c] = shaped(arguments, kept[c]);
    }

    __device__ __forceinline__ Real logit(int c) const {
        if (!IS_STAGED) return read_one<Reading::LAST>(at(static_cast<const LOGIT*>(arguments.logits), row.place, c));
        return static_cast<Real>(Format<LOGIT>::read(logits.row(threadIdx.x)[c]));
    }

    __device__ __forceinline__ Real z_at(int c) const { return shaped(arguments, logit(c)); }

    template <typename Visit, typename After = Nothing>
    __device__ __forceinline__ void sweep(const Visit& visit, const After& after = After()) {
#pragma unroll
        for (int c = 0; c < CLASSES; ++c) {
            visit(c, kept[c], label[HAS_LABELS ? c : 0]);
            if ((c + 1) % FEW == 0 || c + 1 == CLASSES) after();
        }
    }

    template <typename Gradients>
    __device__ __forceinline__ void write(const Gradients& gradients) {
        Real values[CLASSES];
        if constexpr (GRAD_LABELS) {
            sweep([&](int c, Real& z, Real y) { values[c] = gradients.of_label(gradients.element(c, z, y)); });
            if constexpr (ARE_LABEL_GRADIENTS_STAGED) {
                labels.write(values);
            } else {
                LabelGradient* to = at(static_cast<LabelGradient*>(arguments.grad_labels), row.label_gradient, 0);
                write_apart(to, row.label_gradient.step, values);
            }
        }
        if constexpr (GRAD_LOGITS) {
            const int own = gradients.own_class();
            sweep([&](int c, Real& kept_of_c, Real y) {
                values[c] = gradients.of_logit(gradients.element(c, kept_of_c, y));
                if (Loss::HAS_AT_ID && c == own) values[c] = gradients.of_own_class();
                if (SOFTCAP && values[c] != 0) values[c] *= slope_of_softcap(arguments, logit(c));
            });
            if constexpr (IS_STAGED) {
                logits.write(values);
            } else {
                write_apart(at(static_cast<LOGIT*>(arguments.dense), row.place, 0), row.place.step, values);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) losswire_few(const Arguments arguments) {
    const long long first = static_cast<long long>(blockIdx.x) * THREADS;
    const long long left = arguments.rows - first;
    const int rows = left < THREADS ? static_cast<int>(left) : THREADS;
    const Staged<LOGIT> logits{shared_memory()};
    const Staged<LabelGradient> labels{shared_memory() + (IS_STAGED ? THREADS * Staged<LOGIT>::PITCH : 0)};

    if constexpr (IS_STAGED) logits.bring(static_cast<const LOGIT*>(arguments.logits) + first * CLASSES, rows);
    if constexpr (ARE_LABELS_STAGED) {
        labels.bring(static_cast<const LabelGradient*>(arguments.labels) + first * CLASSES, rows);  // which is LABEL
    }
    copy_async_wait();
    block_sync();
    if (static_cast<int>(threadIdx.x) < rows) {
        const Row row(arguments, first + threadIdx.x);
        One group;
        InThread held(arguments, row, logits, labels);
        compute_row(arguments, row, held, group);
    }
    block_sync();
    if constexpr (GRAD_LOGITS && IS_STAGED) logits.take(static_cast<LOGIT*>(arguments.dense) + first * CLASSES, rows);
    if constexpr (ARE_LABEL_GRADIENTS_STAGED) {
        labels.take(static_cast<LabelGradient*>(arguments.grad_labels) + first * CLASSES, rows);
    }
}
