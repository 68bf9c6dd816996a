// A layer's attention and what it does between its products, each in one pass over memory.
//
// library.py compiles this once per machine and declares the functions at its end. Strides count
// elements; the last axis of every tensor is dense. Each function exists for float and for
// bfloat16 ("half" below), which is computed in float and rounded once.

#include <cstdint>
#include <cstdlib>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 4;
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr int MOST_VECTORS = 3;  // of queries at a time: ROWS of them fit the registers
constexpr int MOST_DIM = 256;    // of a head
constexpr int KEYS = 64;         // at a time: their scores stay in the first cache
constexpr float EPS = 1e-6f;
constexpr float LOG2_E = 1.4426950408889634f;

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

struct Half {
    uint16_t bits;
};

inline float widen(float x) { return x; }

inline float widen(Half x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

inline void narrow(float x, float* to) { *to = x; }

inline void narrow(float x, Half* to) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    to->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// ---- norms, modulations, rotations -------------------------------------------------------------

template <class T>
float inverse_length(const T* x, int64_t count) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < count; i++) squares += widen(x[i]) * widen(x[i]);
    return 1 / __builtin_sqrtf(squares / float(count) + EPS);
}

template <class T>
void rotate_split(const T* x, const T* weight, float inverse, const float* cos, const float* sin,
                  int64_t half, T* out) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float first = widen(x[i]) * widen(weight[i]) * inverse;
        const float second = widen(x[half + i]) * widen(weight[half + i]) * inverse;
        narrow(first * cos[i] + second * sin[i], out + i);
        narrow(second * cos[half + i] + first * sin[half + i], out + half + i);
    }
}

template <class T>
void rotate_interleaved(const T* x, const T* weight, float inverse, const float* cos,
                        const float* sin, int64_t half, T* out) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float first = widen(x[2 * i]) * widen(weight[2 * i]) * inverse;
        const float second = widen(x[2 * i + 1]) * widen(weight[2 * i + 1]) * inverse;
        narrow(first * cos[2 * i] + second * sin[2 * i], out + 2 * i);
        narrow(second * cos[2 * i + 1] + first * sin[2 * i + 1], out + 2 * i + 1);
    }
}

template <class T>
void head_norm(const T* x, int64_t x_batch, int64_t x_row, const T* weight, const float* cos,
               const float* sin, int64_t table_batch, int64_t interleaved, T* out,
               int64_t out_batch, int64_t out_head, int64_t out_row, int64_t batch, int64_t tokens,
               int64_t heads, int64_t dim, int threads) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t t = 0; t < tokens; t++) {
            const T* from = x + b * x_batch + t * x_row;
            T* to = out + b * out_batch + t * out_row;
            const float inverse = weight ? inverse_length(from, heads * dim) : 1;
            for (int64_t h = 0; h < heads; h++) {
                const int64_t first = h * dim;
                const int64_t angle = b * table_batch + t * heads * dim + first;
                if (!weight) {
                    __builtin_memcpy(to + h * out_head, from + first, dim * sizeof(T));
                } else if (!cos) {
#pragma omp simd
                    for (int64_t i = 0; i < dim; i++)
                        narrow(widen(from[first + i]) * widen(weight[first + i]) * inverse,
                               to + h * out_head + i);
                } else if (interleaved) {
                    rotate_interleaved(from + first, weight + first, inverse, cos + angle,
                                       sin + angle, dim / 2, to + h * out_head);
                } else {
                    rotate_split(from + first, weight + first, inverse, cos + angle, sin + angle,
                                 dim / 2, to + h * out_head);
                }
            }
        }
    }
}

// Scale and shift of a norm; a row stride of 0 serves all tokens with one row.
template <class T>
struct Modulation {
    const T* scale;
    int64_t scale_batch, scale_row;
    const T* shift;
    int64_t shift_batch, shift_row;
    T* out;
};

template <class T>
void modulate(const T* x, float inverse, const Modulation<T>& by, int64_t b, int64_t t,
              int64_t width, T* out) {
    if (!by.scale) {
#pragma omp simd
        for (int64_t i = 0; i < width; i++) narrow(widen(x[i]) * inverse, out + i);
        return;
    }
    const T* scale = by.scale + b * by.scale_batch + t * by.scale_row;
    const T* shift = by.shift + b * by.shift_batch + t * by.shift_row;
#pragma omp simd
    for (int64_t i = 0; i < width; i++)
        narrow(widen(x[i]) * inverse * widen(scale[i]) + widen(shift[i]), out + i);
}

