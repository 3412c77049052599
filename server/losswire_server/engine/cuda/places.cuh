// Where the elements of a row lie, and how several of them are moved at once.
//
// A thread moves runs of as many classes as fill 16 bytes of logits. Rows that lie one after another
// are read in words as wide as every row's alignment allows; with STRIDED, element by element, where
// neighbouring rows find the rest of each cache line.

#pragma once

#include "arguments.cuh"
#include "numbers.cuh"

#if LABEL_TABLE
constexpr bool HAS_TABLE = true;
#else
constexpr bool HAS_TABLE = false;
#endif

// Classes of a run.
constexpr int RUN = 16 / static_cast<int>(sizeof(LOGIT));

// Element c lies at base + c * step.
struct Place {
    long long base;
    long long step;
};

// The last segment that begins at or before the row.
__device__ __forceinline__ const Segment& segment_of(const Arguments& arguments, long long row) {
    long long low = 0, high = arguments.segment_count - 1;
    while (low < high) {
        const long long middle = (low + high + 1) / 2;
        if (arguments.segments[middle].first_row <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return arguments.segments[low];
}

__device__ __forceinline__ Place place_of(const Arguments& arguments, long long row) {
#if STRIDED
    const Segment& segment = segment_of(arguments, row);
    const long long within = row - segment.first_row;
    const long long outer = within / segment.inner, column = within % segment.inner;
    return {segment.offset + outer * arguments.classes * segment.inner + column, segment.inner};
#else
    return {row * arguments.classes, 1};
#endif
}

// Where the labels of a row lie: as its logits do, or in the table.
__device__ __forceinline__ Place label_place(
    const Arguments& arguments, long long row, const Place& place) {
    if (!HAS_TABLE) return place;
    return {arguments.ids[row] * arguments.classes, 1};
}

// Where the gradient to them goes: as the logits lie, or, to be summed, row by row.
__device__ __forceinline__ Place label_gradient_place(
    const Arguments& arguments, long long row, const Place& place) {
    if (!HAS_TABLE) return place;
    return {row * arguments.classes, 1};
}

template <int BYTES>
struct WordOf;
template <>
struct WordOf<2> {
    using Type = unsigned short;
};
template <>
struct WordOf<4> {
    using Type = unsigned;
};
template <>
struct WordOf<8> {
    using Type = unsigned long long;
};
template <>
struct WordOf<16> {
    using Type = Pack;
};

// Bytes of the widest word that every row is aligned to, among `most` bytes of `least` each.
__device__ constexpr int word_bytes(int alignment, int least, int most) {
    return alignment < least ? least : (alignment < most ? alignment : most);
}

// Whether a second read follows, which the cache should still have then.
enum class Reading { LAST, FIRST_OF_TWO };

template <Reading READING, typename Word>
__device__ __forceinline__ Word load(const Word* from) {
    return READING == Reading::LAST ? load_once(from) : load_again(from);
}

template <Reading READING, typename Value>
__device__ __forceinline__ Real read_one(const Value* from) {
    using Word = typename Format<Value>::Word;
    const Word word = load<READING>(reinterpret_cast<const Word*>(from));
    return static_cast<Real>(Format<Value>::read(Format<Value>::from_word(word)));
}

template <typename Value>
__device__ __forceinline__ void write_one(Value* to, Real value) {
    using Word = typename Format<Value>::Word;
    const auto rounded = Format<Value>::write(static_cast<typename Format<Value>::Real>(value));
    store_once(reinterpret_cast<Word*>(to), Format<Value>::to_word(rounded));
}

// A run that the row has all of, in words of ALIGNMENT bytes at most.
template <int ALIGNMENT, Reading READING, typename Value>
__device__ __forceinline__ void read_whole(const Value* from, Real (&to)[RUN]) {
    constexpr int BYTES = RUN * static_cast<int>(sizeof(Value));
    constexpr int STEP = word_bytes(ALIGNMENT, sizeof(Value), BYTES);
    constexpr int EACH = STEP / static_cast<int>(sizeof(Value));
    using Word = typename WordOf<STEP>::Type;
#pragma unroll
    for (int i = 0; i < RUN / EACH; ++i) {
        const Word word = load<READING>(reinterpret_cast<const Word*>(from) + i);
        Value values[EACH];
        memcpy(values, &word, STEP);
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            to[i * EACH + j] = static_cast<Real>(Format<Value>::read(values[j]));
        }
    }
}

template <int ALIGNMENT, typename Value>
__device__ __forceinline__ void write_whole(Value* to, const Real (&from)[RUN]) {
    constexpr int BYTES = RUN * static_cast<int>(sizeof(Value));
    constexpr int STEP = word_bytes(ALIGNMENT, sizeof(Value), BYTES);
    constexpr int EACH = STEP / static_cast<int>(sizeof(Value));
    using Word = typename WordOf<STEP>::Type;
    using Own = typename Format<Value>::Real;
#pragma unroll
    for (int i = 0; i < RUN / EACH; ++i) {
        Value values[EACH];
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            values[j] = Format<Value>::write(static_cast<Own>(from[i * EACH + j]));
        }
        Word word;
        memcpy(&word, values, STEP);
        store_once(reinterpret_cast<Word*>(to) + i, word);
    }
}

// A run of a row, of whose classes `left` are left from its first; others stay as they were.
template <int ALIGNMENT, Reading READING, bool IS_STRIDED, typename Value>
__device__ __forceinline__ void read_run(
    const Value* from, [[maybe_unused]] long long step, int left, Real (&to)[RUN]) {
    if (!IS_STRIDED && left >= RUN) {
        read_whole<ALIGNMENT, READING>(from, to);
        return;
    }
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        if (i < left) to[i] = read_one<READING>(from + (IS_STRIDED ? i * step : i));
    }
}

template <int ALIGNMENT, bool IS_STRIDED, typename Value>
__device__ __forceinline__ void write_run(
    Value* to, [[maybe_unused]] long long step, int left, const Real (&from)[RUN]) {
    if (!IS_STRIDED && left >= RUN) {
        write_whole<ALIGNMENT>(to, from);
        return;
    }
#pragma unroll
    for (int i = 0; i < RUN; ++i) {
        if (i < left) write_one(to + (IS_STRIDED ? i * step : i), from[i]);
    }
}
