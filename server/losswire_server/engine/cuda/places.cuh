// Where the elements of a row lie, and how several of them are moved at once.
//
// A thread has runs of as many classes as fill 16 bytes of logits. Rows that lie one after another
// are read in words as wide as every row's alignment allows, each beside that of the next thread; with
// STRIDED, element by element, where neighbouring rows find the rest of each cache line.

#pragma once

#include "arguments.cuh"
#include "numbers.cuh"
#include "options.cuh"

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

// Neighbours of a row that are moved as one.
constexpr int EACH = word_bytes(LOGIT_ALIGNMENT, sizeof(LOGIT), 16) / static_cast<int>(sizeof(LOGIT));

// Classes of a thread of SIZE that share a row, less its first: the words of all lie side by side, those
// of a run in turn, so that every read of a warp is of whole lines.
template <int SIZE>
struct Share {
    static constexpr int ROUND = SIZE * RUN;  // from one run of a thread to its next

    static __device__ __forceinline__ constexpr int offset(int run, int i) {
        return run * ROUND + i / EACH * (SIZE * EACH) + i % EACH;
    }
};

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

// Two numbers of 16 bits in 32, or one number of any size.
template <typename Value, int COUNT>
constexpr bool ARE_PAIRS = sizeof(Value) == 2 && COUNT % 2 == 0;

template <int COUNT, typename Value, typename Word>
__device__ __forceinline__ void unpack(const Word& word, Real* to) {
    if constexpr (ARE_PAIRS<Value, COUNT>) {
        unsigned pairs[COUNT / 2];
        memcpy(pairs, &word, sizeof word);
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            typename Format<Value>::Real first, second;
            Format<Value>::read_pair(pairs[i], first, second);
            to[2 * i] = static_cast<Real>(first);
            to[2 * i + 1] = static_cast<Real>(second);
        }
    } else {
        Value values[COUNT];
        memcpy(values, &word, sizeof word);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) to[i] = static_cast<Real>(Format<Value>::read(values[i]));
    }
}

template <int COUNT, typename Value, typename Word>
__device__ __forceinline__ void pack(const Real* from, Word& word) {
    using Own = typename Format<Value>::Real;
    if constexpr (ARE_PAIRS<Value, COUNT>) {
        unsigned pairs[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            pairs[i] = Format<Value>::write_pair(
                static_cast<Own>(from[2 * i]), static_cast<Own>(from[2 * i + 1]));
        }
        memcpy(&word, pairs, sizeof word);
    } else {
        Value values[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) values[i] = Format<Value>::write(static_cast<Own>(from[i]));
        memcpy(&word, values, sizeof word);
    }
}

// How COUNT neighbours are moved: in words as wide as ALIGNMENT allows, or, with IS_APART, one by one.
template <int COUNT, int ALIGNMENT, bool IS_APART, typename Value>
struct Neighbours {
    static constexpr int SIZE = static_cast<int>(sizeof(Value));
    static constexpr int EACH = IS_APART ? 1 : word_bytes(ALIGNMENT, SIZE, COUNT * SIZE) / SIZE;
    using Word = typename WordOf<EACH * SIZE>::Type;

    template <Reading READING>
    static __device__ __forceinline__ void read(const Value* from, [[maybe_unused]] long long step, Real* to) {
#pragma unroll
        for (int i = 0; i < COUNT; i += EACH) {
            const Value* word = from + (IS_APART ? i * step : i);
            unpack<EACH, Value>(load<READING>(reinterpret_cast<const Word*>(word)), to + i);
        }
    }

    static __device__ __forceinline__ void write(Value* to, [[maybe_unused]] long long step, const Real* from) {
#pragma unroll
        for (int i = 0; i < COUNT; i += EACH) {
            Word word;
            pack<EACH, Value>(from + i, word);
            store_once(reinterpret_cast<Word*>(to + (IS_APART ? i * step : i)), word);
        }
    }
};
