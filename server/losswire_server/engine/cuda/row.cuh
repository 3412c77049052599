// One row from logits to loss and gradient, whichever group of threads computes it and however it is
// held. `Loss` says what is summed and what becomes of it.

#pragma once

#include "groups.cuh"
#include "tilings.cuh"

constexpr long long NOWHERE = 0x7fffffffffffffffll;

// A number that must not be 0 long: arrays of no elements do not exist.
__device__ constexpr int at_least_1(int count) { return count > 0 ? count : 1; }

constexpr int PEAK_COUNT = at_least_1(Loss::PEAKS);

// The class of the largest logit, the first of several; NaN counts as larger than any.
struct Argmax {
    long long first = NOWHERE, first_nan = NOWHERE;

    __device__ __forceinline__ void look(int c, Real z, Real peak) {
        if (is_nan(z) && c < first_nan) first_nan = c;
        if (z == peak && c < first) first = c;
    }

    template <typename Group>
    __device__ __forceinline__ long long of(Group& group) {
        long long found[2] = {first, first_nan};
        group.template reduce<Least>(found);
        return found[1] != NOWHERE ? found[1] : found[0];
    }
};

// What becomes of each element once the sums are known.
template <bool IS_E_KEPT, bool MAY_BE_BLANK>
struct Gradients {
    const Arguments& arguments;
    const Loss& loss;
    const Real* peaks;
    Real scale;
    Real label_scale;
    bool is_blank;

    __device__ __forceinline__ Element element(int c, Real kept, Real label) const {
        if (IS_E_KEPT) return {c, Real(0), kept, label};
        const Real e = Loss::PEAKS ? Exponential<LOGIT>::of(kept, peaks[0]) : Real(0);
        return {c, kept, e, label};
    }
    __device__ __forceinline__ Real of_logit(const Element& at) const {
        const Real gradient = loss.gradient(arguments, at, scale);
        return MAY_BE_BLANK && is_blank ? Real(0) : gradient;
    }
    // The class whose gradient is another, if there is one.
    __device__ __forceinline__ int own_class() const { return Loss::HAS_AT_ID ? loss.id : -1; }
    __device__ __forceinline__ Real of_own_class() const {
        return MAY_BE_BLANK && is_blank ? Real(0) : loss.at_id * scale;
    }
    __device__ __forceinline__ Real of_label([[maybe_unused]] const Element& at) const {
#if GRAD_LABELS
        const Real gradient = loss.label_gradient(arguments, at) * label_scale;
        return MAY_BE_BLANK && is_blank ? Real(0) : gradient;
#else
        return 0;
#endif
    }
};

// Those of a row that is to have none.
struct NoGradients {
    __device__ __forceinline__ Element element(int c, Real, Real) const { return {c, 0, 0, 0}; }
    __device__ __forceinline__ Real of_logit(const Element&) const { return 0; }
    __device__ __forceinline__ int own_class() const { return -1; }
    __device__ __forceinline__ Real of_own_class() const { return 0; }
    __device__ __forceinline__ Real of_label(const Element&) const { return 0; }
};

// How a thread's terms come to its sums. Equal small ones beside a large one are all rounded in the same
// direction: so a few at a time are added up by themselves, as a part; and where parts are many, what each
// loses on its way into the whole is kept. Of a row that is held, half formats want no such digits, and
// float64 has them.
enum class Parts { NONE, FEW, MANY };

__device__ constexpr Parts parts(bool is_held) {
    return !is_held ? Parts::MANY : (sizeof(LOGIT) == sizeof(float) ? Parts::FEW : Parts::NONE);
}

// What a thread adds up: its share of the row's sums.
template <int COUNT, Parts PARTS>
struct Subtotals {
    Real whole[COUNT], part[COUNT], lost[COUNT];

