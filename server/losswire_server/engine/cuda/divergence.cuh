// Kullback-Leibler divergence of softmax(z) from a target y.
//
//     l = sum y_c * (log(y_c) + lse - z_c)         dz = p * Y - y,   Y = sum y
//
// With a temperature T both sides are softened: z by `shaped`, the target to softmax(log(y) / T), or
// to softmax(target / T) where it is logits itself. FACTOR multiplies all of it. A class of target 0
// adds 0.

#pragma once

#include "softmax.cuh"

struct Loss : Softmax, AtId {
    static constexpr bool IS_SOFTENED = TARGET_IS_LOGITS || TEMPERATURE;
    static constexpr int PEAKS = IS_SOFTENED ? 2 : 1;
    static constexpr bool HAS_SECOND = true;
    static constexpr bool KEEPS_E = false;
    static constexpr bool HAS_AT_ID = false;

    static constexpr int TEACHER = OWN;  // two sums as those of the logits
    static constexpr int SUMS = OWN + (IS_SOFTENED ? 2 : 0);
    static constexpr int VALUE = 0, MASS = 1;
    static constexpr int SECOND_SUMS = 2;

    Real peak, factor, teacher_peak;
    Softmax teacher;
    Difference difference;

    __device__ __forceinline__ Loss(const Arguments& arguments, long long) {
        factor = static_cast<Real>(arguments.factor);
    }

    // The teacher's logit of a target.
    static __device__ __forceinline__ Real teacher_logit(const Arguments& arguments, Real target) {
        const Real logit = TARGET_IS_LOGITS ? target : logarithm(target);
        return TEMPERATURE ? logit / static_cast<Real>(arguments.temperature) : logit;
    }

    static __device__ __forceinline__ void look(Real* peaks, const Arguments& arguments, const Element& at) {
        peaks[0] = larger(peaks[0], at.z);
        if (IS_SOFTENED) peaks[PEAKS - 1] = larger(peaks[PEAKS - 1], teacher_logit(arguments, at.label));
    }

    static __device__ __forceinline__ void raise(Real* sums, const Real* from, const Real* to) {
        if (to[0] > from[0]) Softmax::raise(sums, from[0], to[0]);
        if (IS_SOFTENED && to[PEAKS - 1] > from[PEAKS - 1]) {
            Softmax::raise(sums + TEACHER, from[PEAKS - 1], to[PEAKS - 1]);
        }
    }

    __device__ __forceinline__ void add(Real* sums, const Real* peaks, const Arguments& arguments, const Element& at) const {
        Softmax::add(sums, peaks[0], at.z, at.e);
        if (IS_SOFTENED) {
            const Real logit = teacher_logit(arguments, at.label);
            Softmax::add(sums + TEACHER, peaks[PEAKS - 1], logit, teacher_e(logit, peaks[PEAKS - 1]));
        }
    }

    // By the full exponential: targets of half precision become float32 here.
    static __device__ __forceinline__ Real teacher_e(Real logit, Real peak) {
        return Exponential<Real>::of(logit, peak);
    }

    __device__ __forceinline__ void between(const Arguments&, const Real* sums, const Real* peaks) {
        peak = peaks[0];
        finish(sums, peak);
        if (IS_SOFTENED) {
            teacher_peak = peaks[PEAKS - 1];
            teacher.finish(sums + TEACHER, teacher_peak);
        }
    }

    // y and its logarithm.
    __device__ __forceinline__ Real target(const Arguments& arguments, Real label, Real& log_y) const {
        if (!IS_SOFTENED) {
            log_y = logarithm(label);
            return label;
        }
        const Real logit = teacher_logit(arguments, label);
        log_y = (logit - teacher_peak) - teacher.log_total;
        return teacher.p(teacher_e(logit, teacher_peak));
    }

    __device__ __forceinline__ void add_second(Real* sums, const Arguments& arguments, const Element& at) const {
        Real log_y;
        const Real y = target(arguments, at.label, log_y);
        sums[MASS] += y;
        if (y != 0) sums[VALUE] += y * (log_y + (peak - at.z));
    }

    __device__ __forceinline__ Real loss(const Arguments&, const Real*, const Real* second) {
        difference.prepare(*this, second[MASS]);
        return factor * (second[MASS] * log_total + second[VALUE]);
    }

    __device__ __forceinline__ Real gradient(const Arguments& arguments, const Element& at, Real scale) const {
        Real log_y;
        return factor * difference.of(at.e, target(arguments, at.label, log_y)) * scale;
    }
};
