/* Moves matrices of floating-point numbers: rows, columns, signs, exponents and scales in one pass.

What each function computes is defined by its numpy twin, in lossless.py and rounding.py; the tests
compare them bit for bit. Nothing here raises for a number that cannot be moved: the function says
that there is one, and its twin, asked again, finds it and names it.

A row is read and changed in order into lines that fit a core's first cache, and its columns are
gathered from there: gathering them from memory would take several times as long. All work is done
without the interpreter's lock. Sizes, alignment, overlap and indices are checked here, once per
call: what does not fit is a ValueError, and nothing is read or written. Nobody may change a buffer
while a call is at work. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* GCC makes a version for newer processors and picks one when the module is loaded. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) &&        \
    !defined(__SANITIZE_ADDRESS__)
#define FAST __attribute__((target_clones("avx2", "default")))
#else
#define FAST
#endif

typedef Py_ssize_t size;

/* Rows that stand in another order come from memory late, unless they are asked for in advance. */
#ifdef __GNUC__
#define PREFETCH(from, count)                                                                      \
    for (size at = 0; at < (size)(count); at += 64)                                                \
        __builtin_prefetch((const char *)(from) + at, 0, 2)
#else
#define PREFETCH(from, count)
#endif

/* Signs and exponents of one row. `flips` are 0 or the sign's pattern; `shifts` are multiples of
   `unit`, the pattern of the smallest normal number, modulo the pattern's size. Returns whether all
   numbers are finite and no shifted one leaves the normal range. */
#define CHANGE(T, NAME)                                                                            \
    FAST static int NAME(const T *restrict from, T *restrict to, size n, const T *restrict flips,  \
                         const T *restrict shifts, T flip, T shift, T unit, T nonfinite)           \
    {                                                                                              \
        const T sign = (T)((T)1 << (8 * sizeof(T) - 1)), magnitude = (T)~sign;                     \
        const T room = (T)(nonfinite - unit);                                                      \
        T bad = 0;                                                                                 \
        for (size i = 0; i < n; i++) {                                                             \
            const T x = from[i], m = (T)(x & magnitude);                                           \
            const T f = (T)(flip ^ (flips ? flips[i] : 0));                                        \
            const T s = (T)(shift + (shifts ? shifts[i] : 0));                                     \
            /* unsigned: a number below the normal range is beyond its end, too */                 \
            const T before = (T)(m - unit) >= room, after = (T)(m + s - unit) >= room;             \
            bad |= (T)((m >= nonfinite) | ((s != 0) & (m != 0) & (before | after)));               \
            to[i] = (T)((T)(x + (m ? s : 0)) ^ f);                                                 \
        }                                                                                          \
        return !bad;                                                                               \
    }

#define GATHER(T, NAME)                                                                            \
    FAST static void NAME(const T *restrict from, T *restrict to, size n,                          \
                          const uint32_t *restrict where)                                          \
    {                                                                                              \
        for (size i = 0; i < n; i++) to[i] = from[where[i]];                                       \
    }

/* Columns of as many rows at once as 8 bytes hold numbers: one look-up then serves all of them. */
#define GATHER_ROWS(T, NAME)                                                                       \
    FAST static void NAME(const T *restrict lines, T *restrict lane, T *restrict to, size n,       \
                          const uint32_t *restrict where)                                          \
    {                                                                                              \
        enum { G = 8 / sizeof(T) };                                                                \
        for (size i = 0; i < n; i++)                                                               \
            for (int g = 0; g < G; g++) lane[i * G + g] = lines[g * n + i];                        \
        for (size i = 0; i < n; i++) {                                                             \
            uint64_t x;                                                                            \
            memcpy(&x, lane + (size)where[i] * G, 8);                                              \
            for (int g = 0; g < G; g++) to[g * n + i] = (T)(x >> (8 * sizeof(T) % 64 * g));        \
        }                                                                                          \
    }

/* For each row, ROW(from, to, i) changes it; then its columns are gathered. Work space is in
   `lines`: 8 bytes a column for lines, and as much for the lane. */
#define EACH_ROW(T, GATHER_ROWS_, GATHER_, ROW)                                                    \
    const size group = 8 / sizeof(T);                                                              \
    int good = 1;                                                                                  \
    for (size i = 0; i < rows; i += group) {                                                       \
        const size count = rows - i < group ? rows - i : group;                                    \
        T *to = out + i * columns;                                                                 \
        for (size g = 0; g < count; g++) {                                                         \
            const T *from = source + (row_from ? row_from[i + g] : i + g) * columns;               \
            good &= ROW(from, (column_from ? lines : to) + g * columns, i + g);                    \
        }                                                                                          \
        if (row_from && i + 2 * group <= rows)                                                     \
            for (size g = 0; g < group; g++)                                                       \
                PREFETCH(source + row_from[i + group + g] * columns, columns * sizeof(T));         \
        if (column_from && count == group && group > 1)                                            \
            GATHER_ROWS_(lines, lines + group * columns, to, columns, column_from);                \
        else if (column_from)                                                                      \
            for (size g = 0; g < count; g++)                                                       \
                GATHER_(lines + g * columns, to + g * columns, columns, column_from);              \
    }                                                                                              \
    return good;