    __device__ __forceinline__ Subtotals() {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) whole[i] = part[i] = lost[i] = 0;
    }

    // Where terms are added.
    __device__ __forceinline__ Real* open() { return PARTS == Parts::NONE ? whole : part; }

    __device__ __forceinline__ void end_part() {
#pragma unroll
        for (int i = 0; PARTS != Parts::NONE && i < COUNT; ++i) {
            const Real sum = whole[i] + part[i];
            if (PARTS == Parts::MANY) {
                const Real added = sum - whole[i];
                lost[i] += (whole[i] - (sum - added)) + (part[i] - added);
            }
            whole[i] = sum;
            part[i] = 0;
        }
    }

    // An infinite sum has lost nothing.
    __device__ __forceinline__ void settle() {
#pragma unroll
        for (int i = 0; PARTS == Parts::MANY && i < COUNT; ++i) {
            whole[i] += is_finite(lost[i]) ? lost[i] : Real(0);
            lost[i] = 0;
        }
    }
};

// The sums of a row that is held: its peaks first, which nothing then exceeds.
template <typename Held, typename Group, typename Sums>
__device__ __forceinline__ void sum_held(
    const Arguments& arguments, const Loss& loss, Held& held, Group& group, Sums& sums,
    Real (&peaks)[PEAK_COUNT]) {
    if (Loss::PEAKS) {
        held.sweep([&](int c, Real& kept, Real label) {
            loss.look(peaks, arguments, Element{c, kept, 0, label});
        });
        group.template reduce<Largest>(peaks);
    }
    const auto add = [&](int c, Real& kept, Real label) {
        const Real e = Loss::PEAKS ? Exponential<LOGIT>::of(kept, peaks[0]) : Real(0);
        loss.add(sums.open(), peaks, arguments, Element{c, kept, e, label});
        if (Loss::KEEPS_E && !ARGMAX) kept = e;
    };
    held.sweep(add, [&] { sums.end_part(); });
}

// Brings the sums to higher peaks, if they are any higher.
template <typename Sums>
__device__ __forceinline__ void raise_to(
    const Loss& loss, Sums& sums, Real (&peaks)[PEAK_COUNT], const Real (&higher)[PEAK_COUNT]) {
    bool is_higher = false;
#pragma unroll
    for (int i = 0; i < PEAK_COUNT; ++i) is_higher = is_higher || higher[i] > peaks[i];
    if (!is_higher) return;
    sums.settle();
    loss.raise(sums.whole, peaks, higher);
#pragma unroll
    for (int i = 0; i < PEAK_COUNT; ++i) peaks[i] = higher[i];
}

// The sums of a row that goes by: relative to the highest peaks so far.
template <typename Held, typename Group, typename Sums>
__device__ __forceinline__ void sum_passing(
    const Arguments& arguments, const Loss& loss, Held& held, Group& group, Sums& sums,
    Real (&peaks)[PEAK_COUNT]) {
    constexpr bool IS_READ_AGAIN = Loss::HAS_SECOND || HAS_GRADIENTS;
    held.template each_part<IS_READ_AGAIN ? Reading::FIRST_OF_TWO : Reading::LAST>([&](auto& part) {
        if (Loss::PEAKS) {
            Real higher[PEAK_COUNT];
#pragma unroll
            for (int i = 0; i < PEAK_COUNT; ++i) higher[i] = peaks[i];
            part.sweep([&](int c, Real& z, Real label) {
                loss.look(higher, arguments, Element{c, z, 0, label});
            });
            raise_to(loss, sums, peaks, higher);
        }
        const auto add = [&](int c, Real& z, Real label) {
            const Real e = Loss::PEAKS ? Exponential<LOGIT>::of(z, peaks[0]) : Real(0);
            loss.add(sums.open(), peaks, arguments, Element{c, z, e, label});
        };
        part.sweep(add, [&] { sums.end_part(); });
    });
    if (Loss::PEAKS) {
        Real highest[PEAK_COUNT];
#pragma unroll
        for (int i = 0; i < PEAK_COUNT; ++i) highest[i] = peaks[i];
        group.template reduce<Largest>(highest);
        raise_to(loss, sums, peaks, highest);
    }
}

