// Number formats and the arithmetic that must keep its digits.
//
// Tensors are Half, Bfloat16, float or double; all but double are computed in float. A row's sums
// are formed by its threads in an order that follows from the number of classes alone.

#pragma once

#include "device.cuh"

struct Half {
    unsigned short bits;
};
struct Bfloat16 {
    unsigned short bits;
};

// What a format is computed in, how it is read, written, and moved in words of its own size; those of
// 16 bits also two in a word.
template <typename Value>
struct Format;

template <>
struct Format<float> {
    using Real = float;
    using Word = float;
    static __device__ __forceinline__ Real read(float value) { return value; }
    static __device__ __forceinline__ float write(Real value) { return value; }
    static __device__ __forceinline__ float from_word(Word word) { return word; }
    static __device__ __forceinline__ Word to_word(float value) { return value; }
};

template <>
struct Format<double> {
    using Real = double;
    using Word = double;
    static __device__ __forceinline__ Real read(double value) { return value; }
    static __device__ __forceinline__ double write(Real value) { return value; }
    static __device__ __forceinline__ double from_word(Word word) { return word; }
    static __device__ __forceinline__ Word to_word(double value) { return value; }
};

template <>
struct Format<Half> {
    using Real = float;
    using Word = unsigned short;
    static __device__ __forceinline__ Real read(Half value) { return half_to_float(value.bits); }
    static __device__ __forceinline__ Half write(Real value) { return {float_to_half(value)}; }
    static __device__ __forceinline__ Half from_word(Word word) { return {word}; }
    static __device__ __forceinline__ Word to_word(Half value) { return value.bits; }
    static __device__ __forceinline__ void read_pair(unsigned pair, Real& first, Real& second) {
        halves_to_floats(pair, first, second);
    }
    static __device__ __forceinline__ unsigned write_pair(Real first, Real second) {
        return floats_to_halves(first, second);
    }
};

template <>
struct Format<Bfloat16> {
    using Real = float;
    using Word = unsigned short;
    static __device__ __forceinline__ Real read(Bfloat16 v) { return bfloat16_to_float(v.bits); }
    static __device__ __forceinline__ Bfloat16 write(Real v) { return {float_to_bfloat16(v)}; }
    static __device__ __forceinline__ Bfloat16 from_word(Word word) { return {word}; }
    static __device__ __forceinline__ Word to_word(Bfloat16 value) { return value.bits; }
    static __device__ __forceinline__ void read_pair(unsigned pair, Real& first, Real& second) {
        bfloat16s_to_floats(pair, first, second);
    }
    static __device__ __forceinline__ unsigned write_pair(Real first, Real second) {
        return floats_to_bfloat16s(first, second);
    }
};

// The type that logits of this kernel are computed in, and so losses, weights and sums.
using Real = Format<LOGIT>::Real;

__device__ __forceinline__ float lowest(float) { return -float_of(0x7f800000u); }
__device__ __forceinline__ double lowest(double) { return -double_of(0x7ff0000000000000ull); }
__device__ __forceinline__ float not_a_number(float) { return float_of(0x7fc00000u); }
__device__ __forceinline__ double not_a_number(double) { return double_of(0x7ff8000000000000ull); }

// -inf and NaN, written once for both types.
__device__ __forceinline__ Real no_logit() { return lowest(Real(0)); }
__device__ __forceinline__ Real nan() { return not_a_number(Real(0)); }

__device__ __forceinline__ bool is_nan(Real value) { return value != value; }
__device__ __forceinline__ bool is_finite(Real value) { return value - value == Real(0); }

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float exponential_minus_1(float x) { return expm1f(x); }
__device__ __forceinline__ double exponential_minus_1(double x) { return expm1(x); }
__device__ __forceinline__ float log_1_plus(float x) { return log1pf(x); }
__device__ __forceinline__ double log_1_plus(double x) { return log1p(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float power(float x, float y) { return powf(x, y); }
__device__ __forceinline__ double power(double x, double y) { return pow(x, y); }
__device__ __forceinline__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic_tangent(double x) { return tanh(x); }
__device__ __forceinline__ float hyperbolic_cosine(float x) { return coshf(x); }
__device__ __forceinline__ double hyperbolic_cosine(double x) { return cosh(x); }
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// exp(z - peak) for z <= peak; 0 for z = -inf, NaN for NaN.
//
// A float32 difference of 16 is off by up to 2^-20, and so would be its exponential: the part that
// rounding took away goes back in. Half formats do without: they have no such digits to lose, and to
// them an exponential below 2^-126 is 0.
template <typename Logit>
struct Exponential;

template <>
struct Exponential<double> {
    static __device__ __forceinline__ double of(double z, double peak) { return exp(z - peak); }
};

template <>
struct Exponential<float> {
    static __device__ __forceinline__ float of(float z, float peak) {
        const float difference = z - peak;
        const float z_part = difference + peak;
        const float rest = (z - z_part) - (peak - (z_part - difference));
        const float exponential = expf(difference);
        const float whole = fmaf(exponential, rest, exponential);
        return difference < -104.0f ? 0.0f : whole;  // less than the smallest float32
    }
};

struct ShortExponential {
    static __device__ __forceinline__ float of(float z, float peak) {
        return power_of_2((z - peak) * 1.44269504f);
    }
};

template <>
struct Exponential<Half> : ShortExponential {};
template <>
struct Exponential<Bfloat16> : ShortExponential {};
