// Focal loss over softmax. With surprise s_c = lse - z_c and u_c = 1 - p_c = -expm1(-s_c):
//
//     l = sum alpha * y_c * u_c^gamma * s_c        dz = p * F - f,   F = sum f
//     f_c = alpha * y_c * u_c^gamma * (1 + gamma * p_c * s_c / u_c)
//
// For a class id y is 1 there and 0 elsewhere.

#pragma once

#include "softmax.cuh"

struct Loss : Softmax, AtId {
    static constexpr int PEAKS = 1;
    static constexpr bool HAS_SECOND = !IDS;
    static constexpr bool KEEPS_E = IDS;
    static constexpr bool HAS_AT_ID = IDS;

    static constexpr int SUMS = OWN;
    static constexpr int VALUE = 0, MASS = 1;
    static constexpr int SECOND_SUMS = 2;

    Real peak, gamma, alpha;
    Difference difference;

    __device__ __forceinline__ Loss(const Arguments& arguments, long long row) {
        gamma = static_cast<Real>(arguments.gamma);
        alpha = static_cast<Real>(arguments.alpha);
        id = IDS ? arguments.ids[row] : -1;
    }

    static __device__ __forceinline__ void look(Real* peaks, const Arguments&, const Element& at) {
        peaks[0] = larger(peaks[0], at.z);
    }

    static __device__ __forceinline__ void raise(Real* sums, const Real* from, const Real* to) {
        Softmax::raise(sums, from[0], to[0]);
    }

    __device__ __forceinline__ void add(Real* sums, const Real* peaks, const Arguments&, const Element& at) const {
        Softmax::add(sums, peaks[0], at.z, at.e);
    }

    __device__ __forceinline__ void between(const Arguments&, const Real* sums, const Real* peaks) {
        peak = peaks[0];
        finish(sums, peak);
    }

    // alpha * y * u^gamma, and what it becomes in f.
    __device__ __forceinline__ Real weight(Real label, Real surprise, Real& f) const {
        const Real u = -exponential_minus_1(-surprise);
        const Real weight = alpha * label * (gamma == 0 ? Real(1) : power(u, gamma));
        // p * s / u: 1 where all mass is on the class, 0 where none is
        Real slope = u == 0 ? Real(1) : surprise / u * exponential(-surprise);
        if (surprise == -no_logit()) slope = 0;
        f = weight * (1 + gamma * slope);
        return weight;
    }

    __device__ __forceinline__ Real surprise_of(Real z) const { return (peak - z) + log_total; }

    __device__ __forceinline__ void add_second(Real* sums, const Arguments&, const Element& at) const {
        Real f;
        const Real surprise = surprise_of(at.z);
        const Real share = weight(at.label, surprise, f);
        if (share != 0) sums[VALUE] += share * surprise;
        sums[MASS] += f;
    }

    __device__ __forceinline__ Real loss(const Arguments&, const Real*, const Real* second) {
        if (!IDS) {
            difference.prepare(*this, second[MASS]);
            return is_nan(tail) ? nan() : second[VALUE];
        }
        Real f;
        const Real surprise = surprise_of(z_at_id);
        const Real share = weight(1, surprise, f);
        difference.prepare(*this, f);
        at_id = (e_of(z_at_id, peak) - 1 - tail) * difference.ratio;
        return share * surprise;
    }

    // That of a class id's own class is `at_id`.
    __device__ __forceinline__ Real gradient(const Arguments&, const Element& at, Real scale) const {
        if (IDS) return at.e * (difference.ratio * scale);
        Real f;
        weight(at.label, surprise_of(at.z), f);
        return difference.of(at.e, f) * scale;
    }
};