template <class T>
void add_norm(const T* x, const T* values, const T* gate, int64_t gate_batch, int64_t gate_row,
              T* total, const Modulation<T>* by, int64_t modulations, int64_t batch,
              int64_t tokens, int64_t width, int threads) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t t = 0; t < tokens; t++) {
            const int64_t first = (b * tokens + t) * width;
            const T* sum = x + first;
            if (values) {
                T* to = total + first;
                const T* branch = values + first;
                const T* gates = gate ? gate + b * gate_batch + t * gate_row : nullptr;
                if (gates) {
#pragma omp simd
                    for (int64_t i = 0; i < width; i++)
                        narrow(widen(sum[i]) + widen(branch[i]) * widen(gates[i]), to + i);
                } else {
#pragma omp simd
                    for (int64_t i = 0; i < width; i++)
                        narrow(widen(sum[i]) + widen(branch[i]), to + i);
                }
                sum = to;
            }
            if (!modulations) continue;
            const float inverse = inverse_length(sum, width);
            for (int64_t m = 0; m < modulations; m++)
                modulate(sum, inverse, by[m], b, t, width, by[m].out + first);
        }
    }
}

// ---- attention ---------------------------------------------------------------------------------
//
// A tile of queries lies across the vectors' lanes, so that keys and values are read as they are,
// an element for all lanes, and a softmax is arithmetic between vectors. Scores of KEYS keys at a
// time are turned into weights and used before the next ones are made.

// 2^x for x <= 0; below -126 it is 2^-126, and NaN stays.
inline Floats exp2_of(Floats x) {
    const Floats least = Floats{} - 126.0f;
    x = x < least ? least : x;
    const Floats rounded = (x + 12582912.0f) - 12582912.0f;
    const Floats rest = x - rounded;
    Floats y = rest * 1.535336188319500e-4f + 1.339887440266574e-3f;
    y = y * rest + 9.618437357674640e-3f;
    y = y * rest + 5.550332471162809e-2f;
    y = y * rest + 2.402264791363012e-1f;
    y = y * rest + 6.931472028550421e-1f;
    y = y * rest + 1.0f;
    const Ints exponent = (__builtin_convertvector(rounded, Ints) + 127) << 23;
    return y * (Floats)exponent;
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Products of float elements.
struct Single {
    typedef float Element;
    static constexpr int STEP = 1;
    static Floats add(Floats sum, Floats by, Element a) { return sum + by * a; }
};

#if defined(__AVX512BF16__)
// Products of pairs of bfloat16, two in one instruction.
struct Paired {
    typedef int32_t Element;
    static constexpr int STEP = 2;
    static Floats add(Floats sum, Floats by, Element a) {
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)by, (__m512bh)_mm512_set1_epi32(a));
    }
    static Floats join(Floats first, Floats second) {
        const Ints low = (((Ints)first + 0x8000) >> 16) & 0xffff;
        return (Floats)(low | (((Ints)second + 0x8000) & ~0xffff));
    }
};
#endif

// Keys (keys, dim / STEP) and values (keys / STEP, dim) of a head; rows count elements.
template <class M>
struct Sides {
    const typename M::Element *keys, *values;
    int64_t keys_row, values_row, count;
};

template <int V>
struct Row {
    alignas(64) Floats of[V];
};

template <int V>
struct Tile {
    Row<V> queries[MOST_DIM], weights[KEYS], sums[MOST_DIM], most, total;
};

// R rows of `left`, whose elements are `step` apart, times the rows of `right`.
template <class M, int R, int V>
inline void products(const typename M::Element* left, int64_t left_row, int64_t step,
                     const Row<V>* right, int64_t count, Row<V>* out, bool add) {
    Floats sum[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sum[r][v] = add ? out[r].of[v] : Floats{};
    for (int64_t i = 0; i < count; i++)
        for (int r = 0; r < R; r++) {
            const auto element = left[r * left_row + i * step];
            for (int v = 0; v < V; v++) sum[r][v] = M::add(sum[r][v], right[i].of[v], element);
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) out[r].of[v] = sum[r][v];
}

template <class M, int V>
inline void all_products(const typename M::Element* left, int64_t left_row, int64_t step,
                         const Row<V>* right, int64_t count, Row<V>* out, int64_t rows, bool add) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        products<M, ROWS>(left + r * left_row, left_row, step, right, count, out + r, add);
    for (; r < rows; r++)
        products<M, 1>(left + r * left_row, left_row, step, right, count, out + r, add);
}

