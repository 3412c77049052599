// Cross-entropy on probabilities p, as Keras defines it with from_logits=False, smoothing a:
//
//     q = y * (1-a) + a/C, y one-hot for a class id
//     n = p / sum p,  c = clip(n, epsilon, 1-epsilon),  l = -sum q * log(c)
//     or, with CLIP_FIRST,  c = clip(p, epsilon, 1-epsilon),  n = c / sum c,  l = -sum q * log(n)
//
// The gradient goes through all steps; that of clip is 1 within its bounds and 0 outside. With
// g = q / n it is (sum g * n - g) / sum. The logarithms of the bounds are given in full: in float32
// the nearest number to 1 - 1e-7 is a fifth off in its logarithm.

#pragma once

#include "softmax.cuh"

struct Loss : AtId {
    static constexpr int PEAKS = 0;
    static constexpr bool HAS_SECOND = true;
    static constexpr bool KEEPS_E = false;
    static constexpr bool HAS_AT_ID = false;
    static constexpr int TOTAL = 0, SUMS = 1;
    static constexpr int VALUE = 0, MEAN = 1, SECOND_SUMS = 2;

    Real hard, soft, epsilon, most, log_least, log_most, part, mean;  // part is 1 / total

    __device__ __forceinline__ Loss(const Arguments& arguments, long long row) {
        const double smoothing = LABEL_SMOOTHING ? arguments.label_smoothing : 0.0;
        hard = static_cast<Real>(1.0 - smoothing);
        soft = static_cast<Real>(smoothing / static_cast<double>(arguments.classes));
        epsilon = static_cast<Real>(arguments.epsilon);
        most = static_cast<Real>(1.0 - arguments.epsilon);
        log_least = logarithm(epsilon);
        log_most = log_1_plus(-epsilon);
        id = IDS ? arguments.ids[row] : -1;
    }

    // There are no peaks.
    static __device__ __forceinline__ void look(Real*, const Arguments&, const Element&) {}
    static __device__ __forceinline__ void raise(Real*, const Real*, const Real*) {}

    __device__ __forceinline__ bool is_outside(Real p) const { return p < epsilon || p > most; }

    __device__ __forceinline__ Real clipped(Real p) const {
        return p < epsilon ? epsilon : (p > most ? most : p);
    }

    __device__ __forceinline__ Real label(const Element& at) const {
        if (!IDS) return LABEL_SMOOTHING ? at.label * hard + soft : at.label;
        return (at.c == id ? hard : Real(0)) + soft;
    }

    __device__ __forceinline__ void add(Real* sums, const Real*, const Arguments&, const Element& at) const {
        sums[TOTAL] += CLIP_FIRST ? clipped(at.z) : at.z;
    }

    __device__ __forceinline__ void between(const Arguments&, const Real* sums, const Real*) {
        part = 1 / sums[TOTAL];
    }

    // log(c), and g = q / n through the clip that follows.
    __device__ __forceinline__ Real log_of(Real p, Real q, Real& n, Real& g) const {
        n = (CLIP_FIRST ? clipped(p) : p) * part;
        g = epsilon == 0 && q == 0 ? Real(0) : q / n;
        if (CLIP_FIRST) return logarithm(n);
        if (is_outside(n)) {
            g = 0;
            return n < epsilon ? log_least : log_most;
        }
        return logarithm(n);
    }

    __device__ __forceinline__ void add_second(Real* sums, const Arguments&, const Element& at) const {
        Real n, g;
        const Real q = label(at);
        const Real log_c = log_of(at.z, q, n, g);
        if (q != 0) sums[VALUE] -= q * log_c;
        sums[MEAN] += g * n;
    }

    __device__ __forceinline__ Real loss(const Arguments&, const Real*, const Real* second) {
        mean = second[MEAN];
        return second[VALUE];
    }

    __device__ __forceinline__ Real gradient(const Arguments&, const Element& at, Real scale) const {
        if (CLIP_FIRST && is_outside(at.z)) return 0 * scale;
        Real n, g;
        log_of(at.z, label(at), n, g);
        return (mean - g) * part * scale;
    }
};
