// What every loss on softmax is made of, with z the logits after softcap and temperature:
//
//     peak = max z      e_c = exp(z_c - peak)      tail = sum of e - 1      total = 1 + tail
//     p_c = e_c / total                            lse = peak + log1p(tail)
//
// The tail is the sum of the e below the peak and of the number at the peak less one, so that it
// keeps its digits where one class has nearly all probability. A row without a softmax (NaN, +inf,
// or nothing but -inf) has NaN for a tail, and so for all that follows.

#pragma once

#include "arguments.cuh"
#include "numbers.cuh"
#include "options.cuh"

// A class of a row as losses see it: `e` is that of its logit.
struct Element {
    int c;
    Real z;
    Real e;
    Real label;
};

// The class of a row whose labels are class ids: its z, and its gradient where that is not like the
// others' (HAS_AT_ID of a loss).
struct AtId {
    int id = -1;
    Real z_at_id = 0, at_id = 0;
};

// z of a logit.
__device__ __forceinline__ Real shaped([[maybe_unused]] const Arguments& arguments, Real logit) {
#if SOFTCAP
    const Real cap = static_cast<Real>(arguments.softcap);
    logit = hyperbolic_tangent(logit / cap);
    return logit * static_cast<Real>(arguments.softcap / arguments.temperature);
#elif TEMPERATURE
    return logit / static_cast<Real>(arguments.temperature);
#else
    return logit;
#endif
}

// d z / d logit but for the temperature: 1 / cosh^2, which keeps its digits where tanh nears 1.
__device__ __forceinline__ Real slope_of_softcap(const Arguments& arguments, Real logit) {
    const Real cosine = hyperbolic_cosine(logit / static_cast<Real>(arguments.softcap));
    return Real(1) / (cosine * cosine);
}

// The sums of one row that follow from its logits alone; `BELOW` and `COUNT` are their places among
// all sums of a loss, which the group adds up together.
struct Softmax {
    static constexpr int BELOW = 0, COUNT = 1, OWN = 2;

    Real tail, total, log_total;

    static __device__ __forceinline__ Real e_of(Real z, Real peak) {
        return Exponential<LOGIT>::of(z, peak);
    }

    static __device__ __forceinline__ void add(Real* sums, Real peak, Real z, Real e) {
        if (z == peak) {
            sums[COUNT] += 1;
        } else {
            sums[BELOW] += e;
        }
    }

    // What the sums up to now are relative to a higher peak; returns exp(from - to).
    static __device__ __forceinline__ Real raise(Real* sums, Real from, Real to) {
        const Real factor = e_of(from, to);
        sums[BELOW] = (sums[BELOW] + sums[COUNT]) * factor;
        sums[COUNT] = 0;
        return factor;
    }

    __device__ __forceinline__ void finish(const Real* sums, Real peak) {
        tail = sums[BELOW] + (sums[COUNT] - 1);
        if (!is_finite(peak)) tail = nan();
        total = 1 + tail;
        log_total = log_1_plus(tail);
    }

    __device__ __forceinline__ Real p(Real e) const { return e * (1 / total); }
};

// mass * p - label for the classes of a row.
struct Difference {
    Real mass, ratio, shortfall;

    __device__ __forceinline__ void prepare(const Softmax& row, Real mass_of_row) {
        mass = mass_of_row;
        ratio = mass / row.total;
        shortfall = ratio * row.tail;
    }

    // At the peak, where the two may be nearly equal, it is formed from the tail.
    __device__ __forceinline__ Real of(Real e, Real label) const {
        return e == 1 ? (mass - label) - shortfall : e * ratio - label;
    }
};

// By how much a peak was raised; 0 where there was none, and no sums relative to it either.
__device__ __forceinline__ Real rise(Real from, Real to) {
    return from == no_logit() ? Real(0) : to - from;
}
