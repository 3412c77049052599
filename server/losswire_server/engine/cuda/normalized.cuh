// Softmax itself, or its logarithm (LOGARITHM): z - lse, never by way of p.

#pragma once

#include "softmax.cuh"

#ifndef LOGARITHM
#define LOGARITHM 0
#endif

struct Loss : Softmax, AtId {
    static constexpr int PEAKS = 1;
    static constexpr bool HAS_SECOND = false;
    static constexpr int SECOND_SUMS = 1;
    static constexpr bool KEEPS_E = !LOGARITHM;
    static constexpr bool HAS_AT_ID = false;
    static constexpr int SUMS = OWN;

    Real peak;

    __device__ __forceinline__ Loss(const Arguments&, long long) {}

    static __device__ __forceinline__ void look(Real* peaks, const Arguments&, const Element& at) {
        peaks[0] = larger(peaks[0], at.z);
    }
    static __device__ __forceinline__ void raise(Real* sums, const Real* from, const Real* to) {
        Softmax::raise(sums, from[0], to[0]);
    }
    static __device__ __forceinline__ void add(Real* sums, const Real* peaks, const Arguments&, const Element& at) {
        Softmax::add(sums, peaks[0], at.z, at.e);
    }
    __device__ __forceinline__ void between(const Arguments&, const Real* sums, const Real* peaks) {
        peak = peaks[0];
        finish(sums, peak);
    }
    static __device__ __forceinline__ void add_second(Real*, const Arguments&, const Element&) {}
    static __device__ __forceinline__ Real loss(const Arguments&, const Real*, const Real*) { return 0; }

    __device__ __forceinline__ Real gradient(const Arguments&, const Element& at, Real scale) const {
        return (LOGARITHM ? (at.z - peak) - log_total : p(at.e)) * scale;
    }
};