// Queries of a tile, transposed; lanes beyond `count` are zero.
template <class M, class T, int V>
void transpose(const T* queries, int64_t row, int64_t count, int64_t dim, Row<V>* out) {
    for (int64_t d = 0; d < dim / M::STEP; d++) {
        float* lanes = (float*)out[d].of;
        for (int64_t j = 0; j < V * LANES; j++) {
            const T* from = queries + j * row + d * M::STEP;
            lanes[j] = 0;
            if (j >= count) continue;
            if constexpr (M::STEP == 2) __builtin_memcpy(lanes + j, from, 4);
            else lanes[j] = widen(*from);
        }
    }
}

// Scores of `keys` keys to weights under the largest score so far; earlier sums follow it.
template <class M, int V>
void soften(Tile<V>& tile, int64_t keys, int64_t dim, float scale) {
    for (int v = 0; v < V; v++) {
        Floats most = tile.most.of[v];
        for (int64_t k = 0; k < keys; k++) most = larger(tile.weights[k].of[v] * scale, most);
        const Floats shrink = exp2_of(tile.most.of[v] - most);
        tile.most.of[v] = most;
        Floats total = tile.total.of[v] * shrink;
        for (int64_t d = 0; d < dim; d++) tile.sums[d].of[v] *= shrink;
        for (int64_t k = 0; k < keys; k += M::STEP) {
            Floats weight = exp2_of(tile.weights[k].of[v] * scale - most);
            total += weight;
            if constexpr (M::STEP == 2) {
                Floats next = {};
                if (k + 1 < keys) next = exp2_of(tile.weights[k + 1].of[v] * scale - most);
                total += next;
                weight = M::join(weight, next);
            }
            tile.weights[k / M::STEP].of[v] = weight;
        }
        tile.total.of[v] = total;
    }
}

template <class M, int V, class T>
void attend_tile(const Sides<M>& in, const T* queries, int64_t queries_row, int64_t count,
                 int64_t dim, float scale, T* out, int64_t out_row) {
    Tile<V> tile;
    transpose<M>(queries, queries_row, count, dim, tile.queries);
    for (int64_t d = 0; d < dim; d++) tile.sums[d] = {};
    tile.total = {};
    for (int v = 0; v < V; v++) tile.most.of[v] = Floats{} - __builtin_inff();
    for (int64_t first = 0; first < in.count; first += KEYS) {
        const int64_t keys = in.count - first < KEYS ? in.count - first : KEYS;
        all_products<M>(in.keys + first * in.keys_row, in.keys_row, 1, tile.queries,
                        dim / M::STEP, tile.weights, keys, false);
        soften<M>(tile, keys, dim, scale);
        all_products<M>(in.values + first / M::STEP * in.values_row, 1, in.values_row,
                        tile.weights, (keys + M::STEP - 1) / M::STEP, tile.sums, dim, true);
    }
    for (int v = 0; v < V; v++) tile.total.of[v] = 1 / tile.total.of[v];
    for (int64_t d = 0; d < dim; d++)
        for (int v = 0; v < V; v++) tile.sums[d].of[v] *= tile.total.of[v];
    for (int64_t j = 0; j < count; j++)
        for (int64_t d = 0; d < dim; d++)
            narrow(((const float*)tile.sums[d].of)[j], out + j * out_row + d);
}

// Tensors (batch, heads, rows, dim).
template <class T>
struct Heads {
    T* at;
    int64_t batch, head, row;
};

template <class M, class T>
void attend_head(const Sides<M>& in, const T* queries, int64_t queries_row, T* out,
                 int64_t out_row, int64_t count, int64_t dim, float scale) {
    for (int64_t first = 0; first < count; first += MOST_VECTORS * LANES) {
        const int64_t rest = count - first;
        const T* from = queries + first * queries_row;
        T* to = out + first * out_row;
        if (rest > 2 * LANES) {
            const int64_t lanes = rest < 3 * LANES ? rest : 3 * LANES;
            attend_tile<M, 3>(in, from, queries_row, lanes, dim, scale, to, out_row);
        } else if (rest > LANES) {
            attend_tile<M, 2>(in, from, queries_row, rest, dim, scale, to, out_row);
        } else {
            attend_tile<M, 1>(in, from, queries_row, rest, dim, scale, to, out_row);
        }
    }
}

// Keys and values of a head in the form that products take, where they are not in it already.
struct Scratch {
    void* memory = nullptr;
    ~Scratch() { free(memory); }
    void* of(int64_t bytes) { return memory ? memory : memory = malloc(bytes); }
};

inline Sides<Single> sides(const float* keys, const float* values, int64_t keys_row,
                           int64_t values_row, int64_t count, int64_t, Scratch&) {
    return {keys, values, keys_row, values_row, count};
}