#define LOSSLESS(T, BITS)                                                                          \
    CHANGE(T, change##BITS) GATHER(T, gather##BITS) GATHER_ROWS(T, gather_rows##BITS)              \
    static int move##BITS(const T *source, T *out, size rows, size columns,                        \
                          const int64_t *row_from, const uint32_t *column_from,                    \
                          const T *row_flips, const T *row_shifts, const T *flips,                 \
                          const T *shifts, T unit, T nonfinite, T *lines)                          \
    {                                                                                              \
        EACH_ROW(T, gather_rows##BITS, gather##BITS, ROW##BITS)                                    \
    }

#define MOVED(BITS, from, to, i)                                                                   \
    change##BITS(from, to, columns, flips, shifts, row_flips ? row_flips[i] : 0,                   \
                 row_shifts ? row_shifts[i] : 0, unit, nonfinite)
#define ROW8(from, to, i) MOVED(8, from, to, i)
#define ROW16(from, to, i) MOVED(16, from, to, i)
#define ROW32(from, to, i) MOVED(32, from, to, i)
#define ROW64(from, to, i) MOVED(64, from, to, i)

LOSSLESS(uint8_t, 8)
LOSSLESS(uint16_t, 16)
LOSSLESS(uint32_t, 32)
LOSSLESS(uint64_t, 64)
GATHER(double, gather_double)

/* bfloat16 is the upper half of a float. Rounding goes through float, as ml_dtypes does it. */

static inline float float_of32(uint32_t x) { float y; memcpy(&y, &x, 4); return y; }
static inline uint32_t round32(float x) { uint32_t y; memcpy(&y, &x, 4); return y; }
static inline float float_of16(uint16_t x) { return float_of32((uint32_t)x << 16); }
static inline uint16_t round16(float x)
{
    const uint32_t bits = round32(x);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16); /* ties to even; no NaN comes */
}

/* One row times scales. Returns whether all numbers are finite, before and after. */
#define SCALE(T, BITS)                                                                             \
    FAST static int scale_row##BITS(const T *restrict from, T *restrict to, size n,                \
                                    const double *restrict scales, double scale, T nonfinite)      \
    {                                                                                              \
        const T magnitude = (T)~((T)1 << (8 * sizeof(T) - 1));                                     \
        T bad = 0;                                                                                 \
        for (size i = 0; i < n; i++) {                                                             \
            const double x = float_of##BITS(from[i]);                                              \
            const T y = round##BITS((float)(x * (scales ? scales[i] : 1.0) * scale));              \
            bad |= (T)(((T)(from[i] & magnitude) >= nonfinite) |                                   \
                       ((T)(y & magnitude) >= nonfinite));                                         \
            to[i] = y;                                                                             \
        }                                                                                          \
        return !bad;                                                                               \
    }                                                                                              \
    static int scale##BITS(const T *source, T *out, size rows, size columns,                       \
                           const int64_t *row_from, const uint32_t *column_from,                   \
                           const double *row_scales, const double *scales, T nonfinite, T *lines)  \
    {                                                                                              \
        EACH_ROW(T, gather_rows##BITS, gather##BITS, SCALED##BITS)                                 \
    }                                                                                              \
    FAST static int widen_row##BITS(const T *restrict from, double *restrict to, size n,           \
                                    const double *restrict scales, T nonfinite)                    \
    {                                                                                              \
        const T magnitude = (T)~((T)1 << (8 * sizeof(T) - 1));                                     \
        T bad = 0;                                                                                 \
        for (size i = 0; i < n; i++) {                                                             \
            bad |= (T)((T)(from[i] & magnitude) >= nonfinite);                                     \
            to[i] = (double)float_of##BITS(from[i]) * (scales ? scales[i] : 1.0);                  \
        }                                                                                          \
        return !bad;                                                                               \
    }                                                                                              \
    static int widen##BITS(const T *source, double *out, size rows, size columns,                  \
                           const int64_t *row_from, const uint32_t *column_from,                   \
                           const double *scales, T nonfinite, double *line)                        \
    {                                                                                              \
        int good = 1;                                                                              \
        for (size i = 0; i < rows; i++) {                                                          \
            const T *from = source + row_from[i] * columns;                                        \
            double *to = out + i * columns;                                                        \
            good &= widen_row##BITS(from, column_from ? line : to, columns, scales, nonfinite);    \
            if (column_from) gather_double(line, to, columns, column_from);                        \
        }                                                                                          \
        return good;                                                                               \
    }                                                                                              \
    FAST static int narrow##BITS(const double *restrict from, T *restrict to, size n, T nonfinite) \
    {                                                                                              \
        const T magnitude = (T)~((T)1 << (8 * sizeof(T) - 1));                                     \
        T bad = 0;                                                                                 \
        for (size i = 0; i < n; i++) {                                                             \
            to[i] = round##BITS((float)from[i]);                                                   \
            bad |= (T)((T)(to[i] & magnitude) >= nonfinite);                                       \
        }                                                                                          \
        return !bad;                                                                               \
    }

