// Softmax cross-entropy with all its options, also that of sequences. With smoothing a, class weights
// w and z-loss k:
//
//     ids            l = (1-a) * w_y * (lse - z_y) + a/C * sum w_c * (lse - z_c) + k * lse^2
//                    dz = p * ((1-a) * w_y + a/C * W + 2k * lse) - (1-a) * w_y * onehot(y) - a/C * w
//     distributions  q = w * (y * (1-a) + a/C)
//                    l = sum q_c * (lse - z_c) + k * lse^2
//                    dz = p * (Q + 2k * lse) - q       with Q = sum q, or 1 (TF_GRADIENT)
//                    dy = w * (1-a) * (lse - z)
//
// Sums of lse - z are those of peak - z, whose terms are never negative, and the weights' share of
// log(total). A term with q = 0 is 0 also at z = -inf.

#pragma once

#include "softmax.cuh"

struct Loss : Softmax, AtId {
    static constexpr int PEAKS = 1;
    static constexpr bool HAS_SECOND = false;
    static constexpr int SECOND_SUMS = 1;
    static constexpr bool KEEPS_E = !GRAD_LABELS;  // and no logit, once its exponential is known
    static constexpr bool HAS_AT_ID = IDS;

    // Places of the sums: of class weights or of q; of these times peak - z; of e * (z - peak).
    static constexpr bool IS_SPREAD = !IDS || LABEL_SMOOTHING;
    static constexpr int MASS = OWN;
    static constexpr int CROSS = MASS + 1;
    static constexpr int DOT = MASS + (IS_SPREAD ? 2 : 0);
    static constexpr int SUMS = DOT + (ENTROPY ? 1 : 0);

    Real peak, lse, weight_at_id, hard, soft;
    Difference difference;
    const Real* weights;

    __device__ __forceinline__ Loss(const Arguments& arguments, long long row) {
        weights = static_cast<const Real*>(arguments.class_weight);
        const double smoothing = LABEL_SMOOTHING ? arguments.label_smoothing : 0.0;
        hard = static_cast<Real>(1.0 - smoothing);
        soft = static_cast<Real>(smoothing / static_cast<double>(arguments.classes));
        id = IDS ? arguments.ids[row] : -1;
    }

    __device__ __forceinline__ Real weight(int c) const {
        return CLASS_WEIGHT ? weights[c] : Real(1);
    }

    // What the class's lse - z counts for, besides that of the id.
    __device__ __forceinline__ Real share(int c, Real label) const {
        if (IDS) return weight(c);
        return weight(c) * (LABEL_SMOOTHING ? label * hard + soft : label);
    }

    static __device__ __forceinline__ void look(Real* peaks, const Arguments&, const Element& element) {
        peaks[0] = larger(peaks[0], element.z);
    }

    __device__ __forceinline__ void raise(Real* sums, const Real* from, const Real* to) const {
        const Real step = rise(from[0], to[0]);
        if (IS_SPREAD) sums[CROSS] += sums[MASS] == 0 ? Real(0) : sums[MASS] * step;
        [[maybe_unused]] const Real before = sums[BELOW] + sums[COUNT];
        const Real factor = Softmax::raise(sums, from[0], to[0]);
        // what is nothing beside the new peak may have been further below it than numbers reach
        if (ENTROPY) sums[DOT] = factor == 0 ? Real(0) : (sums[DOT] - step * before) * factor;
    }

    __device__ __forceinline__ void add(Real* sums, const Real* peaks, const Arguments&, const Element& at) const {
        Softmax::add(sums, peaks[0], at.z, at.e);
        if (IS_SPREAD) {
            const Real q = share(at.c, at.label);
            sums[MASS] += q;
            // -inf is infinitely far below any peak, also while none has been found yet
            if (q != 0) sums[CROSS] += at.z == no_logit() ? -no_logit() : q * (peaks[0] - at.z);
        }
        if (ENTROPY && at.z != peaks[0] && at.e != 0) sums[DOT] += at.e * (at.z - peaks[0]);
    }

    __device__ __forceinline__ void between(const Arguments&, const Real* sums, const Real* peaks) {
        peak = peaks[0];
        finish(sums, peak);
        lse = peak + log_total;
    }

    static __device__ __forceinline__ void add_second(Real*, const Arguments&, const Element&) {}

    // The loss; and what the gradient of the row needs.
    __device__ __forceinline__ Real loss(const Arguments& arguments, const Real* sums, const Real*) {
        Real value = 0, mass = 0, more = 0;
        if (IDS) {
            weight_at_id = weight(id);
            value = hard * weight_at_id * ((peak - z_at_id) + log_total);
            mass = hard * weight_at_id;
            if (LABEL_SMOOTHING) {
                value += soft * (sums[MASS] * log_total + sums[CROSS]);
                more = soft * sums[MASS];
            }
        } else {
            value = sums[MASS] * log_total + sums[CROSS];
            mass = TF_GRADIENT ? Real(1) : sums[MASS];
        }
        if (Z_LOSS) {
            const Real k = static_cast<Real>(arguments.z_loss);
            value += k * lse * lse;
            more += 2 * k * lse;
        }
        if (IDS) {
            // (p_y - 1) * mass: where z_y is the peak and p_y nears 1, this is -tail / total.
            const Real e = e_of(z_at_id, peak);
            at_id = ((e - 1 - tail) * mass + e * more) / total;
            if (LABEL_SMOOTHING) at_id -= soft * weight_at_id;
        }
        difference.prepare(*this, mass + more);
        return value;
    }

    // That of a class id's own class is `at_id`.
    __device__ __forceinline__ Real gradient(const Arguments&, const Element& at, Real scale) const {
        if (!IDS) return difference.of(at.e, share(at.c, at.label)) * scale;
        const Real value = at.e * (difference.ratio * scale);
        return LABEL_SMOOTHING ? value - weight(at.c) * (soft * scale) : value;
    }

    __device__ __forceinline__ Real label_gradient(const Arguments&, const Element& at) const {
        return weight(at.c) * hard * ((peak - at.z) + log_total);
    }

    __device__ __forceinline__ Real entropy(const Real* sums) const {
        return log_total - sums[DOT] / total;
    }
};
