// Losses of independent binary decisions, each element an example of its own; LOSS says which:
//
//     SIGMOID   l = (1-y) * softplus(z) + q * y * softplus(-z),   q = pos_weight
//               dz = (1-y) * s(z) - q * y * s(-z),                s the sigmoid
//     FOCAL     l = alpha_t * u^gamma * ce,  u = (1-y) * s(z) + y * s(-z),  ce as above with q = 1
//               dz = alpha_t * (u^gamma * (s(z) - y) - gamma * u^(gamma-1) * (2y-1) * s(z) * s(-z) * ce)
//     BINARY    z is a probability:  c = clip(z, epsilon, 1-epsilon)
//               l = -(y * log(c) + (1-y) * log(1-c)),  dz = (1-y) / (1-c) - y / c within the bounds
//
// With e = exp(-|z|): s(z) = (z >= 0 ? 1 : e) / (1+e) and softplus(z) = max(z, 0) + log1p(e). Every sum
// is of terms of one sign for labels in [0, 1], and s(-z) is never 1 - s(z), so nothing cancels.

#include "places.cuh"
#include "options.cuh"

#define SIGMOID 1
#define FOCAL_SIGMOID 2
#define BINARY 3

// What an element comes to.
struct Outcome {
    Real loss, gradient;
};

struct Label {
    Real positive, negative;  // y and 1-y, smoothed
};

__device__ __forceinline__ Label smoothed(const Arguments& arguments, Real y) {
    if (!LABEL_SMOOTHING) return {y, 1 - y};
    const Real hard = static_cast<Real>(1.0 - arguments.label_smoothing);
    const Real soft = static_cast<Real>(arguments.label_smoothing / 2);
    return {y * hard + soft, (1 - y) * hard + soft};
}

struct Decision {
    Real e, total, log_total, up, down;  // up = s(z) * total, down = s(-z) * total

    explicit __device__ __forceinline__ Decision(Real z) {
        e = exponential(z < 0 ? z : -z);
        total = 1 + e;
        log_total = log_1_plus(e);
        up = z >= 0 ? Real(1) : e;
        down = z >= 0 ? e : Real(1);
    }

    __device__ __forceinline__ Real cross_entropy(Real z, const Label& label) const {
        const Real above = z <= 0 ? Real(0) : z, below = z >= 0 ? Real(0) : z;  // NaN stays NaN
        const Real both = POS_WEIGHT ? (label.positive + label.negative) * log_total : log_total;
        return above * label.negative - below * label.positive + both;
    }
};

#if LOSS == SIGMOID
__device__ __forceinline__ Outcome outcome(const Arguments& arguments, Real z, Real y, Real weight) {
    Label label = smoothed(arguments, y);
    if (POS_WEIGHT) label.positive *= weight;
    const Decision decision(z);
    const Real difference = label.negative * decision.up - label.positive * decision.down;
    return {decision.cross_entropy(z, label), difference / decision.total};
}
#elif LOSS == FOCAL_SIGMOID
__device__ __forceinline__ Outcome outcome(const Arguments& arguments, Real z, Real y, Real) {
    const Real gamma = static_cast<Real>(arguments.gamma);
    const Label label{y, 1 - y};
    const Decision decision(z);
    const Real ce = decision.cross_entropy(z, label);
    const Real up = label.negative * decision.up, down = label.positive * decision.down;
    const Real u = (up + down) / decision.total;
    Real factor, slope;  // u^gamma, and u^(gamma-1) * ce
    if (gamma >= 1) {
        const Real less = gamma == 1 ? Real(1) : power(u, gamma - 1);
        factor = less * u;
        slope = less * ce;
    } else {
        factor = gamma == 0 ? Real(1) : power(u, gamma);
        slope = factor * (u != 0 ? ce / u : Real(1));
    }
    if (arguments.alpha >= 0) {
        const Real alpha = static_cast<Real>(arguments.alpha);
        const Real share = alpha * label.positive + static_cast<Real>(1 - arguments.alpha) * label.negative;
        factor *= share;
        slope *= share;
    }
    const Real turn = gamma * slope * (label.positive - label.negative) * (decision.e / decision.total);
    return {factor * ce, ((up - down) * factor - turn) / decision.total};
}
#else
__device__ __forceinline__ Outcome outcome(const Arguments& arguments, Real p, Real y, Real) {
    const Label label = smoothed(arguments, y);
    const Real epsilon = static_cast<Real>(arguments.epsilon);
    const bool is_low = p < epsilon, is_high = p > static_cast<Real>(1.0 - arguments.epsilon);
    const Real log_least = logarithm(epsilon);
    const Real log_most = log_1_plus(-epsilon);
    const Real log_p = is_low ? log_least : (is_high ? log_most : logarithm(p));
    const Real log_rest = is_low ? log_most : (is_high ? log_least : log_1_plus(-p));
    const bool is_bare = arguments.epsilon == 0;  // only then may a logarithm be of 0
    Real positive = label.positive * log_p, negative = label.negative * log_rest;
    Real down = label.positive / p, up = label.negative / (1 - p);
    if (is_bare && label.positive == 0) positive = down = 0;
    if (is_bare && label.negative == 0) negative = up = 0;
    return {-(positive + negative), is_low || is_high ? Real(0) : up - down};
}
#endif

// A run of which `left` elements are left; those that are not there stay as they were.
template <typename Value>
__device__ __forceinline__ void read_run(const Value* from, int left, Real (&to)[RUN]) {
    if (left >= RUN) return Neighbours<RUN, 16, false, Value>::template read<Reading::LAST>(from, 1, to);
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        if (i < left) to[i] = read_one<Reading::LAST>(from + i);
    }
}

template <typename Value>
__device__ __forceinline__ void write_run(Value* to, int left, const Real (&from)[RUN]) {
    if (left >= RUN) return Neighbours<RUN, 16, false, Value>::write(to, 1, from);
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        if (i < left) write_one(to + i, from[i]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) losswire_elements(const Arguments arguments) {
    const long long c = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * RUN;
    const long long count = arguments.rows;
    if (c >= count) return;
    const int left = count - c < RUN ? static_cast<int>(count - c) : RUN;
    Real z[RUN] = {}, y[RUN] = {}, weight[RUN] = {}, losses[RUN] = {}, gradients[RUN] = {};
    read_run(static_cast<const LOGIT*>(arguments.logits) + c, left, z);
    read_run(static_cast<const LABEL*>(arguments.labels) + c, left, y);
    if (POS_WEIGHT) {
        read_run(static_cast<const Real*>(arguments.pos_weight) + c, left, weight);
    }
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        if (i >= left) continue;
        Outcome is = outcome(arguments, z[i], y[i], POS_WEIGHT ? weight[i] : Real(1));
        const double loss_weight = arguments.weight ? arguments.weight[c + i] : arguments.weight_of_all;
        const double scale = arguments.scale ? arguments.scale[c + i] : arguments.scale_of_all;
        const unsigned char flags = arguments.flags ? arguments.flags[c + i] : 0;
        losses[i] = (flags & NO_LOSS) != 0 ? Real(0) : is.loss * static_cast<Real>(loss_weight);
        if (is_nan(is.loss)) is.gradient = is.loss;
        gradients[i] = (flags & NO_GRADIENT) != 0 ? Real(0) : is.gradient * static_cast<Real>(scale);
    }
    write_run(static_cast<Real*>(arguments.per_example) + c, left, losses);
    if (GRAD_LOGITS) {
        write_run(static_cast<LOGIT*>(arguments.dense) + c, left, gradients);
    }
}