#define SCALED(BITS, from, to, i)                                                                  \
    scale_row##BITS(from, to, columns, scales, row_scales ? row_scales[i] : 1.0, nonfinite)
#define SCALED16(from, to, i) SCALED(16, from, to, i)
#define SCALED32(from, to, i) SCALED(32, from, to, i)

SCALE(uint16_t, 16)
SCALE(uint32_t, 32)

/* Python's side. Buffers that may be None are NULL then. */

typedef struct {
    Py_buffer source, out, row_from, column_from, more[4];
    size width, rows, columns;
    unsigned long long unit, nonfinite;
} Task;

static PyObject *finish(Task *task, PyObject *result)
{
    PyBuffer_Release(&task->source);
    PyBuffer_Release(&task->out);
    PyBuffer_Release(&task->row_from);
    PyBuffer_Release(&task->column_from);
    for (int i = 0; i < 4; i++) PyBuffer_Release(&task->more[i]);
    return result;
}

static int refuse(const char *what, const char *why)
{
    PyErr_Format(PyExc_ValueError, "%s %s", what, why);
    return 0;
}

/* Whether a buffer, if there is one, holds that many items of that width, where they may stand. */
static int holds(const Py_buffer *buffer, const char *what, size count, size width)
{
    if (!buffer->obj) return 1;
    if (buffer->len % width || buffer->len / width != count)
        return refuse(what, "has another length than the matrix asks for");
    if (count && (uintptr_t)buffer->buf % (uintptr_t)width) return refuse(what, "is not aligned");
    return 1;
}

static int apart(const Py_buffer *out, const Py_buffer *other, const char *what)
{
    const uintptr_t a = (uintptr_t)out->buf, b = (uintptr_t)other->buf;
    if (!other->obj || !out->len || !other->len) return 1;
    if (a < b + (uintptr_t)other->len && b < a + (uintptr_t)out->len)
        return refuse(what, "shares memory with the output");
    return 1;
}

/* What is true of every call. `from` and `to` are the widths of a number read and written, and
   `aside` that of what belongs to rows and then to columns, in `more`, `sides` of them. */
static int fits(Task *t, size from, size to, size aside, int sides)
{
    static const char *const names[4] = {"the first change", "the second change",
                                         "the third change", "the fourth change"};
    const size rows = t->rows, columns = t->columns;
    if (rows < 0 || columns < 0) return refuse("the matrix", "has a negative size");
    if (t->nonfinite >> (8 * from - 1) || t->unit >> (8 * from - 1))
        return refuse("a pattern", "is wider than a number");
    /* Later products of these are no larger than this one. */
    if (columns && rows > PY_SSIZE_T_MAX / 16 / columns)
        return refuse("the matrix", "is too large");
    if (columns > PY_SSIZE_T_MAX / 32) return refuse("the matrix", "is too large");
    if (!holds(&t->out, "the output", rows * columns, to)) return 0;
    size held = rows; /* in the input: rows in another order may be of more than come out */
    if (t->row_from.obj) held = columns ? t->source.len / (columns * from) : PY_SSIZE_T_MAX;
    if (!holds(&t->source, "the input", held * columns, from)) return 0;
    if (!holds(&t->row_from, "the order of rows", rows, 8)) return 0;
    if (!holds(&t->column_from, "the order of columns", columns, 4)) return 0;
    for (int i = 0; i < sides; i++) {
        if (!holds(&t->more[i], names[i], i < sides / 2 ? rows : columns, aside)) return 0;
        if (!apart(&t->out, &t->more[i], names[i])) return 0;
    }
    if (!apart(&t->out, &t->source, "the input")) return 0;
    if (!apart(&t->out, &t->row_from, "the order of rows")) return 0;
    if (!apart(&t->out, &t->column_from, "the order of columns")) return 0;
    uint64_t far = 0;
    if (t->row_from.obj)
        for (size i = 0; i < rows; i++)
            far |= ((const uint64_t *)t->row_from.buf)[i] >= (uint64_t)held;
    if (t->column_from.obj)
        for (size i = 0; i < columns; i++)
            far |= ((const uint32_t *)t->column_from.buf)[i] >= (uint64_t)columns;
    return far ? refuse("an order", "has a place that is not there") : 1;
}