#if defined(__AVX512BF16__)
typedef Paired OfHalf;

inline Sides<Paired> sides(const Half* keys, const Half* values, int64_t keys_row,
                           int64_t values_row, int64_t count, int64_t dim, Scratch& scratch) {
    uint32_t* pairs = (uint32_t*)scratch.of((count + 1) / 2 * dim * 4);
    for (int64_t k = 0; k < count; k += 2) {
        const Half* first = values + k * values_row;
        const Half* second = k + 1 < count ? first + values_row : first;  // its weight is 0
#pragma omp simd
        for (int64_t d = 0; d < dim; d++)
            pairs[k / 2 * dim + d] = first[d].bits | uint32_t(second[d].bits) << 16;
    }
    return {(const int32_t*)keys, (const int32_t*)pairs, keys_row / 2, dim, count};
}
#else
typedef Single OfHalf;

inline Sides<Single> sides(const Half* keys, const Half* values, int64_t keys_row,
                           int64_t values_row, int64_t count, int64_t dim, Scratch& scratch) {
    float* wide = (float*)scratch.of(2 * count * dim * 4);
    for (int64_t k = 0; k < count; k++)
        for (int64_t d = 0; d < dim; d++) {
            wide[k * dim + d] = widen(keys[k * keys_row + d]);
            wide[(count + k) * dim + d] = widen(values[k * values_row + d]);
        }
    return {wide, wide + count * dim, dim, dim, count};
}
#endif

template <class M, class T>
void attend(const Heads<const T>& q, const Heads<const T>& k, const Heads<const T>& v,
            const Heads<T>& out, int64_t batch, int64_t heads, int64_t queries, int64_t keys,
            int64_t dim, int threads) {
    const float scale = LOG2_E / __builtin_sqrtf(float(dim));
    const int64_t all = batch * heads, tile = MOST_VECTORS * LANES;
    // Heads shared out among threads; where they are fewer, also the queries of each.
    const int64_t tiles = (queries + tile - 1) / tile;
    const int64_t wanted = (threads + all - 1) / all, parts = wanted < tiles ? wanted : tiles;
    const int64_t each = (tiles + parts - 1) / parts * tile;
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < all * parts; i++) {
            const int64_t b = i / parts / heads, h = i / parts % heads, first = i % parts * each;
            const int64_t count = queries - first < each ? queries - first : each;
            if (count <= 0) continue;
            const auto in = sides(k.at + b * k.batch + h * k.head, v.at + b * v.batch + h * v.head,
                                  k.row, v.row, keys, dim, scratch);
            attend_head<M>(in, q.at + b * q.batch + h * q.head + first * q.row, q.row,
                           out.at + b * out.batch + h * out.head + first * out.row, out.row,
                           count, dim, scale);
        }
    }
}

}  // namespace

#define FOR_TYPE(T, NAME, MATH)                                                                   \
    extern "C" void head_norm_##NAME(                                                             \
        const T* x, int64_t x_batch, int64_t x_row, const T* weight, const float* cos,            \
        const float* sin, int64_t table_batch, int64_t interleaved, T* out, int64_t out_batch,    \
        int64_t out_head, int64_t out_row, int64_t batch, int64_t tokens, int64_t heads,          \
        int64_t dim, int64_t threads) {                                                           \
        head_norm(x, x_batch, x_row, weight, cos, sin, table_batch, interleaved, out, out_batch,  \
                  out_head, out_row, batch, tokens, heads, dim, int(threads));                    \
    }                                                                                             \
    extern "C" void add_norm_##NAME(                                                              \
        const T* x, const T* values, const T* gate, int64_t gate_batch, int64_t gate_row,         \
        T* total, const Modulation<T>* by, int64_t modulations, int64_t batch, int64_t tokens,    \
        int64_t width, int64_t threads) {                                                         \
        add_norm(x, values, gate, gate_batch, gate_row, total, by, modulations, batch, tokens,    \
                 width, int(threads));                                                            \
    }                                                                                             \
    extern "C" void attend_##NAME(const Heads<const T>* tensors, T* out, int64_t batch,           \
                                  int64_t heads, int64_t queries, int64_t keys, int64_t dim,      \
                                  int64_t threads) {                                              \
        /* Token-major, as the projection after it reads them. */                                 \
        const Heads<T> to = {out, queries * heads * dim, dim, heads * dim};                       \
        attend<MATH>(tensors[0], tensors[1], tensors[2], to, batch, heads, queries, keys, dim,    \
                     int(threads));                                                               \
    }

FOR_TYPE(float, float32, Single)
FOR_TYPE(Half, bfloat16, OfHalf)