// Writes the loss of a row, weighted.
__device__ __forceinline__ void write_row(
    const Arguments& arguments, long long row, Real value, unsigned char flags) {
    if (!arguments.per_example) return;
    const double weight = arguments.weight ? arguments.weight[row] : arguments.weight_of_all;
    const Real weighted = static_cast<Real>(static_cast<double>(value) * weight);
    static_cast<Real*>(arguments.per_example)[row] = (flags & NO_LOSS) != 0 ? Real(0) : weighted;
}

template <typename Held, typename Group>
__device__ __forceinline__ void compute_row(
    const Arguments& arguments, const Row& row, Held& held, Group& group) {
    Loss loss(arguments, row.number);
    bool is_fault = false;
#if IDS
    is_fault = loss.id < 0 || loss.id >= arguments.classes;
    if (is_fault) loss.id = 0;  // so that nothing is read elsewhere; the row becomes NaN
    loss.z_at_id = held.z_at(loss.id);
    group.settle();  // gradients may be written where logits are
#endif

    Real peaks[PEAK_COUNT];
    for (Real& peak : peaks) peak = no_logit();
    Subtotals<Loss::SUMS, parts(Held::IS_KEPT)> sums;
    if constexpr (Held::IS_KEPT) {
        sum_held(arguments, loss, held, group, sums, peaks);
    } else {
        sum_passing(arguments, loss, held, group, sums, peaks);
    }
    sums.settle();
    group.template reduce<Sum>(sums.whole);
    loss.between(arguments, sums.whole, peaks);
    Subtotals<Loss::SECOND_SUMS, parts(Held::IS_KEPT)> second;
    if (Loss::HAS_SECOND) {
        const auto add = [&](int c, Real& kept, Real label) {
            loss.add_second(second.open(), arguments, Element{c, kept, 0, label});
        };
        held.sweep(add, [&] { second.end_part(); });
        second.settle();
        group.template reduce<Sum>(second.whole);
    }
    const Real value = loss.loss(arguments, sums.whole, second.whole);
    const unsigned char flags = arguments.flags ? arguments.flags[row.number] : 0;
#if ARGMAX
    Argmax argmax;
    held.sweep([&](int c, Real& kept, Real) { argmax.look(c, kept, peaks[0]); });
    const long long largest = argmax.of(group);
#endif
    if (group.rank() == 0 && row.is_there) {
        if (is_fault) atomic_min(arguments.fault, static_cast<unsigned long long>(row.number));
        write_row(arguments, row.number, is_fault ? nan() : value, flags);
#if LOGSUMEXP
        static_cast<Real*>(arguments.logsumexp)[row.number] = loss.lse;
#endif
#if ENTROPY
        static_cast<Real*>(arguments.entropy)[row.number] = loss.entropy(sums.whole);
#endif
#if ARGMAX
        arguments.argmax[row.number] = largest;
#endif
    }
    if (HAS_GRADIENTS && (row.is_there || Held::IS_TOGETHER)) {
        double scale = arguments.scale ? arguments.scale[row.number] : arguments.scale_of_all;
        if (is_fault || is_nan(value)) scale = static_cast<double>(nan());  // all of the row
        const Real label_scale = static_cast<Real>(scale);
        if (TEMPERATURE) scale /= arguments.temperature;
        const Real logit_scale = static_cast<Real>(scale);
        const bool is_blank = (flags & NO_GRADIENT) != 0;
        constexpr bool IS_E_KEPT = Held::IS_KEPT && Loss::KEEPS_E && !ARGMAX;
        if (!Held::IS_TOGETHER && is_blank) {
            held.write(NoGradients{});
        } else {
            held.write(Gradients<IS_E_KEPT, Held::IS_TOGETHER>{
                arguments, loss, peaks, logit_scale, label_scale, is_blank});
        }
    }
}