#define FIRST &t.source, &t.out, &t.width, &t.rows, &t.columns, &t.row_from, &t.column_from
#define CASE(NAME, BITS, ...)                                                                      \
    case BITS / 8:                                                                                 \
        good = NAME##BITS(t.source.buf, t.out.buf, t.rows, t.columns, t.row_from.buf,              \
                          t.column_from.buf, __VA_ARGS__, t.nonfinite, lines);                     \
        break;
/* A matrix without numbers has nothing to move, and all of it is fine. */
#define RUN(CASES)                                                                                 \
    if (!t.rows || !t.columns) return finish(&t, PyBool_FromLong(1));                              \
    void *lines = malloc((size_t)t.columns * 16);                                                  \
    int good = 0;                                                                                  \
    if (!lines) return finish(&t, PyErr_NoMemory());                                               \
    Py_BEGIN_ALLOW_THREADS                                                                         \
    switch (t.width) { CASES }                                                                     \
    Py_END_ALLOW_THREADS                                                                           \
    free(lines);                                                                                   \
    return finish(&t, PyBool_FromLong(good));

static int is_number(size width)
{
    return width == 2 || width == 4 || refuse("a number", "has a width that is not 2 or 4");
}

static PyObject *py_move(PyObject *self, PyObject *args)
{
    Task t = {0};
    if (!PyArg_ParseTuple(args, "y*w*nnnz*z*z*z*z*z*KK", FIRST, &t.more[0], &t.more[1], &t.more[2],
                          &t.more[3], &t.unit, &t.nonfinite))
        return NULL;
    if (!(t.width == 1 || t.width == 8 || is_number(t.width))) return finish(&t, NULL);
    if (!fits(&t, t.width, t.width, t.width, 4)) return finish(&t, NULL);
#define MOVE(BITS)                                                                                 \
    CASE(move, BITS, t.more[0].buf, t.more[1].buf, t.more[2].buf, t.more[3].buf, t.unit)
    RUN(MOVE(8) MOVE(16) MOVE(32) MOVE(64))
}

static PyObject *py_scale(PyObject *self, PyObject *args)
{
    Task t = {0};
    if (!PyArg_ParseTuple(args, "y*w*nnnz*z*z*z*K", FIRST, &t.more[0], &t.more[1], &t.nonfinite))
        return NULL;
    if (!is_number(t.width) || !fits(&t, t.width, t.width, 8, 2)) return finish(&t, NULL);
    RUN(CASE(scale, 16, t.more[0].buf, t.more[1].buf)
        CASE(scale, 32, t.more[0].buf, t.more[1].buf))
}

static PyObject *py_widen(PyObject *self, PyObject *args)
{
    Task t = {0};
    if (!PyArg_ParseTuple(args, "y*w*nnny*z*z*K", FIRST, &t.more[0], &t.nonfinite)) return NULL;
    if (!is_number(t.width) || !fits(&t, t.width, 8, 8, 1)) return finish(&t, NULL);
    RUN(CASE(widen, 16, t.more[0].buf) CASE(widen, 32, t.more[0].buf))
}

static PyObject *py_narrow(PyObject *self, PyObject *args)
{
    Task t = {0};
    int good = 0;
    if (!PyArg_ParseTuple(args, "y*w*nnK", &t.source, &t.out, &t.width, &t.columns, &t.nonfinite))
        return NULL;
    t.rows = 1;
    if (!is_number(t.width)) return finish(&t, NULL);
    if (t.nonfinite >> (8 * t.width - 1)) {
        refuse("a pattern", "is wider than a number");
        return finish(&t, NULL);
    }
    t.unit = t.nonfinite, t.nonfinite = 0; /* of the output, not of the float64 that is read */
    if (!fits(&t, 8, t.width, 8, 0)) return finish(&t, NULL);
    Py_BEGIN_ALLOW_THREADS
    if (t.width == 2) good = narrow16(t.source.buf, t.out.buf, t.columns, (uint16_t)t.unit);
    if (t.width == 4) good = narrow32(t.source.buf, t.out.buf, t.columns, (uint32_t)t.unit);
    Py_END_ALLOW_THREADS
    return finish(&t, PyBool_FromLong(good));
}

static PyMethodDef methods[] = {
    {"move", py_move, METH_VARARGS, "Permutations, signs and powers of two; see lossless.py."},
    {"scale", py_scale, METH_VARARGS, "Permutations and real scales; see rounding.py."},
    {"widen", py_widen, METH_VARARGS, "Rows and columns as float64; see rounding.py."},
    {"narrow", py_narrow, METH_VARARGS, "float64 rounded into a format; see rounding.py."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModule_Create(&module); }
